"""The engine a recipe asks for: refusals, a server, sampling ahead, kill and resume."""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from killing import run_and_die

from gnomon.errors import ConfigError, EngineError, RunStopped
from gnomon.models.load import load_causal_lm
from gnomon.recipe.load import parse_recipe
from gnomon.rollout.serve import RolloutServer
from gnomon.rollout.torch_host import TorchHost
from gnomon.rollout.vllm_installed import check_version
from gnomon.rollout.weights import LORA as LORA_KEY
from gnomon.rollout.weights import sent_sums
from gnomon.runs.folder import RunFolder
from gnomon.stages import engines
from gnomon.stages.check import check_recipe
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.run import run_recipe
from gnomon.stages.train import Train
from ports import free_port
from served import PATIENCE, Process, Servers

LORA = {"rank": 2, "alpha": 4}
TRAIN = {"steps": 4, "batch_size": 4, "lr": 1e-2, "checkpoint_every": 1, "sample_every": 1}


def tunnel(what: str, n: int, seed: int) -> dict[str, Any]:
    return {"path": f"tunnel:{what}", "options": {"n": n, "seed": seed}}


def raw(model: Path, output: Path, *before: Any, **changes: Any) -> dict[str, Any]:
    rollout = {"samples": 4, "max_new_tokens": 5} | changes.pop("rollout", {})
    stage = {
        "name": "grpo",
        "algorithm": "grpo",
        "data": tunnel("prompts", 12, 4),
        "reward": "gold",
        "rollout": rollout,
        "train": TRAIN,
    }
    return {
        "name": "run",
        "model": str(model),
        "output": str(output),
        "max_length": 120,
        "stages": [*before, stage | changes],
    }


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The killed runs have one, and drawing plots takes longer than all the rest."""
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def go(recipe: dict[str, Any]) -> Path:
    return run_recipe(parse_recipe(recipe), base=Path.cwd(), announce=lambda text: None)


def sha(run: Path, stage: str) -> str:
    file = run / "stages" / stage / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def metrics(run: Path, stage: str) -> list[dict[str, Any]]:
    rows = pq.read_table(run / "stages" / stage / "metrics.parquet").to_pylist()
    return [{k: v for k, v in r.items() if v is not None} for r in rows if not r.get("final")]


# -- before a run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"options": {"dtype": "float32"}}}, "engine torch takes cache_gib, kept_gib"),
        ({"rollout": {"options": {"cache_gib": True}}}, "cache_gib is True; use a number of GiB"),
        ({"rollout": {"options": {"cache_gib": 0}}}, "cache_gib is 0; use a number above 0"),
        ({"rollout": {"options": {"cuda_graphs": 1}}}, "cuda_graphs is 1; use true or false"),
        ({"rollout": {"url": "http://x", "options": {"dtype": 1}}}, "retries, timeout"),
        ({"rollout": {"url": "http://x", "options": {"retries": "9"}}}, "retries, timeout"),
        ({"rollout": {"url": "http://x", "options": {"retries": float("inf")}}}, "retries is inf"),
        ({"rollout": {"url": "http://x", "options": {"timeout": -1}}}, "timeout is -1"),
        ({"rollout": {"url": "http://x", "options": {"timeout": 0}}}, "timeout is 0"),
        ({"rollout": {"url": "localhost:8300"}}, "write http://HOST:PORT"),
        ({"rollout": {"engine": "vllm"}}, "pip install 'gnomon-rlhf"),
        ({"rollout": {"max_staleness": 1}, "algorithm": "ppo"}, "ppo does not correct"),
        (
            {"rollout": {"max_staleness": 1}, "settings": {"importance_correction": "off"}},
            "importance_correction is off",
        ),
        ({"rollout": {"max_staleness": 1}, "reward": "human_queue"}, "judges in rounds"),
        ({"rollout": {"max_staleness": 1}, "algorithm": "collect"}, "trains nothing"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], said: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr("gnomon.rollout.vllm_installed.find_spec", lambda name: None)
    recipe = parse_recipe(raw(tiny_folder, tmp_path, **changes))
    with pytest.raises(ConfigError, match=said):
        check_recipe(recipe, RunFolder(recipe), Path.cwd())


@pytest.mark.parametrize("rollout", [{"engine": "vllm"}, {"options": {"dtype": "float32"}}])
def test_the_comparison_samples_with_torch(
    tiny_folder: Path, tmp_path: Path, rollout: dict[str, Any]
) -> None:
    compared = {"prompts": tunnel("prompts", 4, 7), "rollout": rollout}
    recipe = parse_recipe(raw(tiny_folder, tmp_path) | {"compare": compared})
    with pytest.raises(ConfigError, match="samples with the torch engine"):
        check_recipe(recipe, RunFolder(recipe), Path.cwd())


def test_versions_of_vllm() -> None:
    check_version("0.11.0")
    check_version("0.32.0")
    with pytest.raises(ConfigError, match=r"0\.9\.1 is too old"):
        check_version("0.9.1")
    for odd in ("0.99.0", "dev", ""):
        with pytest.warns(UserWarning, match="has not been tried"):
            check_version(odd)


def test_a_vllm_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from gnomon.rollout import vllm_installed

    spec = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setattr(vllm_installed, "find_spec", lambda name: spec)
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)  # makes the import fail
    with pytest.raises(ConfigError, match="does not import here"):
        vllm_installed.import_vllm()


# -- a server -------------------------------------------------------------------------------------


def test_a_run_with_a_server_ends_as_one_without(tiny_folder: Path, tmp_path: Path) -> None:
    server = RolloutServer(TorchHost(tiny_folder), port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        other = raw(tiny_folder, tmp_path / "w", rollout={"engine": "vllm", "url": server.url})
        with pytest.raises(ConfigError, match="set engine: torch"):
            go(other)
        apart = go(raw(tiny_folder, tmp_path / "a", rollout={"url": server.url}))
        ahead = {"url": server.url, "max_staleness": 1}
        early = go(raw(tiny_folder, tmp_path / "b", rollout=ahead))
    finally:
        server.stop()
        thread.join(PATIENCE)
    shared = go(raw(tiny_folder, tmp_path / "c"))
    within = go(raw(tiny_folder, tmp_path / "d", rollout={"max_staleness": 1}))
    assert sha(apart, "01-grpo") == sha(shared, "01-grpo")
    assert sha(early, "01-grpo") == sha(within, "01-grpo") != sha(shared, "01-grpo")
    assert [r["staleness"] for r in metrics(early, "01-grpo")] == [0, 1, 1, 1]
    assert all("staleness" not in r for r in metrics(apart, "01-grpo"))
    assert not list(tmp_path.rglob("rollout-weights"))


def test_several_servers_end_as_one(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their urls, and as workers (made in this process here): split alike, the same bytes."""
    loading, sent = threading.Lock(), []

    class Here(TorchHost):
        def __init__(self, model: Path, engine: str, options: Any, environment: Any) -> None:
            with loading:  # transformers does not load two models at the same time
                super().__init__(model, **options)

        def load(self, weights: Any, probe: Any, wanted: Any = None) -> Any:
            sent.append(sent_sums(weights).more)
            return super().load(weights, probe, wanted)

    monkeypatch.setattr("gnomon.rollout.local.LocalHost", Here)
    servers = Servers()
    try:
        urls = [servers.start(TorchHost(tiny_folder)) for _ in range(2)]
        apart = go(raw(tiny_folder, tmp_path / "a", rollout={"url": urls, "share": 3}))
    finally:
        servers.stop()
    started = go(raw(tiny_folder, tmp_path / "b", rollout={"workers": 1, "share": 3}))
    assert sha(apart, "01-grpo") == sha(started, "01-grpo")
    assert not any(sent)
    sent.clear()
    alone = {"workers": 2, "options": {"max_lora_rank": 4}}
    lora = go(raw(tiny_folder, tmp_path / "c", rollout=alone, lora=LORA))
    assert len(sent) == 8  # four iterations, two workers each
    assert all(LORA_KEY in more for more in sent)  # nothing but adapters
    assert all(r["mismatch"] < 1e-5 for r in metrics(lora, "01-grpo"))


