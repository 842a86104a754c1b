"""How long a step takes: arithmetic for training, bandwidth for sampling.

A multiplication of a token with P parameters is 2 P FLOP, and its backward pass twice that (once
with LoRA, whose trunk has no weight gradients; :mod:`gnomon.report.compute`). Attention is counted
apart, 2 FLOP for each number of a key and of a value that a query meets, and its backward pass 2.5
times that, since scores are computed again (Dao et al. 2022, FlashAttention). A phase takes

    matrices / flops + attention / attention's rate + bytes / bandwidth + layers x what a call costs

where ``flops`` is a share of the hardware's arithmetic that grows with the model's width H, as
TOP x H / (H + HALF): what is not a matrix (norms, activations, residuals) grows with H, matrices
with its square. Each step of decoding reads all the weights, and each row its cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from scipy.special import ndtri  # type: ignore[import-untyped]

from gnomon.models.costs import logits_within
from gnomon.plan.hardware import Hardware
from gnomon.plan.job import CACHED, PG, REFERENCED, Job
from gnomon.plan.kernels import PLAIN, layer_kernels
from gnomon.plan.shapes import Shape
from gnomon.report.compute import forward_pass, full_pass

LENGTHS = 0.6
"""Standard deviation of the logarithm of response lengths (a log-normal distribution): a guess,
which makes the longest of 8, 64, 512 and 8,192 responses 1.7, 3.1, 4.7 and 7.5 times the mean."""
ATTENTION_BACKWARD = 2.5
CHUNK = 32.0
"""Query-key pairs that a copied token is worth (models/attention.py)."""
NARROW = 8.0
"""On a processor, matrices as narrow as an adapter's rank take so many times the time of wide ones,
for each FLOP, with what lies between them."""
ADAPTED = 40.0
"""On a GPU an adapter takes its inputs and outputs through memory: so many bytes for a number of
theirs, forward and backward, since they are multiplied, scaled and added to the trunk's."""
DRAWN = 8.0
"""How often a sampler goes over a row's logits to draw a token."""
OPTIMIZER_PASSES = 9.0
"""AdamW reads weight, gradient and two moments and writes three of them; clipping reads and writes
the gradient."""
QUIET = 0.75
"""A kernel of a pass without gradients is launched in so much of the time of one with them."""
UNRECORDED = 2
"""Steps of decoding that the torch engine takes before it records one, for each number of rows."""
GRAPHED = 40e-6
"""Seconds of a layer's step in vLLM, whose kernels are recorded (CUDA graphs): some ten of 4 µs."""


@dataclass(frozen=True)
class Speed:
    """What the hardware does in a second, over all its GPUs.

    Attributes:
        flops: of matrices at the model's width, all between them included.
        bandwidth: bytes that pass through while decoding.
        attention: FLOP of attention; as ``flops`` where 0.
        wide: of matrices alone, as in decoding many rows; as ``flops`` where 0.
        layer, step: seconds that a layer's call takes however little there is to compute, in
            training (on accelerators where there are several) and while decoding.
        queued: whether the former is hidden behind computing, as on an accelerator.
        replica: GPUs that hold one copy of the model while it samples.
        launch: on an accelerator, seconds from one kernel to the next at least.
        float32: FLOP of float32 matrices; as ``wide`` where 0.
        gpus: over which micro-batches are divided.
    """

    flops: float
    bandwidth: float
    attention: float = 0.0
    wide: float = 0.0
    layer: float = 0.0
    step: float = 0.0
    queued: bool = True
    replica: int = 1
    launch: float = 0.0
    float32: float = 0.0
    gpus: int = 1

    def exact(self) -> Speed:
        """The same where everything is float32: matrices and attention are slower, what lies
        between the matrices is not."""
        if not self.float32:
            return self
        top = self.wide or self.flops
        flops = 1 / (1 / self.float32 + 1 / self.flops - 1 / top)
        attention = self.float32 * (self.attention or self.flops) / top
        return replace(self, flops=flops, wide=self.float32, attention=attention)


