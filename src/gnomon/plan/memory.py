"""How much memory a stage takes: what is always there, and the largest of the instants.

Instants follow one another, so that the peak is the largest, not the sum. Each is counted from the
shape alone, with the letters of the rest of the house: N packed tokens, R response tokens, V
vocabulary, H width, F the MLP's width, A = heads x head size, B = key heads x head size.

What a layer keeps of a token for the backward pass, in float32 numbers (a Llama layer, as
transformers writes it, all weights trained):

    2 norms          3 H each: input, scaled, weighted            (2 H with LoRA)
    attention        A queries, 2 B keys and values, A output     (A more where it is put in order)
    MLP              4 F: gate, its activation, up, their product

docs/plan-memory.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gnomon.models.costs import WHOLE_SHARE, logits_within, whole_rows
from gnomon.plan.job import CACHED, ENTROPY, Job
from gnomon.plan.layout import Layout, layout
from gnomon.plan.shapes import Shape

ROWS = 64
"""Fewest rows in a chunk of the head; models/logprobs.py."""
PREFILL = 2048
"""Prompt tokens in one pass of the sampler; rollout/rows.py."""
JUDGED = 8192
"""Packed tokens in one pass of a reward model; judges/learned.py."""
REORDER = 16
"""Decoding steps that repay reordering the weights on a CPU; rollout/torch_engine.py."""
LIBRARIES = 40e6
"""Bytes on a CPU that are no tensor's: the tokenizer, buffers of the libraries that multiply."""
MASKING = 12
"""Bytes that exist for a moment per pair while a mask is made: a distance and what is seen."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, or of one process on a CPU.

    Attributes:
        always: weights and moments, by whose they are.
        instants: what each instant adds to them, in the order in which they follow.
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
        return self.persistent + self.instants[self.worst]


def memory(job: Job) -> Memory:
    """What a stage takes on each of its GPUs."""
    plan = layout(job)
    instants: dict[str, float] = {}
    if job.sampled:
        instants["sampling"] = _sampling(job)
    if job.reward is not None:
        group = job.prompt_tokens + job.samples * job.response_tokens
        tokens = min(job.prompts * group, max(JUDGED, group))
        instants["reward passes"] = _forward(job.reward, job, tokens)
    if job.sampled or job.frozen_copies or job.method in ("dpo", "kto"):
        masks = (MASKING + job.compute_bytes) * plan.made
        instants["reference passes"] = (
            max(masks, _forward(job.model, job, plan.tokens) + job.compute_bytes * plan.mask)
            + head(job, plan.responses).passing
        )
    if job.trained_roles:
        instants["forward and backward"] = _training(job, plan)
        instants["optimizer"] = job.kept_bytes * job.trained / job.shards
        instants["checkpoint"] = _checkpoint(job)
    return Memory(_always(job), instants)


# -- always -------------------------------------------------------------------------------------


def _always(job: Job) -> dict[str, float]:
    """Weights of every role, and the moments of the trained ones."""
    size, frozen, kept = job.model.parameters, job.frozen_bytes, job.kept_bytes
    critics = max(0, job.trained_roles - 1)
    found: dict[str, float] = {}
    if job.lora:
        found["shared trunk"] = frozen * size
        found["adapters"] = 4 * job.adapter_parameters * (job.trained_roles + job.followers)
    else:
        found["policy"] = (kept if job.trained_roles else frozen) * size
        beside = "value model" if job.method == "ppo" else "other trained models"
        found[beside] = kept * size * critics
        copy = frozen * size
        if job.autocast:  # the embedding stays as it is
            copy += 2 * job.model.embedding
        found["reference"] = copy * (job.frozen_copies + job.followers)
    found["averages"] = 4 * size * job.averages
    found["other models"] = frozen * sum(shape.parameters for shape in job.others)
    if job.reward is not None:  # with LoRA one that was trained on the same trunk is an adapter
        shared = job.lora and job.reward == job.model
        found["reward model"] = (
            4 * job.adapter_parameters if shared else frozen * job.reward.parameters
        )
    if job.trained_roles:
        found["moments"] = 2 * kept * job.trained
    if job.autocast and job.trained_roles and not job.recompute:
        found["narrow copies"] = 2 * size * job.trained_roles
    elif job.lora and job.frozen_bytes == 2 and not job.recompute:  # of adapters
        found["narrow copies"] = 2 * job.adapter_parameters * job.trained_roles
    if job.sampled and (job.engine == "vllm" or job.ahead):
        found["sampler's weights"] = frozen * size
    found = {name: value / job.shards for name, value in found.items() if value}
    if job.sampled and job.engine == "vllm":  # it takes its cache once and keeps it
        found["sampler's cache"] = cache_bytes(job)
    if job.device == "cpu":
        found["libraries"] = LIBRARIES
    return found


def cache_bytes(job: Job) -> float:
    """Keys and values of all rows that are written at once, at their longest."""
    rows = min(job.rows, job.prompts * job.samples)
    longest = job.prompt_tokens + job.response_tokens
    token = job.model.cache_numbers * job.compute_bytes
    if job.engine == "torch" and not job.masked:
        pages, positions = whole_rows(rows, longest)
        whole = (pages + 1) * positions * token
        if not job.device_bytes or whole <= WHOLE_SHARE * job.device_bytes:
            return whole
    return rows * (-(-longest // 16) * 16) * token


# -- instants without gradients -----------------------------------------------------------------


def _sampling(job: Job) -> float:
    """The cache, one prefill and one step's logits."""
    if job.engine == "vllm":
        return 0.0
    shape, size = job.model, job.compute_bytes
    rows = min(job.rows, job.prompts * job.samples)
    prompts = min(job.prompts, rows)
    cache = cache_bytes(job)
    growing = cache / shape.layers  # one layer's old cache beside its new one
    prefill = min(max(PREFILL, job.prompt_tokens), job.prompts * job.prompt_tokens)
    passing = _forward(shape, job, max(prefill, rows))
    logits = (rows + prompts) * shape.vocabulary * (4 + size * (size < 4))
    reordered = 0.0
    if job.device == "cpu" and job.precision == "float32" and job.response_tokens >= REORDER:
        reordered = 4.0 * shape.matrices
    if job.autocast and not job.ahead:  # narrow copies of what is trained, while it samples
        reordered += 2.0 * shape.matrices * job.recompute
    return cache + max(growing, passing, logits) + prompts * shape.vocabulary * size + reordered


