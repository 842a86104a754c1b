"""A user's own questions: a prompt, a reference answer, and a verifier (or any reward) by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from gnomon.data.fields import COMPLETION
from gnomon.errors import ConfigError
from gnomon.evals.asking import Unanswered
from gnomon.evals.items import CATEGORY, PROMPTS, prompt_of, rows_of, word_of
from gnomon.evals.judging import JudgeSpec, described, open_judge
from gnomon.evals.pairwise import identity
from gnomon.evals.rows import FAILED
from gnomon.evals.sampling import SampleOptions
from gnomon.evals.subject import Subject
from gnomon.evals.suite import ItemSuite, Measured, Row, Work
from gnomon.judges.protocol import Judge, judged
from gnomon.records import Group, Prompt
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import ks_up_to, over_items, pass_curve


class QuestionOptions(SampleOptions):
    """Options of the suite ``questions``."""

    judge: JudgeSpec = Field(
        None,
        description="who says whether an answer is right: maths, exact, regex, json, code, "
        "instructions, file.py:name, a reward model's folder, or a reward's mapping",
    )


class Questions(ItemSuite[Prompt]):
    """Asks a user's own questions and has a verifier grade the answers.

    Each row of the files has a prompt (``prompt``, ``question``, ``messages``, ...), and whatever
    the verifier reads (``answer``, say) in fields beside it; ``category`` breaks the figures down.
    """

    title: ClassVar[str] = "questions"
    summary: ClassVar[str] = "your own questions: a prompt, a reference answer, a verifier by name"
    options_class: ClassVar = QuestionOptions
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "score", "finished", "pass@")

    def check(self) -> None:
        super().check()
        if not self.options.data:
            raise ConfigError(f"suite {self.title} needs a file: --data FILE, with a prompt a row")
        if self.options.judge is None:
            raise ConfigError(
                f"suite {self.title} needs to know who grades: --judge maths (exact, regex, json, "
                "code, instructions, file.py:name, or a reward model's folder)"
            )

    def items(self) -> list[Prompt]:
        return [
            prompt_of(row, source, category=word_of(row, CATEGORY), answers=COMPLETION, meta=row)
            for file in self.files()
            for source, row in rows_of(file, (PROMPTS,))
        ]

    def prepare(self, subject: Subject) -> None:
        if self._judge is None:
            self._judge = open_judge(self.options.judge, self.base, subject)

    @property
    def judge(self) -> Judge:
        """Who grades."""
        assert self._judge is not None
        return self._judge

    def facts(self) -> dict[str, Any]:
        return {"judge": described(self.options.judge), "judge_version": self.judge.version}

    def ask(self, subject: Subject, items: Sequence[Prompt], work: Work) -> list[Row]:
        answered = subject.answer(items, self.options.ask())
        graded = iter(self.grade([a for a in answered if not isinstance(a, Unanswered)]))
        return [
            {FAILED: found.reason} if isinstance(found, Unanswered) else next(graded)
            for found in answered
        ]

    def grade(self, groups: Sequence[Group]) -> list[Row]:
        """A row for each prompt with its answers."""
        rows: list[Row] = []
        for group, judgement in zip(groups, judged(self.judge, groups), strict=True):
            scores = [score.value for score in judgement.scores]
            row: Row = {
                "category": group.prompt.category,
                "answers": [r.text for r in group.responses],
                "finished": [r.finished for r in group.responses],
                "score": scores,
                "tokens": judgement.cost.tokens,
                "money": judgement.cost.money,
            }
            if judgement.reason:
                row["reason"] = judgement.reason
            if all(score is None for score in scores):
                row[FAILED] = judgement.scores[0].error
            rows.append(row)
        return rows

    def request_of(self, item: Prompt) -> str:
        return identity(item)

    def measure(self, items: Sequence[Prompt], rows: Sequence[Row]) -> Measured:
        values = [row["score"] for row in rows]
        asked = [self.request_of(item) for item in items]
        right = {v for row in values for v in row if v is not None} <= {0.0, 1.0}
        main = "accuracy" if right else "score"
        scores = {main: over_items(values, asked)}
        if right and self.options.samples > 1:
            ks = ks_up_to(self.options.samples)
            flags = [[None if v is None else v == 1.0 for v in row] for row in values]
            scores |= {
                f"pass@{k}": c for k, c in zip(ks, pass_curve(flags, ks, asked), strict=True)
            }
        ended = [list(map(float, row["finished"])) for row in rows]
        scores["finished"] = over_items(ended, asked, (0, 1))
        judge = self.judge
        return Measured.of(
            scores,
            main=main,
            item_score=main,
            by_category=by_category(rows, asked, main),
            judge=judge.name,
            judge_version=judge.version,
        )


def by_category(
    rows: Sequence[Row], asked: Sequence[str], main: str
) -> dict[str, dict[str, Interval]]:
    """The mean score of each category, where rows have any.

    Args:
        asked: what each row's item asks.
    """
    found: dict[str, list[tuple[Any, str]]] = {}
    for row, of in zip(rows, asked, strict=True):
        if row.get("category"):
            found.setdefault(str(row["category"]), []).append((row["score"], of))
    return {
        name: {main: over_items([values for values, _ in own], [of for _, of in own])}
        for name, own in sorted(found.items())
    }
