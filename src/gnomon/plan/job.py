"""What is to be trained: one stage, in the numbers that memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gnomon.plan.shapes import Shape

Precision = Literal["float32", "bfloat16", "mixed"]
"""float32; weights, gradients and moments in bfloat16; float32 weights, bfloat16 arithmetic."""
Engine = Literal["torch", "vllm"]
SAMPLED = ("ppo", "grpo", "online_dpo", "raft", "collect")
"""Methods whose answers the policy writes itself."""
REFERENCED = ("ppo", "grpo", "online_dpo", "dpo", "kto")
"""Methods that compare with a frozen reference."""


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
        shards: GPUs over which weights, gradients and moments are divided.
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

    @property
    def sampled(self) -> bool:
        """Whether the policy writes the answers."""
        return self.method in SAMPLED

    @property
    def compute_bytes(self) -> int:
        """Of a number in a forward pass."""
        return 4 if self.precision == "float32" else 2

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
        return 0 if self.method == "collect" else 1 + (self.method == "ppo")

    @property
    def adapter_parameters(self) -> int:
        """Of one role's adapter: rank x (in + out) of every matrix of the layers."""
        m = self.model
        wide, narrow = m.heads * m.head_dim, m.kv_heads * m.head_dim
        attention = 2 * (m.hidden + wide) + 2 * (m.hidden + narrow)
        mlps = 3 * (m.hidden + m.mlp) * max(1, m.experts + m.shared_experts)
        return self.lora * m.layers * (attention + mlps)

    @property
    def trained(self) -> int:
        """Numbers that are trained, over all roles."""
        one = self.adapter_parameters if self.lora else self.model.parameters
        return one * self.trained_roles

    @property
    def packed(self) -> int:
        """Most tokens of one micro-batch: a group is never divided."""
        group = self.prompt_tokens + self.samples * self.response_tokens
        whole = self.prompts * group
        return min(whole, max(self.microbatch, group))
