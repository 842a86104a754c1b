"""Which parallel layout trains a model that no single GPU holds, and why.

Each choice is a small function that returns a number and the reason in words. What they rest on:

- **Data (FSDP, ZeRO-3)** divides weights, gradients and moments over all GPUs; each layer's weights
  are gathered when it is computed. A gather of w bytes over the network hides behind computing if
  a GPU has at least F / network tokens a pass (F its FLOP/s as used): then 6 FLOP a parameter and
  token take longer than its 6 bytes (gathered twice, reduced once, bfloat16).
- **Tensor** divides each matrix, inside a node only: its sums of activations cross the fast link
  four times a layer. For when a sequence does not fit on one GPU, when there are more GPUs than
  sequences, or when a GPU alone has too few tokens to hide the gathers of a dense model.
- **Context** divides a sequence, where tensor parallelism within a node does not make it fit.
- **Expert** keeps the experts where they are and sends tokens to them, inside a node if that is
  enough: gathering all experts to compute a few of them rarely hides.
- **Pipeline** divides the layers, where experts stay put and do not fit so. Its ends wait:
  (stages - 1) / (micro-batches + stages - 1) of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gnomon.errors import ConfigError
from gnomon.plan.hardware import GPUS_A_NODE, Gpu
from gnomon.plan.job import Job

STATES = 0.6
"""Share of a GPU's memory for weights, gradients and moments; the rest is for activations."""
ACTIVATIONS = 0.3
"""Share of a GPU's memory that the activations of one micro-batch may take."""
KEPT = 34.0
"""Bytes that a layer keeps of a token for each of its H numbers, in bfloat16, with attention that
keeps no scores (Korthikanti et al. 2022, "Reducing activation recomputation", eq. 1)."""
DEEPEST = 3
"""Layers a stage of a pipeline has at least."""


@dataclass(frozen=True)
class Layout:
    """How the training GPUs divide a model.

    Attributes:
        tensor, context, expert, pipeline: GPUs along each; ``data``: the rest, over which the
            states are sharded. Experts are divided over GPUs that data and context share.
        efficiency: share of the time that is computing, less the pipeline's ends and the traffic
            that does not hide.
        states: bytes of weights, gradients and moments on a GPU.
        reasons: why, one sentence a choice.
    """

    tensor: int
    context: int
    expert: int
    pipeline: int
    data: int
    efficiency: float
    states: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        named = [
            (self.tensor, "tensor"),
            (self.context, "context"),
            (self.pipeline, "pipeline"),
            (self.data, "data (sharded)"),
        ]
        parts = [f"{name} {n}" for n, name in named if n > 1] or ["one GPU"]
        return " x ".join(parts) + (f", experts over {self.expert}" if self.expert > 1 else "")


