"""Checkpoints: bit-exact, whole whatever kills the process, clear when they do not fit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gnomon.errors import RunError
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.training.optim import make_optimizer

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(list(model.named_parameters()), lr=1e-2, weight_decay=0.1)


def three_groups(model: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(model.parameters())]
    return torch.optim.AdamW(groups, amsgrad=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def make_model(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.Linear(width, 1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def save(store: CheckpointStore, iteration: int, model: nn.Module | None = None) -> None:
    model = model or make_model(seed=iteration)
    store.save(
        iteration,
        parameters=dict(model.named_parameters()),
        optimizer=adamw(model),
        state={"step": iteration},
    )


@pytest.mark.parametrize("make", [adamw, three_groups, sgd])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    tmp_path: Path, make: MakeOptimizer
) -> None:
    through = make_model()
    optimizer = make(through)
    train(through, optimizer, range(5))
    # detached, as a state dict gives them: the optimizer's parameters are found by their memory
    parameters = {n: p.detach() for n, p in through.named_parameters()}
    CheckpointStore(tmp_path).save(5, parameters=parameters, optimizer=optimizer, state={})
    train(through, optimizer, range(5, 9))

    resumed = make_model(seed=1)
    fresh = make(resumed)
    store = CheckpointStore(tmp_path)
    assert store.latest() == 5
    store.load(5, dict(resumed.named_parameters()), fresh)
    train(resumed, fresh, range(5, 9))
    assert same(resumed, through)

    # without the optimizer's state the result differs, so the test can fail
    forgetful = make_model(seed=2)
    store.load(5, dict(forgetful.named_parameters()), make(forgetful))
    train(forgetful, make(forgetful), range(5, 9))
    assert not same(forgetful, through)


def test_optimizer_settings_come_back(tmp_path: Path) -> None:
    model = make_model()
    optimizer = adamw(model)
    train(model, optimizer, range(2))
    for group in optimizer.param_groups:
        group["lr"] = 0.1 + 0.2  # 0.30000000000000004
    parameters = dict(model.named_parameters())
    CheckpointStore(tmp_path).save(1, parameters=parameters, optimizer=optimizer, state={})
    fresh = adamw(model)
    CheckpointStore(tmp_path).load(1, parameters, fresh)
    for old, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        assert {k: v for k, v in old.items() if k != "params"} == {
            k: v for k, v in new.items() if k != "params"
        }
    state = fresh.state[next(iter(model.parameters()))]
    assert state["step"].shape == ()
    assert state["step"] == 2


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    model = make_model()
    state = {
        "step": 7,
        "beta": 0.1 + 0.2,
        "best": float("inf"),
        "rng": torch.get_rng_state(),
        "python_rng": random.Random(3).getstate(),
        "nested": {"seen": ["a", None, True], "empty": {}},
    }
    parameters = dict(model.named_parameters())
    store = CheckpointStore(tmp_path)
    store.save(3, parameters=parameters, optimizer=adamw(model), state=state)
    loaded = CheckpointStore(tmp_path).load(3, parameters, adamw(model))
    assert torch.equal(loaded.pop("rng"), state.pop("rng"))
    assert loaded == state
    checkpoint = store.read(3)
    assert (checkpoint.iteration, checkpoint.step) == (3, 7)
    assert set(checkpoint.tensors) == set(parameters)


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 123)
    assert os.listdir(tmp_path) == ["step-000123"]
    assert {p.suffix for p in (tmp_path / "step-000123").iterdir()} == {".safetensors", ".json"}


def test_tied_and_half_precision_parameters(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(4, 4).bfloat16())
    parameters = {"embedding": weight, "head": weight, "part": weight.detach()[:2]}
    optimizer = torch.optim.SGD([weight], lr=0.1)
    CheckpointStore(tmp_path).save(1, parameters=parameters, optimizer=optimizer, state={})
    before = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    CheckpointStore(tmp_path).load(1, parameters, optimizer)
    assert torch.equal(weight, before)


def test_the_newest_are_kept_and_later_ones_dropped(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for iteration in (10, 20, 30, 1_000_000):
        save(store, iteration)
    assert store.iterations() == [30, 1_000_000]
    save(store, 40)  # the run went back to 30: what came after it is void
    assert store.iterations() == [30, 40]
    assert store.latest() == 40


def test_extra_ones_go_before_regular_ones(tmp_path: Path) -> None:
    """At each multiple of ``every``, and at the end, it is as without pauses."""
    store = CheckpointStore(tmp_path, keep=2, every=10)
    seen = []
    for iteration in (3, 5, 10, 13, 20, 23, 24, 30, 34, 35):
        save(store, iteration)
        seen.append(store.iterations())
    pauses = [[3], [3, 5], [5, 10], [10, 13], [10, 20], [20, 23], [20, 24], [20, 30]]
    assert seen == [*pauses, [30, 34], [30, 35]]
    assert store.regular(end=35) == [30, 35]
    assert store.regular(end=40) == [30]


@pytest.mark.parametrize("damage", ["flip", "cut", "file", "manifest", "garbage", "format"])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    for iteration in (1, 2):
        save(CheckpointStore(tmp_path), iteration)
    newest = tmp_path / "step-000002"
    file, manifest = newest / "parameters.safetensors", newest / "manifest.json"
    data = file.read_bytes()
    if damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "file":
        file.unlink()
    elif damage == "manifest":
        manifest.unlink()
    elif damage == "garbage":
        manifest.write_text("[]")
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    store = CheckpointStore(tmp_path)
    with pytest.warns(UserWarning, match="step-000002 cannot be used"):
        assert store.latest() == 1
    model = make_model()
    with pytest.raises(RunError, match=r"step-000002 cannot be used.*saved: 1, 2"):
        store.load(2, dict(model.named_parameters()), adamw(model))


def test_an_empty_store(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none")
    assert store.latest() is None
    with pytest.raises(RunError, match="does not exist"):
        store.read(3)


def test_a_changed_recipe_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 1)
    store = CheckpointStore(tmp_path)

    wider = make_model(width=5)
    before = [p.detach().clone() for p in wider.parameters()]
    with pytest.raises(RunError, match=r"0\.weight is float32\[4, 3\].*float32\[5, 3\].*recipe"):
        store.load(1, dict(wider.named_parameters()), adamw(wider))
    assert all(torch.equal(p, q) for p, q in zip(wider.parameters(), before, strict=True))

    double = make_model().double()
    with pytest.raises(RunError, match=r"0\.weight is float32.*float64"):
        store.load(1, dict(double.named_parameters()), adamw(double))

    model = make_model()
    renamed = {f"lora.{n}": p for n, p in model.named_parameters()}
    with pytest.raises(RunError, match=r"lora\.0\.weight is not in the checkpoint"):
        store.load(1, renamed, adamw(model))

    with pytest.raises(RunError, match="2 parameter groups were optimised then, 1 now"):
        store.load(1, dict(model.named_parameters()), sgd(model))

    swapped = torch.optim.AdamW(
        [{"params": [model[0].bias]}, {"params": [model[0].weight, *model[1:].parameters()]}]
    )
    with pytest.raises(RunError, match=r"0\.bias is optimised in another group"):
        store.load(1, dict(model.named_parameters()), swapped)


def test_mistakes_of_the_caller_are_named(tmp_path: Path) -> None:
    model = make_model()
    parameters = dict(model.named_parameters())
    store = CheckpointStore(tmp_path)
    with pytest.raises(TypeError, match="state/a/0: a checkpoint cannot hold a set"):
        store.save(1, parameters=parameters, optimizer=adamw(model), state={"a": [{1}]})
    with pytest.raises(TypeError, match="keys are strings, not 1"):
        store.save(1, parameters=parameters, optimizer=adamw(model), state={"a": {1: 2}})
    with pytest.raises(ValueError, match=r"shape \(4, 3\) that is not among"):
        store.save(1, parameters={}, optimizer=sgd(model), state={})
    assert store.latest() is None


def test_a_full_disk_keeps_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="The disk is full"):
        save(store, 2)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["step-000001"]
    assert CheckpointStore(tmp_path).latest() == 1


# One process imports torch and then forks a victim for each "folder where" line it is sent.
FORKER = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from gnomon import files
from gnomon.runs import checkpoint

model = nn.Linear(3, 2)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 3)).sum().backward()
optimizer.step()

def block_in_call(module, name, nth):
    real, calls = getattr(module, name), []
    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            print(os.getpid(), flush=True)
            while True:
                signal.pause()
        return real(*args, **kwargs)
    setattr(module, name, wrapped)

def victim(folder, where):
    store = checkpoint.CheckpointStore(Path(folder), keep=1)
    parameters = dict(model.named_parameters())
    for iteration in (1, 2):
        store.save(iteration, parameters=parameters, optimizer=optimizer,
                   state={"step": iteration})
        places = {
            "first_file": (checkpoint, "save_file", 1),
            "second_file": (checkpoint, "save_file", 2),
            "manifest": (checkpoint, "fingerprint", 3),
            "sync": (os, "fsync", 2),
            "before_rename": (os, "rename", 1),
            "after_rename": (checkpoint.CheckpointStore, "_prune", 1),
            "removing_old": (files, "_remove", 1),
        }
        block_in_call(*places[where])

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            victim(*line.split())
        finally:
            print("not stopped", flush=True)
            os._exit(1)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(
    ("where", "newest"),
    [
        ("first_file", 1),
        ("second_file", 1),
        ("manifest", 1),
        ("sync", 1),
        ("before_rename", 1),
        ("after_rename", 2),
        ("removing_old", 2),
    ],
)
def test_killed_at_any_moment_of_a_save_the_store_stays_usable(
    tmp_path: Path, forker: subprocess.Popen[str], where: str, newest: int
) -> None:
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(f"{tmp_path} {where}\n")
    forker.stdin.flush()
    os.kill(int(forker.stdout.readline()), signal.SIGKILL)
    assert forker.stdout.readline() == "dead\n"

    store = CheckpointStore(tmp_path, keep=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a half-written checkpoint is no damage
        assert store.latest() == newest
    assert all(name.startswith("step-") for name in os.listdir(tmp_path))
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    assert store.load(newest, dict(model.named_parameters()), optimizer) == {"step": newest}
    store.save(3, parameters=dict(model.named_parameters()), optimizer=optimizer, state={"step": 3})
    assert os.listdir(tmp_path) == ["step-000003"]
