"""answers.jsonl: what every compared policy answered to the same prompts, one line an answer.

comparison.json holds the figures and a few answers to show; these are all of them, so that what a
stage changed can be read prompt by prompt, also after a stage that samples nothing (DPO).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gnomon.files import first_line, write_text
from gnomon.runs.records import Record

ANSWERS = "answers.jsonl"


class Answer(Record):
    """One policy's answer to a prompt.

    Attributes:
        model: ``base`` or the stage's name.
        sample: which of the policy's answers to the prompt, from 0.
        length: in tokens, EOS included.
        finished: False where it was cut off at the length limit.
        error: why the environment failed the episode: what there is of it is no answer, and is in
            no figure.
    """

    model: str = ""
    prompt_id: str = ""
    category: str | None = None
    prompt: str = ""
    response: str = ""
    sample: int = 0
    length: int = 0
    finished: bool = True
    error: str | None = None


def write_answers(run: Path, answers: Iterable[Answer]) -> None:
    """Write a run's answers, replacing those that are there in one step."""
    lines = (json.dumps(a.model_dump(), ensure_ascii=False) for a in answers)
    text = "".join(f"{line}\n" for line in lines)
    write_text(run / ANSWERS, text.encode("utf-8", "replace").decode("utf-8"))


def read_answers(run: Path) -> tuple[list[Answer], list[str]]:
    """A run's answers, and what could not be read; none where the file is not there."""
    file = run / ANSWERS
    if not file.exists():
        return [], []
    answers: list[Answer] = []
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        return [], [f"{ANSWERS} cannot be read ({first_line(error)})"]
    wrong: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        row = _row(line)
        if row is None:
            wrong.append(number)
        else:
            answers.append(Answer.parse(row))
    if not wrong:
        return answers, []
    others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return answers, [f"{ANSWERS}, line {wrong[0]}{others}: not an answer; left out"]


def _row(line: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    told = isinstance(row, Mapping) and all(
        isinstance(row.get(key), str) for key in ("model", "prompt_id", "response")
    )
    return row if told else None
