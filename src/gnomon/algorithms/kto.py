"""KTO: learning from single answers labelled good or bad.

Ethayarajh et al. 2024, "KTO: model alignment as prospect theoretic optimization", arXiv:2402.01306.
A good answer should gain on the reference by more than the policy's answers do on average, a bad
one by less. That average, z_0, is estimated on every prompt with *another* prompt's answer: fixed
mismatches, so that their reference log-probs are computed once, and one z_0 for the whole step,
without gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    PREFERENCE_LR,
    Algorithm,
    Credit,
    Evaluation,
    LossOutput,
    Settings,
    Step,
    Workbench,
)
from gnomon.algorithms.metric import Metric, mean
from gnomon.algorithms.offline_settings import KTOSettings
from gnomon.algorithms.pairs import ScoredBatch, accuracy_metrics
from gnomon.algorithms.reference import Reference, reference_needs
from gnomon.data.batch import Batch, epoch_order
from gnomon.data.values import Skipped
from gnomon.errors import DataError
from gnomon.losses.kto import kto, kto_baseline
from gnomon.models.memory import RoleNeed
from gnomon.records import TokenGroup
from gnomon.stats.intervals import weighted_proportion
from gnomon.stats.reward_model import accuracy_by_category

BASELINE = "kto_baseline"


class KTO(Algorithm):
    """KTO on unpaired good and bad answers."""

    Settings: ClassVar[type[Settings]] = KTOSettings
    data: ClassVar = "unpaired"
    base_lr: ClassVar[float | None] = PREFERENCE_LR
    metrics: ClassVar[tuple[str, ...]] = (
        *("rewards/chosen", "rewards/rejected", "logprobs/chosen", "logprobs/rejected"),
        *("logprobs/chosen_change", "logprobs/rejected_change"),
        *("length/chosen", "length/rejected", "accuracy", "kl"),
    )
    dropout: ClassVar[bool] = False  # policy and reference must differ by training alone

    def __init__(self, settings: KTOSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.reference = Reference(bench, settings)
        self.weights = (1.0, settings.undesirable_weight)
        self._given: Sequence[TokenGroup] = ()
        self._mismatched: dict[int, tuple[TokenGroup, TokenGroup]] = {}

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        return reference_needs(settings)

    @classmethod
    def prepare(
        cls, groups: Sequence[TokenGroup], settings: Any, training: bool = True
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        return usable_labels(groups, both=training)

    def begin(self, groups: Sequence[TokenGroup], training: bool) -> Sequence[TokenGroup]:
        """The groups with their reference log-probs; each is also given a mismatched answer."""
        if training:
            self._given = groups
            self.weights = class_weights(groups, self.settings)
        others = mismatch(groups, self._given, self.bench.seed) if groups else []
        others = self.reference.annotate(others)
        groups = self.reference.annotate(groups)
        for group, other in zip(groups, others, strict=True):
            self._mismatched[id(group)] = (group, other)
        return groups

    def mismatched(self, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        """The groups' prompts with answers to other prompts; groups of weight 0 are left out."""
        return [self._mismatched[id(group)][1] for group in groups if group.weight]

    def credit(self, groups: Sequence[TokenGroup], step: Step) -> Credit:
        baseline = self.baseline(self.mismatched(groups))
        return Credit([_with_baseline(g, baseline) for g in groups], {"kl": baseline})

    @torch.no_grad()
    def baseline(self, mismatched: Sequence[TokenGroup]) -> float:
        """z_0 of these prompts with other prompts' answers, in nats; 0 without any."""
        if not mismatched:
            return 0.0
        scored = [self._scored(batch) for batch in self.bench.batches(mismatched)]
        logprobs = torch.cat([s.logprob for s in scored])
        weight = torch.cat([s.batch.group_weight[s.batch.group_of] for s in scored])
        return float(kto_baseline(logprobs, torch.cat([s.reference for s in scored]), weight))

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        scored = self._scored(batch)
        good = batch.scalar["label"] > 0.5
        desirable, undesirable = self.weights
        per_response = kto(
            scored.logprob,
            scored.reference,
            good,
            batch.scalar[BASELINE],
            beta=self.settings.beta,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
        )
        weight = batch.group_weight[batch.group_of]
        loss = (per_response * weight).sum() / step.totals.responses
        return LossOutput(loss, self._metrics(scored, good))

    @torch.no_grad()
    def _metrics(self, scored: ScoredBatch, good: Tensor) -> dict[str, Metric]:
        change = scored.logprob - scored.reference
        weight = scored.batch.group_weight[scored.batch.group_of]
        metrics: dict[str, Metric] = {}
        for side, own in (("chosen", good), ("rejected", ~good)):
            of = weight * own
            metrics |= {
                f"rewards/{side}": mean(self.settings.beta * change, of),
                f"logprobs/{side}": mean(scored.logprob, of),
                f"logprobs/{side}_change": mean(change, of),
                f"length/{side}": mean(scored.batch.lengths, of),
            }
        gain = change - scored.batch.scalar[BASELINE]
        return metrics | {"accuracy": mean(_on_its_side(gain, good), weight)}

    @torch.no_grad()
    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        """The share of held-out answers on their side of z_0, by their rows' weights, with 95%
        intervals."""
        if not groups:
            return Evaluation()
        baseline = self.baseline(self.mismatched(groups))
        right: list[float] = []
        for batch in self.bench.batches(groups):
            scored = self._scored(batch)
            gain = scored.logprob - scored.reference - baseline
            right += _on_its_side(gain, batch.scalar["label"] > 0.5).tolist()
        rows = [g for g in groups for _ in g.responses]
        prompts = [tuple(g.prompt_ids) for g in rows]
        weights = [g.weight for g in rows]
        accuracy = weighted_proportion(right, weights, clusters=prompts)
        categories = accuracy_by_category(
            right, [g.category for g in rows], weights=weights, clusters=prompts
        )
        details = {
            "accuracy": accuracy.to_dict(),
            "by_category": {name: i.to_dict() for name, i in categories.items()},
        }
        metrics = accuracy_metrics(accuracy) | {"eval/kl": baseline}
        return Evaluation(metrics, {"held-out labels": details})

    def end_iteration(self, step: Step, metrics: Mapping[str, float], carried: Any) -> None:
        self.reference.moving.after(step)

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self.reference.moving.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reference.moving.load_state_dict(state["reference"])

    def _scored(self, batch: Batch) -> ScoredBatch:
        return ScoredBatch.of(self.bench, batch, self.reference.logprobs)


