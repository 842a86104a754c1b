"""What a process on a CPU holds beside its tensors, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gnomon.errors import MemoryExhaustedError
from gnomon.plan import allocator
from gnomon.plan.allocator import GIVE_BACK, PROCESS, keeps_freed
from gnomon.plan.job import Job
from gnomon.plan.memory import memory
from gnomon.plan.shapes import shape_of
from gnomon.stages.exhausted import cure

ROW = Job("dpo", shape_of("Qwen/Qwen3-0.6B"), 8, 2, 100, 300, 100.0, 300.0, 4096, lora=16)


@pytest.fixture
def glibc(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process with glibc, and nobody has told it anything."""
    monkeypatch.setattr(allocator, "_glibc", lambda: True)
    for name in (allocator.THRESHOLD, "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("told", "keeps"),
    [
        ({}, True),
        (dict([GIVE_BACK.split("=")]), False),
        ({"MALLOC_MMAP_THRESHOLD_": "1073741824"}, True),
        ({"MALLOC_MMAP_THRESHOLD_": "small"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=0:glibc.malloc.mmap_threshold=0x10000"}, False),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, False),
    ],
)
def test_glibc_keeps_what_is_freed_unless_told(
    told: dict[str, str], keeps: bool, glibc: pytest.MonkeyPatch
) -> None:
    assert keeps_freed(told) is keeps
    glibc.setattr(allocator, "_glibc", lambda: False)
    assert not keeps_freed(told)


def test_a_stage_whose_tensors_fit_is_told_to_give_back_what_was_freed(
    glibc: pytest.MonkeyPatch,
) -> None:
    job = replace(ROW, device="cpu")
    needed = memory(job).peak + PROCESS

    def said(wanted: float, used: float, job: Job = job) -> str:
        error = MemoryExhaustedError("training", round(wanted), round(used), 0, "this machine")
        return cure(error, job, "dpo")

    assert GIVE_BACK in (advised := said(2**20, 1.5 * needed))
    assert "--resume" in advised
    assert GIVE_BACK not in said(2**20, 0.9 * needed)  # its tensors do not fit
    assert GIVE_BACK not in said(10 * needed, 1.5 * needed)  # nor one that the planner knows not of
    assert GIVE_BACK not in said(2**20, 1.5 * needed, ROW)  # of a GPU
    glibc.setenv(*GIVE_BACK.split("="))
    assert GIVE_BACK not in said(2**20, 1.5 * needed)
