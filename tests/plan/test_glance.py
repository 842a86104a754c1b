"""What a dry run measures of a device, before it is run on one: the branch for GPUs on a CPU."""

from __future__ import annotations

import pytest
import torch

from gnomon.plan import calibrate
from gnomon.plan.hardware import Reach
from gnomon.stages import clock


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_TRIES", 1)
    clock._measure.cache_clear()


def test_a_gpu_is_given_its_launching_and_the_data_sheets_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "_rate", lambda width, kind, device: 1e14 / (1 + kind.itemsize))
    monkeypatch.setattr(clock, "launch", lambda device: 4e-5)
    monkeypatch.setattr(clock, "_best", lambda work, device: 1e-3)
    cpu, width, reach = torch.device("cpu"), 1000, Reach()
    half, exact = (clock._accelerator(width, k, cpu) for k in (torch.bfloat16, torch.float32))
    assert half.queued
    assert half.launch == 4e-5
    assert half.flops == pytest.approx(half.wide * width / (width + reach.half))
    between = [1 / s.flops - 1 / s.wide for s in (half, exact)]
    assert between[0] == pytest.approx(between[1])  # what lies between matrices is as it was
    assert exact.wide < half.wide


def test_launching_is_measured_on_a_model_whose_kernels_take_no_time() -> None:
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert 1e-7 < calibrate.launch(torch.device("cpu")) < 1e-2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(before, torch.random.get_rng_state())
