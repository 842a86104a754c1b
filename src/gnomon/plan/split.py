"""How many GPUs sample and how many train, and what a step then takes.

Sampling holds whole copies of the model, each over as many GPUs as it needs; training divides it as
:mod:`gnomon.plan.parallel` says. Either all GPUs take turns, or each side has its own and works a
step ahead of the other; then the best split is the one whose slower side is fastest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gnomon.errors import ConfigError
from gnomon.plan.cost import Speed, decode_steps, speed_of, step_seconds
from gnomon.plan.hardware import GPUS_A_NODE, Gpu, Hardware
from gnomon.plan.job import Job
from gnomon.plan.parallel import Layout, training_layout

SAMPLING = 0.7
"""Share of the memory of a group of GPUs that a sampler's weights may take, beside its cache."""
IN_NODE, ACROSS = 12e-6, 60e-6
"""Seconds of an all-reduce of a decoding step's few numbers, within a node and between nodes."""


def sampling_size(job: Job, gpu: Gpu, gpus: int) -> tuple[int, str]:
    """GPUs that hold one copy of the model for sampling, in bfloat16."""
    weights = 2.0 * job.model.parameters
    size = 1
    while size < gpus and weights > SAMPLING * size * gpu.memory:
        size *= 2
    if weights > SAMPLING * size * gpu.memory:
        raise ConfigError(
            f"{job.model.name} takes {weights / 1e9:,.0f} GB to sample from: "
            f"{math.ceil(weights / (SAMPLING * gpu.memory))} x {gpu.name} at least, and there are "
            f"{gpus}"
        )
    if size == 1:
        return 1, "each sampling GPU holds a whole copy"
    where = "inside a node" if size <= GPUS_A_NODE else "across nodes, which slows each step"
    return size, (
        f"each copy for sampling over {size} GPUs ({where}): {weights / 1e9:,.0f} GB of weights, "
        f"beside the cache"
    )


def sampling_seconds(job: Job, gpu: Gpu, gpus: int) -> float:
    """Seconds of a step's prefill and decoding on so many GPUs."""
    size, _ = sampling_size(job, gpu, gpus)
    speed = replace(speed_of(Hardware(gpus, gpu), job.model), replica=size)
    found = step_seconds(job, speed, gpus)
    hop = 0.0 if size == 1 else IN_NODE if size <= GPUS_A_NODE else ACROSS
    from_sums = decode_steps(job, gpus) * 2 * job.model.layers * hop
    return found.get("prefill", 0.0) + found.get("decoding", 0.0) + from_sums


# -- both -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """How many GPUs sample and how many train.

    Attributes:
        sampling, training: GPUs; the same ones where ``shared``, which take turns.
        sampling_seconds, training_seconds: of a step.
        step_seconds: the longer of the two, or both where they take turns.
        gpu_days: for a thousand steps.
        layout: of training; ``copy``: GPUs that hold one copy for sampling.
        reasons: in words.
    """

    sampling: int
    training: int
    shared: bool
    sampling_seconds: float
    training_seconds: float
    step_seconds: float
    gpu_days: float
    layout: Layout
    copy: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        gpus = f"{self.training} GPUs, which take turns" if self.shared else (
            f"{self.sampling} GPUs sample, {self.training} train"
        )  # fmt: skip
        return (
            f"{gpus}; training: {self.layout}; {self.step_seconds:,.0f} s a step, "
            f"{self.cost} for a thousand steps"
        )

    @property
    def cost(self) -> str:
        """Of a thousand steps, in words: days, or hours where that is less than one."""
        if self.gpu_days < 1:
            return f"{24 * self.gpu_days:.2g} GPU-hours"
        return f"{self.gpu_days:,.0f} GPU-days"


def training_seconds(job: Job, gpu: Gpu, gpus: int, layout: Layout) -> float:
    """Seconds of all phases of a step but sampling."""
    speed: Speed = speed_of(Hardware(gpus, gpu), job.model)
    found = step_seconds(job, speed, gpus)
    rest = sum(s for name, s in found.items() if name not in ("prefill", "decoding"))
    return rest / layout.efficiency


def split(job: Job, hardware: Hardware, apart: bool | None = None) -> Split:
    """The best division of the hardware between sampling and training.

    Args:
        apart: sampling and training on GPUs of their own, a step ahead of each other; False: the
            same GPUs take turns; None: whichever is faster.

    Raises:
        ConfigError: the model does not fit.
    """
    turns = _in_turns(job, hardware)
    if apart is False or not job.sampled:
        return turns
    ahead = _apart(job, hardware)
    if ahead is None:
        if apart:
            raise ConfigError(
                f"{hardware} cannot hold {job.model.name} twice, to sample and to train apart: "
                "let the same GPUs take turns, or take more"
            )
        return turns
    if apart or ahead.step_seconds < turns.step_seconds:
        return ahead
    return turns


def _in_turns(job: Job, hardware: Hardware) -> Split:
    gpu, n = hardware.gpu, hardware.count
    layout = training_layout(job, gpu, n)
    copy, why = sampling_size(job, gpu, n) if job.sampled else (1, "")
    sample = sampling_seconds(job, gpu, n) if job.sampled else 0.0
    train = training_seconds(job, gpu, n, layout)
    reasons = (*layout.reasons, *([why] if why else []))
    if job.sampled:
        reasons += ("all GPUs sample, then all train: nothing idles, and nothing is a step old",)
    step = sample + train
    return Split(n, n, True, sample, train, step, _gpu_days(n, step), layout, copy, reasons)


def _apart(job: Job, hardware: Hardware) -> Split | None:
    """The split whose slower side is fastest; None where none fits."""
    gpu, n = hardware.gpu, hardware.count
    best: Split | None = None
    unit = GPUS_A_NODE if n > GPUS_A_NODE else 1
    for sampling in range(unit, n, unit):
        try:
            copy, why = sampling_size(job, gpu, sampling)
            layout = training_layout(job, gpu, n - sampling)
        except ConfigError:
            continue
        if sampling % copy or (n - sampling) % (layout.tensor * layout.context * layout.pipeline):
            continue  # some would have nothing to do
        sample = sampling_seconds(job, gpu, sampling)
        train = training_seconds(job, gpu, n - sampling, layout)
        step = max(sample, train)
        if best is None or step < best.step_seconds:
            reasons = (*layout.reasons, why, _balance(sampling, n - sampling, sample, train))
            best = Split(
                sampling, n - sampling, False, sample, train, step, _gpu_days(n, step), layout,
                copy, reasons,
            )  # fmt: skip
    return best


def _balance(sampling: int, training: int, sample: float, train: float) -> str:
    idle = 1 - min(sample, train) / max(sample, train)
    slower = "training" if sample > train else "sampling"
    return (
        f"{sampling} GPUs sample ({sample:,.0f} s a step) while {training} train ({train:,.0f} s) "
        f"on the step before; {slower} waits {idle:.0%} of the time"
    )


def _gpu_days(gpus: int, step: float) -> float:
    return 1000 * gpus * step / 86_400
