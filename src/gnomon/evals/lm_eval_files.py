"""Local files in place of the hub's data sets of lm-eval's tasks.

A task's templates, filters and metrics stay lm-eval's own; only its rows come from elsewhere. Rows
of the published files of MMLU (and DeepSeek's copy of its STEM subjects), GSM8K, HumanEval and
TruthfulQA are taken as they are; of any other task, rows with the fields that its data set has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.data.values import RowError, as_text
from gnomon.errors import DataError
from gnomon.evals.items import rows_of
from gnomon.records import Source

Row = dict[str, Any]
Splits = Mapping[str, Path]
"""A file for each split of a task's data set."""

SUBJECT = ("subject", "topic")
"""Fields that say which of MMLU's tasks a row is of."""
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Format:
    """How the rows of a family of tasks are read.

    Attributes:
        fields: what every row has, as alternatives.
        convert: a row as the hub has it; raises ValueError or RowError with the reason.
        subjects: a file holds the rows of several tasks, told apart by :data:`SUBJECT`.
    """

    fields: Sequence[Sequence[str]]
    convert: Callable[[Row], Row]
    subjects: bool = False


def _mmlu(row: Row) -> Row:
    choices = row.get("choices", row.get("options"))
    if isinstance(choices, str) or not isinstance(choices, Sequence) or len(choices) != 4:
        raise ValueError("it needs 4 choices (choices or options)")
    answer = row["answer"]
    if isinstance(answer, str) and answer.strip().upper() in tuple(_LETTERS[:4]):
        answer = _LETTERS.index(answer.strip().upper())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < 4:
        raise ValueError(f"answer is {row['answer']!r}, not one of A to D or 0 to 3")
    return {"question": _text(row, "question"), "choices": [str(c) for c in choices],
            "answer": answer}  # fmt: skip


def _gsm8k(row: Row) -> Row:
    answer = _text(row, "answer")
    if "####" not in answer:
        raise ValueError("answer has no final result after ####")
    return {"question": _text(row, "question"), "answer": answer}


def _humaneval(row: Row) -> Row:
    names = ("task_id", "prompt", "entry_point", "test")
    kept = {name: _text(row, name) for name in names}
    return {**kept, "canonical_solution": str(row.get("canonical_solution") or "")}


def _truthfulqa(row: Row) -> Row:
    """TruthfulQA.csv's columns as the hub's choices: the best answer first, then the wrong ones
    (MC1); the right answers, then the wrong ones (MC2)."""
    if "mc1_targets" in row:
        return row
    right, wrong = (_listed(_text(row, name)) for name in ("Correct Answers", "Incorrect Answers"))
    best = _text(row, "Best Answer").strip()
    if not wrong:
        raise ValueError("Incorrect Answers is empty")
    return {
        "question": _text(row, "Question"),
        "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
        "mc2_targets": {
            "choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)
        },
    }  # fmt: skip


def _text(row: Row, name: str) -> str:
    return as_text(row[name], name)


def _listed(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(";") if part.strip()))


FORMATS = {
    "mmlu": Format(
        (("question",), ("choices", "options"), ("answer",), SUBJECT), _mmlu, subjects=True
    ),
    "gsm8k": Format((("question",), ("answer",)), _gsm8k),
    "humaneval": Format(
        (("task_id",), ("prompt",), ("entry_point",), ("test",)), _humaneval
    ),
    "truthfulqa_mc": Format(
        (("Question", "question"), ("Best Answer", "mc1_targets"),
         ("Correct Answers", "mc2_targets"), ("Incorrect Answers", "mc2_targets")),
        _truthfulqa,
    ),
}  # fmt: skip
"""By how the tasks' names begin."""


def format_of(task: str) -> Format | None:
    """The format of a task's rows; None where they are as the hub has them."""
    return next((f for name, f in FORMATS.items() if task.startswith(name)), None)


def read_rows(file: Path, task: str) -> list[Row]:
    """The rows of a file as the task's data set has them; with ``subject`` where the format tells
    tasks apart by it.

    Raises:
        DataError: the file cannot be read or a row cannot be used; it names the file, the row and
            the cure.
    """
    form = format_of(task)
    if form is None:
        return [dict(row) for _, row in rows_of(file)]
    return [_converted(form, dict(row), source) for source, row in rows_of(file, form.fields)]


def _converted(form: Format, row: Row, source: Source) -> Row:
    try:
        made = form.convert(row)
    except (ValueError, RowError) as error:
        raise DataError(f"{source}: {error}") from error
    if form.subjects:
        name = next(name for name in SUBJECT if name in row)
        made["subject"] = str(row[name]).strip().lower().replace(" ", "_")
    return made


def by_subject(splits: Mapping[str, Sequence[Row]], subject: str) -> dict[str, list[Row]]:
    """The rows of one subject, in each split."""
    return {
        split: [row for row in rows if row["subject"] == subject] for split, rows in splits.items()
    }
