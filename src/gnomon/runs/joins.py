"""joins.json: whether the answers that a stage learned from stand beside their own prompts."""

from __future__ import annotations

from pydantic import Field, RootModel

from gnomon.runs.audit import Exhibit
from gnomon.runs.comparison import Figure
from gnomon.runs.records import JsonFile, Record

JOINS = "joins.json"


class JoinedAnswers(Record):
    """One side of a source's answers.

    Attributes:
        answers: that were looked at.
        judged: those of them that clearly fit a prompt.
        share: of the judged that fit another row's prompt far better than their own.
        detectable: the share that would have been told with a chance of 80%; None where none would.
        told: whether they are at the wrong prompts, and not by chance.
        line: the figures in words.
        text: the warning, where there is one.
        exhibits: rows that show it.
    """

    answers: int = 0
    judged: int = 0
    share: Figure = None
    detectable: float | None = None
    told: bool = False
    line: str = ""
    text: str = ""
    exhibits: list[Exhibit] = Field(default_factory=list)


class Joins(JsonFile, RootModel[dict[str, dict[str, JoinedAnswers]]]):
    """joins.json of a stage: by source, by side (chosen, rejected, good, bad, response)."""

    root: dict[str, dict[str, JoinedAnswers]] = {}