def speed_of(hardware: Hardware, shape: Shape, utilisation: float | None = None) -> Speed:
    """The hardware's figures times what is reached of them.

    Args:
        utilisation: share of its arithmetic that training reaches, instead of the formula's.
    """
    gpu, n = hardware.gpu, hardware.count
    reach = gpu.reach
    share = utilisation or reach.top * shape.hidden / (shape.hidden + reach.half)
    held = 2.0 * shape.parameters / (0.7 * gpu.memory)  # in bfloat16, beside the cache
    replica = min(n, 2 ** max(0, math.ceil(math.log2(held)))) if held > 1 else 1
    return Speed(
        flops=n * gpu.flops * share,
        bandwidth=n * gpu.bandwidth * reach.bandwidth,
        attention=n * gpu.flops * reach.attention,
        wide=n * gpu.flops * reach.top,
        layer=reach.layer,
        step=reach.step,
        queued=gpu.queued,
        replica=replica,
        launch=reach.launch,
        float32=n * gpu.float32 * reach.float32,
        gpus=n,
    )


@dataclass(frozen=True)
class Work:
    """What one phase of a step computes.

    Attributes:
        matrices, attention, adapters: FLOP.
        tokens: that pass through the model.
        calls: passes of single layers, a backward pass counting as two.
        bytes: that go through memory beside all that.
        kernels: that are launched, over ``passes`` micro-batches; slow ones count for more.
        adapted: bytes that go through memory for adapters.
    """

    matrices: float = 0.0
    attention: float = 0.0
    tokens: float = 0.0
    calls: float = 0.0
    bytes: float = 0.0
    adapters: float = 0.0
    kernels: float = 0.0
    passes: int = 1
    adapted: float = 0.0

    @property
    def flop(self) -> float:
        return self.matrices + self.attention + self.adapters

    def seconds(self, speed: Speed) -> float:
        """On hardware of that speed."""
        busy = self.matrices / speed.flops + self.attention / (speed.attention or speed.flops)
        if speed.queued:
            busy = max(busy + self.adapted / speed.bandwidth, self._waiting(speed))
        else:
            busy += NARROW * self.adapters / speed.flops + self.calls * speed.layer
        return busy + self.bytes / speed.bandwidth

    def _waiting(self, speed: Speed) -> float:
        """Seconds of an accelerator, or of several, however little there is to compute."""
        if speed.gpus == 1:
            return self.kernels * speed.launch
        share = math.ceil(self.passes / speed.gpus) / self.passes
        return max(share * self.kernels * speed.launch, self.calls * speed.layer)


@dataclass(frozen=True)
class _Tokens:
    """Tokens of one pass over a step's groups, prompts once per group."""

    prompt: float
    response: float

    @property
    def all(self) -> float:
        return self.prompt + self.response


def work(job: Job) -> dict[str, Work]:
    """The phases of one step, in order."""
    model, tokens = job.model, _tokens(job, job.samples)
    found: dict[str, Work] = {}
    if job.sampled:
        prompts = _Tokens(tokens.prompt, 0.0)
        found["prefill"] = _forward(job, model, prompts, head=False)
        found["decoding"] = _decoded(job)
    if job.reward is not None:
        found["reward"] = _forward(job, job.reward, tokens, head=False, frozen=True)
    if job.method in REFERENCED and (job.references != 0 or job.method in CACHED):
        found["reference"] = _forward(job, model, tokens, frozen=True)
    if job.method == "ppo" or (job.method in PG and job.epochs * job.minibatches > 1):
        found["old log-probs"] = _forward(job, model, tokens)
    if job.method == "ppo":
        found["values"] = _forward(job, model, tokens, head=False)
    if job.method == "kto":  # answers to other prompts, for the distance from the reference
        found["baseline"] = _forward(job, model, tokens)
    if job.trained_roles:
        found["training"] = _training(job)
        found["optimizer"] = Work(
            bytes=job.epochs * job.minibatches * OPTIMIZER_PASSES * job.kept_bytes * job.trained
        )
    return found


def _tokens(job: Job, samples: int) -> _Tokens:
    return _Tokens(job.prompts * job.mean_prompt, job.prompts * samples * job.mean_response)


