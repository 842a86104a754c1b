"""Direct preference optimisation against a reference (Rafailov et al. 2023, arXiv:2305.18290).

One loss for the whole family, since its members differ in one function of the margin h: cDPO,
robust DPO, IPO, hinge, f-DPO, R-DPO, LD-DPO, the RPO / Llama 3 likelihood term, and Plackett-Luce
on rankings. The equations are in ``gnomon.losses.dpo``. The pairs come from data (:class:`DPO`) or
from the policy itself, judged (:class:`OnlineDPO`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from gnomon.algorithms.base import (
    POLICY,
    PREFERENCE_LR,
    Algorithm,
    Credit,
    Evaluation,
    LossOutput,
    Settings,
    Step,
    Workbench,
)
from gnomon.algorithms.offline_settings import DPOLossSettings, DPOSettings
from gnomon.algorithms.on_policy_settings import OnlineDPOSettings
from gnomon.algorithms.pairs import (
    PAIR_METRICS,
    ScoredBatch,
    evaluate_pairs,
    pair_metrics,
    pair_output,
    usable_pairs,
)
from gnomon.algorithms.reference import (
    MovingReference,
    Reference,
    attach_reference,
    attached_reference,
    base_needs,
    check_it_moves,
    reference_logprobs,
    reference_needs,
    sums_of,
)
from gnomon.algorithms.replay import Replay
from gnomon.algorithms.rollouts import Rollout, spread_metrics
from gnomon.algorithms.sampled_pairs import PairMaking
from gnomon.data.batch import Batch
from gnomon.data.values import Skipped
from gnomon.losses import dpo as losses
from gnomon.losses.kl import mixed_logprobs
from gnomon.models.memory import RoleNeed
from gnomon.records import TokenGroup

Sides = tuple[Tensor, Tensor, Tensor, Tensor]
"""Log-probs [C] of chosen, rejected, ref_chosen and ref_rejected."""


def implicit_rewards(scored: ScoredBatch, s: DPOLossSettings) -> Tensor:
    """[S] beta times the log-ratio to the reference."""
    return losses.implicit_reward(scored.logprob, scored.reference, s.beta)


def dpo_output(scored: ScoredBatch, s: DPOLossSettings, step: Step) -> LossOutput:
    """The loss of DPO and its variants, wherever the pairs come from."""
    rewards = implicit_rewards(scored, s)
    if s.loss != "plackett_luce":
        return pair_output(scored, pair_loss(scored, s), rewards, step)
    batch = scored.batch
    per_group = losses.plackett_luce_dpo(
        scored.logprob,
        scored.reference,
        batch.scalar["rank"],
        batch.group_of,
        batch.num_groups,
        beta=s.beta,
    )
    loss = (per_group * batch.ranking_weight * batch.group_weight).sum() / step.totals.groups
    return LossOutput(loss, pair_metrics(scored, rewards))


def pair_loss(scored: ScoredBatch, s: DPOLossSettings) -> Tensor:
    """[C] the loss of each pair."""
    loss = _preference(scored, compared_logprobs(scored, s), s)
    if s.nll_coef:
        chosen, _ = scored.sides(scored.logprob)
        loss = loss + s.nll_coef * losses.nll_term(chosen, scored.lengths[0])
    return loss


def _preference(scored: ScoredBatch, logprobs: Sides, s: DPOLossSettings) -> Tensor:
    """[C] the preference part of the loss."""
    if s.loss == "ipo":
        lengths = scored.lengths if s.ipo_average else (None, None)
        return losses.ipo(
            *logprobs, beta=s.beta, chosen_length=lengths[0], rejected_length=lengths[1]
        )
    if s.loss == "hinge":
        return losses.hinge(*logprobs, beta=s.beta)
    if s.loss == "robust":
        return losses.robust_dpo(*logprobs, beta=s.beta, label_smoothing=s.label_smoothing)
    if s.length_regularisation:
        return losses.length_regularised_dpo(
            *logprobs, *scored.lengths, beta=s.beta, length_coef=s.length_regularisation
        )
    return losses.dpo(
        *logprobs,
        beta=s.beta,
        label_smoothing=s.label_smoothing,
        divergence=s.divergence,
        alpha=s.alpha,
    )


def compared_logprobs(scored: ScoredBatch, s: DPOLossSettings) -> Sides:
    """What the loss compares, surplus tokens discounted where that is asked for."""
    if s.length_desensitise == 1:
        return (*scored.sides(scored.logprob), *scored.sides(scored.reference))
    assert scored.ref_tokens is not None
    batch = scored.batch
    layout = (batch.response_mask, batch.response_of, batch.lengths, batch.pairs)
    alpha = s.length_desensitise
    policy = losses.length_desensitised_logprobs(scored.tokens, *layout, alpha=alpha)
    reference = losses.length_desensitised_logprobs(scored.ref_tokens, *layout, alpha=alpha)
    return (*policy, *reference)


class DPO(Algorithm):
    """DPO: raise the chosen above the rejected, as far from the reference as beta allows."""

    Settings: ClassVar[type[Settings]] = DPOSettings
    data: ClassVar = "rankings"
    base_lr: ClassVar[float | None] = PREFERENCE_LR
    metrics: ClassVar[tuple[str, ...]] = PAIR_METRICS
    dropout: ClassVar[bool] = False  # policy and reference must differ by training alone

    def __init__(self, settings: DPOSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.reference = Reference(bench, settings, per_token=settings.length_desensitise < 1)

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        return reference_needs(settings)

    @classmethod
    def prepare(
        cls, groups: Sequence[TokenGroup], settings: Any, training: bool = True
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        whole = training and settings.loss == "plackett_luce"
        return usable_pairs(groups, whole=whole, needed=training)

    def begin(self, groups: Sequence[TokenGroup], training: bool) -> Sequence[TokenGroup]:
        return self.reference.annotate(groups)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        scored = ScoredBatch.of(self.bench, batch, self.reference.logprobs)
        return dpo_output(scored, self.settings, step)

    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        def rewards(scored: ScoredBatch) -> Tensor:
            return implicit_rewards(scored, self.settings)

        return evaluate_pairs(self.bench, groups, rewards, self.reference.logprobs)

    def end_iteration(self, step: Step, metrics: Mapping[str, float], carried: Any) -> None:
        self.reference.moving.after(step)

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self.reference.moving.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reference.moving.load_state_dict(state["reference"])


class OnlineDPO(Algorithm):
    """On-line and iterative DPO: sample, judge, pair, and learn from the pairs as DPO does.

        prompts -> K responses -> a judge -> pairs -> reference log-probs -> minibatches

    Xiong et al. 2023, "Iterative preference learning from human feedback" (arXiv:2312.11456); Guo
    et al. 2024, "Direct language model alignment from online AI feedback" (arXiv:2402.04792); Llama
    3 (arXiv:2407.21783, section 4.1) and Tulu 3 are trained this way. A round is one iteration of
    the loop: with many prompts and several epochs it is iterative DPO, with few and one step
    on-line DPO.
    """

    Settings: ClassVar[type[Settings]] = OnlineDPOSettings
    data: ClassVar = "prompts"
    base_lr: ClassVar[float | None] = PREFERENCE_LR
    metrics: ClassVar[tuple[str, ...]] = (
        *PAIR_METRICS,
        *("reward_best", "reward_worst", "zero_spread", "pairs", "ties_dropped", "prompts_used"),
        "replayed",
    )
    dropout: ClassVar[bool] = False

    def __init__(self, settings: OnlineDPOSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        every = settings.refresh_reference
        check_it_moves(every if every > 1 else 0, bench.iterations - 1, "refresh_reference")
        self.moving = MovingReference(bench, every if every > 1 else 0)
        self.replay = Replay(settings.replay, settings.replay_rounds, bench.seed)
        self.pair_making = PairMaking(
            settings.pairs,
            settings.tie_margin,
            settings.no_eos_penalty,
            whole=settings.loss == "plackett_luce",
        )

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        mixed = base_needs(settings)
        if settings.refresh_reference == 1:
            return (POLICY, *mixed)
        return (POLICY, RoleNeed("reference", moves=settings.refresh_reference > 1), *mixed)

    @classmethod
    def least_samples(cls, settings: Any) -> int:
        return 2

    @classmethod
    def refuses_older_weights(cls, settings: Any) -> str | None:
        return None  # DPO learns from pairs, whoever wrote them

    def credit(self, groups: Sequence[Rollout], step: Step) -> Credit:
        """Pairs of each prompt's responses and of earlier rounds, with their log-probs under the
        round's reference."""
        made = [
            self.pair_making.group(rollout, f"{step.iteration}:{i}")
            for i, rollout in enumerate(groups)
        ]
        fresh = [group for group, _ in made if group is not None]
        replayed = self.replay.draw(len(fresh), step.iteration)
        metrics = spread_metrics(groups) | {
            "pairs": float(sum(len(g.comparisons) for g in fresh)),
            "ties_dropped": float(sum(ties for _, ties in made)),
            "prompts_used": len(fresh) / len(groups),
        }
        if self.settings.replay:
            metrics["replayed"] = float(len(replayed))
        return Credit(self._with_reference([*fresh, *replayed]), metrics, carried=fresh)

    def _with_reference(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        """Refreshed each round, the reference is the policy of the round's start."""
        if not groups:
            return []
        name = "policy" if self.settings.refresh_reference == 1 else "reference"
        values = reference_logprobs(self.bench, self.roles[name], groups)
        s = self.settings
        if s.base_share:
            base = reference_logprobs(self.bench, self.roles["base"], groups)
            values = mixed_logprobs(values, base, s.base_share, s.base_mix)
        per_token = s.length_desensitise < 1
        values = values if per_token else sums_of(groups, values)
        return attach_reference(groups, values, per_token)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        scored = ScoredBatch.of(self.bench, batch, attached_reference)
        return dpo_output(scored, self.settings, step)

    def end_iteration(self, step: Step, metrics: Mapping[str, float], carried: Any) -> None:
        self.moving.after(step)
        self.replay.add(carried)

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self.moving.state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moving.load_state_dict(state["reference"])
        self.replay.load_state_dict(state["replay"])
