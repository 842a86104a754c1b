"""What an algorithm is, and the parts every algorithm shares.

An algorithm says which roles it needs, how groups become experience and which loss they get. It
never sees files, optimisers or the loop. To write one, subclass :class:`Offline` (the data is
given) or :class:`~gnomon.algorithms.on_policy.OnPolicy` (the policy is sampled), implement
``loss``, and add a line to ``registry.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from gnomon.agents.episodes import EpisodeRunner
from gnomon.algorithms.offline_settings import Settings as Settings
from gnomon.data.batch import Batch, Sampler, microbatches, pack
from gnomon.data.values import Skipped
from gnomon.judges.protocol import Reward
from gnomon.losses.reduce import masked_sum
from gnomon.models.roles import Role
from gnomon.records import Prompt, TokenGroup
from gnomon.rollout.protocol import Engine, SamplingParams

DataKind = Literal["demonstrations", "comparisons", "unpaired", "prompts"]


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its tokens, generation prompt included."""

    prompt: Prompt
    ids: Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """How rollouts are drawn: ``samples`` per prompt, annealed to ``final_temperature``, by weights
    that are up to ``max_staleness`` iterations old."""

    params: SamplingParams = field(default_factory=SamplingParams)
    samples: int = 1
    final_temperature: float | None = None
    max_staleness: int = 0


class ReferenceStore(Protocol):
    """Keeps the reference's log-probs between runs; see ``gnomon.train.reference_cache``."""

    def fetch(
        self,
        groups: Sequence[TokenGroup],
        per_token: bool,
        compute: Callable[[Sequence[TokenGroup]], Tensor],
    ) -> Tensor:
        """[S] sums over counted tokens, or [R] values, of all responses of the groups in order.

        Args:
            compute: gives the [R] log-probs of groups, where nothing is stored for them.
        """
        ...


@dataclass
class Ingredients:
    """Everything a stage hands to its algorithm.

    Attributes:
        roles: by name, those the algorithm declared in ``needs``.
        groups, eval_groups: tokenised training and held-out groups (off-line methods).
        prompts, eval_prompts: tokenised prompts (on-line methods).
        text: pretraining text to mix in, one group per document.
        normalisation_groups: demonstrations on which a reward model's mean becomes zero.
        engine, reward, observers: of on-line methods; observers are logged, never trained on.
        environment: plays episodes of several turns, whose return is (part of) the reward.
        batch_size: groups or prompts per iteration.
        iterations: how many iterations the stage runs.
        tokens_per_microbatch: the budget of one forward pass.
        max_reward_errors: the share of failed rewards in an iteration past which the run stops.
        reference_store: keeps the reference's log-probs between runs; without one they are
            computed anew.
    """

    roles: Mapping[str, Role]
    seed: int
    batch_size: int
    iterations: int
    tokens_per_microbatch: int
    groups: Sequence[TokenGroup] = ()
    eval_groups: Sequence[TokenGroup] = ()
    prompts: Sequence[EncodedPrompt] = ()
    eval_prompts: Sequence[EncodedPrompt] = ()
    text: Sequence[TokenGroup] = ()
    normalisation_groups: Sequence[TokenGroup] = ()
    engine: Engine | None = None
    reward: Reward | None = None
    environment: EpisodeRunner | None = None
    observers: Sequence[Reward] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_reward_errors: float = 0.05
    reference_store: ReferenceStore | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Totals:
    """Normalisers of one optimiser step, counted before it is split into micro-batches.

    Dividing by these, and not by a micro-batch's own counts, makes the gradient the same however
    the step is split.
    """

    groups: float
    responses: float
    tokens: float
    pair_weight: float
    text_tokens: float

    @classmethod
    def of(cls, groups: Sequence[TokenGroup], text: Sequence[TokenGroup] = ()) -> Totals:
        """Count groups, responses, loss tokens and comparison weight, each times its group's.

        A count of 0 becomes 1: what is divided by it is 0 too, and stays 0.
        """
        counts = {
            "groups": sum(g.weight for g in groups),
            "responses": sum(g.weight * len(g.responses) for g in groups),
            "tokens": sum(g.weight * sum(sum(r.mask) for r in g.responses) for g in groups),
            "pair_weight": sum(g.weight * sum(c.weight for c in g.comparisons) for g in groups),
            "text_tokens": sum(sum(sum(r.mask) for r in g.responses) for g in text),
        }
        return cls(**{name: count or 1.0 for name, count in counts.items()})


@dataclass(frozen=True)
class LossOutput:
    """A micro-batch's share of the step's loss, and metrics as (sum, weight) pairs."""

    loss: Tensor
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Minibatch:
    """The groups of one optimiser step, and pretraining text that shares it."""

    groups: Sequence[TokenGroup]
    text: Sequence[TokenGroup] = ()