KILLING = '''
import os, signal

def reward(samples, victim, mark, at):
    """The length of the answer; the ``at``-th call kills the server, once."""
    with open(mark, "a") as calls:
        calls.write("x")
    if os.path.getsize(mark) == at:
        os.kill(victim, signal.SIGKILL)
    return [float(len(sample.text)) for sample in samples]
'''


def test_a_run_whose_server_was_killed_resumes_to_the_same_bytes(
    tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "killing.py").write_text(KILLING)
    started = [Process(tiny_folder, free_port())]
    url = started[0].url

    def recipe(name: str, at: int) -> dict[str, Any]:
        options = {"victim": started[0].process.pid, "mark": str(tmp_path / name), "at": at}
        return raw(
            tiny_folder,
            tmp_path / f"{name}-runs",
            reward={"function": f"{tmp_path / 'killing.py'}:reward", "options": options},
            rollout={"url": url, "options": {"retries": 0}},
        )

    try:
        straight = go(recipe("straight", at=-1))
        broken = recipe("broken", at=3)
        with pytest.raises(EngineError, match=r"is gone .*--resume"):
            go(broken)
        started[0].process.join(PATIENCE)  # its port is free
        started.append(Process(tiny_folder, int(url.rsplit(":", 1)[1])))
        resumed = run_recipe(
            parse_recipe(broken), base=Path.cwd(), resume=True, announce=lambda text: None
        )
    finally:
        for process in started:
            if process.process.is_alive():
                process.kill()
    assert sha(resumed, "01-grpo") == sha(straight, "01-grpo")
    assert [r["reward"] for r in metrics(resumed, "01-grpo")] == [
        r["reward"] for r in metrics(straight, "01-grpo")
    ]


