"""vLLM for real: the torch engine's tokens and log-probs, weights in place, in both set-ups.

Run in an environment that has vLLM, a minute or two on two cores:

    python -m pytest tests/rollout/test_vllm.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from gnomon.errors import ConfigError, DataError, EngineError
from gnomon.models.load import fetch, load_causal_lm
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.recipe.load import parse_recipe
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.protocol import Completion, Host, Request, SamplingParams
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.stages.run import run_recipe

if find_spec("vllm") is None:
    pytest.skip("vLLM is not in this environment (pip install vllm)", allow_module_level=True)

pytestmark = pytest.mark.vllm
MODEL = "tunnel"  # its heads are 32 wide, the least that vLLM takes on a CPU
OPTIONS: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256}
EOS = (2,)
REQUESTS = [
    Request(f"r{i}", [1, 5, 30 + i * 7, 40, 77 + i, 90][: 3 + i % 4], n=2, seed=i) for i in range(6)
]
GREEDY = SamplingParams(24, 0.0)


@pytest.fixture(scope="module", autouse=True)
def _small_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def here() -> Iterator[Host]:
    """vLLM in this process."""
    from gnomon.rollout.vllm_host import VLLMHost

    host = VLLMHost(fetch(MODEL), OPTIONS)
    yield host
    host.close()


def policy(lora: bool = False) -> Role:
    trunk = Trunk.from_loaded(load_causal_lm(MODEL))
    if lora:
        trunk.add_adapter("policy", LoraSettings(rank=4, alpha=8), seed=1)
    return Role("policy", trunk, adapter="policy" if lora else None, trainable=True)


def over(role: Role, host: Host, folder: Path, way: str = "auto") -> ReplicaEngine:
    replica = HostReplica(role, host, role.trunk.tokenizer, EOS, folder / "weights", way)
    return ReplicaEngine(replica)


def own(role: Role) -> TorchEngine:
    trunk = role.trunk
    return TorchEngine(
        trunk.model,
        trunk.tokenizer,
        activate=lambda: trunk.active(role.adapter),
        eos_token_ids=EOS,
    )


def update(role: Role, seed: int = 0, size: float = 0.02) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in role.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))


@torch.no_grad()
def gap(role: Role, rows: Sequence[Sequence[Completion]], temperature: float) -> float:
    """The largest difference from log softmax(logits / temperature) by transformers itself."""
    worst = 0.0
    with role.trunk.active(role.adapter):
        for request, row in zip(REQUESTS, rows, strict=True):
            for c in row:
                ids = torch.tensor([[*request.prompt_ids, *c.ids]])
                logits: Tensor = role.trunk.model(input_ids=ids).logits
                logp = (logits[0, len(request.prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
                mine = logp.gather(1, torch.tensor(c.ids)[:, None])[:, 0]
                worst = max(worst, float((mine - c.logprobs).abs().max()))
    return worst


def flat(rows: Sequence[Sequence[Completion]]) -> list[tuple[Any, ...]]:
    return [(c.ids, c.finish_reason, c.text) for row in rows for c in row]


@pytest.mark.parametrize("lora", [False, True])
def test_greedy_tokens_are_the_torch_engines_before_and_after_an_update(
    here: Host, tmp_path: Path, lora: bool
) -> None:
    role = policy(lora)
    engine, oracle = over(role, here, tmp_path), own(role)
    engine.sync_weights()
    before = engine.generate(REQUESTS, GREEDY)
    assert flat(before) == flat(oracle.generate(REQUESTS, GREEDY))
    update(role, size=0.2 if lora else 0.02)
    assert flat(engine.generate(REQUESTS, GREEDY)) == flat(before)  # not told yet
    engine.sync_weights()
    after = engine.generate(REQUESTS, GREEDY)  # the same prompts: no cached prefix may be left
    assert flat(after) == flat(oracle.generate(REQUESTS, GREEDY)) != flat(before)
    assert gap(role, after, 1.0) < 1e-4


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(24, 1.0),
        SamplingParams(24, 0.6),
        SamplingParams(24, 0.6, top_p=0.7),
        SamplingParams(24, 1.3, top_k=5),
        SamplingParams(24, 0.8, min_p=0.1),
        SamplingParams(24, 0.8, top_k=9, top_p=0.9),
        SamplingParams(24, 1.0, stop=("e ", "a")),
    ],
    ids=str,
)
def test_log_probs_are_those_before_truncation_at_the_temperature(
    here: Host, tmp_path: Path, params: SamplingParams
) -> None:
    role = policy()
    update(role, seed=3)
    engine = over(role, here, tmp_path)
    rows = engine.generate(REQUESTS, params)
    assert gap(role, rows, params.temperature) < 1e-4
    assert flat(engine.generate(REQUESTS, params)) == flat(rows)  # the seeds decide
    other = [Request(r.id, r.prompt_ids, r.n, r.seed + 100) for r in REQUESTS]
    assert flat(engine.generate(other, params)) != flat(rows)
    assert any(row[0].ids != row[1].ids for row in rows)
    for c in (c for row in rows for c in row):
        assert len(c.ids) == len(c.logprobs) <= 24
        assert (c.finish_reason == "eos") == (c.ids[-1] == 2)
        if params.stop and c.finish_reason == "stop":
            whole = role.trunk.tokenizer.decode(c.ids, skip_special_tokens=True)
            assert not any(s in c.text for s in params.stop)
            assert any(s in whole for s in params.stop)
            assert not any(
                s in role.trunk.tokenizer.decode(c.ids[:-1], skip_special_tokens=True)
                for s in params.stop
            )
    if params.stop:
        assert "stop" in {c.finish_reason for row in rows for c in row}


def test_draws_follow_the_distribution(here: Host, tmp_path: Path) -> None:
    """First tokens of 600 samples against the exact distribution, 5 sigma."""
    role = policy()
    prompt = [1, 5, 30]
    rows = over(role, here, tmp_path).generate([Request("x", prompt, n=600)], SamplingParams(1))
    with torch.no_grad():
        exact = role.trunk.model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([c.ids[0] for c in rows[0]]), minlength=len(exact))
    sigma = (exact * (1 - exact) / 600).sqrt()
    assert ((counts / 600 - exact).abs() <= 5 * sigma + 1 / 600).all()


def test_requests_and_settings_that_cannot_be_used_are_named(here: Host, tmp_path: Path) -> None:
    engine = over(policy(), here, tmp_path)
    with pytest.raises(DataError, match="window of 256"):
        engine.generate([Request("long", [5] * 250)], SamplingParams(24))
    with pytest.raises(DataError, match=r"must be in 0\.\.1263"):
        engine.generate([Request("odd", [5000])], SamplingParams(24))
    with pytest.raises(ConfigError, match="min_p before top_p"):
        engine.generate(REQUESTS, SamplingParams(24, min_p=0.1, top_p=0.9))


def test_a_head_that_is_left_as_it_was_is_found_out(
    here: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM's own reloading does to a tied head on a CPU."""
    from gnomon.rollout import vllm_worker

    role = policy()
    engine = over(role, here, tmp_path)
    engine.sync_weights()
    monkeypatch.setattr(vllm_worker, "pack_again", lambda model: None)
    update(role, seed=5)
    with pytest.raises(EngineError, match="is not the policy"):
        engine.sync_weights()
    monkeypatch.undo()
    engine.sync_weights()
    assert gap(role, engine.generate(REQUESTS, GREEDY), 1.0) < 1e-4


