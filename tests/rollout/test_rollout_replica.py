"""Engines on a copy of the policy: the weights they sample from are the ones they were told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_world as tw
from gnomon.errors import ConfigError, EngineError, RunError
from gnomon.models.roles import Role
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.protocol import Completion, Host, Request, SamplingParams, WeightsFile
from gnomon.rollout.replica import ReplicaEngine, TorchReplica
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.torch_host import TorchHost

EOS = (tw.EOS, *range(8, 40))
PARAMS = SamplingParams(max_new_tokens=8, temperature=0.9)
REQUESTS = [Request("a", [5, 9, 60], n=2, seed=3), Request("b", [7, 80], n=3, seed=4)]


def policy(lora: bool = False) -> Role:
    trunk = tw.trunk(0)
    if lora:
        trunk.add_adapter("policy", tw.LORA, seed=1)
    role = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    if lora:
        tw.shake(role)
    return role


def own(role: Role) -> TorchEngine:
    """The engine that shares the policy's weights: the oracle."""
    return TorchEngine(
        role.trunk.model,
        tw.tokenizer(),
        activate=lambda: role.trunk.active(role.adapter),
        eos_token_ids=EOS,
    )


def over(role: Role, host: Host, folder: Path) -> ReplicaEngine:
    return ReplicaEngine(HostReplica(role, host, tw.tokenizer(), EOS, folder / "weights"))


def copied(role: Role) -> ReplicaEngine:
    return ReplicaEngine(
        TorchReplica(
            role,
            lambda model, activate: TorchEngine(
                model, tw.tokenizer(), activate=activate, eos_token_ids=EOS
            ),
        )
    )


def flat(rows: Sequence[Sequence[Completion]]) -> list[tuple[Any, ...]]:
    return [(c.ids, c.finish_reason, c.text) for row in rows for c in row]


def logprobs(rows: Sequence[Sequence[Completion]]) -> torch.Tensor:
    return torch.cat([c.logprobs for row in rows for c in row])


