"""Labels by language models: what a judge says of items, kept with who, why and at what cost.

A file of labels is preference data that any stage reads, a line an item, in which ``labels`` holds
each judge's :class:`~gnomon.feedback.records.Label`; a store takes the labels alone. What was asked
and answered lies beside it, in a folder of its own, so that ``explain`` can say why a label is what
it is and a killed process pays for nothing twice.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from gnomon.errors import BudgetSpent, RunError
from gnomon.feedback.identity import digest
from gnomon.feedback.label_files import approved, as_line
from gnomon.feedback.records import Item, Label
from gnomon.files import append_line, make_folder, plain_errors
from gnomon.judges.ai import AIJudge
from gnomon.judges.panel import Panel
from gnomon.judges.protocol import judged_by
from gnomon.judges.ways import Asked, Opinion
from gnomon.records import Cost, Group, Judgement

ASKED = "asked.jsonl"
FAILED = "failed.jsonl"
WORK = ".asked"
"""What the folder beside a file of labels ends in."""
KINDS: Mapping[str, Any] = {
    "pairs": "ranking",
    "ranking": "ranking",
    "rubric": "rating",
    "score": "rating",
    "approval": "approval",
}
"""The kind of label by the judge's mode."""


class Sink(Protocol):
    """Where labels go."""

    def known(self) -> set[str]:
        """The ids of the labels that are there."""
        ...

    def add(self, item: Item, labels: Sequence[Label], judgement: Judgement) -> None:
        """Add an item's labels, and the judgement that they make together."""
        ...


@dataclass
class Summary:
    """What a session did.

    Attributes:
        items: asked about, or labelled before.
        before: labelled by an earlier session.
        labelled, failed: in this one.
        first_error: of the failed ones.
        spent: of all answers kept beside the labels, earlier sessions' too.
        over: why it stopped early; empty where it did not.
    """

    items: int
    before: int = 0
    labelled: int = 0
    failed: int = 0
    first_error: str = ""
    spent: Cost = field(default_factory=Cost)
    over: str = ""


def members_of(judge: AIJudge | Panel) -> dict[str, AIJudge]:
    """Who labels: the judge, or the members of a panel, by pseudonym."""
    if isinstance(judge, Panel):
        return {f"ai:{name}": member for name, member in judge.members.items()}
    name = judge.name if judge.name != "ai" else judge.model.rstrip("/").rpartition("/")[2]
    return {f"ai:{name}": judge}


def label_items(
    judge: AIJudge | Panel,
    items: Sequence[Item],
    sink: Sink,
    work: Path,
    *,
    chunk: int = 16,
    progress: Callable[[int, Summary], None] = lambda done, summary: None,
) -> Summary:
    """Have a judge label items; those that it labelled before are not asked about again.

    An item on which it failed, wholly or in part, gets no label: ``work/failed.jsonl`` names it
    and the reason, and the next session asks about it again.

    Args:
        work: the folder in which what was asked is kept.
        chunk: items that are asked about together.
        progress: hears how many items are done, and what came of them.

    Raises:
        RunError: the judge gave no answer at all to a whole chunk; labels so far are there.
    """
    known, who = sink.known(), members_of(judge)
    enough = judge.quorum if isinstance(judge, Panel) else 1
    left = [
        item
        for item in items
        if sum(label_id(item, name, m.version) in known for name, m in who.items()) < enough
    ]
    summary = Summary(len(items), before=len(items) - len(left))
    failed: list[dict[str, Any]] = []
    try:
        for first in range(0, len(left), chunk):
            some = left[first : first + chunk]
            found = judge.opinions([Group(item.prompt, item.responses) for item in some])
            for item, opinion in zip(some, found, strict=True):
                if opinion.over:
                    summary.over = str(judge.budget)
                    continue
                error = _label(judge, who, item, opinion, sink, work, known)
                if error is None:
                    summary.labelled += 1
                else:
                    summary.failed += 1
                    summary.first_error = summary.first_error or error
                    failed.append({"item": item.id, "prompt": item.prompt.id, "error": error})
            summary.spent = judge.book.spent
            progress(summary.before + first + len(some), summary)
            if summary.over:
                break
            _check_alive(found)
    finally:
        judge.book.load()
        summary.spent = judge.book.spent
        if work.is_dir() or failed:
            make_folder(work)
            lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in failed)
            with plain_errors(work / FAILED):
                (work / FAILED).write_text(lines, encoding="utf-8")
    return summary


def spent_error(summary: Summary, where: str) -> BudgetSpent:
    """The error to end with where the budget ended the session."""
    done = summary.before + summary.labelled
    return BudgetSpent(
        f"the budget is spent ({summary.over}): {done} of {summary.items} items are labelled, in "
        f"{where}. Give a higher budget, and the same command goes on from there"
    )


