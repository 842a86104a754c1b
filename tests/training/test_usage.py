"""The peak of a stage: within a step, and not that of what came before."""

from __future__ import annotations

import sys

import psutil
import pytest
import torch

from gnomon.training import watch
from gnomon.training.watch import PeakMemory

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's high-water mark")
MB = 1e-3


def hold(megabytes: int) -> None:
    """Take memory, touch it, give it back."""
    block = torch.ones(megabytes * 250_000)
    del block


@linux
def test_a_peak_between_two_looks_counts():
    memory = PeakMemory()
    before = memory.metrics()["peak_rss_gb"]
    hold(300)
    assert memory.metrics()["peak_rss_gb"] - before > 250 * MB


@linux
def test_what_was_held_before_does_not_count():
    earlier = PeakMemory()
    hold(300)
    highest = earlier.metrics()["peak_rss_gb"]
    assert highest - PeakMemory().metrics()["peak_rss_gb"] > 200 * MB


@linux
def test_where_the_mark_cannot_be_set_back_an_earlier_peak_is_not_taken_for_ones_own(
    tmp_path, monkeypatch
):
    hold(300)
    monkeypatch.setattr(watch, "CLEAR", tmp_path)  # a folder: cannot be written to
    peak = PeakMemory().metrics()["peak_rss_gb"]
    assert abs(peak - psutil.Process().memory_info().rss / 1e9) < 100 * MB


def test_a_peak_never_falls_and_a_resumed_stage_keeps_its_own():
    memory = PeakMemory()
    memory.restore({"peak_rss_gb": 1000.0})
    assert memory.metrics()["peak_rss_gb"] == 1000.0
    assert memory.metrics()["peak_rss_gb"] == 1000.0
