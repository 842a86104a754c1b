"""Mixed precision runs: resumed to the same bytes; other checkpoints; memory that is out."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from gnomon.errors import ConfigError, MemoryExhaustedError, RunError
from gnomon.models.instants import instant, is_out_of_memory, wanted_by
from gnomon.recipe.schema import Recipe
from gnomon.stages import run as runs
from gnomon.stages.machine_checks import check_machine
from gnomon.training.loop import Loop
from tiny_world import make_recipe, sft_stage

GREEDY = '''
import torch
from gnomon.algorithms.sft import SFT


class Greedy(SFT):
    """Asks in its third step for more memory than there is."""

    def loss(self, batch, step):
        if step.iteration == 2:
            torch.empty(10**15)
        return super().loss(batch, step)
'''


def run(recipe: Recipe, base: Path, resume: bool = False) -> dict[str, torch.Tensor]:
    path = runs.run_recipe(recipe, base=base, resume=resume, announce=lambda line: None)
    return load_file(path / "stages" / "01-sft" / "model" / "model.safetensors")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "write_report", lambda folder: None)


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the loop die before its iteration ``at``."""
    real = Loop._iteration

    def iteration(self: Loop, number: int) -> None:
        if number == at:
            raise KeyboardInterrupt
        real(self, number)

    monkeypatch.setattr(Loop, "_iteration", iteration)


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_a_killed_run_in_mixed_precision_ends_in_the_same_bytes(
    lora: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = sft_stage(3, lora=lora)
    whole = run(make_recipe(tiny_folder, tmp_path / "a", stage, precision="mixed"), tmp_path)
    recipe = make_recipe(tiny_folder, tmp_path / "b", stage, precision="mixed")
    with monkeypatch.context() as patch:
        stopping(patch, 2)
        with pytest.raises(RunError, match="stopped"):
            run(recipe, tmp_path)
    again = run(recipe, tmp_path, resume=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    kind = torch.float32 if lora is None else torch.bfloat16
    assert {tensor.dtype for tensor in again.values()} == {kind}


def test_a_checkpoint_of_another_precision_is_not_gone_on_from(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where "auto" was a GPU's and is a processor's now."""
    from gnomon.models.precision import Precision
    from gnomon.stages import stage

    recipe = make_recipe(tiny_folder, tmp_path, sft_stage(3))
    with monkeypatch.context() as patch:
        patch.setattr(stage, "pick_precision", lambda *asked: Precision("mixed"))
        stopping(patch, 2)
        with pytest.raises(RunError):
            run(recipe, tmp_path)
    with pytest.raises(RunError, match="in precision mixed, and this run computes in float32"):
        run(recipe, tmp_path, resume=True)


def test_out_of_memory_says_where_what_to_change_and_what_is_saved(
    tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    stage = sft_stage(4, algorithm="greedy.py:Greedy", train={"tokens_per_microbatch": 4096})
    recipe = make_recipe(tiny_folder, tmp_path, stage)
    with pytest.raises(MemoryExhaustedError) as caught:
        run(recipe, tmp_path)
    said = str(caught.value)
    assert "out of memory in the forward and backward pass of iteration 3" in said
    assert re.search(r"3.73e\+06 GiB more were asked for, with \S+ GiB free on this machine", said)
    assert "The checkpoint of iteration 2 is intact" in said
    assert caught.value.wanted >= 4 * 10**15
    (tmp_path / "greedy.py").write_text(GREEDY.replace("== 2", "== -1"))  # mended
    smaller = sft_stage(4, algorithm="greedy.py:Greedy", train={"tokens_per_microbatch": 200})
    run(make_recipe(tiny_folder, tmp_path, smaller), tmp_path, resume=True)


def test_the_innermost_instant_is_named_and_other_errors_pass() -> None:
    inner = pytest.raises(MemoryExhaustedError, match="in the optimizer's step")
    with inner, instant("training"), instant("the optimizer's step"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0")
    with pytest.raises(RuntimeError, match="shapes"), instant("training"):
        raise RuntimeError("shapes differ")
    assert wanted_by("Tried to allocate 2.50 MiB") == 2.5 * 2**20
    assert is_out_of_memory(RuntimeError("cuBLAS: out of memory"))


def test_the_limit_of_the_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda which: (taken + 2**20, -1))
    with pytest.raises(MemoryExhaustedError, match="for this process") as caught, instant("x"):
        raise MemoryError
    assert caught.value.free <= 2**20


def test_the_cheapest_change_that_fits_is_named() -> None:
    from gnomon.plan.job import Job
    from gnomon.plan.memory import memory
    from gnomon.plan.shapes import shape_of
    from gnomon.stages.exhausted import cure

    job = Job("sft", shape_of("Qwen/Qwen3-0.6B"), 32, 1, 512, 512, 512, 512, 32768,
              precision="mixed")  # fmt: skip
    peak = round(memory(job).peak)
    error = MemoryExhaustedError("training", peak // 10, peak - peak // 10, 2**20, "gpu")
    said = cure(error, job, "sft")
    assert "sft.train.tokens_per_microbatch=" in said
    assert "resume with it" in said
    split = MemoryExhaustedError("training", peak // 10, peak - peak // 10, 2 * peak, "gpu")
    assert "sft.train.tokens_per_microbatch=" in cure(split, job, "sft")  # free, but not in a piece
    tiny = MemoryExhaustedError("training", peak, 10**6, 0, "gpu")
    assert "would make it fit" in cure(tiny, job, "sft")


def test_what_others_hold_of_a_gpu_is_not_counted_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 140 GiB that is full of somebody else's tensors: the change fits into what is left
    for this process, at once."""
    from gnomon.plan.job import Job
    from gnomon.plan.memory import memory
    from gnomon.plan.shapes import shape_of
    from gnomon.stages.exhausted import cure

    GiB = 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (GiB // 2, 140 * GiB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 20 * GiB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    with pytest.raises(MemoryExhaustedError) as caught, instant("x"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
    error, said = caught.value, str(caught.value)
    assert (
        "0.5 GiB free on NVIDIA H200 (140 GiB, of which other processes and CUDA hold 120" in said
    )
    assert "20 GiB in use by this process" in said
    job = Job("sft", shape_of("Qwen/Qwen3-0.6B"), 64, 1, 512, 512, 512, 512, 65536,
              precision="mixed", device_bytes=140.0 * GiB)  # fmt: skip
    named = re.search(r"tokens_per_microbatch=(\d+)", cure(error, job, "sft"))
    assert named is not None
    smaller = replace(job, microbatch=int(named[1]))
    assert memory(smaller).peak < error.used + error.free < memory(job).peak
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 139 * GiB)
    with pytest.raises(MemoryExhaustedError) as caught, instant("x"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
    assert "other processes" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allo")],
)
def test_the_machines_memory_runs_out_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A GPU that has room is not what ran out: a checkpoint is gathered in the machine's memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(MemoryExhaustedError, match="free on this machine"), instant("x"):
        raise error


def test_the_old_name_and_what_is_not_there_are_answered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is called precision now"):
        make_recipe("tunnel", tmp_path, sft_stage(), dtype="bfloat16")
    with pytest.raises(ConfigError, match="device: mps cannot be used: Apple's GPU has no float64"):
        check_machine(make_recipe("tunnel", tmp_path, sft_stage(), device="mps"))
