"""What fits on a GPU, and the cheapest change that would make it fit.

Changes are tried in the order of what they cost: time first, then what is learned, then money. One
is kept while the next are tried on top of it; what turns out not to be needed is left out again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gnomon.errors import ConfigError
from gnomon.plan.job import RANK, Job
from gnomon.plan.memory import Memory, cache_bytes, memory

HEADROOM = 0.92
"""Of a GPU's memory that tensors can have: the rest is its context and what allocators lose. A rule
of thumb, measured nowhere here."""
FEWEST_ROWS = 8
SMALLEST = 256
"""Tokens of a micro-batch below which its passes are mostly overhead."""


@dataclass(frozen=True)
class Change:
    """One change to a stage.

    Attributes:
        name: what it is called.
        setting: how a recipe says it, as an override; "" where no recipe can.
        costs: what it costs, in words.
        job: the stage with it.
    """

    name: str
    setting: str
    costs: str
    job: Job


@dataclass(frozen=True)
class Fit:
    """Whether a stage fits, and with what changes.

    Attributes:
        room: bytes that tensors can have on a GPU.
        before: of the stage as asked; ``after``: with the changes.
        changes: in the order in which they were tried; none where it fits as it is.
        job: the stage with the changes.
    """

    room: float
    before: Memory
    after: Memory
    changes: tuple[Change, ...]
    job: Job

    @property
    def fits(self) -> bool:
        return self.after.peak <= self.room

    @property
    def settings(self) -> tuple[str, ...]:
        """The changes as overrides of the recipe's stage."""
        return tuple(change.setting for change in self.changes if change.setting)


def fit(job: Job, gpu_bytes: float, gpus: int = 1) -> Fit:
    """Find the cheapest changes with which a stage fits.

    Args:
        gpu_bytes: of one GPU.
        gpus: over how many it may be sharded.

    Returns:
        With changes that are enough; or, where none are, with those that make it smallest.

    Raises:
        ConfigError: a GPU without memory.
    """
    if gpu_bytes <= 0:
        raise ConfigError(f"a GPU has {gpu_bytes} bytes of memory: nothing fits there")
    if not job.device_bytes:
        job = replace(job, device_bytes=gpu_bytes)
    room, before = gpu_bytes * HEADROOM, memory(job)
    changes: list[Change] = []
    now, peak, last = job, before.peak, math.inf
    while room < peak < last:  # again: what did not help may, now that another instant decides
        last = peak
        for change in (change for step in STEPS for change in step(now, gpus)):
            smaller = memory(change.job).peak
            if smaller < peak:
                changes = [c for c in changes if c.name != change.name] + [change]
                now, peak = change.job, smaller
            if peak <= room:
                break
    if peak <= room:
        changes = _needed(job, changes, room, gpus)
        now = changes[-1].job if changes else job
    return Fit(room, before, memory(now), tuple(changes), now)


def vllm_share(job: Job, gpu_bytes: float) -> float:
    """The share of a GPU that vLLM needs (its ``gpu_memory_utilization``).

    Its own weights, the cache of the rows it writes at once, and a tenth for what it computes; 0
    where it has no part.
    """
    if job.engine != "vllm" or not job.sampled:
        return 0.0
    weights = job.frozen_bytes * job.model.parameters / job.shards
    return 1.1 * (weights + cache_bytes(job)) / gpu_bytes


def _needed(job: Job, changes: Sequence[Change], room: float, gpus: int) -> list[Change]:
    """The changes without those that it fits without, the dearest that can go first."""
    kept = list(changes)
    for change in reversed(changes[:-1]):
        without = [c for c in kept if c.name != change.name]
        again = _replayed(job, without)
        if memory(again[-1].job).peak <= room:
            kept = again
    return kept


def _replayed(job: Job, changes: Sequence[Change]) -> list[Change]:
    """The same changes made to ``job`` one after the other."""
    out = []
    for change in changes:
        values = {name: getattr(change.job, name) for name in FIELDS[change.name]}
        job = replace(job, **values)
        out.append(replace(change, job=job))
    return out


# -- the changes ----------------------------------------------------------------------------------

MICROBATCH, RECOMPUTE, CACHE = "smaller micro-batches", "recomputed layers", "fewer rows at once"
ADAPTERS, NARROW, SHARDS = "LoRA", "mixed precision", "sharded"
SAMPLER = "sampling by the trainer's weights"
FIELDS = {
    MICROBATCH: ("microbatch",),
    RECOMPUTE: ("recompute",),
    CACHE: ("rows",),
    ADAPTERS: ("lora",),
    NARROW: ("precision",),
    SHARDS: ("shards",),
    SAMPLER: ("engine",),
}


def _microbatches(job: Job, gpus: int) -> Iterator[Change]:
    size = min(job.microbatch, job.packed)
    while size > max(SMALLEST, job.group):
        size = max(SMALLEST, job.group, size // 2)
        yield Change(
            MICROBATCH,
            f"train.tokens_per_microbatch={size}",
            "a little time: more, smaller passes; the result is the same",
            replace(job, microbatch=size),
        )


def _recompute(job: Job, gpus: int) -> Iterator[Change]:
    if not job.recompute and job.trained_roles:
        yield Change(
            RECOMPUTE,
            "train.gradient_checkpointing=true",
            "about a quarter more training time; the result is the same",
            replace(job, recompute=True),
        )


def _rows(job: Job, gpus: int) -> Iterator[Change]:
    rows = min(job.rows, job.prompts * job.samples)
    while job.sampled and rows > FEWEST_ROWS:
        rows = max(FEWEST_ROWS, rows // 2)
        yield Change(
            CACHE,
            f"rollout.max_rows={rows}",
            "time: sampling takes more rounds; the result is the same",
            replace(job, rows=rows),
        )


def _lora(job: Job, gpus: int) -> Iterator[Change]:
    if not job.lora and job.trained_roles:
        yield Change(
            ADAPTERS,
            f"lora={{rank: {RANK}}}",
            "adapters are trained, not all weights: less can be learned",
            replace(job, lora=RANK),
        )


def _bfloat16(job: Job, gpus: int) -> Iterator[Change]:
    if job.precision == "float32" and job.lora:  # full training in it rounds small steps away
        yield Change(
            NARROW,
            "precision=mixed",
            "frozen weights are rounded to 8 bits of precision; adapters stay float32",
            replace(job, precision="mixed"),
        )


def _shards(job: Job, gpus: int) -> Iterator[Change]:
    count = job.shards
    while count < gpus:
        count = min(gpus, 2 * count)
        yield Change(
            SHARDS,
            "",  # torchrun's business
            f"{count} GPUs hold one model together (strategy: fsdp2)",
            replace(job, shards=count),
        )


def _sampler(job: Job, gpus: int) -> Iterator[Change]:
    if job.engine == "vllm" and job.sampled:
        yield Change(
            SAMPLER,
            "rollout.engine=torch",
            "time: slower sampling; vLLM holds no second copy of the weights",
            replace(job, engine="torch"),
        )


STEPS: tuple[Callable[[Job, int], Iterator[Change]], ...] = (
    *(_microbatches, _recompute, _rows, _lora, _bfloat16, _shards, _sampler),
)
"""In the order of what they cost."""
