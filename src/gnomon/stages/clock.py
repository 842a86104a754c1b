"""How long a stage may take on this machine: the planner's arithmetic at a speed measured quickly.

The work is counted by :mod:`gnomon.plan.cost`, as for ``gnomon plan``. Its half-minute probe
(:mod:`gnomon.plan.calibrate`) would be long for a dry run, so a third of a second has to do here: a
multiplication of matrices as they occur in the model, a vector times a matrix larger than the
caches, and one small call. That makes the estimate good to a factor of about 3, not better. On a
GPU, where it takes some seconds, the call is a training step of a model so small that its kernels
take no time; what a GPU does between matrices and in a recorded step of decoding is the data
sheet's share (:class:`gnomon.plan.hardware.Reach`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gnomon.models.load import dtype_of
from gnomon.plan.calibrate import launch
from gnomon.plan.cost import Speed, evaluation, step_seconds
from gnomon.plan.hardware import Reach
from gnomon.plan.job import Job
from gnomon.stages.stage import Stage
from gnomon.stages.usable import Usable

SPREAD = 3.0
"""The estimate is good to this factor, either way."""
_TRIES = 25
_CALLS = 60
"""Calls of a kernel in a layer's forward pass, about."""
_TYPICAL = 0.6
"""The share of ``max_new_tokens`` that a batch of samples takes: most responses end earlier."""


def measure(config: Any, dtype: str, device: torch.device) -> Speed:
    """This machine's speed with a model, measured in about a third of a second, once."""
    text = config.get_text_config()
    return _measure(int(getattr(text, "hidden_size", 512)), dtype_of(dtype), device)


@lru_cache
def _measure(width: int, kind: torch.dtype, device: torch.device) -> Speed:
    return (_processor if device.type == "cpu" else _accelerator)(width, kind, device)


def _processor(width: int, kind: torch.dtype, device: torch.device) -> Speed:
    rows = torch.ones(512, width, dtype=kind, device=device)
    matrix = torch.ones(width, 3 * width, dtype=kind, device=device)
    once = _best(lambda: rows @ matrix, device)
    big = torch.ones(4096, 4096, dtype=kind, device=device)
    vector = torch.ones(1, 4096, dtype=kind, device=device)
    passed = _best(lambda: vector @ big, device)
    little = torch.ones(8, 8, dtype=kind, device=device)
    call = _CALLS * _best(lambda: torch.nn.functional.silu(little), device)
    matrices = 2 * rows.shape[0] * matrix.numel() / once
    return Speed(
        flops=matrices,
        bandwidth=big.numel() * big.element_size() / passed,
        attention=matrices * Reach().attention,
        layer=call,
        step=call,
        queued=False,
    )


def _accelerator(width: int, kind: torch.dtype, device: torch.device) -> Speed:
    """Of a GPU: with matrices large enough to fill it, and larger than its caches.

    They are random: on equal numbers a GPU needs less power, and is faster than on a model's.
    """
    top, narrow = (_rate(width, each, device) for each in (kind, torch.bfloat16))
    vector, big = _random(kind, device, (1, 8192), (8192, 16384))
    passed = _best(lambda: vector @ big, device)
    reach = Reach()
    return Speed(
        flops=1 / (1 / top + reach.half / width / narrow),  # between matrices float32 is no slower
        bandwidth=big.numel() * big.element_size() / passed,
        attention=top * reach.attention / reach.top,
        wide=top,
        launch=launch(device),
        step=reach.step,
    )


def _rate(width: int, kind: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a matrix multiplication that fills a GPU."""
    rows, matrix = _random(kind, device, (8192, width), (width, 3 * width))
    return 2 * rows.shape[0] * matrix.numel() / _best(lambda: rows @ matrix, device)


def _random(kind: torch.dtype, device: torch.device, *shapes: tuple[int, int]) -> list[Tensor]:
    """Tensors whose making leaves torch's own random numbers where they are."""
    draw = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, generator=draw, dtype=kind, device=device) for shape in shapes]


def _best(work: Any, device: torch.device) -> float:
    """Seconds of one call, the quickest of several, so that a busy machine counts for less."""
    best = float("inf")
    for _ in range(_TRIES):
        began, calls = time.perf_counter(), 0
        while calls < 2 or time.perf_counter() - began < 0.002:
            work()
            calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def stage_seconds(stage: Stage, job: Job, usable: Usable, iterations: int, speed: Speed) -> float:
    """Seconds that a stage takes, to a factor of ``SPREAD``.

    Args:
        job: the stage with the lengths of its data; of answers to come, the longest allowed.
        iterations: of training; where nothing is trained, prompts.
    """
    if job.sampled:
        job = replace(job, mean_response=max(1.0, _TYPICAL * job.mean_response))
    if not stage.trains:
        one = replace(job, prompts=max(1, iterations))
        return stage.passes * sum(step_seconds(one, speed).values())
    train = stage.spec.train
    looks = 1 + (iterations // train.eval_every if train.eval_every else int(job.sampled))
    seen = min(usable.held_out, train.eval_size)
    look = 0.0
    if seen and job.sampled:
        asked = replace(job, method="collect", prompts=seen)
        look = sum(step_seconds(asked, speed).values())
    elif seen:
        look = evaluation(replace(job, prompts=seen)).seconds(speed)
    return iterations * sum(step_seconds(job, speed).values()) + looks * look
