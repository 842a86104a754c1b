"""Meters of energy: what is added up, counters that start over, meters that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from gnomon.stages.energy import EnergyMeter, machine_counters

LONG = 3600.0


def counter(readings: Iterable[float]) -> Callable[[], float]:
    values = iter(readings)
    return lambda: next(values)


def metered(
    readings: Iterable[float], times: int = 0, wraps: float = 0.0, earlier: float | None = None
) -> dict[str, float]:
    meter = EnergyMeter(
        {"rapl": counter(readings)},
        {"rapl": wraps},
        earlier=None if earlier is None else {"rapl": earlier},
        every=LONG,
    )
    with meter:
        for _ in range(times):
            meter.read()
    return meter.joules()


def test_what_a_counter_rose_by_is_added_to_earlier_calls() -> None:
    assert metered([100.0, 130.0]) == {"rapl": 30.0}
    assert metered([100.0, 130.0], earlier=5.0) == {"rapl": 35.0}


def test_a_counter_that_starts_over_loses_nothing() -> None:
    assert metered([90.0, 97.0, 4.0, 10.0], times=2, wraps=100.0) == {"rapl": 20.0}


def test_a_meter_that_fails_on_the_way_says_nothing_rather_than_a_part() -> None:
    def broken() -> Callable[[], float]:
        values = iter([1.0, 2.0])

        def read() -> float:
            try:
                return next(values)
            except StopIteration:
                raise OSError("gone") from None

        return read

    meter = EnergyMeter({"nvml": broken()}, earlier={"nvml": 9.0}, every=LONG)
    with meter:
        meter.read()
    assert meter.joules() == {}


def package(folder: Path, name: str, joules: float | None) -> None:
    folder.mkdir(parents=True)
    (folder / "name").write_text(name)
    (folder / "max_energy_range_uj").write_text("262143328850")
    if joules is not None:
        (folder / "energy_uj").write_text(str(int(joules * 1e6)))


def test_packages_of_the_processor_are_found_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    package(tmp_path / "intel-rapl:0", "package-0", 12.5)
    package(tmp_path / "intel-rapl:1", "package-1", 3.0)
    package(tmp_path / "intel-rapl:2", "psys", 99.0)
    package(tmp_path / "intel-rapl:3", "package-3", None)
    counters, wraps = machine_counters(tmp_path)
    rapl = {name: read() for name, read in counters.items() if name.startswith("rapl")}
    assert rapl == {"rapl": 12.5, "rapl:1": 3.0}
    assert wraps["rapl"] == pytest.approx(262143.32885)


def test_a_machine_without_meters_gives_nothing(tmp_path: Path) -> None:
    counters, _ = machine_counters(tmp_path / "none")
    assert not [name for name in counters if name.startswith("rapl")]
    with EnergyMeter({}, {}) as meter:
        pass
    assert meter.joules() == {}