@pytest.fixture(params=["copy", "host"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, tiny_folder: Path, tmp_path: Path) -> Iterator[Any]:
    made: list[ReplicaEngine] = []

    def build(role: Role) -> ReplicaEngine:
        host = TorchHost(tiny_folder)
        made.append(copied(role) if kind == "copy" else over(role, host, tmp_path))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


@pytest.mark.parametrize("lora", [False, True])
def test_samples_are_those_of_the_shared_weights(make: Any, lora: bool) -> None:
    role = policy(lora)
    engine, oracle = make(role), own(role)
    engine.sync_weights()
    first = engine.generate(REQUESTS, PARAMS)
    assert flat(first) == flat(oracle.generate(REQUESTS, PARAMS))
    tw.shake(role, size=0.2)
    stale = engine.generate(REQUESTS, PARAMS)
    assert flat(stale) == flat(first)  # until it is told otherwise
    engine.sync_weights()
    now, wanted = engine.generate(REQUESTS, PARAMS), oracle.generate(REQUESTS, PARAMS)
    assert flat(now) == flat(wanted) != flat(first)
    assert torch.allclose(logprobs(now), logprobs(wanted), atol=1e-5)


def test_pinned_weights_are_sampled_from_whatever_the_policy_becomes(make: Any) -> None:
    role = policy()
    engine = make(role)
    before = own(role).generate(REQUESTS, PARAMS)
    snapshot = engine.capture()
    tw.shake(role, size=0.2)
    after = own(role).generate(REQUESTS, PARAMS)
    told: list[tuple[int, int]] = []
    with engine.pinned(snapshot, lambda done, total: told.append((done, total))):
        engine.sync_weights()
        pinned = engine.generate(REQUESTS, PARAMS, lambda done, total: pytest.fail("not asked"))
    assert flat(pinned) == flat(before)
    assert told[-1] == (5, 5)
    assert flat(engine.generate(REQUESTS, PARAMS)) == flat(after)


def test_weights_files_go_when_they_are_no_longer_needed(tiny_folder: Path, tmp_path: Path) -> None:
    role = policy()
    left = tmp_path / "weights" / "of a killed run"
    left.mkdir(parents=True)
    engine = over(role, TorchHost(tiny_folder), tmp_path)
    assert not left.exists()
    for _ in range(3):
        engine.sync_weights()
        tw.shake(role)
    assert len(list((tmp_path / "weights").iterdir())) == 1
    engine.close()
    assert not (tmp_path / "weights").exists()


def test_weights_cross_in_the_type_that_the_sampler_holds(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Half the bytes, and the very numbers that it would have rounded them to itself."""
    role, sizes = policy(), {}
    tw.shake(role, size=0.2)
    for dtype in ("float32", "bfloat16"):
        host = TorchHost(tiny_folder, dtype=dtype)
        engine = over(role, host, tmp_path / dtype)
        engine.sync_weights()
        engine.generate(REQUESTS, PARAMS)  # which compares log-probs of a test sequence
        (file,) = (tmp_path / dtype).rglob("*.safetensors")
        sizes[dtype] = file.stat().st_size
        held = dict(host._model.named_parameters())
        for name, weight in role.trunk.model.named_parameters():
            assert torch.equal(held[name], weight.to(getattr(torch, dtype))), name
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]


# -- weights that fail to arrive ------------------------------------------------------------------


class Tampering(TorchHost):
    """A host that gets, or keeps, something else than it was sent."""

    def __init__(self, folder: Path, how: str) -> None:
        super().__init__(folder)
        self.how = how
        self._head = torch.nn.Parameter(self._model.lm_head.weight.detach().clone())

    def load(self, weights: WeightsFile, probe: Sequence[int], wanted: Any = None) -> list[float]:
        if self.how == "damaged":
            with weights.path.open("r+b") as file:
                file.seek(-8, 2)
                file.write(b"\x00\x00\x80\x3f" * 2)
        scores = super().load(weights, probe)
        if self.how == "forgets the head":
            self._model.lm_head.weight = self._head
            with torch.no_grad():
                ids = torch.tensor([list(probe)])
                logp = self._model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            scores = logp.gather(1, ids[0, 1:, None])[:, 0].tolist()
        return scores


@pytest.mark.parametrize(
    ("how", "said"),
    [("damaged", "damaged on the way"), ("forgets the head", "is not the policy")],
)
def test_weights_that_did_not_arrive_are_named(
    tiny_folder: Path, tmp_path: Path, how: str, said: str
) -> None:
    role = policy()
    engine = over(role, Tampering(tiny_folder, how), tmp_path)
    tw.shake(role, size=0.2)
    with pytest.raises(EngineError, match=said):
        engine.sync_weights()
    with pytest.raises(EngineError, match=said):  # and the old ones are not used instead
        engine.generate(REQUESTS, PARAMS)


def test_another_model_on_the_host_is_refused(tmp_path: Path) -> None:
    import transformers as tf

    config = tw.tiny_model().config
    small = tf.LlamaConfig(**{**config.to_dict(), "intermediate_size": 40})
    tf.LlamaForCausalLM(small).save_pretrained(tmp_path / "other")
    tw.tokenizer().save_pretrained(tmp_path / "other")
    host = TorchHost(tmp_path / "other")
    with pytest.raises(ConfigError, match="intermediate_size is 40 there, 48 here"):
        over(policy(), host, tmp_path)


def test_other_shapes_are_found_before_anything_is_sent(tiny_folder: Path, tmp_path: Path) -> None:
    class Odd(TorchHost):
        def about(self) -> Any:
            about = super().about()
            shapes = dict(about.shapes) | {"model.norm.weight": [33]}
            return type(about)(**{**vars(about), "shapes": shapes})

        def load(
            self, weights: WeightsFile, probe: Sequence[int], wanted: Any = None
        ) -> list[float]:
            raise AssertionError("was sent")

    engine = over(policy(), Odd(tiny_folder), tmp_path)
    with pytest.raises(EngineError, match=r"model.norm.weight is \[32\], not \[33\]"):
        engine.sync_weights()


def test_a_host_that_serves_other_weights_is_sent_them_again_and_then_given_up(
    tiny_folder: Path, tmp_path: Path
) -> None:
    host = TorchHost(tiny_folder)
    role = policy()
    engine = over(role, host, tmp_path)
    engine.sync_weights()
    wanted = engine.generate(REQUESTS, PARAMS)
    host._version = "somebody else's"
    host._model.model.norm.weight.data.mul_(3)
    assert flat(engine.generate(REQUESTS, PARAMS)) == flat(wanted)

    def keeps_changing(
        weights: WeightsFile, probe: Sequence[int], wanted: Any = None
    ) -> list[float]:
        scores = TorchHost.load(host, weights, probe)
        host._version = "somebody else's"
        return scores

    host.load = keeps_changing  # type: ignore[method-assign]
    host._version = "somebody else's"
    with pytest.raises(EngineError, match="sent 3 times"):
        engine.generate(REQUESTS, PARAMS)


def test_a_full_disk_is_named(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = over(policy(), TorchHost(tiny_folder), tmp_path)
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr("gnomon.files.shutil.disk_usage", lambda path: usage)
    with pytest.raises(RunError, match="disk is full"):
        engine.sync_weights()


def test_weights_with_a_tied_head_stored_twice_are_taken(tiny_folder: Path, tmp_path: Path) -> None:
    """Some checkpoints hold a tied head as well; that is no other model."""
    from gnomon.rollout.weights import check_weights, shapes_in, write_weights

    tensors = load_file(tiny_folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    file = write_weights(tmp_path / "w.safetensors", {**tensors, "lm_head.weight": head})
    check_weights(file, shapes_in([tiny_folder / "model.safetensors"]), torch.float32)
