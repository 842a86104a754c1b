"""MT-Bench: two turns a question, each graded from 1 to 10 by a named judge (Zheng et al. 2023,
"Judging LLM-as-a-judge with MT-Bench and Chatbot Arena", arXiv 2306.05685)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from gnomon.errors import ConfigError, DataError
from gnomon.evals.asking import Unanswered
from gnomon.evals.items import CATEGORY, field, find_file, rows_of, text_of, word_of
from gnomon.evals.judging import JudgeSpec, check_spec, described, open_judge
from gnomon.evals.sampling import SampleOptions
from gnomon.evals.subject import Stored, Subject
from gnomon.evals.suite import ItemSuite, Measured, Row, Work
from gnomon.evals.verdict_files import prompt_id
from gnomon.files import fingerprint
from gnomon.judges.ai import AIJudge
from gnomon.judges.endpoint import Endpoint
from gnomon.judges.prompting import SCORES, Question
from gnomon.judges.protocol import judged
from gnomon.judges.reading import UNREAD
from gnomon.records import Group, Message, Prompt, Response, Source
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import over_items

TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}
"""What MT-Bench samples a category with, where it is not greedy."""
WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose judge is shown a reference answer."""
NO_REFERENCE = (
    "{} of {} questions are of maths, reasoning or coding and have no reference answer, which "
    "MT-Bench shows to the judge there (--option references=FILE): their grades are not MT-Bench's"
)
RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
PLAIN, REFERENCED = (
    ("single-v1", "single-v1-multi-turn"),
    (
        "single-math-v1",
        "single-math-v1-multi-turn",
    ),
)


class MTBenchOptions(SampleOptions):
    """Options of the suite ``mt_bench``."""

    temperature: float | None = Field(  # type: ignore[assignment]
        None, ge=0, description="default: what MT-Bench gives each category"
    )
    judge: JudgeSpec = Field(None, description="who grades; an AI judge, say")
    judge_prompts: str | None = Field(
        None, description="MT-Bench's file of prompts, for an AI judge behind an endpoint"
    )
    references: str | None = Field(
        None, description="file of reference answers, for the mathematical categories"
    )


@dataclass(frozen=True)
class TwoTurns:
    """A question of two turns, and the reference answers where its category has some."""

    id: str
    category: str
    turns: tuple[str, ...]
    source: Source
    reference: tuple[str, ...] = ()

    def prompt(self, answers: Sequence[str]) -> Prompt:
        """The conversation up to the next answer."""
        messages: list[Message] = []
        for turn, answer in zip(self.turns, answers, strict=False):
            messages += [Message("user", turn), Message("assistant", answer)]
        messages.append(Message("user", self.turns[len(answers)]))
        id = f"{self.id}/{len(answers) + 1}"
        meta = {"reference": list(self.reference)}
        return Prompt(id, tuple(messages), source=self.source, category=self.category, meta=meta)


