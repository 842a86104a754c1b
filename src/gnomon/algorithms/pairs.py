"""What all methods that learn from pairs of responses share: DPO and its relatives.

A ranking of K responses is all its K(K-1)/2 pairs; every prompt weighs the same, however many pairs
it has, and each response is computed once. A method has a loss for each pair and an implicit reward
for each response, which it maximises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gnomon.algorithms.base import Evaluation, LossOutput, Step, Workbench
from gnomon.algorithms.metric import Metric, mean
from gnomon.data.batch import Batch
from gnomon.data.values import Skipped
from gnomon.errors import DataError
from gnomon.losses.reduce import group_balanced_weight, response_logprobs, weighted_sum
from gnomon.records import TokenGroup
from gnomon.stats.intervals import Interval
from gnomon.stats.reward_model import RewardModelReport, evaluate_comparisons

ReferenceLookup = Callable[[Batch], tuple[Tensor | None, Tensor]]
"""Gives the reference's log-probs of a micro-batch: [R] (None where only sums are at hand), [S]."""
PAIR_METRICS = (
    *("rewards/chosen", "rewards/rejected", "margin", "accuracy"),
    *("logprobs/chosen", "logprobs/rejected", "length/chosen", "length/rejected"),
    *("logprobs/chosen_change", "logprobs/rejected_change", "displacement", "kl_forward"),
)
"""What pair methods log; the last four where there is a reference."""