def _forward(shape: Shape, job: Job, tokens: float) -> float:
    """What exists at once in a layer that keeps nothing: in the MLP or in attention."""
    size, hidden = job.compute_bytes, job.stream_bytes * shape.hidden
    attention = 2 * hidden + size * (3 * shape.wide + 4 * shape.narrow)
    mlp = 2 * hidden + 3 * size * shape.active_mlp
    adapted = 2 * shape.active_mlp * bool(job.lora) * size
    return tokens * max(attention, mlp + adapted, 4 * hidden) + _gathered(job, shape)


def _gathered(job: Job, shape: Shape) -> float:
    """One layer's weights that sharding brings together for the moment it is computed."""
    if job.shards == 1:
        return 0.0
    layer = (shape.parameters - (1 if shape.tied else 2) * shape.embedding) / shape.layers
    return 2 * max(layer, shape.embedding) * job.compute_bytes


@dataclass(frozen=True)
class Head:
    """Bytes of the vocabulary head's logits: in a pass without gradients, in a forward pass, kept
    after it, and in the backward pass beside what is kept."""

    passing: float = 0.0
    forward: float = 0.0
    kept: float = 0.0
    backward: float = 0.0


def head(job: Job, responses: int) -> Head:
    """What the logits of so many response tokens take.

    They are made a chunk at a time in one piece of memory; where one chunk is enough it is kept for
    the backward pass, which then needs no other. A gradient of the entropy, or one through a
    softcap, takes two pieces more.
    """
    if job.method == "reward_model":
        return Head()
    V = job.model.vocabulary
    chunk = max(ROWS, logits_within(job.device, job.device_bytes) // V)
    one = 4.0 * min(chunk, responses) * V
    narrow = 0.0 if job.compute_bytes == 4 else one / 2  # as the matrix gives and takes them
    logged = one * (job.method in ENTROPY and job.device == "cuda")  # a CPU does a few rows at once
    kept = one * (responses <= chunk)
    more = job.method == "ppo" or job.model.softcap
    product = 2.0 * job.model.embedding * bool(narrow and not job.lora)  # a chunk's for the weight
    return Head(
        passing=one + narrow,
        forward=one + max(narrow, logged + kept * more),
        kept=kept,
        backward=max(3 * one * bool(more), one * (1 + bool(more)) + narrow + product) - kept,
    )


# -- training -----------------------------------------------------------------------------------


def kept(job: Job, shape: Shape, plan: Layout) -> float:
    """Bytes that one layer keeps of one token for the backward pass."""
    if shape.kept is not None:
        return shape.kept[bool(job.lora)] * job.compute_bytes
    H, A, B, F = shape.hidden, shape.wide, shape.narrow, shape.active_mlp
    size, full = job.compute_bytes, not job.lora
    scaled = 4 if shape.wide_norms or size == 4 else 2  # what the norm's weight multiplies
    found = 4.0 * (H * shape.norms + (A + B) * shape.qk_norm)  # inputs of norms, in float32
    if full:
        found += max(scaled, job.stream_bytes) * H * shape.norms + scaled * (A + B) * shape.qk_norm
    queries, keys = plan.queries / plan.tokens, plan.keys / plan.tokens
    held = A if shape.softcap else B  # keys and values are repeated for their heads there
    again = plan.copied and (full or size == 4)
    found += size * (A * (1 + again) * queries + 2 * held * keys) + 4 * shape.heads * queries
    found += size * 3 * F
    if shape.experts:
        found += size * shape.active * H  # each token once for each of its experts
    # inputs of the matrices or of their adapters; autocast makes each a narrow copy of its own
    found += size * ((5 if job.autocast else 2) * H + A + F)
    found += size * 7 * job.lora
    if shape.softcap:
        found += 8.0 * shape.heads * plan.pairs / plan.tokens  # squashed, and shares
    return found


def _norm(job: Job, shape: Shape) -> float:
    """Bytes of a token that the last norm keeps, its result among them."""
    return shape.hidden * (4 + job.stream_bytes * (1 if job.lora else 2))


def _training(job: Job, plan: Layout) -> float:
    """The largest moment between the forward pass and the last gradient.

    Activations are given back while gradients are made, so that it is where the backward pass
    begins, at the head, or where it ends. What PPO trains beside the policy keeps its activations
    at the same time, and is taken back first.
    """
    shape, N, size, n = job.model, plan.tokens, job.compute_bytes, job.trained_roles
    layer = N * kept(job, shape, plan)
    logits = head(job, plan.responses)
    hidden = shape.hidden * job.stream_bytes
    rows = float(plan.responses * hidden) if job.method != "reward_model" else 0.0
    if job.recompute:
        one = N * (shape.layers * hidden + _norm(job, shape))
    else:
        one, layer = shape.layers * layer + N * _norm(job, shape), 0.0
    passing = N * (2 * size * shape.active_mlp + 3 * hidden) + _gathered(job, shape)
    masks = size * plan.mask
    gradients = job.kept_bytes * job.trained / job.shards
    before = gradients if job.parts > 1 else 0.0  # of earlier micro-batches
    table = 0.0 if job.lora else float(job.kept_bytes * shape.embedding)
    wide = 0.0 if job.lora else 4.0 * shape.embedding / job.shards  # the head's, in float32
    if job.method == "reward_model":
        wide = table = 0.0
    share = gradients * (n - 1) / n if not before else 0.0
    held = rows + logits.kept
    if job.autocast and job.recompute and wide:  # the head's narrow copy; others come and go
        held += 2.0 * shape.embedding / job.shards
    asked = job.method in CACHED and job.frozen_copies  # a live reference, within the loss
    moments = {
        "reference": one + held + logits.passing + _forward(shape, job, N) if asked else 0.0,
        "forward": n * one + max(0.0, logits.forward - logits.kept) + held,
        "values": (n * one + held + layer + passing) if n > 1 else 0.0,
        "head": one + share + held + logits.backward + wide,
        "layers": one + share + rows + wide + max(layer + passing, rows),
        "end": (gradients if not before else 0.0)
        + max(table * (shape.tied + bool(before)), passing + layer)
        + N * hidden,
    }
    return max(moments.values()) + before + masks


def _checkpoint(job: Job) -> float:
    """Weights are looked through for what is not finite, and on a CPU an adapter is merged into
    copies of the matrices before the model is written."""
    shape = job.model
    largest = max(shape.embedding, shape.hidden * shape.mlp)
    if job.device != "cpu":
        return 6.0 * (shape.hidden * shape.mlp if job.lora else largest) / job.shards
    merged = job.frozen_bytes * (shape.matrices - shape.embedding) if job.lora else 0.0
    return merged + 6.0 * largest
