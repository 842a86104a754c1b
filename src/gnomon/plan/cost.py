"""How long a stage takes, and what that costs: arithmetic for training, bandwidth for sampling.

A multiplication of a token with P active parameters is 2 P FLOP, and its backward pass twice that
(once with LoRA, whose trunk has no weight gradients); attention adds to it what the context costs.
Training runs at a share of the hardware's arithmetic (its utilisation, which grows with the model's
width), sampling at a share of its bandwidth, since every step reads all the weights and the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gnomon.plan.hardware import Hardware
from gnomon.plan.job import REFERENCED, Job
from gnomon.plan.shapes import Shape

TOP, HALF = 0.45, 2500.0
"""Utilisation of a model of width H: TOP x H / (H + HALF). Published runs of one H100 are near it:
0.13 for Qwen3-0.6B (published 0.11 at 16k tokens), 0.23 for a 4B model with LoRA (0.22)."""
BANDWIDTH = 0.6
"""The share of the memory's bandwidth that decoding reaches."""
TAIL = 1.6
"""A batch of responses ends with its longest: so many times the mean, where they are not cut."""


@dataclass(frozen=True)
class Speed:
    """What the hardware does in a second, over all its GPUs.

    Attributes:
        flops: of training's matrices, utilisation included.
        bandwidth: bytes that pass through while decoding.
    """

    flops: float
    bandwidth: float


def speed_of(hardware: Hardware, shape: Shape, utilisation: float | None = None) -> Speed:
    """The data sheet's figures times what is reached of them."""
    share = utilisation or TOP * shape.hidden / (shape.hidden + HALF)
    gpu = hardware.gpu
    return Speed(hardware.count * gpu.flops * share, hardware.count * gpu.bandwidth * BANDWIDTH)


def step_flops(job: Job) -> dict[str, float]:
    """FLOP of one step, by phase."""
    m = job.model
    groups, answers = job.prompts, job.prompts * job.samples
    tokens = groups * job.mean_prompt + answers * job.mean_response  # prompts once per group
    context = job.mean_prompt + job.mean_response / 2
    one = 2 * m.active_parameters + m.attended(context)
    backward = 1 if job.lora else 2
    again = 1 if job.recompute else 0
    phases = {
        "training": job.epochs * job.trained_roles * (1 + backward + again) * one * tokens,
    }
    if job.method in REFERENCED:
        phases["reference"] = one * tokens
    if job.method == "ppo":
        phases["values"] = one * tokens
    if job.reward is not None:
        r = job.reward
        phases["reward"] = (2 * r.active_parameters + r.attended(context)) * tokens
    if job.sampled:
        phases["old log-probs"] = one * tokens
        phases["prefill"] = 2 * m.active_parameters * groups * job.mean_prompt
        phases["decoding"] = one * answers * job.mean_response
    return {name: flop for name, flop in phases.items() if flop}


def step_seconds(job: Job, speed: Speed, gpus: int = 1) -> dict[str, float]:
    """Seconds of one step, by phase, phases one after the other.

    Args:
        gpus: over which the responses are divided.
    """
    found = {
        name: flop / speed.flops for name, flop in step_flops(job).items() if name != "decoding"
    }
    if job.sampled:
        found["decoding"] = _decoding(job, speed, gpus)
    return found


def _decoding(job: Job, speed: Speed, gpus: int) -> float:
    """Steps of decoding, each of which reads the weights and the rows' cache."""
    m = job.model
    total = job.prompts * job.samples
    rows = max(1, min(job.rows * gpus, total))  # at once, over all GPUs
    rounds = math.ceil(total / rows)
    steps = rounds * min(job.response_tokens, TAIL * job.mean_response)
    context = job.mean_prompt + job.mean_response / 2
    touched = m.parameters if m.experts and rows >= m.experts else m.active_parameters
    reads = (
        gpus * touched * job.frozen_bytes
    )  # each GPU reads its copy, or its part of a larger one
    cache = rows * context * m.cache_numbers * job.compute_bytes
    read = (reads + cache) / speed.bandwidth
    multiply = rows * (2 * m.active_parameters + m.attended(context)) / speed.flops
    return steps * max(read, multiply)


@dataclass(frozen=True)
class Phase:
    """A part of a step.

    Attributes:
        flop: that it computes; ``seconds`` it takes; ``tokens`` that pass through the model.
        bound: what limits it: ``arithmetic`` or ``bandwidth``.
    """

    name: str
    flop: float
    seconds: float
    tokens: float
    bound: str

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def phases(job: Job, speed: Speed, gpus: int = 1) -> tuple[Phase, ...]:
    """The phases of one step, in order."""
    seconds = step_seconds(job, speed, gpus)
    answers = job.prompts * job.samples
    every = job.prompts * job.mean_prompt + answers * job.mean_response
    tokens = {"prefill": job.prompts * job.mean_prompt, "decoding": answers * job.mean_response}
    return tuple(
        Phase(
            name,
            flop,
            seconds[name],
            tokens.get(name, every),
            "bandwidth" if name == "decoding" else "arithmetic",
        )
        for name, flop in step_flops(job).items()
    )
