"""Energy that the machine used while a stage ran, where it has a meter that may be read.

``rapl`` is Intel's and AMD's counter of the processor packages (Linux, ``/sys/class/powercap``;
many systems let only root read it), ``nvml`` NVIDIA's of the cards (needs the package
``nvidia-ml-py``). Both count all that runs on the machine, other people's work too, and neither
memory, fans nor power supply.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
EVERY = 30.0
"""Seconds between readings: RAPL's counter starts over after some minutes at full power."""

Counter = Callable[[], float]
"""Joules since some moment."""


class EnergyMeter:
    """Use as a context manager: adds up joules by meter within the block.

    Args:
        counters: what is read, by name; the machine's own by default.
        wraps: the joules at which a counter starts over from 0; those left out never do.
        earlier: joules of earlier calls of the same stage.
        every: seconds between readings.
    """

    def __init__(
        self,
        counters: Mapping[str, Counter] | None = None,
        wraps: Mapping[str, float] | None = None,
        earlier: Mapping[str, float] | None = None,
        every: float = EVERY,
    ) -> None:
        if counters is None:
            counters, wraps = machine_counters()
        self.counters = dict(counters)
        self.wraps = dict(wraps or {})
        self._seen: dict[str, float] = {}
        self._joules: dict[str, float] = {}
        self._earlier = dict(earlier or {})
        self._every = every
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> EnergyMeter:
        self.read()
        if self._seen:
            self._thread = threading.Thread(target=self._watch, name="energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        self.read()

    def read(self) -> None:
        """Add what was used since the last reading; a meter that fails is read no more, and what
        it gave is dropped: a part would pass for the whole."""
        for name, counter in list(self.counters.items()):
            try:
                now = counter()
            except Exception:
                del self.counters[name]
                self._joules.pop(name, None)
                self._earlier.pop(name, None)
                continue
            used = now - self._seen.get(name, now)
            if used < 0:
                used += self.wraps.get(name, 0.0)
            self._joules[name] = self._joules.get(name, 0.0) + max(0.0, used)
            self._seen[name] = now

    def joules(self) -> dict[str, float]:
        """By meter, with those of earlier calls."""
        every = self._earlier | self._joules
        return {n: self._earlier.get(n, 0.0) + self._joules.get(n, 0.0) for n in every}

    def _watch(self) -> None:
        while not self._end.wait(self._every):
            self.read()


def machine_counters(powercap: Path = POWERCAP) -> tuple[dict[str, Counter], dict[str, float]]:
    """This machine's counters, each processor package one, and where they start over.

    Names are ``rapl``, ``rapl:1``, ...; ``nvml``, ``nvml:1``, ...
    """
    counters: dict[str, Counter] = {}
    wraps: dict[str, float] = {}
    for folder in sorted(powercap.glob("*-rapl:?")) if powercap.is_dir() else ():
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue
            most = float((folder / "max_energy_range_uj").read_text()) / 1e6
            counter = _rapl(folder / "energy_uj")
            counter()
        except (OSError, ValueError):
            continue
        name = _numbered("rapl", counters)
        counters[name], wraps[name] = counter, most
    for counter in _cards():
        counters[_numbered("nvml", counters)] = counter
    return counters, wraps


def _rapl(file: Path) -> Counter:
    return lambda: float(file.read_text()) / 1e6


def _cards() -> list[Counter]:
    """A counter for each NVIDIA card that has one (Volta and later)."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        counters = [_card(nvml, handle) for handle in handles]
        for counter in counters:
            counter()
    except Exception:
        return []
    return counters


def _card(nvml: Any, handle: Any) -> Counter:
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def _numbered(name: str, taken: Mapping[str, Counter]) -> str:
    number = sum(key.split(":")[0] == name for key in taken)
    return f"{name}:{number}" if number else name
