"""The probe: what it solves for is what was put in, and its record is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gnomon.errors import ConfigError
from gnomon.plan import calibrate
from gnomon.plan.bill import bill
from gnomon.plan.calibrate import MODEL, Calibration, calibration, hardware_of, solve
from gnomon.plan.cost import Speed, speed_of, work
from gnomon.plan.job import Job
from gnomon.plan.shapes import Shape

GPU_RATE, GPU_BANDWIDTH, LAUNCH, RECORDED = 6e14, 3e12, 3e-5, 2e-4
RATE, BANDWIDTH, LAYER, STEP, HALF, ATTENTION = 1e11, 1.5e10, 5e-4, 1e-3, 128.0, 4e10


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def timed() -> dict[str, float]:
    """What a machine with those constants would show, written out by hand."""
    m = MODEL
    weights = 4 * m.parameters / BANDWIDTH

    def step(groups: int, prompt: int, response: int) -> float:
        length = prompt + response
        trunk = m.active_parameters - m.embedding
        matrices = 6 * trunk * groups * length + 6 * m.embedding * groups * response
        pairs = groups * (prompt * prompt / 2 + response * (prompt + response / 2))
        scores = 3.5 * 4 * m.heads * m.head_dim * m.layers * pairs
        again = 4 * m.vocabulary * groups * response > 2**27
        matrices += 2 * m.embedding * groups * response * again
        return matrices * (1 + HALF / m.hidden) / RATE + scores / ATTENTION + 3 * m.layers * LAYER

    return {
        "matrices": RATE,
        "bandwidth": BANDWIDTH,
        "tiny": 3 * weights + 3 * m.layers * LAYER,
        "short": step(*calibrate.SHORT),
        "long": step(*calibrate.LONG),
        "decoding": weights + m.layers * STEP,
    }


def test_what_is_solved_for_is_what_was_put_in() -> None:
    found = solve(timed(), "cpu")
    expected = {"layer": LAYER, "step": STEP, "half": HALF, "attention": ATTENTION}
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-3)


def timed_on_a_gpu() -> dict[str, float]:
    """What a GPU with those constants would show."""
    shape = calibrate.GPU_MODEL
    speed = Speed(GPU_RATE / 3, GPU_BANDWIDTH, attention=GPU_RATE / 2, launch=LAUNCH)

    def step(groups: int, prompt: int, response: int) -> float:
        job = Job("sft", shape, groups, 1, prompt, response, prompt, response, 10**9)
        return work(replace(job, precision="mixed"))["training"].seconds(speed)

    weights = 4 * shape.parameters / GPU_BANDWIDTH
    return {
        "matrices": GPU_RATE,
        "float32": GPU_RATE / 15,
        "bandwidth": GPU_BANDWIDTH,
        "tiny": step(*calibrate.TINY) + 3 * weights,
        "short": step(*calibrate.GPU_SHORT),
        "long": step(*calibrate.GPU_LONG),
        "decoding": weights / 2 + shape.layers * RECORDED,
    }


def test_so_it_is_on_a_gpu_whose_steps_are_long_enough_to_hide_launching() -> None:
    found = solve(timed_on_a_gpu(), "cuda")
    expected = {
        "launch": LAUNCH,
        "step": RECORDED,
        "half": 2 * calibrate.GPU_MODEL.hidden,
        "attention": GPU_RATE / 2,
        "float32": GPU_RATE / 15,
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=0.02)
    made = Calibration(machine="a GPU", threads=1, memory=8e10, device="cuda", **found)
    gpu = made.hardware().gpu
    assert (gpu.queued, gpu.float32) == (True, GPU_RATE / 15)
    speed = speed_of(made.hardware(), calibrate.GPU_MODEL)
    assert speed.launch == pytest.approx(LAUNCH, rel=0.02)
    assert speed.float32 == pytest.approx(GPU_RATE / 15)


def test_here_is_the_gpu_of_a_machine_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measured(device: torch.device, *args: Any) -> Calibration:
        asked.append(device.type)
        return fake()

    monkeypatch.setattr(calibrate, "measure", measured)
    monkeypatch.setattr(calibrate, "machine_name", lambda device: device.type)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    hardware_of("here")
    hardware_of("cpu")
    calibration(again=True)
    assert asked == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    calibration(again=True)
    assert asked[3:] == ["cpu"]


def test_figures_that_cannot_be_are_set_to_their_bounds() -> None:
    odd = timed() | {"tiny": 0.0, "decoding": 0.0, "short": 1e-3, "long": 1e-3}
    found = solve(odd, "cpu")
    assert all(0 <= value < float("inf") for value in found.values())
    assert found["half"] == 0.0


def fake() -> Calibration:
    return Calibration(
        machine="a processor", threads=1, memory=8e9, parts=timed(), **solve(timed(), "cpu")
    )


def test_a_record_is_kept_and_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    def measured(*args: Any) -> Calibration:
        calls.append(args)
        return fake()

    monkeypatch.setattr(calibrate, "measure", measured)
    first, second = calibration(), calibration()
    assert len(calls) == 1
    assert first.half == second.half == pytest.approx(HALF, rel=1e-3)
    calibration(again=True)
    assert len(calls) == 2
    (file,) = (tmp_path / "calibrations").iterdir()
    file.write_text("not a record")
    calibration()
    assert len(calls) == 3
    file.write_text("{}")
    calibration()
    assert len(calls) == 4


def test_a_record_that_cannot_be_written_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("GNOMON_CACHE", str(blocked))
    monkeypatch.setattr(calibrate, "measure", lambda *args: fake())
    with pytest.raises(ConfigError, match="Set GNOMON_CACHE"):
        calibration()


def test_this_machine_is_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "measure", lambda *args: fake())
    here = hardware_of("here", price=0.1)
    assert here.gpu.measured
    assert here.price == 0.1
    job = Job("sft", MODEL, 4, 1, 16, 64, 16.0, 64.0, 4096)
    speed = speed_of(here, MODEL)
    assert speed.flops == pytest.approx(RATE / (1 + HALF / MODEL.hidden), rel=1e-3)
    assert not speed.queued
    found = bill(job, here, 10)
    assert found.measured
    assert found.kilowatt_hours is None
    assert any("probe" in line for line in found.assumptions)
    assert hardware_of("2xL4").gpu.name == "L4"


def test_the_probe_runs_the_real_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Shape("probe", 2, 64, 128, 4, 2, 16, 256, tied=True)
    monkeypatch.setattr(calibrate, "MODEL", small)
    monkeypatch.setattr(calibrate, "TRIES", 1)
    before = torch.random.get_rng_state()
    told: list[str] = []
    found = calibrate.measure(torch.device("cpu"), told.append)
    assert len(told) == 4
    assert found.matrices > 1e8
    assert found.bandwidth > 1e8
    assert found.step > 0
    assert torch.equal(before, torch.random.get_rng_state())