def _check_alive(found: Sequence[Opinion]) -> None:
    """Stop where nobody is there to be asked: nothing came of a whole chunk."""
    replies = [a.reply for opinion in found for a in _all_asked(opinion)]
    if replies and all(reply.gone for reply in replies):
        raise RunError(
            f"the judge answered nothing: {replies[0].error}\n"
            "The labels and answers so far are kept, and the same command goes on from them"
        )


def _all_asked(opinion: Opinion) -> list[Asked]:
    return [
        *opinion.asked,
        *(a for _, member in opinion.members for a in _all_asked(member)),
    ]


def _label(
    judge: AIJudge | Panel,
    who: Mapping[str, AIJudge],
    item: Item,
    opinion: Opinion,
    sink: Sink,
    work: Path,
    known: Container[str],
) -> str | None:
    """Write an item's labels, without those that are ``known``; gives what failed, where something
    did."""
    group = Group(item.prompt, item.responses)
    whole = judged_by(judge, group, opinion.judgement)
    error = next((s.error for s in whole.scores if s.error is not None), None)
    if error is not None:
        return error
    own = [o for _, o in opinion.members] or [opinion]
    labels = []
    for (name, member), one in zip(who.items(), own, strict=True):
        judgement = judged_by(member, group, one.judgement)
        if any(s.error is not None for s in judgement.scores):
            continue  # a quorum of the others answered
        label = make_label(item, name, member, judgement, one.asked)
        if label.id not in known:  # a panel's member may have labelled it alone, and been paid
            _note(work, member, label, one.asked)
            labels.append(label)
    sink.add(item, labels, whole)
    return None


# -- labels ----------------------------------------------------------------------------------------


def label_id(item: Item, labeller: str, version: str) -> str:
    """The same judge labels the same item once."""
    return digest("ai label", item.id, labeller, version)


def make_label(
    item: Item, labeller: str, judge: AIJudge, judgement: Judgement, asked: Sequence[Asked]
) -> Label:
    """A judgement as a label.

    Ranks are by its scores, which ``ratings`` keeps. ``confidence`` is how far its probabilities
    are from a guess, |2p - 1|, on average over what it compared or approved.
    """
    values = [s.value for s in judgement.scores]
    assert all(value is not None for value in values)
    known = [float(value) for value in values if value is not None]
    kind = KINDS[judge.options.mode]
    orders = dict.fromkeys(a.planned.shown for a in asked)
    return Label(
        id=label_id(item, labeller, judge.version),
        item=item.id,
        labeller=labeller,
        kind=kind,
        ranks=_ranks(judgement, known) if kind == "ranking" else (),
        ratings=tuple(known),
        approvals=tuple(approved(p) for p in known) if kind == "approval" else (),
        shown=next(iter(orders)) if len(orders) == 1 and len(known) > 1 else (),
        confidence=_confidence(kind, judgement, known),
        comment="\n".join(filter(None, [judgement.reason, _parts(judgement)])),
        guideline=judge.version,
        principle=judgement.principle,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        cost=judgement.cost,
    )


def _ranks(judgement: Judgement, values: Sequence[float]) -> tuple[float, ...]:
    """1 for the best; equal scores tie."""
    order = sorted({round(value, 9) for value in values}, reverse=True)
    return tuple(1.0 + order.index(round(value, 9)) for value in values)


def _confidence(kind: str, judgement: Judgement, values: Sequence[float]) -> float | None:
    if kind == "approval":
        return statistics.fmean(abs(2.0 * p - 1.0) for p in values)
    sure = [2.0 * c.probability - 1.0 for c in judgement.comparisons or () if not c.tie]
    return statistics.fmean(sure) if kind == "ranking" and sure else None


def _parts(judgement: Judgement) -> str:
    """The verdicts on a rubric's criteria, in words."""
    lines = [
        f"answer {i}: " + "; ".join(f"{name} {p:.3g}" for name, p in score.parts.items())
        for i, score in enumerate(judgement.scores, start=1)
        if score.parts
    ]
    return "\n".join(lines)


def _note(work: Path, judge: AIJudge, label: Label, asked: Sequence[Asked]) -> None:
    """What was asked for a label: the questions and answers are in the answers' file, by key."""
    rows = [
        {
            "key": judge.book.key(judge.answerer, a.planned.question),
            "about": a.planned.about,
            "shown": list(a.planned.shown),
        }
        for a in asked
    ]
    about = {"label": label.id, "item": label.item, "labeller": label.labeller}
    row = about | {"mode": judge.options.mode, "asked": rows}
    append_line(work / ASKED, as_line(row))
