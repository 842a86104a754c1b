"""How long a stage may take: its arithmetic, counted, divided by this machine's measured speed.

A multiplication of matrices as they occur in the model is timed, and one of a vector by a matrix
larger than the caches. With N parameters and T tokens a forward pass costs 2NT operations and a
backward pass 4NT (2NT with LoRA), and a step of sampling reads N weights. What the count leaves out
(attention, Python, the reward) makes the estimate good to a factor of about 3, not better.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.models.load import dtype_of
from gnomon.recipe.schema import StageSpec
from gnomon.stages.stage import Stage
from gnomon.stages.usable import Usable

SPREAD = 3.0
"""The estimate is good to this factor, either way."""
_TRIES = 25
_CALLS = 60
"""Calls of a kernel in a layer's forward pass, about."""
_TYPICAL = 0.6
"""The share of ``max_new_tokens`` that a batch of samples takes: most responses end earlier."""


@dataclass(frozen=True)
class Speed:
    """What this machine does in a second, and what a layer costs however small it is.

    Attributes:
        operations: of multiplications of matrices as large as the model's.
        weights: parameters that pass through the processor, as in sampling one row.
        layer: seconds that a layer's Python and kernels take however little there is to multiply.
    """

    operations: float
    weights: float
    layer: float


def measure(config: Any, dtype: str, device: torch.device) -> Speed:
    """Measure this machine's speed, in about a third of a second."""
    text = config.get_text_config()
    width = int(getattr(text, "hidden_size", 512))
    kind = dtype_of(dtype)
    rows = torch.ones(512, width, dtype=kind, device=device)
    matrix = torch.ones(width, 3 * width, dtype=kind, device=device)
    once = _best(lambda: rows @ matrix, device)
    big = torch.ones(4096, 4096, dtype=kind, device=device)
    vector = torch.ones(1, 4096, dtype=kind, device=device)
    passed = _best(lambda: vector @ big, device)
    little = torch.ones(8, 8, dtype=kind, device=device)
    call = _best(lambda: torch.nn.functional.silu(little), device)
    return Speed(2 * rows.shape[0] * matrix.numel() / once, big.numel() / passed, _CALLS * call)


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


def stage_seconds(
    stage: Stage, usable: Usable, iterations: int, parameters: int, config: Any, speed: Speed
) -> float:
    """Seconds that a stage takes, to a factor of ``SPREAD``.

    Args:
        iterations: of training; where nothing is trained, prompts.
        parameters: of one of the stage's models.
    """
    layers = int(getattr(config.get_text_config(), "num_hidden_layers", 12))
    spec, needs = stage.spec, stage.needs()
    sampled = spec.rollout.samples * _TYPICAL * spec.response_tokens
    if not stage.trains:
        return stage.passes * _sampling(spec, iterations, usable, parameters, layers, speed)
    train = spec.train
    online = bool(usable.prompts)
    tokens = usable.prompt_tokens + (sampled if online else usable.response_tokens)
    settings = stage.settings
    passes = steps = 1
    if isinstance(settings, OnPolicySettings):
        passes, steps = settings.epochs, settings.epochs * settings.minibatches
    backward = 2 if spec.lora is not None else 4
    again = 2 if train.gradient_checkpointing else 0
    learning = sum(need.trainable for need in needs)
    forward = sum(not need.watches for need in needs) + sum(
        reward.model is not None for reward in spec.reward
    )
    work = passes * learning * (2 + backward + again) + (2 * forward if online else 0)
    per_iteration = work * parameters * tokens * train.batch_size / speed.operations
    chunks = max(1.0, tokens * train.batch_size / train.tokens_per_microbatch)
    per_iteration += 3 * layers * speed.layer * max(steps, passes * chunks) * learning
    update = parameters if spec.lora is None else parameters / 20
    per_iteration += steps * learning * 4 * update / speed.weights
    if online:
        per_iteration += _sampling(spec, train.batch_size, usable, parameters, layers, speed)
    looks = 1 + (iterations // train.eval_every if train.eval_every else int(online))
    seen = min(usable.held_out, train.eval_size)
    if online:
        look = _sampling(spec, seen, usable, parameters, layers, speed)
    else:
        look = 2 * parameters * seen * tokens / speed.operations
    return iterations * per_iteration + looks * look


def _sampling(
    stage: StageSpec, prompts: int, usable: Usable, parameters: int, layers: int, speed: Speed
) -> float:
    """Seconds to answer so many prompts."""
    rows = prompts * stage.rollout.samples
    if not rows:
        return 0.0
    together = min(rows, stage.rollout.max_rows)
    rounds = rows / together
    step = max(2 * parameters * together / speed.operations, parameters / speed.weights)
    decode = rounds * _TYPICAL * stage.response_tokens * (step + layers * speed.layer)
    return decode + 2 * parameters * prompts * usable.prompt_tokens / speed.operations
