"""Data in which answers stand beside other rows' prompts: what is learned from it is noise."""

from __future__ import annotations

from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Finding, Status
from gnomon.runs.joins import JoinedAnswers

NAME, DETECTOR = "misjoined_answers", "joins"


def joins(evidence: Evidence) -> list[Finding]:
    """Of each source that a stage learned from, the side whose answers stray most from the prompts
    beside them, by the words that they take up; measured when the data was read."""
    return [
        _finding(evidence, source, *max(sides.items(), key=_stray))
        for source, sides in evidence.joins.root.items()
        if sides
    ]


def _stray(side: tuple[str, JoinedAnswers]) -> tuple[bool, float, int]:
    share = side[1].share
    return side[1].told, -1.0 if share is None else share.low, side[1].judged


def _finding(evidence: Evidence, source: str, side: str, found: JoinedAnswers) -> Finding:
    what = "answers" if side == "response" else f"{side} answers"
    if not found.line or found.share is None or not found.share.known or not found.judged:
        needs = f"{what} in {source} that take up words of their prompts"
        return evidence.finding(NAME, DETECTOR, status="not_looked", needs=needs)
    status: Status = "alarm" if found.told else "clear"
    limit = LIMITS[DETECTOR].value
    if not found.told and (found.detectable is None or found.share.high > limit):
        status = "unclear"
    return evidence.finding(
        NAME,
        DETECTOR,
        status=status,
        measure=f"{what} in {source} that fit another row's prompt better than their own, share",
        figure=found.share,
        limit=limit,
        detectable=found.detectable,
        text=f"In {source}, {found.text}." if found.told else "",
        exhibits=found.exhibits if found.told else [],
        first=f"join the answers in {source} to their own prompts" if found.told else "",
    )
