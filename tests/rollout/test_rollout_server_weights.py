"""Weights sent to a server: what is not the policy's, whole and finite, changes nothing there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny_world as tw
from gnomon.errors import ConfigError, DataError, EngineError
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.host_replica import probe_ids
from gnomon.rollout.protocol import Request, SamplingParams
from gnomon.rollout.sampling import check_probe
from gnomon.rollout.torch_host import TorchHost
from gnomon.rollout.weights import check_weights, shapes_in, write_weights
from served import Serve, ask, client, policy

PARAMS = SamplingParams(max_new_tokens=8, temperature=0.9)
REQUESTS = [Request("a", [5, 9, 60], n=2, seed=3)]
PROBE = [5, 9, 60]
Tensors = dict[str, Tensor]


def spoilt(name: str, value: float) -> Callable[[Tensors], Tensors]:
    def spoil(tensors: Tensors) -> Tensors:
        tensors[name].view(-1)[-1] = value
        return tensors

    return spoil


def reshaped(tensors: Tensors) -> Tensors:
    return tensors | {"model.norm.weight": torch.ones(33)}


def whole_numbers(tensors: Tensors) -> Tensors:
    return tensors | {"model.norm.weight": torch.ones(32, dtype=torch.int64)}


def without(tensors: Tensors) -> Tensors:
    return {name: t for name, t in tensors.items() if name != "model.norm.weight"}


def with_more(tensors: Tensors) -> Tensors:
    return tensors | {"model.backdoor": torch.ones(3)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (spoilt("model.norm.weight", float("nan")), "model.norm.weight goes from nan to nan"),
        (spoilt("model.norm.weight", float("inf")), "to inf"),
        (spoilt("model.embed_tokens.weight", float("-inf")), "from -inf"),
        (reshaped, r"model.norm.weight is \[33\], not \[32\]"),
        (whole_numbers, "model.norm.weight holds int64"),
        (without, "model.norm.weight is missing"),
        (with_more, "model.backdoor is unknown there"),
    ],
)
def test_weights_that_cannot_be_taken_leave_the_old_ones(
    serve: Serve,
    tiny_folder: Path,
    tmp_path: Path,
    change: Callable[[Tensors], Tensors],
    said: str,
) -> None:
    url = serve(TorchHost(tiny_folder))
    engine = client(policy(), url, tmp_path)
    before = engine.generate(REQUESTS, PARAMS)
    served = ask(url, "GET", "/about")[1]["version"]
    changed = change(load_file(tiny_folder / "model.safetensors"))
    file = write_weights(tmp_path / "w.safetensors", changed)
    host = RemoteHost(url, retries=0)
    with pytest.raises(EngineError, match=said):
        host.load(file, PROBE)
    host.close()
    assert ask(url, "GET", "/about")[1]["version"] == served
    after = engine.generate(REQUESTS, PARAMS)
    assert [c.ids for c in after[0]] == [c.ids for c in before[0]]


def test_numbers_too_large_for_the_servers_dtype_are_not_taken(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    """float32 holds 1e6; float16 ends at 65504, bfloat16 at 3.39e38 and float32 at 3.40e38."""
    start = tiny_folder / "model.safetensors"
    shapes, file = shapes_in([start]), tmp_path / "w.safetensors"
    for value, dtype, fits in (
        (-65504.0, torch.float16, True),
        (65_505.0, torch.float16, False),
        (-1e6, torch.float16, False),
        (3.3e38, torch.bfloat16, True),
        (3.395e38, torch.bfloat16, False),
        (3.395e38, torch.float32, True),
    ):
        weights = write_weights(file, spoilt("model.norm.weight", value)(load_file(start)))
        if fits:
            check_weights(weights, shapes, dtype)
        else:
            with pytest.raises(EngineError, match=r"not finite numbers of b?float16"):
                check_weights(weights, shapes, dtype)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be loaded"),
        (b"\x80\x04pickled", "cannot be loaded"),
        (b"\xff" * 7 + b"\x7f" + b"{}", "cannot be loaded"),
        ((10).to_bytes(8, "little") + b"[[[[[[[[[[", "cannot be loaded"),
    ],
)
def test_what_is_no_safetensors_is_not_taken(
    serve: Serve, tiny_folder: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    url = serve(TorchHost(tiny_folder))
    file = tmp_path / "w"
    file.write_bytes(content)
    path = f"/weights?version={'0' * 64}&probe=5,9"
    assert said in ask(url, "POST", path, content)[1]["error"]
    assert ask(url, "GET", "/about")[1]["version"] == "the start weights"


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ("5," * 255 + "5", "fewer than the window's 256"),
        ("5," * 300 + "5", "fewer than the window's 256"),
        ("5", "query.probe"),
        ("", "query.probe"),
        ("-1,5", "query.probe"),
        ("5,9,999999", "must be in 0.."),
        ("5;9", "query.probe"),
    ],
)
def test_a_probe_that_cannot_be_scored_is_refused_before_the_weights_are_read(
    serve: Serve, tiny_folder: Path, probe: str, said: str
) -> None:
    url = serve(TorchHost(tiny_folder))
    status, answer = ask(url, "POST", f"/weights?version={'0' * 64}&probe={probe}", b"")
    assert status == 422
    assert said in answer["error"]


def test_a_probe_is_as_long_as_the_window_allows() -> None:
    for window, length in ((3, 2), (10, 9), (25, 24), (4096, 24)):
        probe = probe_ids(100, window)
        assert len(probe) == length
        check_probe(probe, 100, window)
    with pytest.raises(ConfigError, match="window of 2 tokens"):
        probe_ids(100, 2)
    with pytest.raises(DataError, match="2 or more"):
        check_probe([1], 100, 50)


def test_weights_taken_by_half_are_never_sampled_from(
    serve: Serve, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stops it between two tensors: the server then serves no version, and is sent one."""
    host = TorchHost(tiny_folder)
    role = policy()
    engine = client(role, serve(host), tmp_path)
    engine.sync_weights()
    tw.shake(role, size=0.2)
    real, left = host._model.state_dict, [3]

    class Breaking(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise RuntimeError("out of memory")
            return super().__getitem__(name)

    monkeypatch.setattr(host._model, "state_dict", lambda: Breaking(real()))
    with pytest.raises(EngineError, match="only in part: out of memory"):
        engine.sync_weights()
    assert host.about().version == "half loaded"
    monkeypatch.undo()
    got = engine.generate(REQUESTS, PARAMS)
    fresh = client(role, serve(TorchHost(tiny_folder)), tmp_path / "other")
    assert [c.ids for c in got[0]] == [c.ids for c in fresh.generate(REQUESTS, PARAMS)[0]]
    assert host.about().version != "half loaded"
