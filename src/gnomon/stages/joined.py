"""Whether the answers that a stage reads from a file stand beside their own prompts, as records."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.data.joins import Side, look
from gnomon.records import Group
from gnomon.runs.audit import Exhibit
from gnomon.runs.joins import JoinedAnswers


def joins_of(groups: Sequence[Group]) -> dict[str, JoinedAnswers]:
    """By side, what was found; nothing of prompts alone."""
    return {side.part: _record(side) for side in look(groups)}


def _record(side: Side) -> JoinedAnswers:
    found = side.joined
    return JoinedAnswers(
        answers=found.answers,
        judged=found.judged,
        share=found.share if found.looked else None,
        detectable=found.detectable,
        told=found.told,
        line=side.line,
        text=side.warning,
        exhibits=[
            Exhibit(
                prompt=row.prompt,
                response=row.answer,
                shows=f"row {row.row}; the answer fits row {row.fits}: {row.asks}",
            )
            for row in side.rows
        ],
    )
