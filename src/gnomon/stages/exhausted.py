"""A stage that ran out of memory: the cheapest change of its recipe that would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gnomon.errors import MemoryExhaustedError
from gnomon.plan.allocator import GIVE_BACK, PROCESS, SLOWER, keeps_freed
from gnomon.plan.fit import CACHE, HEADROOM, MICROBATCH, NARROW, RECOMPUTE, fit
from gnomon.plan.job import Job
from gnomon.plan.memory import memory

SAME = (MICROBATCH, RECOMPUTE, CACHE)
"""Changes that a resumed run may have: the result is the same."""


@contextmanager
def explained(job: Callable[[], Job | None], stage: str) -> Iterator[None]:
    """Add to an error of the block what to change, and what is saved.

    Args:
        job: the stage in numbers, asked only then; None where the planner cannot size it.
    """
    try:
        yield
    except MemoryExhaustedError as error:
        saved = f" {error.saved[:1].upper()}{error.saved[1:]}." if error.saved else ""
        error.args = (f"{error}. {cure(error, job(), stage)}.{saved}",)
        raise


def cure(error: MemoryExhaustedError, job: Job | None, stage: str) -> str:
    """What to change so that it fits into what this process can have, by the planner's figures, and
    by less where they call too little what was seen to be too much."""
    if job is None:
        return "Ask for less at once: fewer samples, shorter rows (max_length), or a smaller model"
    needed = error.used + max(error.wanted, 1)
    # what is free in pieces that are too small is of no use
    room = error.used + (error.free if error.free < error.wanted else 0)
    found = fit(job, room * min(1.0, memory(job).peak / needed))
    if _held(error, job, room):
        return (
            "By the planner's figures its tensors fit there, but the C library keeps what earlier "
            f"ones freed: with {GIVE_BACK} before the command it gives that back, for {SLOWER} "
            "more processor time; resume with it (--resume)"
        )
    if not found.fits or not found.settings:
        return (
            "No change of the recipe that the planner knows would make it fit there: take a device "
            "with more memory or a smaller model, or ask for less (max_length, train.batch_size)"
        )
    changes = [c for c in found.changes if c.setting]
    costs = ", and ".join(
        f"{c.setting if c.name == NARROW else f'{stage}.{c.setting}'} ({c.costs})" for c in changes
    )
    same = all(c.name in SAME for c in changes)
    how = "resume with it (--resume)" if same else "start again under another name (name=...)"
    return f"The cheapest change that would fit, by the planner's figures: {costs}; {how}"


def _held(error: MemoryExhaustedError, job: Job, room: float) -> bool:
    """Whether a process on a CPU has room for its tensors, what was asked for among them, if it
    gives back what was freed."""
    tensors = max(memory(job).peak, error.wanted)
    return job.device == "cpu" and keeps_freed() and PROCESS + tensors <= HEADROOM * room