# -- sampling ahead, with a learned reward on the same base ---------------------------------------


def with_reward(model: Path, output: Path) -> dict[str, Any]:
    before = [
        {
            "name": "feedback",
            "algorithm": "collect",
            "data": tunnel("prompts", 12, 2),
            "rollout": {"samples": 3, "max_new_tokens": 5},
            "settings": {"labellers": [{"name": "a"}]},
        },
        {
            "name": "rm",
            "algorithm": "reward_model",
            "data": "stage:feedback",
            "lora": LORA,
            "train": TRAIN | {"steps": 2},
        },
    ]
    return raw(
        model,
        output,
        *before,
        reward={"model": "rm"},
        observe="gold",
        lora=LORA,
        eval_data=tunnel("prompts", 4, 5),
        rollout={"max_staleness": 2},
        train=TRAIN | {"eval_every": 2},
    )


def test_killed_and_resumed_it_ends_with_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    straight = go(with_reward(tiny_folder, tmp_path / "straight"))
    broken = with_reward(tiny_folder, tmp_path / "broken")
    assert run_and_die(broken, ("grpo", "checkpoint", 3), resume=False) == -9
    assert run_and_die(broken, None, resume=True) == 0
    killed = tmp_path / "broken" / "run"
    assert sha(killed, "03-grpo") == sha(straight, "03-grpo")
    timing = ("seconds", "monitor_seconds", "tokens_per_second", "peak_rss_gb", "rollout_wait")
    tables = [
        [{k: v for k, v in r.items() if k not in timing} for r in metrics(run, "03-grpo")]
        for run in (straight, killed)
    ]
    assert tables[0] == tables[1]
    assert [r["staleness"] for r in tables[0]] == [0, 1, 2, 2]


def test_rewards_in_the_background_have_a_trunk_of_their_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The policy's trunk switches adapters while it trains."""
    recipe = with_reward(tiny_folder, tmp_path)
    run = go(recipe | {"stages": recipe["stages"][:2]})
    folder = run / "stages" / "02-rm" / "model"
    for staleness, shares in ((0, True), (1, False)):
        spec = parse_recipe(
            raw(tiny_folder, tmp_path, lora=LORA, rollout={"max_staleness": staleness})
        )
        builder = RoleBuilder(spec.stages[0], load_causal_lm(str(tiny_folder)), 0)
        reward = builder.reward(folder).members[0]
        assert (reward.trunk is builder.trunk) == shares


def test_what_came_of_a_stage_is_noted_even_where_something_does_not_close(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient() -> None:
        raise KeyboardInterrupt

    def broken(stage: Train, *args: Any) -> Any:
        stage.closing.callback(impatient)
        raise EngineError("the sampler is gone")

    monkeypatch.setattr(Train, "work", broken)
    with pytest.raises(RunStopped, match="at once"):
        go(raw(tiny_folder, tmp_path))
    about = json.loads((tmp_path / "run/stages/01-grpo/stage.json").read_text())
    assert (about["status"], about["error"]) == ("failed", "the sampler is gone")