@dataclass(frozen=True)
class Experience:
    """One iteration's work: an optimiser step per minibatch, with what was seen on the way."""

    minibatches: Sequence[Minibatch]
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Evaluation:
    """Held-out results: flat ``metrics`` for curves, ``details`` for evals.json, sampled rows."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()


class Algorithm(ABC):
    """Base of every method.

    Class attributes:
        name: as written in a recipe.
        summary: one line for ``--help``; of those that come with gnomon it is in ``registry.py``.
        Settings: the method's own settings.
        data: what its rows must be.
        needs: the roles it uses; the first one is trained and saved.
        produces: what its model folder holds.
        dropout: whether the trained roles run with dropout in the loss.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]]
    data: ClassVar[DataKind]
    needs: ClassVar[tuple[str, ...]]
    produces: ClassVar[Literal["policy", "reward_model"]] = "policy"
    dropout: ClassVar[bool] = True

    def __init__(self, ingredients: Ingredients, settings: Any) -> None:
        self.ingredients = ingredients
        self.settings = settings
        self.roles = ingredients.roles
        self.text_sampler = (
            Sampler(len(ingredients.text), self.text_batch_size(), ingredients.seed + 1)
            if ingredients.text
            else None
        )

    @classmethod
    def roles_for(cls, settings: Any) -> tuple[str, ...]:
        """The roles it uses with these settings; those of ``needs`` unless a setting adds one."""
        return cls.needs

    @classmethod
    def prepare(
        cls, groups: Sequence[TokenGroup], settings: Any, training: bool = True
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        """The groups it can learn from (``training``) or be judged by, and what it leaves out.

        Raises:
            DataError: the data as a whole cannot be learned from.
        """
        return list(groups), []

    @abstractmethod
    def experience(self, iteration: int) -> Experience:
        """What iteration ``iteration`` (from 0) trains on; fixed by the weights and the seed."""

    @abstractmethod
    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        """The micro-batch's share of the step's loss (already divided by ``totals``)."""

    def evaluate(self, iteration: int, final: bool) -> Evaluation:
        """Held-out results; the default has none."""
        return Evaluation()

    def finish(self) -> dict[str, Any]:
        """What the saved model must carry beside its weights (reward statistics, say)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State beyond the weights, as JSON (an adaptive beta, say)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - mostly no state
        """Restore what :meth:`state_dict` gave."""

    def end_iteration(self, metrics: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """Called after an iteration's steps with its averaged metrics (adaptive controllers)."""

    @property
    def can_gather_again(self) -> bool:
        """Whether an iteration's experience may be dropped and gathered anew with the same result:
        what a run that is to stop does with it."""
        return True

    def why_idle(self, metrics: Mapping[str, float]) -> str | None:
        """Why an iteration trained nothing, judged by its row of metrics; None where it did."""
        return None if metrics["grad_norm"] else "its gradient is 0 (or all its rows weigh 0)"

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Everything that is trained, each parameter once, under stable names."""
        named: dict[str, nn.Parameter] = {}
        for role in self.roles.values():
            named.update(role.named_parameters())
        return list(named.items())

    def train_mode(self, training: bool) -> None:
        """Switch dropout of the trained roles on or off."""
        for role in self.roles.values():
            role.train(training and self.dropout)

    # -- pretraining text (SFT's replay, PPO-ptx) ---------------------------------------------

    def text_coefficient(self) -> float:
        """The weight of the pretraining text's loss; 0 when the method mixes none in."""
        return float(getattr(self.settings, "pretraining_coef", 0.0))

    def text_batch_size(self) -> int:
        """Documents per optimiser step."""
        return int(getattr(self.settings, "pretraining_batch", self.ingredients.batch_size))

    def text_for(self, step: int) -> list[TokenGroup]:
        """The documents mixed into optimiser step ``step``."""
        if self.text_sampler is None or self.text_coefficient() == 0:
            return []
        return [self.ingredients.text[i] for i in self.text_sampler.batch(step)]

    def text_loss(self, batch: Batch, totals: Totals) -> LossOutput:
        """The language-model loss on pretraining text, per token (InstructGPT's ptx term)."""
        logprobs = self.roles["policy"].logprobs(batch).logprobs
        nll = -masked_sum(logprobs, batch.response_mask)
        return LossOutput(
            self.text_coefficient() * nll / totals.text_tokens,
            {"text_loss": (float(nll.detach()), float(batch.response_mask.sum()))},
        )

    # -- helpers --------------------------------------------------------------------------------

    def batches(self, groups: Sequence[TokenGroup]) -> Iterator[Batch]:
        """Pack groups into micro-batches within the token budget, on the stage's device."""
        for part in microbatches(groups, self.ingredients.tokens_per_microbatch):
            yield pack(part).to(self.ingredients.device)


class Offline(Algorithm):
    """A method whose groups are given: SFT, reward models, the DPO family."""

    def __init__(self, ingredients: Ingredients, settings: Any) -> None:
        super().__init__(ingredients, settings)
        self.sampler = Sampler(len(ingredients.groups), ingredients.batch_size, ingredients.seed)

    def experience(self, iteration: int) -> Experience:
        groups = [self.ingredients.groups[i] for i in self.sampler.batch(iteration)]
        return Experience([Minibatch(groups, self.text_for(iteration))])


def token_weight(batch: Batch) -> Tensor:
    """[R] the group's weight at counted response tokens, 0 elsewhere."""
    weight = batch.group_weight[batch.group_of[batch.response_of]]
    return weight * batch.response_mask


def mean_metric(values: Tensor, weight: Tensor | None = None) -> tuple[float, float]:
    """(sum, weight) of a tensor's values, for :class:`LossOutput`."""
    values = values.detach().float()
    if weight is None:
        return float(values.sum()), float(values.numel())
    weight = weight.to(values.dtype)
    return float((values * weight).sum()), float(weight.sum())