@dataclass(frozen=True)
class ScoredBatch:
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
    def of(
        cls, bench: Workbench, batch: Batch, reference: ReferenceLookup | None = None
    ) -> ScoredBatch:
        """Compute the policy's log-probs, and look up the reference's where there is one."""
        tokens = bench.roles["policy"].logprobs(batch).logprobs
        logprob = response_logprobs(
            tokens, batch.response_mask, batch.response_of, batch.num_responses
        )
        return cls(batch, tokens, logprob, *(reference(batch) if reference else ()))

    def sides(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """[S] values of the (chosen [C], rejected [C]) responses."""
        chosen, rejected = self.batch.pairs.unbind(1)
        return values[chosen], values[rejected]

    @cached_property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """Counted tokens of (chosen [C], rejected [C])."""
        return self.sides(self.batch.lengths)

    @property
    def average(self) -> Tensor:
        """[S] nats per counted token."""
        return self.logprob / self.batch.lengths.clamp(min=1)

    @property
    def reference(self) -> Tensor:
        """[S] the reference's log-probs, in a method that has one."""
        if self.ref_logprob is None:
            raise ValueError("this method has no reference")
        return self.ref_logprob


def pair_output(scored: ScoredBatch, per_pair: Tensor, rewards: Tensor, step: Step) -> LossOutput:
    """The loss of pairs: the mean over the step's prompts of the mean over each prompt's pairs.

    Args:
        per_pair: [C] the loss of each pair.
        rewards: [S] the implicit reward of each response, in the unit in which the loss compares.
    """
    loss = weighted_sum(per_pair, pair_weights(scored.batch), denominator=step.totals.groups)
    return LossOutput(loss, pair_metrics(scored, rewards))


@torch.no_grad()
def held_out_report(
    bench: Workbench, groups: Sequence[TokenGroup], rewards: Callable[[Batch], Tensor]
) -> RewardModelReport:
    """How well rewards order held-out comparisons, with 95% intervals.

    A comparison counts by its own weight and its row's, as in training.

    Args:
        rewards: [S] the reward of each response of a micro-batch.
    """
    category = {g.id: g.category for g in groups}
    prompt = {g.id: tuple(g.prompt_ids) for g in groups}  # pairs of one prompt are alike
    columns: dict[str, list[Any]] = {}
    for batch in bench.batches(groups):
        values = rewards(batch)
        better, worse = batch.pairs.unbind(1)
        for name, of in (
            ("better", values[better]),
            ("worse", values[worse]),
            ("tie", batch.pair_tie),
            ("weight", judged_weight(batch)),
            ("better_length", batch.lengths[better]),
            ("worse_length", batch.lengths[worse]),
        ):
            columns.setdefault(name, []).extend(of.tolist())
        ids = [batch.group_ids[g] for g in batch.pair_group.tolist()]
        columns.setdefault("prompt", []).extend(prompt[i] for i in ids)
        columns.setdefault("category", []).extend(category[i] for i in ids)
    return evaluate_comparisons(
        columns["better"],
        columns["worse"],
        category=columns["category"],
        ties=columns["tie"],
        weights=columns["weight"],
        lengths=(columns["better_length"], columns["worse_length"]),
        prompts=columns["prompt"],
    )


def evaluate_pairs(
    bench: Workbench,
    groups: Sequence[TokenGroup],
    rewards: Callable[[ScoredBatch], Tensor],
    reference: ReferenceLookup | None = None,
) -> Evaluation:
    """How well a pair method's implicit rewards order held-out pairs; nothing without any."""
    if not groups:
        return Evaluation()
    report = held_out_report(
        bench, groups, lambda batch: rewards(ScoredBatch.of(bench, batch, reference))
    )
    metrics = accuracy_metrics(report.accuracy)
    metrics |= {"eval/margin": report.mean_margin, "eval/ece": report.ece}
    return Evaluation(metrics, {"held-out implicit reward": report.to_dict()})


def judged_weight(batch: Batch) -> Tensor:
    """[C] how much each comparison counts in figures: its own weight times its row's."""
    return batch.pair_weight * batch.group_weight[batch.pair_group]


def pair_weights(batch: Batch) -> Tensor:
    """[C] weights that let every prompt count once; ties count nothing."""
    weight = batch.pair_weight.masked_fill(batch.pair_tie, 0.0)
    share = group_balanced_weight(batch.pair_group, weight, batch.num_groups)
    return share * batch.group_weight[batch.pair_group]


@torch.no_grad()
def pair_metrics(scored: ScoredBatch, rewards: Tensor) -> dict[str, Metric]:
    """What people tune by, over the pairs of a micro-batch: rewards, log-probs (nats) and lengths
    of both sides; with a reference, what changed since. Pairs count as in the held-out figures:
    by their weight and their row's, ties not at all."""
    weight = judged_weight(scored.batch).masked_fill(scored.batch.pair_tie, 0.0)
    chosen_reward, rejected_reward = scored.sides(rewards)
    gap = chosen_reward - rejected_reward
    chosen, rejected = scored.sides(scored.logprob)
    metrics = {
        "rewards/chosen": mean(chosen_reward, weight),
        "rewards/rejected": mean(rejected_reward, weight),
        "margin": mean(gap, weight),
        "accuracy": mean((gap > 0).float() + 0.5 * (gap == 0).float(), weight),
        "logprobs/chosen": mean(chosen, weight),
        "logprobs/rejected": mean(rejected, weight),
        "length/chosen": mean(scored.lengths[0], weight),
        "length/rejected": mean(scored.lengths[1], weight),
    }
    if scored.ref_logprob is not None:
        change = scored.logprob - scored.ref_logprob
        up, down = scored.sides(change)
        metrics |= {
            "logprobs/chosen_change": mean(up, weight),
            "logprobs/rejected_change": mean(down, weight),
            "displacement": mean(((up < 0) & (down < 0)).float(), weight),
            "kl_forward": mean(-change, scored.batch.group_weight[scored.batch.group_of]),
        }
    return metrics


def accuracy_metrics(accuracy: Interval) -> dict[str, float]:
    """A held-out accuracy as it belongs on a curve, with its interval."""
    return {
        "eval/accuracy": accuracy.value,
        "eval/accuracy_low": accuracy.low,
        "eval/accuracy_high": accuracy.high,
        "eval/accuracy_n": accuracy.n,
    }


def prepare_pairs(
    cls: type, groups: Sequence[TokenGroup], settings: Any, training: bool = True
) -> tuple[list[TokenGroup], list[Skipped]]:
    """``Algorithm.prepare`` of the methods that learn from single pairs."""
    return usable_pairs(groups, whole=False, needed=training)


def usable_pairs(
    groups: Sequence[TokenGroup], whole: bool, needed: bool = True
) -> tuple[list[TokenGroup], list[Skipped]]:
    """Groups with the comparisons a pair method can learn from, and what was left out.

    Left out are ties, comparisons of weight 0, and pairs that are judged both ways somewhere in the
    data (all their judgements: they cannot say which is better).

    Args:
        whole: a group is kept or left out as a whole, with its ties (rankings as rankings).
        needed: raise if nothing is left.

    Raises:
        DataError: nothing is left, and ``needed``.
    """
    said = {key for g in groups for key in _judged(g)}
    kept: list[TokenGroup] = []
    skipped: list[Skipped] = []
    for group in groups:
        strict = [c for c in group.comparisons if not c.tie and c.strength > 0]
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
        if not c.tie and c.strength > 0
    ]