@pytest.mark.parametrize("lora", [False, True])
def test_weights_from_memory_and_a_transfer_that_was_left_half_done(
    here: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    from gnomon.rollout import transfer
    from gnomon.rollout.vllm_host import VLLMHost

    monkeypatch.setattr(transfer, "BUCKET", 200_000)
    role = policy(lora)
    engine, oracle = over(role, here, tmp_path, "memory"), own(role)
    assert isinstance(here, VLLMHost)
    for seed in (1, 2):
        update(role, seed, size=0.1 if lora else 0.02)
        if seed == 2:
            weights = engine.capture().weights  # type: ignore[attr-defined]
            here.start_weight_update(weights.version)
            names, tensors = next(transfer.buckets(weights))
            entries = [list(weights.sums.entries[name]) for name in names]
            wrong = [*entries[:-1], [*entries[-1][:2], entries[-1][2] + 1]]
            bucket = {"names": names, "entries": wrong, "tensors": tensors}
            with pytest.raises(EngineError, match=f"{names[-1]} is not the tensor that was sent"):
                here.update_weights(weights.version, bucket)
            assert here.about().version == "half loaded"
        engine.sync_weights()
        rows = engine.generate(REQUESTS, GREEDY)
        assert flat(rows) == flat(oracle.generate(REQUESTS, GREEDY))
        assert gap(role, rows, 1.0) < 1e-4


def test_settings_that_gnomon_makes_are_refused() -> None:
    from gnomon.rollout.vllm_host import VLLMHost

    with pytest.raises(ConfigError, match="logprobs_mode is set by gnomon"):
        VLLMHost(fetch(MODEL), {"logprobs_mode": "raw_logits"})


# -- in processes of their own --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "gnomon.rollout.serve", MODEL, "--port", "0"]
    options = [f"--option={key}={value}" for key, value in OPTIONS.items()]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("serving")), "")
    assert line, "the server did not start"
    yield line.split()[-1], process
    if process.poll() is None:
        process.terminate()
        process.wait(30)