def _attention(job: Job, shape: Shape, samples: int, tokens: _Tokens) -> float:
    """FLOP of attention in a forward pass.

    One response is causal with its prompt. Several see the prompt and, in chunks, each other, where
    a mask hides them (models/attention.py).
    """
    own = job.mean_response / 2
    if samples > 1:
        copied = math.sqrt(CHUNK * job.mean_prompt) / max(1.0, job.mean_response)
        own = job.mean_response * max(1, min(samples, round(copied)))
    prompt = tokens.prompt * shape.attended(job.mean_prompt / 2)
    return prompt + tokens.response * shape.attended(job.mean_prompt + own)


def _passes(job: Job, tokens: _Tokens) -> int:
    """Micro-batches of a pass without gradients."""
    return max(1, math.ceil(tokens.all / max(job.microbatch, tokens.all / job.prompts)))


def _trained_passes(job: Job, tokens: _Tokens) -> int:
    """Micro-batches of an epoch: none holds groups of two optimizer steps."""
    steps = min(job.minibatches, job.prompts)
    group = tokens.all / job.prompts
    return steps * max(1, math.ceil(tokens.all / steps / max(job.microbatch, group)))


def _trunk(shape: Shape) -> int:
    """Parameters that each token is multiplied with, the head left out."""
    return shape.active_parameters - shape.embedding


def _forward(
    job: Job, shape: Shape, tokens: _Tokens, head: bool = True, frozen: bool = False
) -> Work:
    """A pass without gradients; the head for response tokens only.

    Args:
        frozen: of a model without adapters, or with its adapters off.
    """
    matrices = forward_pass(_trunk(shape), tokens.all)
    if head:
        matrices += forward_pass(shape.embedding, tokens.response)
    passes = _passes(job, tokens)
    return Work(
        matrices,
        _attention(job, shape, job.samples, tokens),
        tokens.all,
        passes * shape.layers,
        kernels=passes * shape.layers * _quiet_kernels(shape, bool(job.lora) and not frozen),
        passes=passes,
    )


def _quiet_kernels(shape: Shape, adapters: bool) -> float:
    """Kernels of a layer in a pass without gradients, whose weights are narrow already; as many of
    training's as take as long to launch."""
    return QUIET * layer_kernels(shape, adapters=adapters).forward


def _training(job: Job) -> Work:
    """Forward and backward passes of all roles, over all epochs."""
    shape, samples = job.model, job.learned
    tokens = _tokens(job, samples)
    trunk = _trunk(shape)
    adapter = float(job.adapter_parameters) if job.lora else 0.0
    if shape.experts:  # those that a token passes through
        adapter *= shape.active_parameters / shape.parameters
    adapters = full_pass(adapter, adapter, tokens.all)
    matrices = full_pass(trunk, 0 if job.lora else trunk, tokens.all)
    attention = (1 + ATTENTION_BACKWARD) * _attention(job, shape, samples, tokens)
    if job.recompute:
        matrices += forward_pass(trunk, tokens.all)
        attention += _attention(job, shape, samples, tokens)
    roles, epochs = job.trained_roles, job.epochs
    matrices *= roles
    if job.method != "reward_model":  # the policy's head; a value model has none
        matrices += full_pass(shape.embedding, 0 if job.lora else shape.embedding, tokens.response)
        at_once = logits_within(job.device, job.device_bytes)  # with more, they are computed again
        if tokens.response / _passes(job, tokens) * shape.vocabulary > at_once:
            matrices += forward_pass(shape.embedding, tokens.response)
    passes = _trained_passes(job, tokens)
    kernels = layer_kernels(shape, cast=job.autocast, adapters=bool(job.lora))
    each = kernels.backward + kernels.forward * (2 if job.recompute else 1)
    times = epochs * roles
    return Work(
        epochs * matrices,
        times * attention,
        times * tokens.all,
        times * passes * shape.layers * (4 if job.recompute else 3),
        adapters=times * adapters,
        kernels=times * passes * shape.layers * each,
        passes=passes,
        adapted=times * ADAPTED * tokens.all * adapter / max(1, job.lora),
    )


