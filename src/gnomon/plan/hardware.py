"""The machines a plan can be for: ``8xH100``, ``4x A100-40GB``, ``cpu``.

Figures are of the makers' data sheets, prices of on-demand offers; the table says its date.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from gnomon.errors import ConfigError

GPUS_A_NODE = 8
_ASKED = re.compile(r"(?:(\d+)\s*[x*×]\s*)?([A-Za-z][\w.-]*)")


@dataclass(frozen=True)
class Reach:
    """How much of the data sheet's figures programs reach.

    Attributes:
        top: share of the FLOP/s, of wide matrices; ``half``: the width at which all that is no
            matrix takes as long as the matrices do.
        attention: share of the FLOP/s in attention.
        bandwidth: share of the memory's bandwidth while decoding.
        layer, step: seconds that a layer's call takes however little there is to compute, in
            training and while decoding.
    """

    top: float = 0.45
    half: float = 2500.0
    attention: float = 0.55
    bandwidth: float = 0.6
    layer: float = 3e-4
    step: float = 5e-4


@dataclass(frozen=True)
class Gpu:
    """One accelerator, or this machine's processor.

    Attributes:
        memory: bytes.
        flops: dense bfloat16 FLOP/s at most.
        bandwidth: bytes/s of its memory.
        link: bytes/s to the other GPUs of its node, one direction.
        watts: of the board at full load.
        price: US dollars an hour.
        source: where the figures are from.
        reach: what is reached of them; a probe's, where it was ``measured``.
        queued: whether kernels wait in a queue, so that launching them is hidden behind computing.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    watts: float
    price: float
    source: str
    reach: Reach = Reach()
    measured: bool = False
    queued: bool = True


@dataclass(frozen=True)
class Hardware:
    """So many of one GPU."""

    count: int
    gpu: Gpu

    def __str__(self) -> str:
        return f"{self.count} x {self.gpu.name}"

    @property
    def nodes(self) -> int:
        """Machines of eight GPUs."""
        return -(-self.count // GPUS_A_NODE)

    @property
    def price(self) -> float:
        """US dollars an hour for all of them."""
        return self.count * self.gpu.price


@cache
def _table() -> Mapping[str, Any]:
    text = files("gnomon.plan").joinpath("hardware.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def table_date() -> str:
    """When the table of hardware and prices was written: ``2026-11``."""
    return str(_table()["date"])


@cache
def gpus() -> Mapping[str, Gpu]:
    """Every GPU of the table by its name."""
    return {
        name: Gpu(
            name=name,
            memory=row["memory"] * 1e9,
            flops=row["tflops"] * 1e12,
            bandwidth=row["bandwidth"] * 1e9,
            link=row["link"] * 1e9,
            watts=row["watts"],
            price=row["price"],
            source=row["source"],
        )
        for name, row in _table()["gpus"].items()
    }


def parse_hardware(text: str, price: float | None = None) -> Hardware:
    """The hardware that ``8xH100`` names.

    Args:
        price: US dollars an hour for one GPU, instead of the table's.

    Raises:
        ConfigError: not of that form, no GPU of that name, none of them.
    """
    match = _ASKED.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"hardware {text!r}: write how many of which GPU, as in 8xH100")
    count, name = int(match[1] or 1), match[2]
    by_lower = {known.lower(): known for known in gpus()}
    known = by_lower.get(name.lower())
    if known is None:
        close = difflib.get_close_matches(name.lower(), by_lower, 3, 0.5)
        hint = f" Did you mean {', '.join(by_lower[c] for c in close)}?" if close else ""
        raise ConfigError(
            f"hardware {text!r}: no GPU {name!r} in the table.{hint} Known: {', '.join(gpus())}"
        )
    if count < 1:
        raise ConfigError(f"hardware {text!r}: at least one GPU is needed")
    gpu = gpus()[known]
    return Hardware(count, gpu if price is None else replace(gpu, price=price))
