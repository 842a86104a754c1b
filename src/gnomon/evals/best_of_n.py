"""What choosing the best of n answers gives, by n: how much a reward has left to find, and whether
what it finds is better by another judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from gnomon.errors import ConfigError
from gnomon.evals.judging import JudgeSpec, described, open_judge
from gnomon.evals.questions import QuestionOptions, Questions
from gnomon.evals.rows import COST, KEPT
from gnomon.evals.subject import Subject
from gnomon.evals.suite import Measured, Row, Work
from gnomon.judges.protocol import Judge, judged
from gnomon.records import Group, Prompt
from gnomon.stats.best_of import best_of, best_of_kl
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import by_request, gain_over_prompts, ks_up_to, over_items


class BestOfOptions(QuestionOptions):
    """Options of the suite ``best_of_n``."""

    samples: int = Field(16, ge=2, description="answers to each prompt: the largest n")
    temperature: float = Field(1.0, gt=0)
    select: JudgeSpec = Field(
        None,
        description="by whose score the best is chosen, where it is not the judge's: a reward "
        "model, say, whose choices another judge then looks at",
    )


class BestOfN(Questions):
    """The expected score of the best of n answers, for n = 1, 2, 4, ...

    With ``select`` the best is chosen by that score, and ``best_of_N`` is what the judge says of
    it: a curve that turns down is over-optimisation (Gao et al. 2023, arXiv 2210.10760), seen
    before any training. ``gain`` is the largest n less one answer, paired by prompt.
    """

    title: ClassVar[str] = "best_of_n"
    summary: ClassVar[str] = "expected score of the best of n answers, chosen by a reward"
    options_class: ClassVar = BestOfOptions
    scores: ClassVar[tuple[str, ...]] = ("best_of_", "gain")

    def __init__(self, options: Any, base: Any) -> None:
        super().__init__(options, base)
        self._select: Judge | None = None

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        if self.options.select is not None and self._select is None:
            self._select = open_judge(self.options.select, self.base, subject)

    def judges(self) -> list[Judge]:
        chooses = [] if self._select is None else [self._select]
        return [*super().judges(), *chooses]

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        if self._select is None:
            return facts
        chosen = {"select": described(self.options.select), "select_version": self._select.version}
        return facts | chosen

    def grade(self, groups: Sequence[Group]) -> list[Row]:
        rows = super().grade(groups)
        if self._select is not None:
            remembers = self._select.remembers
            for row, judgement in zip(rows, judged(self._select, groups), strict=True):
                row["keys"] = [score.value for score in judgement.scores]
                own = {name: row[name] for name in COST}
                chose = {"tokens": judgement.cost.tokens, "money": judgement.cost.money}
                row |= {name: own[name] + chose[name] for name in COST}
                if remembers != self.judge.remembers:
                    row[KEPT] = chose if remembers else own
        return rows

    def ask(self, subject: Subject, items: Sequence[Prompt], work: Work) -> list[Row]:
        rows = super().ask(subject, items, work)
        for row in rows:
            values, keys = row.get("score", []), row.get("keys", [])
            if "error" not in row and None in [*values, *keys]:
                row["error"] = "an answer has no score, so the best is not known"
        return rows

    def measure(self, items: Sequence[Prompt], rows: Sequence[Row]) -> Measured:
        ns = ks_up_to(self.options.samples)
        if any(len(row["score"]) < ns[-1] for row in rows):
            raise ConfigError(f"best_of_n needs {ns[-1]} answers to each prompt")
        curve = {n: [[best_of(row["score"], n, row.get("keys"))] for row in rows] for n in ns}
        asked = [self.request_of(item) for item in items]

        def gain(n: int, over: int) -> Interval:
            (own, weights), (other, _) = (by_request(curve[k], asked) for k in (n, over))
            return gain_over_prompts(own, other, None, weights=weights)

        scores = {f"best_of_{n}": over_items(values, asked, None) for n, values in curve.items()}
        scores["gain"] = gain(ns[-1], 1)
        judge = self.judge
        notes = [f"best of {ns[-1]} is at most {best_of_kl(ns[-1]):.2f} nats from the model"]
        peak = max(ns, key=lambda n: scores[f"best_of_{n}"].value)
        if peak != ns[-1]:
            drop = gain(ns[-1], peak)
            if drop.excludes(0.0):
                notes.append(
                    f"the judge likes the best of {ns[-1]} less than the best of {peak} ({drop}): "
                    "what chooses is over-optimised"
                )
        return Measured.of(
            scores,
            main=f"best_of_{ns[-1]}",
            item_score="best_of_1",
            notes=notes,
            judge=judge.name,
            judge_version=judge.version,
        )