def training_layout(job: Job, gpu: Gpu, gpus: int) -> Layout:
    """How to train the job's policy on so many GPUs.

    Raises:
        ConfigError: they do not hold the model's states, however divided; the message says how many
            would.
    """
    least = states_bytes(job) / (STATES * gpu.memory)
    if gpus < least:
        raise ConfigError(
            f"{job.model.name} needs {states_bytes(job) / 1e12:.2f} TB for weights, gradients and "
            f"moments: {math.ceil(least)} x {gpu.name} at least hold it, and there are {gpus} to "
            "train. More GPUs, LoRA, or a smaller model"
        )
    tensor, why_tensor = tensor_size(job, gpu, gpus)
    context, why_context = context_size(job, gpu, gpus, tensor)
    expert, why_expert = expert_size(job, gpu, gpus)
    pipeline, why_pipeline = pipeline_size(job, gpu, gpus, tensor, expert)
    data = max(1, gpus // (tensor * context * pipeline))
    efficiency, why_time = _efficiency(job, gpu, (tensor, expert, pipeline, data))
    reasons = (why_tensor, why_context, why_expert, why_pipeline, why_time)
    return Layout(
        tensor,
        context,
        expert,
        pipeline,
        data,
        efficiency,
        states_bytes(job) / (tensor * context * pipeline * data),
        tuple(reason for reason in reasons if reason),
    )


def states_bytes(job: Job) -> float:
    """Weights, gradients, two moments, and bfloat16 weights beside float32 ones. A reference waits
    in the hosts' memory and takes the place of the gradients when it is needed."""
    held = 4.0 * job.kept_bytes * job.trained
    if job.lora or job.precision == "mixed":
        held += 2.0 * job.model.parameters
    return held


def hidden_from(gpu: Gpu, job: Job) -> float:
    """Tokens a GPU needs in a pass so that gathering a dense layer's weights hides behind it."""
    share = gpu.reach.top * job.model.hidden / (job.model.hidden + gpu.reach.half)
    return gpu.flops * share / gpu.network


def _sequence(job: Job) -> int:
    return job.prompt_tokens + job.response_tokens


def _sequence_bytes(job: Job) -> float:
    """Activations of one longest sequence on one GPU: every layer's input, or all it keeps."""
    m = job.model
    if job.recompute:
        return _sequence(job) * m.hidden * (2.0 * m.layers + KEPT)
    return _sequence(job) * m.hidden * KEPT * m.layers


def _pass_tokens(job: Job, gpu: Gpu, tensor: int) -> float:
    """Tokens of a forward and backward pass: as many as there is memory for."""
    one = _sequence_bytes(job) / _sequence(job) / tensor
    return max(float(_sequence(job)), ACTIVATIONS * gpu.memory / one)


def tensor_size(job: Job, gpu: Gpu, gpus: int) -> tuple[int, str]:
    """GPUs that divide each matrix, at most a node's."""
    most = min(GPUS_A_NODE, gpus, job.model.heads)
    kept, crowded = _sequence_bytes(job), gpus / max(1, job.prompts * job.samples)
    share = _tokens(job) / gpus
    needed = 0.0 if job.model.experts or gpus <= GPUS_A_NODE else hidden_from(gpu, job)

    def enough(size: int) -> bool:
        fits = kept / size <= ACTIVATIONS * gpu.memory
        return fits and crowded <= size and share * size >= needed

    size = 1
    while size < most and not enough(size):
        size *= 2
    if size == 1:
        return 1, "no tensor parallelism: a longest sequence fits on one GPU"
    if kept > ACTIVATIONS * gpu.memory:
        return size, (
            f"tensor parallelism of {size}, inside a node: a sequence of {_sequence(job):,} tokens "
            f"keeps {kept / 1e9:,.0f} GB of activations"
        )
    if crowded > 1:
        return size, f"tensor parallelism of {size}: there are more GPUs than sequences in a step"
    return size, (
        f"tensor parallelism of {size}, inside a node: {share:,.0f} tokens a GPU and step do not "
        f"hide the gathers of its weights, {needed:,.0f} would"
    )


def context_size(job: Job, gpu: Gpu, gpus: int, tensor: int) -> tuple[int, str]:
    """GPUs that divide a sequence."""
    size = 1
    left = _sequence_bytes(job) / tensor
    while left / size > ACTIVATIONS * gpu.memory and tensor * size * 2 <= gpus:
        size *= 2
    if size == 1:
        return 1, ""
    again = "" if job.recompute else " (recomputing layers would need less)"
    return size, (
        f"context parallelism of {size}: {_sequence(job):,} tokens do not fit even with tensor "
        f"parallelism of {tensor}{again}"
    )


def expert_size(job: Job, gpu: Gpu, gpus: int) -> tuple[int, str]:
    """GPUs that divide a layer's experts."""
    m = job.model
    if not m.experts:
        return 1, ""
    needed = hidden_from(gpu, job) * m.parameters / m.active_parameters
    share = _tokens(job) / gpus
    if share >= needed or gpus == 1:
        return 1, (
            f"experts are gathered like other weights: {share:,.0f} tokens a GPU and step hide it"
        )
    size = min(GPUS_A_NODE, gpus, m.experts)
    most = min(m.experts, gpus)
    while size * 2 <= most and _stages(job, gpu, gpus, 1, size) > m.layers // DEEPEST:
        size *= 2
    return size, (
        f"experts over {size} GPUs: gathering all {m.experts} of a layer to compute {m.active} "
        f"would hide behind {needed:,.0f} tokens a GPU and step, and there are {share:,.0f}"
    )


def _expert_bytes(job: Job) -> float:
    """Weights and gradients of all experts, in bfloat16 and float32."""
    m = job.model
    experts = (m.layers - m.dense_layers) * m.experts * 3 * m.hidden * m.mlp
    return experts * (2.0 if job.lora else 6.0)


def pipeline_size(job: Job, gpu: Gpu, gpus: int, tensor: int, expert: int) -> tuple[int, str]:
    """GPUs that divide the layers: only where weights stay put (experts) and do not fit so."""
    if expert == 1:
        return 1, "no pipeline: the states are sharded over all GPUs, and nothing waits"
    size = _stages(job, gpu, gpus, tensor, expert)
    if size == 1:
        return 1, "no pipeline: weights and gradients fit once the experts are divided"
    return size, (
        f"a pipeline of {size} stages: weights and gradients that stay put take "
        f"{_put(job, tensor, expert) / 1e9:,.0f} GB on a GPU without it"
    )


def _put(job: Job, tensor: int, expert: int) -> float:
    """Bytes of weights and gradients on a GPU that are not gathered, over all layers."""
    experts = _expert_bytes(job)
    others = job.model.parameters * (2.0 if job.lora else 6.0) - experts
    return experts / expert + others / tensor


def _stages(job: Job, gpu: Gpu, gpus: int, tensor: int, expert: int) -> int:
    """Stages of a pipeline with which those fit."""
    size = 1
    while (
        _put(job, tensor, expert) / size > STATES / 2 * gpu.memory
        and size * 2 <= job.model.layers
        and tensor * size * 2 <= gpus
    ):
        size *= 2
    return size


def _tokens(job: Job) -> float:
    """Trained in a step."""
    return job.prompts * (job.mean_prompt + job.samples * job.mean_response)


def _efficiency(job: Job, gpu: Gpu, sizes: tuple[int, int, int, int]) -> tuple[float, str]:
    """Computing's share of the time, and what the rest is."""
    tensor, expert, pipeline, data = sizes
    m, each = job.model, _tokens(job) / (data * tensor * pipeline)  # tokens' worth for a GPU
    compute = 6.0 * m.active_parameters * each / (gpu.flops * gpu.reach.top)
    per_layer = each * pipeline * tensor * m.hidden * 2.0 * m.layers / pipeline
    waits = {
        "sums of tensor parallelism": 0.0 if tensor == 1
        else 8.0 * per_layer * (tensor - 1) / tensor / tensor / gpu.link,
        "tokens sent to experts": 0.0 if expert == 1
        else 4.0 * per_layer * m.active / tensor
        / (gpu.link if expert <= GPUS_A_NODE else gpu.network),
    }  # fmt: skip
    if expert == 1 and data > 1:
        net = gpu.link if data <= GPUS_A_NODE else gpu.network
        gathered = 6.0 * m.parameters / (tensor * pipeline) / net
        passes = max(1.0, each * tensor * pipeline / _pass_tokens(job, gpu, tensor))
        waits["gathered weights"] = max(0.0, passes * gathered - compute)
    micro = max(1.0, job.prompts * job.samples / data)
    bubble = (pipeline - 1) / (micro + pipeline - 1)
    share = compute / (compute + sum(waits.values())) * (1 - bubble)
    said = [f"{name} {t / (compute + sum(waits.values())):.0%}" for name, t in waits.items() if t]
    if bubble:
        said.append(f"the pipeline's ends {bubble:.0%}")
    return share, f"computing {share:.0%} of the time" + (f"; {', '.join(said)}" if said else "")
