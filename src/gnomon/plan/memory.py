"""How much memory a stage takes: what is always there, and the largest of the instants.

Instants follow one another, so that the peak is the largest, not the sum. Each is counted from the
shape alone, with the letters of the rest of the house: N packed tokens, R response tokens, V
vocabulary, H width, F the MLP's width, A = heads x head size, B = key heads x head size.

What a layer keeps of a token for the backward pass, in numbers (an ordinary Llama layer, as
transformers writes it):

    2 norms          3 H each: input, scaled, weighted            (trained norms; 2 H with LoRA)
    attention        A queries, 2 B keys and values, A output, A what the last matrix reads
    MLP              4 F: gate, its SiLU, up, their product

Keys of a prompt are laid out again for each chunk of its responses, so that 2 B counts as often as
the plan of the attention repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gnomon.plan.job import Job
from gnomon.plan.shapes import Shape

LOGITS = 128 * 2**20
"""Bytes of logits in a chunk of the head; models/logprobs.py."""
PREFILL = 2048
"""Prompt tokens in one pass of the sampler; rollout/torch_engine.py."""
CHUNK_COST = 128.0
"""models/attention.py: how many pairs a copied token is worth when responses share a chunk."""
SLACK = 1.02
"""What allocators lose to rounding."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        always: weights and moments, by what they are.
        instants: what each instant adds to them.
    """

    always: Mapping[str, float]
    instants: Mapping[str, float]

    @property
    def persistent(self) -> float:
        return sum(self.always.values())

    @property
    def worst(self) -> str:
        """The instant with the peak."""
        return max(self.instants, key=lambda name: self.instants[name])

    @property
    def peak(self) -> float:
        """Persistent, and the largest of the instants."""
        return SLACK * (self.persistent + self.instants[self.worst])


def memory(job: Job) -> Memory:
    """What a stage takes on each of its GPUs."""
    instants = {"sampling": _sampling(job)} if job.sampled else {}
    instants["frozen passes"] = _forward(job.model, job)
    if job.reward is not None:
        instants["reward passes"] = _forward(job.reward, job, head=False)
    if job.trained_roles:
        instants["forward and backward"] = _training(job)
        instants["optimizer"] = job.kept_bytes * job.trained / job.shards
        instants["checkpoint"] = 2 * job.kept_bytes * job.trained / job.shards
    return Memory(_always(job), instants)


def _always(job: Job) -> dict[str, float]:
    """Weights of every role, and the moments."""
    size, frozen = job.model.parameters, job.frozen_bytes
    found: dict[str, float] = {}
    if job.lora:
        found["shared trunk"] = frozen * size
        found["adapters"] = 4 * job.trained
    else:
        found["trained weights"] = job.kept_bytes * size * max(1, job.trained_roles)
        if job.method in ("ppo", "grpo", "online_dpo", "dpo", "kto"):
            found["reference"] = frozen * size
    if job.reward is not None and not (job.lora and job.reward == job.model):
        found["reward model"] = frozen * job.reward.parameters
    if job.trained_roles:
        found["moments"] = 2 * job.kept_bytes * job.trained
    return {name: value / job.shards for name, value in found.items()}


def _sampling(job: Job) -> float:
    """The cache, one prefill and one step's logits; the reordered weights of a CPU are left out."""
    shape, size = job.model, job.compute_bytes
    rows = min(job.rows, job.prompts * job.samples)
    length = job.prompt_tokens + job.response_tokens
    cache = rows * length * shape.cache_numbers * size
    growing = cache / shape.layers  # one layer's old cache beside its new one
    prefill = min(PREFILL + job.prompt_tokens, job.prompts * job.prompt_tokens)
    passing = max(prefill, rows) * _passing(shape) * size
    return cache + growing + passing + 3 * rows * shape.vocabulary * 4 + _gathered(job, shape)


def _passing(shape: Shape) -> float:
    """Numbers of a token that exist at once in a forward pass that keeps nothing."""
    attention = 2 * shape.hidden + 4 * shape.heads * shape.head_dim
    return max(attention, 2 * shape.hidden + 3 * _active_mlp(shape))


def _active_mlp(shape: Shape) -> int:
    """The MLP's width for one token, over its experts."""
    return shape.mlp * max(1, shape.active + shape.shared_experts)


def _forward(shape: Shape, job: Job, head: bool = True) -> float:
    """A pass without gradients over a micro-batch."""
    passing = job.packed * _passing(shape) * job.compute_bytes
    return passing + (_logits(job) if head else 0.0) + _gathered(job, shape)


def _logits(job: Job) -> float:
    """Two chunks of the head at most, and no more than there are response tokens."""
    rows = job.packed  # every token of a demonstration's answer may be one
    chunk = max(64 * job.model.vocabulary * 4.0, LOGITS)
    return 2 * min(chunk, rows * job.model.vocabulary * 4.0)


def _gathered(job: Job, shape: Shape) -> float:
    """One layer's weights that sharding brings together for the moment it is computed."""
    if job.shards == 1:
        return 0.0
    layer = (shape.parameters - 2 * shape.embedding) / shape.layers
    return 2 * max(layer, shape.embedding) * job.compute_bytes


def copies(prompt: int, samples: int, response: int) -> float:
    """Key positions laid out per packed token of a group that shares its prompt."""
    packed = prompt + samples * response
    if samples <= 1:
        return 1.0
    chunk = max(1, min(samples, round(math.sqrt(CHUNK_COST * prompt) / max(1, response))))
    chunks = -(-samples // chunk)
    return (prompt + chunks * prompt + samples * response) / packed


def kept(job: Job, shape: Shape) -> float:
    """Numbers that one layer keeps of one token for the backward pass."""
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = (4 if job.lora else 6) * shape.hidden
    again = copies(job.prompt_tokens, job.samples, job.response_tokens)
    attention = 3 * wide + 2 * narrow * again
    adapters = 7 * job.lora
    return norms + attention + 4 * _active_mlp(shape) + adapters


def _training(job: Job) -> float:
    """Gradients, what the forward pass keeps, and what the backward pass needs beside it."""
    shape, tokens, size = job.model, job.packed, job.compute_bytes
    layer = kept(job, shape) * size
    if job.recompute:
        activations = tokens * (shape.layers * shape.hidden * size + layer)
    else:
        activations = tokens * shape.layers * layer
    passing = tokens * (2 * shape.hidden + 3 * _active_mlp(shape)) * size
    gradients = job.kept_bytes * job.trained / job.shards
    largest = 0 if job.lora else max(shape.embedding, shape.hidden * shape.mlp) * job.kept_bytes
    casts = 2.0 * shape.parameters / job.shards if job.precision == "mixed" and not job.lora else 0
    return (
        activations
        + max(passing, _logits(job))
        + gradients
        + largest
        + casts
        + _gathered(job, shape)
    )
