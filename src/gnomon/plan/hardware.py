"""The machines a plan can be for: ``8xH100``, ``4x A100-40GB``, ``cpu``.

Figures are of the makers' data sheets, prices of on-demand offers; the table says its date, and
which were looked up again. This machine (``here``) is measured: :mod:`gnomon.plan.calibrate`.
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
HERE = ("here", "this machine", "cpu")
"""What this machine is called as hardware (:mod:`gnomon.plan.calibrate`; it loads torch): its GPU,
where it has one, and ``cpu`` its processor in any case."""
_ASKED = re.compile(r"(?:(\d+)\s*(?:[x*×]|\s)\s*)?([A-Za-z][\w. -]*)")
_ADDED = (
    "nvidia",
    "amd",
    "80gb",
    "sxm",
    "sxm4",
    "sxm5",
    "hbm3",
    "gpu",
    "geforce",
    "instinct",
    "tesla",
    "pcie5",
)


@dataclass(frozen=True)
class Reach:
    """How much of the data sheet's figures programs reach.

    Attributes:
        top: share of the FLOP/s, of wide matrices; ``half``: the width at which all that is no
            matrix takes as long as the matrices do.
        attention: share of the FLOP/s in attention.
        bandwidth: share of the memory's bandwidth while decoding.
        float32: share of the float32 FLOP/s, of wide float32 matrices.
        layer: seconds that a layer's call takes however little there is to compute, on a processor,
            and where several GPUs share the work.
        launch: seconds from one kernel of a GPU to the next, however little there is to compute:
            torch, its autograd graph and a model's modules on the machine's processor.
        step: seconds of a layer in a step of decoding however little there is to compute; on a GPU
            of a plain one (:data:`gnomon.plan.kernels.PLAIN`), its kernels recorded.
    """

    top: float = 0.5
    half: float = 2000.0
    attention: float = 0.55
    bandwidth: float = 0.6
    float32: float = 0.6
    layer: float = 3e-4
    launch: float = 30e-6
    step: float = 1.5e-4


@dataclass(frozen=True)
class Gpu:
    """One accelerator, or this machine's processor.

    Attributes:
        memory: bytes.
        flops: dense bfloat16 FLOP/s at most.
        bandwidth: bytes/s of its memory.
        link, network: bytes/s to the other GPUs of its node, and to other nodes, one direction.
        watts: of the board at full load; 0 where it is not known.
        price: euros an hour; 0 where it is not known.
        source: where the figures are from; ``checked``: where they were looked up again, and when.
        reach: what is reached of them; a probe's, where it was ``measured``.
        queued: whether kernels wait in a queue, so that launching them is hidden behind computing.
        float32: dense float32 FLOP/s at most, products of whole float32 numbers; 0: as ``flops``.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    watts: float
    price: float
    source: str
    checked: str = ""
    network: float = 25e9
    reach: Reach = Reach()
    measured: bool = False
    queued: bool = True
    float32: float = 0.0


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
        """Euros an hour for all of them."""
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
    euros = float(_table()["euros_per_dollar"])
    return {
        name: Gpu(
            name=name,
            memory=row["memory"] * 1e9,
            flops=row["tflops"] * 1e12,
            bandwidth=row["bandwidth"] * 1e9,
            link=row["link"] * 1e9,
            watts=row["watts"],
            price=row["price"] * euros,
            source=row["source"],
            checked=row["checked"],
            network=row["network"] * 1e9,
            float32=row["float32"] * 1e12,
        )
        for name, row in _table()["gpus"].items()
    }


def parse_hardware(text: str, price: float | None = None) -> Hardware:
    """The hardware that ``8xH100`` names.

    Args:
        price: euros an hour for one GPU, instead of the table's.

    Raises:
        ConfigError: not of that form, no GPU of that name, none of them.
    """
    match = _ASKED.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"hardware {text!r}: write how many of which GPU, as in 8xH100, or here for this "
            "machine"
        )
    count, name = int(match[1] or 1), match[2]
    plain = {_plain(known): known for known in gpus()}
    known = plain.get(_plain(name))
    if known is None:
        close = difflib.get_close_matches(_plain(name), plain, 3, 0.5)
        hint = f" Did you mean {', '.join(plain[c] for c in close)}?" if close else ""
        raise ConfigError(
            f"hardware {text!r}: no GPU {name!r} in the table.{hint} Known: {', '.join(gpus())}; "
            "or here for this machine"
        )
    if count < 1:
        raise ConfigError(f"hardware {text!r}: at least one GPU is needed")
    gpu = gpus()[known]
    return Hardware(count, gpu if price is None else replace(gpu, price=price))


def _plain(name: str) -> str:
    """A GPU's name without what people add to it: ``NVIDIA H100 80GB SXM5`` is ``h100``."""
    words = re.split(r"[\s_-]+", name.lower())
    return "".join(word for word in words if word not in _ADDED)