def recipe(output: Path, **rollout: Any) -> dict[str, Any]:
    return {
        "name": "run",
        "model": MODEL,
        "output": str(output),
        "max_length": 200,
        "stages": [
            {
                "name": "grpo",
                "algorithm": "grpo",
                "data": {"path": "tunnel:prompts", "options": {"n": 16, "seed": 3}},
                "reward": "gold",
                "rollout": {"samples": 4, "max_new_tokens": 16, "engine": "vllm", **rollout},
                "train": {"steps": 3, "batch_size": 4, "lr": 1e-3, "checkpoint_every": 1},
            }
        ],
    }


def mismatches(output: Path) -> list[float]:
    table = pq.read_table(output / "run" / "stages" / "01-grpo" / "metrics.parquet").to_pylist()
    return [r["mismatch"] for r in table if r["mismatch"] is not None]


def test_a_server_takes_updates_and_dies_loudly(
    server: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    url, process = server
    role = policy()
    host = RemoteHost(url, retries=1, sleep=lambda seconds: None)
    engine, oracle = over(role, host, tmp_path), own(role)
    assert host.about().kind == "vllm"
    for seed in (1, 2):
        update(role, seed)
        engine.sync_weights()
        rows = engine.generate(REQUESTS, GREEDY)
        assert flat(rows) == flat(oracle.generate(REQUESTS, GREEDY))
        assert gap(role, rows, 1.0) < 1e-4
    for staleness in (0, 1):
        output = tmp_path / str(staleness)
        raw = recipe(output, url=url, max_staleness=staleness)
        run_recipe(parse_recipe(raw), base=tmp_path, announce=lambda text: None)
        seen = mismatches(output)
        assert len(seen) == 3
        assert max(seen) < 1e-5 if staleness == 0 else max(seen[1:]) > 1e-3
    crossing = over(role, host, tmp_path / "gloo", "gloo")  # the same by a broadcast
    update(role, 3)
    crossing.sync_weights()
    assert flat(crossing.generate(REQUESTS, GREEDY)) == flat(oracle.generate(REQUESTS, GREEDY))
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    with pytest.raises(EngineError, match="is gone"):
        engine.generate(REQUESTS, GREEDY)


@pytest.mark.parametrize("way", ["memory", "adapters"])
def test_a_stage_with_vllm_in_the_trainers_process(tmp_path: Path, way: str) -> None:
    import yaml

    more = {"transfer": "memory"} if way == "memory" else {"enable_lora": True}
    options = {k: v for k, v in OPTIONS.items() if k != "dtype"} | more
    raw = recipe(tmp_path, options=options)
    if way == "adapters":
        raw["stages"][0]["lora"] = {"rank": 4}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    code = "from gnomon.cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, "run", str(tmp_path / "r.yaml")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seen = mismatches(tmp_path)
    assert len(seen) == 3
    assert max(seen) < 1e-5