def _decoded(job: Job) -> Work:
    """What decoding computes; the weights, read at each step, depend on the GPUs."""
    m, tokens = job.model, job.prompts * job.samples * job.mean_response
    context = job.mean_prompt + job.mean_response / 2
    cache = context * m.cache_numbers * job.compute_bytes
    return Work(
        forward_pass(m.active_parameters, tokens),
        tokens * m.attended(context),
        tokens,
        bytes=tokens * (cache + DRAWN * 4 * m.vocabulary),
    )


def evaluation(job: Job) -> Work:
    """A pass over a step's rows without gradients, by which held-out rows are looked at."""
    return _forward(job, job.model, _tokens(job, job.samples))


def step_seconds(job: Job, speed: Speed, gpus: int = 1) -> dict[str, float]:
    """Seconds of one step, by phase, phases one after the other.

    Args:
        gpus: over which the responses are divided.
    """
    speed = speed.exact() if job.precision == "float32" else speed
    return {
        name: _decoding(job, done, speed, gpus) if name == "decoding" else done.seconds(speed)
        for name, done in work(job).items()
    }


def decode_steps(job: Job, gpus: int = 1) -> float:
    """Steps of decoding: rows that end make room for others, and the last wait for the longest."""
    total = job.prompts * job.samples
    rows = max(1, min(job.rows * gpus, total))
    return total / rows * job.mean_response + longest(job) - job.mean_response


def longest(job: Job) -> float:
    """Tokens of the longest response of a step, for which all wait."""
    z = float(ndtri(1 - 1 / (1 + job.prompts * job.samples)))
    expected = job.mean_response * math.exp(LENGTHS * z - LENGTHS**2 / 2)
    return float(max(job.mean_response, min(float(job.response_tokens), expected)))


def touched(shape: Shape, rows: float) -> float:
    """Parameters that a step of so many tokens reads: of experts those that some token chose."""
    if not shape.experts:
        return float(shape.active_parameters)
    others = shape.parameters - (0 if shape.tied else shape.embedding) - shape.active_parameters
    chosen = shape.active / shape.experts
    some = 1 - math.pow(1 - chosen, max(1.0, rows))
    return shape.active_parameters + others * (some - chosen) / (1 - chosen)


def _decoding(job: Job, done: Work, speed: Speed, gpus: int) -> float:
    """Seconds of decoding: at every step each copy of the model is read once."""
    steps, copies = decode_steps(job, gpus), max(1, gpus // speed.replica)
    rows = done.tokens / steps / copies
    read = copies * touched(job.model, rows) * job.frozen_bytes / speed.bandwidth
    multiply = done.matrices / _decode_rate(speed)
    attend = done.attention / (speed.attention or speed.flops)
    waited = job.model.layers * _layer_steps(job, speed, steps)
    return steps * read + waited + multiply + attend + done.bytes / speed.bandwidth


def _layer_steps(job: Job, speed: Speed, steps: float) -> float:
    """Seconds that a layer takes over all steps of decoding, however little there is to compute."""
    if job.engine == "vllm":
        return steps * GRAPHED
    if not speed.queued:
        return steps * speed.step
    adapters = bool(job.lora)
    first = min(steps, UNRECORDED) * _quiet_kernels(job.model, adapters) * speed.launch
    ratio = layer_kernels(job.model, adapters=adapters).forward / PLAIN.forward
    return first + steps * speed.step * ratio


def _decode_rate(speed: Speed) -> float:
    """FLOP/s of decoding's matrices. What lies between them is fused on an accelerator, and not on
    a processor."""
    return (speed.wide or speed.flops) if speed.queued else speed.flops


@dataclass(frozen=True)
class Phase:
    """A part of a step.

    Attributes:
        flop: that it computes; ``seconds`` it takes; ``tokens`` that pass through the model.
        bound: what takes most of them: ``arithmetic`` or ``bandwidth``.
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
    seconds: Mapping[str, float] = step_seconds(job, speed, gpus)
    found = []
    for name, done in work(job).items():
        rate = _decode_rate(speed) if name == "decoding" else speed.flops
        computing = done.matrices / rate + done.attention / (speed.attention or rate)
        bound = "arithmetic" if computing > seconds[name] / 2 else "bandwidth"
        found.append(Phase(name, done.flop, seconds[name], done.tokens, bound))
    return tuple(found)
