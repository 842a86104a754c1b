"""What all methods that learn from pairs of responses share: DPO and its relatives.

A ranking of K responses is all its K(K-1)/2 pairs; every prompt weighs the same, however many pairs
it has, and each response is computed once. A method gives ``pair_loss`` (one number per pair) and
``rewards`` (one number per response: what it implicitly maximises).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    Algorithm,
    Evaluation,
    Ingredients,
    LossOutput,
    Offline,
    Totals,
    mean_metric,
)
from gnomon.algorithms.offline_settings import ReferenceSettings
from gnomon.algorithms.reference import (
    ReadsReference,
    Reference,
    reference_roles,
)
from gnomon.data.batch import Batch
from gnomon.data.values import Skipped
from gnomon.errors import DataError
from gnomon.losses.preference import group_balanced_weight
from gnomon.losses.reduce import response_logprobs, weighted_sum
from gnomon.records import TokenGroup
from gnomon.stats.reward_model import RewardModelReport, evaluate_comparisons

Metrics = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Seen:
    """A micro-batch with the log-probs (nats) of its responses.

    Attributes:
        batch: the micro-batch.
        tokens, logprob: [R] and [S] under the policy.
        ref_tokens, ref_logprob: the same under the reference; None where there is none, or (tokens)
            where only sums are at hand.
    """

    batch: Batch
    tokens: Tensor
    logprob: Tensor
    ref_tokens: Tensor | None = None
    ref_logprob: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, tokens: Tensor, reference: ReadsReference | None = None) -> Seen:
        """Sum the policy's [R] log-probs, and look up the reference's."""
        logprob = response_logprobs(
            tokens, batch.response_mask, batch.response_of, batch.num_responses
        )
        ref = (None, None) if reference is None else reference.logprobs(batch)
        return cls(batch, tokens, logprob, *ref)

    def sides(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """[S] values of the (chosen [C], rejected [C]) responses."""
        chosen, rejected = self.batch.pairs.unbind(1)
        return values[chosen], values[rejected]

    @cached_property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """Counted tokens of (chosen [C], rejected [C])."""
        return self.sides(self.batch.lengths)

    @property
    def reference(self) -> Tensor:
        """[S] the reference's log-probs, in a method that has one."""
        if self.ref_logprob is None:
            raise ValueError("this method has no reference")
        return self.ref_logprob


class PairLoss(Algorithm):
    """The loss of pairs, wherever they come from: data (:class:`PairMethod`) or the policy."""

    dropout: ClassVar[bool] = False  # policy and reference must differ by training alone
    reference: ReadsReference | None = None

    # -- what a method gives ----------------------------------------------------------------------

    @abstractmethod
    def pair_loss(self, seen: Seen) -> Tensor:
        """[C] the loss of each pair."""

    @abstractmethod
    def rewards(self, seen: Seen) -> Tensor:
        """[S] the implicit reward of each response, in the unit in which the loss compares them."""

    # -- the shared path --------------------------------------------------------------------------

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        tokens = self.roles["policy"].logprobs(batch).logprobs
        seen = Seen.of(batch, tokens, self.reference)
        return LossOutput(self.objective(seen, totals), self.metrics(seen))

    def objective(self, seen: Seen, totals: Totals) -> Tensor:
        """The micro-batch's share of the loss: the mean over the step's prompts of the mean over
        each prompt's pairs."""
        return weighted_sum(
            self.pair_loss(seen), pair_weights(seen.batch), denominator=totals.groups
        )

    @torch.no_grad()
    def metrics(self, seen: Seen) -> Metrics:
        """What people tune by, over the pairs of the micro-batch; log-probs in nats."""
        return side_metrics(seen, *seen.sides(self.rewards(seen)))