class MTBench(ItemSuite[TwoTurns]):
    """Grades two-turn conversations; ``score`` is the mean over questions of the turns' grades.

    It reads MT-Bench's ``question_id``, ``category`` and ``turns`` (two of them, or as many as a
    question has where another judge grades). With ``judge_prompts`` an AI
    judge behind an endpoint is asked with MT-Bench's own prompts and its ``[[rating]]`` is read;
    any other judge gives its own scores, whatever their scale. Figures by different judges, or by
    another version of one, are not comparable; the record names it.
    """

    title: ClassVar[str] = "mt_bench"
    summary: ClassVar[str] = "two-turn questions graded from 1 to 10 by a named judge"
    options_class: ClassVar = MTBenchOptions
    scores: ClassVar[tuple[str, ...]] = ("score", "turn_")
    opinion: ClassVar[bool] = True
    chunk: ClassVar[int] = 8

    def __init__(self, options: Any, base: Path) -> None:
        super().__init__(options, base)
        self._prompts: dict[str, tuple[str, str]] = {}

    def check(self) -> None:
        self.files()
        if self.options.judge_prompts is not None:
            self.items()
        check_spec(self.options.judge, "suite mt_bench")
        if not self.options.data:
            raise ConfigError("suite mt_bench needs its questions: --data FILE, with turns")
        if self.options.samples != 1:
            raise ConfigError("suite mt_bench asks once: remove samples")

    def files(self) -> list[Path]:
        more = filter(None, [self.options.judge_prompts, self.options.references])
        return [find_file(file, self.base) for file in [*self.options.data, *more]]

    def prepare(self, subject: Subject) -> None:
        if isinstance(subject, Stored):
            raise ConfigError("suite mt_bench asks in two turns: it needs a model, not its answers")
        spec = check_spec(self.options.judge, "suite mt_bench")
        self._judge = self._judge or open_judge(spec, self.base, subject)
        if self.options.judge_prompts is None:
            return
        if not (isinstance(self._judge, AIJudge) and isinstance(self._judge.answerer, Endpoint)):
            raise ConfigError(
                "suite mt_bench: judge_prompts are for an AI judge behind an endpoint, which says "
                "why before it grades; remove them, or name one: '{builtin: ai, options: {...}}'"
            )
        file = find_file(self.options.judge_prompts, self.base)
        needs = (("name",), ("system_prompt",), ("prompt_template",))
        for source, row in rows_of(file, needs):
            name = text_of(row, ("name",), source)
            self._prompts[name] = (str(row["system_prompt"]), str(row["prompt_template"]))
        lost = [name for name in (*PLAIN, *REFERENCED) if name not in self._prompts]
        if lost:
            raise DataError(f"{file}: it has no prompt called {', '.join(lost)}")

    def facts(self) -> Mapping[str, Any]:
        assert self._judge is not None
        facts = {"judge": described(self.options.judge), "judge_version": self._judge.version}
        if self.options.judge_prompts:
            file = find_file(self.options.judge_prompts, self.base)
            facts["judge_prompts"] = fingerprint(file)["sha256"]
        return facts

    def items(self) -> list[TwoTurns]:
        references = self._references()
        found = []
        for name in self.options.data:
            for source, row in rows_of(find_file(name, self.base), (("turns",),)):
                turns = row["turns"]
                if not (isinstance(turns, list) and turns and all(map(_is_text, turns))):
                    raise DataError(f"{source}: 'turns' must be a list of texts")
                if self.options.judge_prompts is not None and len(turns) > len(PLAIN):
                    raise DataError(
                        f"{source}: {len(turns)} turns, and judge_prompts grade {len(PLAIN)}: "
                        "leave the others out, or leave judge_prompts out and have a judge grade "
                        "each"
                    )
                id = word_of(row, ("question_id",)) or f"row {source.row}"
                category = word_of(row, CATEGORY) or ""
                known = references.get(id, ()) if category in WITH_REFERENCE else ()
                found.append(TwoTurns(id, category, tuple(turns), source, known))
        return found

    def _references(self) -> dict[str, tuple[str, ...]]:
        if self.options.references is None:
            return {}
        found = {}
        file = find_file(self.options.references, self.base)
        for source, row in rows_of(file, (("question_id",), ("choices",))):
            choices = field(row, ("choices",), source)
            first = choices[0] if isinstance(choices, list) and choices else {}
            turns = first.get("turns") if isinstance(first, dict) else None
            if not (isinstance(turns, list) and all(map(_is_text, turns))):
                raise DataError(f"{source}: 'choices' must begin with an answer that has 'turns'")
            found[str(row["question_id"])] = tuple(turns)
        return found

    # -- asking and grading -----------------------------------------------------------------------

    def ask(self, subject: Subject, items: Sequence[TwoTurns], work: Work) -> list[Row]:
        answers: list[list[str]] = [[] for _ in items]
        cut = [0 for _ in items]
        failed: dict[int, str] = {}
        for turn in range(max(len(item.turns) for item in items)):
            open_ = [
                i for i, item in enumerate(items) if turn < len(item.turns) and i not in failed
            ]
            for i, found in self._answered(subject, items, answers, open_):
                if isinstance(found, Unanswered):
                    failed[i] = found.reason
                else:
                    answers[i].append(found.responses[0].text)
                    cut[i] += not found.responses[0].finished
        return [
            {"error": failed[i]}
            if i in failed
            else {"cut": cut[i], **self._graded(item, answers[i])}
            for i, item in enumerate(items)
        ]

    def _answered(
        self,
        subject: Subject,
        items: Sequence[TwoTurns],
        answers: Sequence[Sequence[str]],
        places: Sequence[int],
    ) -> list[tuple[int, Group | Unanswered]]:
        """The next answer of each conversation, sampled as its category is."""
        out: list[tuple[int, Group | Unanswered]] = []
        by_temperature: dict[float, list[int]] = {}
        for i in places:
            given = self.options.temperature
            own = TEMPERATURES.get(items[i].category, 0.0) if given is None else given
            by_temperature.setdefault(own, []).append(i)
        for temperature, group in by_temperature.items():
            ask = replace(self.options.ask(), temperature=temperature)
            prompts = [items[i].prompt(answers[i]) for i in group]
            out += zip(group, subject.answer(prompts, ask), strict=True)
        return out

    def _graded(self, item: TwoTurns, answers: Sequence[str]) -> Row:
        row: Row = {"category": item.category, "turns": list(item.turns), "answers": list(answers)}
        if self._prompts:
            return {**row, **self._by_prompts(item, answers)}
        assert self._judge is not None
        groups = []
        for turn, answer in enumerate(answers):
            prompt = item.prompt(answers[:turn])
            groups.append(_group(prompt, answer))
        found = judged(self._judge, groups)
        row |= {
            "tokens": sum(j.cost.tokens for j in found),
            "money": sum(j.cost.money for j in found),
        }
        errors = [j.scores[0].error for j in found if j.scores[0].error is not None]
        if errors:
            return {**row, "error": errors[0]}
        scores = [j.scores[0].value or 0.0 for j in found]
        return {**row, "grades": scores, "score": sum(scores) / len(scores)}

    def _by_prompts(self, item: TwoTurns, answers: Sequence[str]) -> Row:
        """Grades by MT-Bench's own prompts: the first turn alone, then the conversation.

        The last ``[[rating]]`` of a reply counts; MT-Bench's own program takes the first, which a
        judge may have quoted from the answer.
        """
        assert isinstance(self._judge, AIJudge)
        names = REFERENCED if item.reference else PLAIN
        fills = {"question": item.turns[0], "answer": answers[0]}
        for i, (turn, answer) in enumerate(zip(item.turns, answers, strict=True), start=1):
            fills |= {f"question_{i}": turn, f"answer_{i}": answer}
        for i, reference in enumerate(item.reference, start=1):
            fills[f"ref_answer_{i}"] = reference
        questions = [
            Question(
                self._prompts[name][0], filled(self._prompts[name][1], fills), SCORES, reason=True
            )
            for name in names[: len(answers)]
        ]
        replies = self._judge.book.ask(self._judge.answerer, questions)
        cost = {
            "tokens": sum(r.tokens for r in replies),
            "money": sum(r.money for r in replies),
        }
        grades, reasons = [], []
        for reply in replies:
            found = RATING.findall(reply.text)
            if not found or not 1.0 <= float(found[-1]) <= 10.0:
                told = f"{UNREAD}, no [[rating]]: {reply.text}" if reply.text else reply.error
                return {"error": told or "the judge wrote nothing", **cost}
            grades.append(float(found[-1]))
            reasons.append(reply.text)
        return {"grades": grades, "score": sum(grades) / len(grades), "reasons": reasons, **cost}

    def request_of(self, item: TwoTurns) -> str:
        return prompt_id("\n\n".join(item.turns))

    def measure(self, items: Sequence[TwoTurns], rows: Sequence[Row]) -> Measured:
        asked = [self.request_of(item) for item in items]

        def mean(values: Sequence[float | None], places: Sequence[int]) -> Interval:
            return over_items([[v] for v in values], [asked[i] for i in places], None)

        every = range(len(rows))
        scores = {"score": mean([row["score"] for row in rows], every)}
        for turn in range(max(len(row["grades"]) for row in rows)):
            grades = [row["grades"][turn] if turn < len(row["grades"]) else None for row in rows]
            scores[f"turn_{turn + 1}"] = mean(grades, every)
        by_category: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row["category"]:
                by_category.setdefault(row["category"], []).append(i)
        categories = {
            name: {"score": mean([rows[i]["score"] for i in places], places)}
            for name, places in sorted(by_category.items())
        }
        assert self._judge is not None
        bare = [i for i in items if i.category in WITH_REFERENCE and not i.reference]
        return Measured.of(
            scores,
            main="score",
            item_score="score",
            notes=[NO_REFERENCE.format(len(bare), len(items))] if self._prompts and bare else [],
            by_category=categories,
            judge=self._judge.name,
            judge_version=self._judge.version,
        )


def filled(template: str, fills: Mapping[str, str]) -> str:
    """The template with its places filled in one pass: braces in an answer mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda m: fills.get(m[1], m[0]), template)


def _group(prompt: Prompt, answer: str) -> Group:
    return Group(prompt, (Response((Message("assistant", answer),)),))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
