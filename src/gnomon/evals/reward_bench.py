"""How often a reward model, a policy's implicit reward, or a judge prefers the better answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from gnomon.data.readers import read_groups
from gnomon.data.rows import iter_rows
from gnomon.data.values import RawRow
from gnomon.errors import ConfigError, DataError
from gnomon.evals.judging import JudgeSpec, described, learned_judge, open_judge
from gnomon.evals.pairs import Pair, orders, verdicts
from gnomon.evals.pairwise import identity
from gnomon.evals.reward_bench_sections import SECTIONS, mean_of, section_scores
from gnomon.evals.subject import Model, Subject, plain
from gnomon.evals.suite import ItemSuite, Measured, Options, Row, Work
from gnomon.recipe.schema import Verdict
from gnomon.stats.intervals import Interval, weighted_proportion

SUBSET = ("subset", "category", "scenario", "task")
"""Names of the column that the accuracy is broken down by, the first one that the file has."""


class RewardBenchOptions(Options):
    """Options of the suite ``reward_bench``."""

    judge: JudgeSpec = Field(
        None, description="measure this judge (gnomon eval judge ...), not a model"
    )
    reference: str | None = Field(
        None,
        description="of a policy: the model that its implicit reward log(policy / reference) is "
        "over; `none` takes the policy's log-probability alone",
    )
    per_token: bool = Field(False, description="divide an implicit reward by the tokens")
    subset: str | None = Field(
        None, description="the column to break down by; default: subset, category, scenario or task"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="gnomon's name: the file's name, as in a recipe's data"
    )
    labels: dict[str, Verdict] = Field(
        default_factory=dict, description="what the values of a preference column mean"
    )


@dataclass(frozen=True)
class Compared:
    """A labelled pair: ``pair.own`` is the better answer."""

    id: str
    pair: Pair


class RewardBench(ItemSuite[Compared]):
    """Accuracy on labelled pairs, as RewardBench measures it (Lambert et al. 2024, arXiv
    2403.13787): the share whose better answer scores higher, equal scores counting half.

    It reads ``prompt``, ``chosen``, ``rejected`` and ``subset``, and every other preference format
    that a recipe's data may have. Of a reward model the scores are its own; of a policy they are
    its implicit rewards, for which it needs a ``reference``; ``gnomon eval judge`` measures the
    ``judge`` that is given, in both orders. ``mean_of_subsets`` weighs every subset alike. Where
    the subsets are RewardBench's, ``section_score`` is the score of its leaderboard, and the one
    that is shown first (:mod:`gnomon.evals.reward_bench_sections`).
    """

    title: ClassVar[str] = "reward_bench"
    summary: ClassVar[str] = "reward models, implicit rewards and judges on labelled pairs"
    options_class: ClassVar = RewardBenchOptions
    scores: ClassVar[tuple[str, ...]] = (
        *("accuracy", "mean_of_subsets", "better_is_longer", "better_is_not_longer", "flips"),
        *("section_score", "section_score_with_prior", "prior_sets", *SECTIONS),
    )

    def __init__(self, options: Any, base: Path) -> None:
        super().__init__(options, base)
        self._reference: Model | None = None

    @property
    def name(self) -> str:
        spec = self.options.judge
        return super().name if self.options.name or spec is None else f"{super().name}-{spec.label}"

    def check(self) -> None:
        super().check()
        if not self.options.data:
            raise ConfigError(
                "suite reward_bench needs a file of pairs: --data FILE, with prompt, chosen, "
                "rejected and subset"
            )

    def prepare(self, subject: Subject) -> None:
        if self.options.judge is not None:
            self._judge = open_judge(self.options.judge, self.base, subject)
            return
        if not isinstance(subject, Model):
            raise ConfigError("suite reward_bench needs a model, or a judge (gnomon eval judge)")
        reference = self.options.reference
        if reference is not None:
            if subject.kind.startswith("reward"):
                raise ConfigError(f"{subject.name} is a reward model: leave reference out")
            other = None if reference == "none" else subject.other(reference, self.base)
            if other is not None and not isinstance(other, Model):
                raise ConfigError(f"reference {reference!r} is a file, not a model")
            from gnomon.evals.implicit import ImplicitReward

            self._judge = ImplicitReward(subject, other, self.options.per_token)
            return
        if subject.kind == "policy":
            raise ConfigError(
                f"{subject.name} is a policy: its implicit reward needs the model that it was "
                "trained from: --option reference=STAGE (or a folder; none for the policy alone)"
            )
        self._judge = learned_judge(subject.source, subject.name, device=subject.device)

    def facts(self) -> Mapping[str, Any]:
        judge = self._judge
        spec = self.options.judge
        facts: dict[str, Any] = {"judge": described(spec)} if spec is not None else {}
        return facts | ({"judge_version": judge.version} if judge is not None else {})

    def items(self) -> list[Compared]:
        return [item for file in self.files() for item in self._read(file)]

    def _read(self, file: Path) -> list[Compared]:
        columns = dict(self.options.columns)
        subset = self.options.subset or _subset_of(file)
        if subset and "category" not in columns:
            columns["category"] = subset
        labels = dict(self.options.labels) or None
        read = read_groups(
            file, kind="preferences", columns=columns, labels=labels, max_skipped=0.0
        )
        found = [
            Compared(
                f"{group.prompt.id}#{k}" if k else group.prompt.id,
                Pair(group.prompt, group.responses[c.better], group.responses[c.worse]),
            )
            for group in read.groups
            for k, c in enumerate(c for c in group.comparisons if not c.tie and c.weight)
        ]
        if not found:
            raise DataError(f"{file}: no pair with a better answer; every one is a tie")
        return found

    def request_of(self, item: Compared) -> str:
        return identity(item.pair.prompt)

    def ask(self, subject: Subject, items: Sequence[Compared], work: Work) -> list[Row]:
        assert self._judge is not None
        found = verdicts(self._judge, [item.pair for item in items])
        return [
            {
                "subset": item.pair.prompt.category,
                "prompt": plain(item.pair.prompt),
                "longer": float(len(item.pair.own.text) > len(item.pair.other.text)),
                **verdict.row(),
            }
            for item, verdict in zip(items, found, strict=True)
        ]

    def measure(self, items: Sequence[Compared], rows: Sequence[Row]) -> Measured:
        right = [float(row["score"]) for row in rows]
        about = [self.request_of(item) for item in items]

        def accuracy(places: Sequence[int]) -> Interval:
            clusters = [about[i] for i in places]
            return weighted_proportion([right[i] for i in places], clusters=clusters)

        subsets: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row["subset"]:
                subsets.setdefault(str(row["subset"]), []).append(i)
        by_subset = {name: {"accuracy": accuracy(p)} for name, p in sorted(subsets.items())}
        longer = [i for i, row in enumerate(rows) if row["longer"]]
        other = [i for i, row in enumerate(rows) if not row["longer"]]
        scores = {"accuracy": accuracy(range(len(rows)))}
        if len(by_subset) > 1:
            scores["mean_of_subsets"] = mean_of([s["accuracy"] for s in by_subset.values()])
        sections, notes = section_scores({n: s["accuracy"] for n, s in by_subset.items()})
        scores |= sections
        scores |= {"better_is_longer": accuracy(longer), "better_is_not_longer": accuracy(other)}
        measured = Measured.of(
            scores,
            main="section_score" if "section_score" in sections else "accuracy",
            item_score="accuracy",
            by_category=by_subset,
            notes=notes,
        )
        if self.options.judge is not None and self._judge is not None:
            measured.judge, measured.judge_version = self._judge.name, self._judge.version
        both = [(r["own_first"], r["own_second"]) for r in rows if r["own_second"] is not None]
        seen = orders(both, [a for a, r in zip(about, rows, strict=True)
                             if r["own_second"] is not None])  # fmt: skip
        if seen is not None:
            measured.scores |= {"flips": seen.flips}
            warning = seen.warning()
            measured.notes += [warning] if warning else []
        return measured


def _subset_of(file: Path) -> str | None:
    """The column that breaks a file down, by its first row."""
    for raw in iter_rows(file):
        if isinstance(raw, RawRow):
            return next((name for name in SUBSET if name in raw.data), None)
    return None
