"""What is to be trained: one stage, in the numbers that memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gnomon.plan.shapes import Shape
from gnomon.recipe.training import LoraSpec

RANK = LoraSpec().rank
"""Of adapters where nothing else is said."""
Precision = Literal["float32", "bfloat16", "mixed"]
"""float32; weights, gradients and moments in bfloat16; float32 weights, bfloat16 arithmetic."""
Engine = Literal["torch", "vllm"]
Device = Literal["cuda", "cpu"]
PG = (
    *("grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo", "gmpo"),
    *("dppo", "maxrl"),
)
"""Policy gradients without a critic."""
SAMPLED = ("ppo", *PG, "online_dpo", "raft", "distill", "collect")
"""Methods whose answers the policy writes itself."""
REFERENCED = ("ppo", "grpo", "rloo", "reinforce_pp", "online_dpo", "dpo", "kto")
"""Methods that compare with a frozen reference, as they are set by default."""
CACHED = ("dpo", "kto")
"""Of these, those whose reference is the start model, asked once before the first step."""
ENTROPY = ("ppo", *PG, "distill")
"""Methods that look at the entropy of each token."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a stage's data: of the longest prompt and response, of usual ones, and responses to
    a prompt."""

    prompt: int
    response: int
    mean_prompt: float
    mean_response: float
    samples: int = 1


@dataclass(frozen=True)
class Job:
    """A stage to be sized.

    Attributes:
        method: an algorithm's name.
        model: the policy's shape; ``reward``: the reward model's, where one judges.
        prompts: G, groups a step; ``samples``: K, responses of each.
        prompt_tokens, response_tokens: of the longest that are kept; ``mean_prompt`` and
            ``mean_response``: of a usual one, on which time depends.
        microbatch: packed tokens in one forward and backward pass at most.
        lora: the adapters' rank; 0: all weights are trained.
        recompute: layers are computed again in the backward pass instead of kept.
        rows: most responses written at once on a GPU.
        epochs: passes over a step's samples.
        minibatches: optimizer steps that a step's samples are divided into.
        shards: GPUs over which weights, gradients and moments are divided.
        device: on a CPU sampling reorders the weights, and checkpoints share the same memory.
        device_bytes: memory of one GPU, of which the head takes a share; 0: a large one's.
        critics: models trained beside the policy; None: as many as the method has.
        references: frozen copies of the policy's start; None: as many as the method has. With LoRA
            they are the trunk itself.
        followers: frozen ones that take over the policy's weights now and then.
        averages: float32 averages beside narrower weights.
        others: frozen models of their own (a teacher).
        ahead: samples are written by a copy of the policy while it trains.
        adapter: parameters of one adapter, where it is not on every linear layer.
    """

    method: str
    model: Shape
    prompts: int
    samples: int
    prompt_tokens: int
    response_tokens: int
    mean_prompt: float
    mean_response: float
    microbatch: int
    reward: Shape | None = None
    lora: int = 0
    precision: Precision = "float32"
    recompute: bool = False
    rows: int = 256
    epochs: int = 1
    shards: int = 1
    engine: Engine = "torch"
    minibatches: int = 1
    device: Device = "cuda"
    device_bytes: float = 0.0
    critics: int | None = None
    references: int | None = None
    followers: int = 0
    averages: int = 0
    others: tuple[Shape, ...] = ()
    ahead: bool = False
    adapter: int = 0

    @property
    def sampled(self) -> bool:
        """Whether the policy writes the answers."""
        return self.method in SAMPLED

    @property
    def compute_bytes(self) -> int:
        """Of a number in a forward pass."""
        return 4 if self.precision == "float32" else 2

    @property
    def autocast(self) -> bool:
        """Whether float32 weights are copied to bfloat16 as they are used."""
        return self.precision == "mixed" and not self.lora

    @property
    def stream_bytes(self) -> int:
        """Of a number of the hidden states between layers, which norms read and write."""
        return 4 if self.autocast else self.compute_bytes

    @property
    def masked(self) -> bool:
        """Whether attention runs in masked blocks, and not by the GPU's kernels for rows of many
        lengths (:func:`gnomon.models.varlen.refused`)."""
        if self.device != "cuda" or self.compute_bytes == 4 or self.model.softcap:
            return True
        return bool(self.model.head_dim % 8) or self.model.head_dim > 256

    @property
    def kept_bytes(self) -> int:
        """Of a trained number, of its gradient and of each of its two moments."""
        return 2 if self.precision == "bfloat16" and not self.lora else 4

    @property
    def frozen_bytes(self) -> int:
        """Of a number of a model that is not trained."""
        return 4 if self.precision == "float32" else 2

    @property
    def trained_roles(self) -> int:
        """The policy, and PPO's value model."""
        if self.method == "collect":
            return 0
        return 1 + (self.method == "ppo" if self.critics is None else self.critics)

    @property
    def frozen_copies(self) -> int:
        """Models beside the policy that start as it did and are not trained."""
        if self.references is not None:
            return self.references
        return int(self.method in REFERENCED and self.method not in CACHED)

    @property
    def adapter_parameters(self) -> int:
        """Of one role's adapter: rank x (in + out) of every matrix of the layers."""
        return self.adapter or self.model.adapter(self.lora)

    @property
    def trained(self) -> int:
        """Numbers that get gradients, over all roles: a model's own head gets none below a scalar
        one."""
        if self.lora:
            return self.adapter_parameters * self.trained_roles
        judges = self.trained_roles - (self.method != "reward_model") if self.trained_roles else 0
        unused = 0 if self.model.tied else self.model.embedding
        return self.model.parameters * self.trained_roles - unused * judges

    @property
    def learned(self) -> int:
        """Responses of a group that are trained on: of some methods the best, or the extremes."""
        return min(self.samples, {"raft": 1, "online_dpo": 2}.get(self.method, self.samples))

    @property
    def group(self) -> int:
        """Tokens of the longest group: its prompt once, and each response that is trained on."""
        return self.prompt_tokens + self.learned * self.response_tokens

    @property
    def _mean_group(self) -> int:
        """Tokens of a usual group; answers that a policy writes may all be as long as they can."""
        if self.sampled:
            return self.group
        usual = round(self.mean_prompt + self.samples * self.mean_response)
        return min(self.group, max(1, usual))

    @property
    def packed(self) -> int:
        """Most tokens of one micro-batch: a group is never divided.

        Micro-batches are as few as the budget allows, and as equal as their groups can be divided;
        groups of unequal length fill one to within a group.
        """
        mean, groups = self._mean_group, -(-self.prompts // self.minibatches)
        balanced = -(-groups // self.parts) * mean + (self.group - mean)
        return min(groups * self.group, max(self.group, min(self.microbatch, balanced)))

    @property
    def parts(self) -> int:
        """Micro-batches of an optimizer step."""
        groups = -(-self.prompts // self.minibatches)
        return -(-groups // max(1, self.microbatch // self._mean_group))


def other_way(job: Job) -> Job:
    """The same with LoRA where all weights are trained, and the other way round."""
    return replace(job, lora=0 if job.lora else RANK, adapter=0)
