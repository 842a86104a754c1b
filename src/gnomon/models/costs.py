"""What work costs on each kind of device: the table that attention, the vocabulary head and a
sampler's cache read.

The CPU's row was measured (it decides the order of sums, so changing it changes the last digits of
results). The GPU's row was worked out from data sheets and has not been measured: a pair of a
16-head, 128-wide model in bfloat16 takes about 0.15 ns forward and backward on an H100, the dozen
kernels of one more block some 40 us, and a token's keys and values about 10 ns to copy and sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Costs:
    """Attributes:
    call: one more attention block costs about as much as this many query-key pairs.
    token: gathering one query or key costs about as much as this many query-key pairs.
    logits: logits that the vocabulary head holds at once, in float32.
    """

    call: int
    token: float
    logits: int


#                       call   token  logits
COSTS = {
    "cpu": Costs(       4_096,    32, 2**25),  # 128 MiB: larger ones fall out of the caches
    "cuda": Costs(    262_144,    64, 2**28),  # 1 GiB: few passes over the gradient of the head
    "mps": Costs(      65_536,    32, 2**26),
}  # fmt: skip

_SHARE = 64
"""The head's logits take at most one part in so many of a GPU's memory."""


def costs_of(device: torch.device | str) -> Costs:
    """The row of a device; one that the table does not know is taken for a CPU."""
    return COSTS.get(str(device).partition(":")[0], COSTS["cpu"])


def logits_at_once(device: torch.device | str) -> int:
    """Logits to hold at once on ``device``: the table's, but no more than fit its memory.

    What a GPU has in all decides, and not what is free, so that a run and its resumption cut alike.
    """
    import torch  # here and not above: the planner reads this table, and torch takes a second

    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return costs_of(device).logits
    return logits_within(device.type, torch.cuda.get_device_properties(device).total_memory)


def logits_within(kind: str, memory: float) -> int:
    """Logits to hold at once on such a device of so much memory (bytes; 0: not known)."""
    wanted = costs_of(kind).logits
    return min(wanted, int(memory) // _SHARE // 4) if kind == "cuda" and memory else wanted


# -- a sampler's cache ----------------------------------------------------------------------------

WHOLE_SHARE = 0.25
"""Of a GPU's memory, the part that rows may take that are kept whole: not of what is free, which
varies, so that a run and its resumption read them alike."""
_SPARE = 8  # of so many whole rows one more, which keeps what a finished one held
_ROUND = 64  # whole rows are multiples of so many positions


def whole_rows(rows: int, longest: int) -> tuple[int, int]:
    """How many pages a sampler's cache has that hold a whole row each, and their positions.

    Args:
        rows: that run at once.
        longest: positions of one, the most that it may write among them.
    """
    return rows + -(-rows // _SPARE), -(-longest // _ROUND) * _ROUND