class PairMethod(PairLoss, Offline):
    """Base of the methods on pairs that are given."""

    data: ClassVar = "comparisons"
    needs: ClassVar[tuple[str, ...]] = ("policy",)

    @classmethod
    def prepare(
        cls, groups: Sequence[TokenGroup], settings: Any, training: bool = True
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        return usable_pairs(groups, whole=False, needed=training)

    @torch.no_grad()
    def evaluate(self, iteration: int, final: bool) -> Evaluation:
        """How well implicit rewards order held-out pairs, with 95% intervals."""
        if not self.ingredients.eval_groups:
            return Evaluation()
        report = self.held_out()
        return Evaluation(report_metrics(report), {"held-out implicit reward": report.to_dict()})

    def held_out(self) -> RewardModelReport:
        """The held-out comparisons, judged by the implicit reward."""
        groups = self.ingredients.eval_groups
        category = {g.id: g.category for g in groups}
        prompt = {g.id: tuple(g.prompt_ids) for g in groups}  # pairs of one prompt are alike
        columns: dict[str, list[Any]] = {}
        for batch in self.batches(groups):
            tokens = self.roles["policy"].logprobs(batch).logprobs
            seen = Seen.of(batch, tokens, self.reference)
            better, worse = seen.sides(self.rewards(seen))
            for name, values in (
                ("better", better),
                ("worse", worse),
                ("weight", batch.pair_weight),
                ("longer", seen.lengths[0]),
                ("other", seen.lengths[1]),
            ):
                columns.setdefault(name, []).extend(values.tolist())
            ids = [batch.group_ids[g] for g in batch.pair_group.tolist()]
            columns.setdefault("prompt", []).extend(prompt[i] for i in ids)
            columns.setdefault("category", []).extend(category[i] for i in ids)
        return evaluate_comparisons(
            columns["better"],
            columns["worse"],
            category=columns["category"],
            weights=columns["weight"],
            lengths=(columns["longer"], columns["other"]),
            prompts=columns["prompt"],
        )


class ReferencedPairMethod(PairMethod):
    """Base of the methods on pairs that are held to a reference."""

    def __init__(
        self, ingredients: Ingredients, settings: ReferenceSettings, per_token: bool = False
    ) -> None:
        self.reference: Reference = Reference(ingredients, settings, per_token)
        ingredients = replace(
            ingredients,
            groups=self.reference.annotate(ingredients.groups),
            eval_groups=self.reference.annotate(ingredients.eval_groups),
        )
        super().__init__(ingredients, settings)
        self.iteration = 0

    @classmethod
    def roles_for(cls, settings: Any) -> tuple[str, ...]:
        return reference_roles(settings)

    def experience(self, iteration: int) -> Any:
        self.iteration = iteration
        return super().experience(iteration)

    def end_iteration(self, metrics: Mapping[str, float]) -> None:
        self.reference.after_iteration(self.iteration)

    def state_dict(self) -> dict[str, Any]:
        return self.reference.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reference.load_state_dict(state)


def pair_weights(batch: Batch) -> Tensor:
    """[C] weights that let every prompt count once; ties count nothing."""
    weight = batch.pair_weight.masked_fill(batch.pair_tie, 0.0)
    share = group_balanced_weight(batch.pair_group, weight, batch.num_groups)
    return share * batch.group_weight[batch.pair_group]


def side_metrics(seen: Seen, chosen_reward: Tensor, rejected_reward: Tensor) -> Metrics:
    """Rewards, log-probs and lengths of both sides [C]; with a reference, what changed since."""
    gap = chosen_reward - rejected_reward
    chosen, rejected = seen.sides(seen.logprob)
    metrics = {
        "rewards/chosen": mean_metric(chosen_reward),
        "rewards/rejected": mean_metric(rejected_reward),
        "margin": mean_metric(gap),
        "accuracy": mean_metric((gap > 0).float() + 0.5 * (gap == 0).float()),
        "logprobs/chosen": mean_metric(chosen),
        "logprobs/rejected": mean_metric(rejected),
        "length/chosen": mean_metric(seen.lengths[0]),
        "length/rejected": mean_metric(seen.lengths[1]),
    }
    if seen.ref_logprob is not None:
        change = seen.logprob - seen.ref_logprob
        up, down = seen.sides(change)
        metrics |= {
            "logprobs/chosen_change": mean_metric(up),
            "logprobs/rejected_change": mean_metric(down),
            "displacement": mean_metric(((up < 0) & (down < 0)).float()),
            "kl_forward": mean_metric(-change),
        }
    return metrics


def report_metrics(report: RewardModelReport) -> dict[str, float]:
    """The figures of a held-out report that belong on a curve."""
    return {
        "eval/accuracy": report.accuracy.value,
        "eval/accuracy_low": report.accuracy.low,
        "eval/accuracy_high": report.accuracy.high,
        "eval/accuracy_n": report.accuracy.n,
        "eval/margin": report.mean_margin,
        "eval/ece": report.ece,
    }


def usable_pairs(
    groups: Sequence[TokenGroup], whole: bool, needed: bool = True
) -> tuple[list[TokenGroup], list[Skipped]]:
    """Groups with the comparisons a pair method can learn from, and what was left out.

    Left out are ties, comparisons of weight 0, and pairs that are judged both ways somewhere in the
    data (all their judgements: they cannot say which is better).

    Args:
        whole: a group stands or falls as a whole and keeps its ties (rankings as rankings).
        needed: something must be left.

    Raises:
        DataError: nothing is left, and it is needed.
    """
    said = {key for g in groups for key in _judged(g)}
    kept: list[TokenGroup] = []
    skipped: list[Skipped] = []
    for group in groups:
        strict = [c for c in group.comparisons if not c.tie and c.weight > 0]
        keys = dict(zip(strict, _judged(group), strict=True))
        clear = [c for c in strict if (keys[c][0], keys[c][2], keys[c][1]) not in said]
        if len(clear) < len(strict):
            skipped.append(
                Skipped(
                    group.source,
                    "the same two answers are judged both ways",
                    "keep the judgement that is right, or remove the pair",
                )
            )
        elif not strict:
            reason = "only ties" if group.comparisons else "nothing is compared"
            skipped.append(Skipped(group.source, reason, "a pair needs a better and a worse side"))
        if clear and not (whole and len(clear) < len(strict)):
            kept.append(group if whole else replace(group, comparisons=tuple(clear)))
    if needed and groups and not kept:
        raise DataError(
            f"none of {len(groups)} groups has a pair to learn from. The first: {skipped[0]}"
        )
    return kept, skipped


_Key = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _judged(group: TokenGroup) -> list[_Key]:
    """(prompt, better, worse) as tokens, for each strict comparison."""
    prompt = tuple(group.prompt_ids)
    ids = [tuple(r.ids) for r in group.responses]
    return [
        (prompt, ids[c.better], ids[c.worse])
        for c in group.comparisons
        if not c.tie and c.weight > 0
    ]
