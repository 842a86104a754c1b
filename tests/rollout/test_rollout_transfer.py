"""Weights from memory: sums, the four phases over a real group, half-way stops, adapters alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from operator import mul
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_world as tw
from gnomon.errors import ConfigError, EngineError
from gnomon.models.roles import LoraSettings, Role
from gnomon.models.save import save_policy
from gnomon.rollout import links, transfer
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.protocol import About, Job, Request, SamplingParams, StaleWeightsError
from gnomon.rollout.replica import ReplicaEngine, TorchReplica
from gnomon.rollout.sums import Sums, tensor_sum
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.torch_host import TorchHost
from gnomon.rollout.weights import PolicyWriter, check_weights, shapes_in, write_weights
from served import EOS, Serve

PARAMS = SamplingParams(max_new_tokens=8, temperature=0.9)
REQUESTS = [Request("a", [5, 9, 60], n=2, seed=3), Request("b", [7, 80], n=3, seed=4)]
PROBE = [5, 9, 60]
CPU = torch.device("cpu")


def policy(lora: bool = False) -> Role:
    trunk = tw.trunk(0)
    if lora:
        trunk.add_adapter("policy", tw.LORA, seed=1)
    role = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    tw.shake(role, size=0.1)
    return role


def own(role: Role) -> TorchEngine:
    return TorchEngine(
        role.trunk.model,
        tw.tokenizer(),
        activate=lambda: role.trunk.active(role.adapter),
        eos_token_ids=EOS,
    )


def over(role: Role, host: Any, folder: Path, way: str = "auto") -> ReplicaEngine:
    return ReplicaEngine(HostReplica(role, host, tw.tokenizer(), EOS, folder / "weights", way))


def texts(engine: Any) -> list[Any]:
    return [c.ids for row in engine.generate(REQUESTS, PARAMS) for c in row]


# -- sums -----------------------------------------------------------------------------------------


WORD = (1 << 64) - 1
BLOCK = 1 << 20


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def mixed(place: int) -> int:
    x = (place * -7046029254386353131) & WORD
    x = ((x ^ (signed(x) >> 30)) * -4658895280553007687) & WORD
    x = ((x ^ (signed(x) >> 27)) * -7723592293110705685) & WORD
    return ((x ^ (signed(x) >> 31)) | 1) & WORD


@pytest.fixture(scope="module")
def factors() -> list[int]:
    """Of the places in a block."""
    return [mixed(place) for place in range(BLOCK)]


def by_hand(tensor: torch.Tensor, factors: Sequence[int]) -> int:
    """The definition, in Python's whole numbers."""
    whole = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    bits = tensor.reshape(-1).view(whole).tolist()
    total = 0
    for block in range(0, len(bits), BLOCK):
        inside = sum(map(mul, bits[block : block + BLOCK], factors))
        total += inside * mixed(block // BLOCK + (1 << 40))
    return signed(total & WORD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_is_what_it_is_defined_as(dtype: torch.dtype, factors: list[int]) -> None:
    torch.manual_seed(0)
    for shape in ((), (0,), (3, 5), (BLOCK,), (BLOCK + 7,)):
        tensor = torch.randn(shape).to(dtype)
        assert int(tensor_sum(tensor)) == by_hand(tensor, factors)
    wide = torch.randn(6, 8).to(dtype)
    assert int(tensor_sum(wide.T)) == by_hand(wide.T.contiguous(), factors)


def test_a_sum_sees_elements_that_changed_or_changed_places() -> None:
    torch.manual_seed(1)
    tensor = torch.randn(64, 48)
    seen = {int(tensor_sum(tensor))}
    changed = []
    for place in (0, 1, 1000, 3071):
        other = tensor.clone()
        other.view(torch.int32).view(-1)[place] ^= 1  # the smallest change there is
        changed.append(other)
    for a, b in ((0, 1), (0, 3071), (5, 6)):
        other = tensor.clone()
        other.view(-1)[[a, b]] = other.view(-1)[[b, a]]
        changed.append(other)
    changed += [tensor.flip(0), tensor.flip(1), tensor.roll(1, 0), -tensor]
    seen |= {int(tensor_sum(t)) for t in changed}
    assert len(seen) == 1 + len(changed)
    zeros = torch.zeros(4)
    assert Sums.of([("a", zeros)]).version != Sums.of([("a", zeros.view(2, 2))]).version
    assert Sums.of([("a", zeros)]).version != Sums.of([("a", zeros.half())]).version


def test_a_damaged_or_exchanged_tensor_of_a_file_is_named(
    tiny_folder: Path, tmp_path: Path
) -> None:
    start = tiny_folder / "model.safetensors"
    good = write_weights(tmp_path / "w.safetensors", load_file(start))
    check_weights(good, shapes_in([start]), torch.float32)
    a, b = (f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))
    from safetensors import safe_open

    with safe_open(good.path, "pt") as opened:
        metadata = opened.metadata()

    def exchanged(t: dict[str, torch.Tensor]) -> None:
        t[a], t[b] = t[b], t[a]

    def swapped(t: dict[str, torch.Tensor]) -> None:
        t[b].view(-1)[[3, 4]] = t[b].view(-1)[[4, 3]]

    def flipped(t: dict[str, torch.Tensor]) -> None:
        t[b].view(torch.int32).view(-1)[7] ^= 1

    for change, name in ((exchanged, a), (swapped, b), (flipped, b)):
        tensors = load_file(start)
        change(tensors)
        save_file(tensors, good.path, metadata)
        with pytest.raises(EngineError, match=f"{name} is not the tensor that was sent"):
            check_weights(good, shapes_in([start]), torch.float32)


# -- the four phases ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BUCKET", 20_000)
    monkeypatch.setattr(links, "TIMEOUT", 20.0)


@pytest.mark.parametrize("way", ["memory", "gloo"])
@pytest.mark.parametrize("lora", [False, True])
def test_weights_from_memory_are_sampled_from(
    serve: Serve, tiny_folder: Path, tmp_path: Path, way: str, lora: bool
) -> None:
    role = policy(lora)
    host = TorchHost(tiny_folder)
    reached = host if way == "memory" else RemoteHost(serve(host), retries=0)
    engine = over(role, reached, tmp_path, way)
    for _ in range(2):
        tw.shake(role, size=0.2)
        engine.sync_weights()
        assert texts(engine) == texts(own(role))
    assert not list((tmp_path / "weights").iterdir())  # nothing went by the disk
    kept, wanted = engine.capture(), texts(own(role))
    tw.shake(role, size=0.2)
    with engine.pinned(kept):
        engine.sync_weights()
        assert texts(engine) == wanted
    assert host.about().version == kept.version
    live = engine.replica.capture(kept=False)
    tw.shake(role, size=0.2)
    if not lora:  # merged weights are copies anyhow
        with pytest.raises(EngineError, match="has been trained since"):
            engine.replica.load(live)
    engine.close()


def test_phases_out_of_order_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    host = TorchHost(tiny_folder)
    weights = PolicyWriter(policy(), tmp_path).here(torch.float32, kept=True)
    buckets = [
        {"names": n, "entries": [weights.sums.entries[x] for x in n], "tensors": t}
        for n, t in transfer.buckets(weights)
    ]
    assert len(buckets) > 2
    version = weights.version
    host.init_weight_transfer({"kind": "memory"})
    with pytest.raises(EngineError, match="start_weight_update comes first"):
        host.update_weights(version, buckets[0])
    with pytest.raises(EngineError, match="start_weight_update comes first"):
        host.finish_weight_update(version, PROBE)
    assert host.about().version == "the start weights"
    host.start_weight_update(version)
    host.update_weights(version, buckets[0])
    assert host.about().version == "half loaded"
    with pytest.raises(StaleWeightsError):
        host.sample(Job(version, REQUESTS, PARAMS, EOS), None)
    with pytest.raises(EngineError, match="arrived twice"):
        host.update_weights(version, buckets[0])
    host.start_weight_update("f" * 64)  # another trainer, or the same again
    with pytest.raises(EngineError, match="was given up"):
        host.update_weights(version, buckets[1])
    host.start_weight_update(version)
    for bucket in buckets[:-1]:
        host.update_weights(version, bucket)
    with pytest.raises(EngineError, match="are not all of them"):
        host.finish_weight_update(version, PROBE)
    assert host.about().version == "half loaded"
    host.start_weight_update(version)
    for bucket in reversed(buckets):
        host.update_weights(version, bucket)
    assert len(host.finish_weight_update(version, PROBE)) == 2
    assert host.about().version == version


Damage = Callable[[list[torch.Tensor]], None]


def flipped(tensors: list[torch.Tensor]) -> None:
    tensors[0].view(-1)[0] += 1


def exchanged(tensors: list[torch.Tensor]) -> None:
    first = tensors[0].clone()
    tensors[0].copy_(tensors[1])
    tensors[1].copy_(first)


@pytest.mark.parametrize("damage", [flipped, exchanged])
def test_a_tensor_that_is_damaged_on_the_way_is_named_and_nothing_served(
    serve: Serve,
    tiny_folder: Path,
    tmp_path: Path,
    damage: Damage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    role, host = policy(), TorchHost(tiny_folder)
    engine = over(role, RemoteHost(serve(host), retries=0), tmp_path, "gloo")
    real = links.Outlet.offer

    def offer(self: links.Outlet, tensors: Sequence[torch.Tensor]) -> Any:
        spoilt = [t.clone() for t in tensors]
        same = [i for i, t in enumerate(spoilt) if t.shape == spoilt[-1].shape]
        if len(same) > 1:
            damage([spoilt[i] for i in same])
        return real(self, spoilt)

    with monkeypatch.context() as patch:
        patch.setattr(links.Outlet, "offer", offer)
        with pytest.raises(EngineError, match=r"model\.\S+ is not the tensor that was sent"):
            engine.sync_weights()
    assert host.about().version == "half loaded"
    assert texts(engine) == texts(own(role))  # sent again
    engine.close()


def test_a_transfer_that_breaks_off_half_way_is_begun_again(
    serve: Serve, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, host = policy(), TorchHost(tiny_folder)
    remote = RemoteHost(serve(host), retries=1, sleep=lambda seconds: None)
    engine = over(role, remote, tmp_path, "gloo")
    told = {"start": 0, "update": 0, "init": 0}
    real = RemoteHost._phase

    def phase(self: RemoteHost, name: str, said: Mapping[str, Any]) -> Any:
        told[name] = told.get(name, 0) + 1
        if told["update"] == 3 and name == "update":
            assert self._outlet is not None
            self._outlet.close()  # the connection is gone
            raise links.BrokenLinkError("cut")
        return real(self, name, said)

    monkeypatch.setattr(RemoteHost, "_phase", phase)
    engine.sync_weights()
    assert told["init"] == 1  # once more: the first was when they met
    assert told["start"] == 2
    assert texts(engine) == texts(own(role))

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    tw.shake(role)
    snapshot = engine.capture()
    with pytest.raises(StopError):
        engine.replica.load(snapshot, stop)
    assert host.about().version != snapshot.version
    engine.sync_weights()
    assert texts(engine) == texts(own(role))
    engine.close()


def about(**more: Any) -> About:
    return About("vllm", "vLLM", "float32", "", 100, 100, {}, {}, **more)


def test_ways_that_cannot_be_are_refused_with_the_reason() -> None:
    all_ways = ("file", "memory", "ipc", "nccl", "gloo")
    for kind, there, url, said in (
        ("nccl", about(transfers=all_ways), True, "the trainer has no GPU"),
        ("ipc", about(transfers=all_ways), True, "the trainer has no GPU"),
        ("nccl", about(transfers=all_ways), False, "behind a url"),
        ("memory", about(transfers=all_ways), True, "a sampler in this process"),
        ("ncll", about(transfers=all_ways), True, "did you mean 'nccl'"),
        ("gloo", about(), True, "takes weights by file only"),
    ):
        with pytest.raises(ConfigError, match=said):
            transfer.choose(kind, there, CPU, url)
    assert transfer.choose("auto", about(transfers=all_ways), CPU, True) == "file"
    assert transfer.choose("auto", about(transfers=all_ways), CPU, False) == "file"


def test_which_way_between_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("properties", (), {"uuid": "GPU-1"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: mine)
    ways, cuda = ("file", "memory", "ipc", "nccl", "gloo"), torch.device("cuda", 0)
    for gpus, url, found in (
        (["GPU-1"], False, "memory"),
        (["GPU-1"], True, "ipc"),
        (["GPU-2"], True, "nccl"),
        (["GPU-2", "GPU-3"], True, "nccl"),
        (["GPU-1", "GPU-2"], True, "file"),
        ([], True, "file"),
    ):
        assert transfer.choose("auto", about(transfers=ways, gpus=gpus), cuda, url) == found
    for kind, gpus, said in (
        ("nccl", [], "has no GPU"),
        ("nccl", ["GPU-1"], "use ipc"),
        ("ipc", ["GPU-2"], "is on GPU-2, not on the trainer's GPU alone"),
    ):
        with pytest.raises(ConfigError, match=said):
            transfer.choose(kind, about(transfers=ways, gpus=gpus), cuda, True)


def test_a_bucket_of_nonsense_is_refused_by_a_server(serve: Serve, tiny_folder: Path) -> None:
    from served import ask

    url = serve(TorchHost(tiny_folder))
    for phase, body, said in (
        ("start", b"{}", "version"),
        ("start", b"[", "not a transfer's start"),
        ("init", b'{"kind": "memory"}', "kind"),
        ("init", b'{"kind": "gloo", "address": "a b"}', "address"),
        ("update", b'{"version": "%s", "bucket": {"names": 3}}' % (b"0" * 64), "bucket"),
        ("halt", b"{}", "there is nothing at"),
    ):
        assert said in ask(url, "POST", f"/transfer/{phase}", body)[1]["error"], phase
    start = b'{"version": "%s"}' % (b"0" * 64)
    assert ask(url, "POST", "/transfer/start", start)[1] == {"result": None}
    entries = b'{"names": ["a"], "entries": [["float32", [2], 0]]}'
    body = b'{"version": "%s", "bucket": %s}' % (b"0" * 64, entries)
    assert "other names" in ask(url, "POST", "/transfer/update", body)[1]["error"]


# -- adapters alone -------------------------------------------------------------------------------


def test_a_host_with_lora_is_sent_the_adapter_alone(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    role = policy(lora=True)
    host = TorchHost(tiny_folder, max_lora_rank=8)
    engine = over(role, RemoteHost(serve(host), retries=0), tmp_path)
    for _ in range(2):
        tw.shake(role, size=0.3)
        engine.sync_weights()
        got, wanted = engine.generate(REQUESTS, PARAMS), own(role).generate(REQUESTS, PARAMS)
        assert [c.ids for row in got for c in row] == [c.ids for row in wanted for c in row]
    (sent,) = (tmp_path / "weights").iterdir()
    size = os.path.getsize(sent / "model.safetensors")
    adapter = sum(p.numel() * 4 for p in role.parameters())
    assert adapter < size < adapter + 20_000
    engine.close()


def test_adapters_that_do_not_fit_a_host_are_refused_before_they_are_sent(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="this stage trains all weights"):
        over(policy(), TorchHost(tiny_folder, max_lora_rank=8), tmp_path)
    wide = tw.trunk(0)
    wide.add_adapter("policy", LoraSettings(rank=16, alpha=16), seed=1)
    role = Role("policy", wide, adapter="policy", trainable=True)
    with pytest.raises(ConfigError, match=r"has rank 16, and .* for at most 8"):
        over(role, TorchHost(tiny_folder, max_lora_rank=8), tmp_path)
    with pytest.raises(ConfigError, match="adapters are sent as files"):
        over(policy(True), TorchHost(tiny_folder, max_lora_rank=8), tmp_path, "memory")
    moved = policy(True)
    with torch.no_grad():
        moved.trunk.model.model.norm.weight[3] += 1e-6
    with pytest.raises(ConfigError, match="are not those below the policy's adapter"):
        over(moved, TorchHost(tiny_folder, max_lora_rank=8), tmp_path)


def test_a_host_without_lora_names_an_adapter_that_it_is_sent(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = PolicyWriter(policy(lora=True), tmp_path / "w").write_adapter("0" * 64)
    for rank, said in ((0, "do not fit the sampler's model"), (8, "belongs to other weights")):
        url = serve(TorchHost(tiny_folder, max_lora_rank=rank))
        with (
            closing(RemoteHost(url, retries=0)) as host,
            pytest.raises(EngineError, match=said),
        ):
            host.load(adapter, PROBE)


# -- weights that a checkpoint held ---------------------------------------------------------------


@pytest.mark.parametrize("way", ["file", "memory", "adapter"])
def test_weights_of_a_checkpoint_are_sampled_from_wherever_they_are_sampled_now(
    way: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Of each kind, twice (two iterations may start from equal weights), one let go before."""
    lora = way == "adapter"
    role = policy(lora)
    if lora:  # the host holds the weights below the adapter
        tiny_folder = save_policy(tmp_path / "base", Role("base", role.trunk))
    options = {"max_lora_rank": 8} if lora else {}

    def engine(name: str, by: str) -> ReplicaEngine:
        host = TorchHost(tiny_folder, **options)
        return over(role, host, tmp_path / name, "auto" if lora else by)

    before = engine("before", "memory" if way == "memory" else "file")
    snapshot = before.capture()
    state = snapshot.state_dict()
    with before.pinned(snapshot):
        before.sync_weights()
        wanted = texts(before)
    tw.shake(role, size=0.2)  # training goes on
    for by in ("file", "memory"):
        after = engine(by, by)
        gone, held = after.restored(state), after.restored(state)
        assert held.version == gone.version == snapshot.version
        del gone
        with after.pinned(held):
            after.sync_weights()
            assert texts(after) == wanted
        with pytest.raises(ConfigError, match="resume with rollout without url"):
            after.restored({"tensors": {}})
    copy = TorchReplica(role, lambda model, activate: own(role))
    with pytest.raises(ConfigError, match="resume with rollout as it was then"):
        copy.restored(state)