def _on_its_side(gain: Tensor, good: Tensor) -> Tensor:
    """1 where a good answer gained more than the baseline or a bad one less, 1/2 at a draw."""
    signed = torch.where(good, gain, -gain)
    return (signed > 0).float() + 0.5 * (signed == 0).float()


def mismatch(
    groups: Sequence[TokenGroup], answers: Sequence[TokenGroup], seed: int
) -> list[TokenGroup]:
    """Each group's prompt with the first answer of another prompt's group, fixed by the seed.

    Answers are cut where prompt and answer would be longer than the longest of the data.

    Raises:
        DataError: all prompts are the same.
    """
    order = epoch_order(len(answers), seed, 0)
    place = {id(answers[j]): n for n, j in enumerate(order)}
    longest = max(len(g.prompt_ids) + len(r.ids) for g in (*groups, *answers) for r in g.responses)
    out: list[TokenGroup] = []
    for i, group in enumerate(groups):
        prompt, start = list(group.prompt_ids), place.get(id(group), i)
        turns = (answers[order[(start + n) % len(order)]] for n in range(1, len(order) + 1))
        other = next((a for a in turns if list(a.prompt_ids) != prompt), None)
        if other is None:
            raise DataError(
                f"{group.source or group.id}: KTO measures its baseline on other prompts' answers, "
                "but all prompts are the same; give it at least two"
            )
        room = max(1, longest - len(prompt))
        answer = other.responses[0]
        cut = replace(answer, ids=answer.ids[:room], mask=answer.mask[:room], token={})
        out.append(replace(group, responses=(cut,), comparisons=()))
    return out


def class_weights(groups: Sequence[TokenGroup], settings: KTOSettings) -> tuple[float, float]:
    """(lambda_D, lambda_U); "auto" makes lambda_D n_D = lambda_U n_U (the paper, sec. 4.2)."""
    bad_weight = settings.undesirable_weight
    if settings.desirable_weight != "auto":
        return settings.desirable_weight, bad_weight
    labels = [(g.weight, r.scalar["label"]) for g in groups for r in g.responses]
    good = sum(w for w, label in labels if label > 0.5)
    bad = sum(w for w, label in labels if label <= 0.5)
    return bad_weight * bad / good, bad_weight


def usable_labels(
    groups: Sequence[TokenGroup], both: bool
) -> tuple[list[TokenGroup], list[Skipped]]:
    """Groups whose answer is labelled good or bad and not both, and what was left out.

    Raises:
        DataError: no labels, or (``both``) only one class of them.
    """
    labels: dict[tuple[tuple[int, ...], tuple[int, ...]], set[bool]] = {}
    for group in groups:
        for r in group.responses:
            if "label" not in r.scalar:
                where = group.source or group.id
                raise DataError(f"{where}: no label; KTO needs answers labelled good or bad")
            key = (tuple(group.prompt_ids), tuple(r.ids))
            labels.setdefault(key, set()).add(r.scalar["label"] > 0.5)
    kept: list[TokenGroup] = []
    skipped: list[Skipped] = []
    for group in groups:
        keys = [(tuple(group.prompt_ids), tuple(r.ids)) for r in group.responses]
        if all(len(labels[key]) == 1 for key in keys):
            kept.append(group)
        else:
            reason = "the same answer is labelled good and bad"
            cure = "keep the label that is right, or remove the rows"
            skipped.append(Skipped(group.source, reason, cure))
    classes = {r.scalar["label"] > 0.5 for g in kept for r in g.responses}
    if both and len(classes) < 2:
        only = {True: "good", False: "bad"}
        found = f"all {len(kept)} answers are {only[classes.pop()]}" if classes else "none is left"
        first = groups[0].source.file if groups and groups[0].source else "the data"
        raise DataError(
            f"{first}: {found}. KTO needs good and bad answers: add the other kind, move good_from "
            "(ratings), or use sft where all are good"
        )
    return kept, skipped


def _with_baseline(group: TokenGroup, baseline: float) -> TokenGroup:
    responses = (replace(r, scalar={**r.scalar, BASELINE: baseline}) for r in group.responses)
    return replace(group, responses=tuple(responses))
