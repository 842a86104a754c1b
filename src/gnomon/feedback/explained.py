"""Why an AI label is what it is, and what a judge tends to say whatever it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.errors import DataError
from gnomon.evals.pairs import ALWAYS, orders
from gnomon.feedback.ailabels import ASKED
from gnomon.feedback.label_files import read_lines
from gnomon.feedback.records import Label
from gnomon.judges.answers import ANSWERS, Reply
from gnomon.judges.protocol import total_cost
from gnomon.judges.verdicts import Verdict
from gnomon.records import Cost
from gnomon.stats.intervals import Interval, weighted_proportion

ENOUGH = 20
"""Verdicts from which what a judge always says is a warning."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    Attributes:
        about: which of the item's answers it was about, counted from 1.
        shown: the answers' indices in the order they were shown in.
        system, user: what was asked.
    """

    about: str
    shown: tuple[int, ...]
    system: str
    user: str
    reply: Reply
    model: str


def exchanges(label: Label, work: Path) -> list[Exchange]:
    """What was asked and answered for a label.

    Raises:
        DataError: it is not kept there.
    """
    row = None
    for row_ in read_lines(work / ASKED):
        if row_.get("label") == label.id:
            row = row_
    if row is None:
        raise DataError(
            f"{work / ASKED} has no label {label.id}: what was asked for it is kept in the folder "
            "beside the labels when gnomon judge wrote them (--work names it)"
        )
    wanted = {asked["key"] for asked in row["asked"]}
    answers = {a["key"]: a for a in read_lines(work / ANSWERS) if a.get("key") in wanted}
    found = []
    for asked in row["asked"]:
        answer = answers.get(asked["key"])
        if answer is None:
            raise DataError(f"{work / ANSWERS} has lost the answer {asked['key'][:12]}...")
        system, user = answer.get("question") or ("", "")
        found.append(
            Exchange(
                asked["about"],
                tuple(asked["shown"]),
                system,
                user,
                reply_of(answer),
                str(answer.get("model", "")),
            )
        )
    return found


def reply_of(row: Mapping[str, Any]) -> Reply:
    """A kept answer."""
    known = Reply.__dataclass_fields__
    return Reply(**{k: v for k, v in row.items() if k in known})


# -- what it always says ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Habit:
    """What a judge says most, whatever it is asked.

    Attributes:
        words: what that is.
        share: of its verdicts, with an interval over items.
        warning: what follows from it; None where it is no cause for one.
    """

    words: str
    share: Interval
    warning: str | None = None


def habits(work: Path) -> list[Habit]:
    """The commonest verdict of all that is kept beside the labels and, where answers were compared,
    what the answer shown first won."""
    answers = {row["key"]: reply_of(row) for row in read_lines(work / ANSWERS) if "key" in row}
    labels = {row["label"]: row for row in read_lines(work / ASKED)}
    said: list[tuple[str, str]] = []
    pairs: list[tuple[float, float]] = []
    clusters: list[str] = []
    for label, row in labels.items():
        own = [(a, answers[a["key"]]) for a in row["asked"] if a["key"] in answers]
        said += [(label, r.choice) for _, r in own if r.choice is not None]
        if row.get("mode") == "pairs":
            for both in _both_orders(own):
                pairs.append(both)
                clusters.append(label)
    found = list(_commonest(said))
    place = orders(pairs, clusters)
    if place is not None:
        words = "wins of the answer shown first (0.5 is fair)"
        warning = place.warning() if len(pairs) * 2 >= ENOUGH else None
        found.append(Habit(words, place.first, warning))
        found.append(Habit("pairs whose winner changes with the order", place.flips))
    return found


def _both_orders(own: Sequence[tuple[Mapping[str, Any], Reply]]) -> Iterator[tuple[float, float]]:
    """What an answer of a pair won where it was shown first, and where second."""
    seen: dict[tuple[int, ...], float] = {}
    for asked, reply in own:
        shown = tuple(asked["shown"])
        win = Verdict.of(reply.shares).win
        other = seen.pop(shown[::-1], None)
        if other is None:
            seen[shown] = win
        else:
            yield other, 1.0 - win


def _commonest(said: Sequence[tuple[str, str]]) -> Iterator[Habit]:
    if not said:
        return
    word = Counter(choice for _, choice in said).most_common(1)[0][0]
    share = weighted_proportion(
        [float(choice == word) for _, choice in said], clusters=[label for label, _ in said]
    )
    warning = None
    if share.value >= ALWAYS and len(said) >= ENOUGH:
        warning = (
            f"the judge says {word!r} in {share.value:.0%} of its {len(said)} verdicts, whatever "
            "it is asked: its labels tell little apart. Look at some with gnomon judge explain, "
            "and measure it with gnomon calibrate before anything is trained on them"
        )
    yield Habit(f"its commonest verdict, {word!r}", share, warning)


# -- what it cost, and where a panel differs -------------------------------------------------------


def costs(work: Path) -> dict[str, Cost]:
    """What all answers took, by model."""
    found: dict[str, list[Cost]] = {}
    for row in read_lines(work / ANSWERS):
        if "key" in row:
            found.setdefault(str(row.get("model", "")), []).append(reply_of(row).cost)
    return {model: total_cost(own) for model, own in sorted(found.items())}


def disagreement(work: Path) -> Interval | None:
    """The share of verdicts on which members of a panel differ, over items; None where each was
    given by one model alone."""
    answers = {row["key"]: row for row in read_lines(work / ANSWERS) if "key" in row}
    seen: dict[tuple[str, str], dict[str, list[Reply]]] = {}
    for row in read_lines(work / ASKED):
        for asked in row["asked"]:
            answer = answers.get(asked["key"])
            if answer is not None:
                what = (str(row.get("item")), f"{asked['about']} {sorted(asked['shown'])}")
                own = seen.setdefault(what, {}).setdefault(str(row.get("labeller")), [])
                own.append(reply_of(answer))
    several = {what: own for what, own in seen.items() if len(own) > 1}
    if not several:
        return None
    differs = [float(len(set(map(_verdict, own.values()))) > 1) for own in several.values()]
    return weighted_proportion(differs, clusters=[item for item, _ in several])


def _verdict(replies: Sequence[Reply]) -> str:
    """What a member says, of a pair in both orders."""
    if len(replies) == 2 and all(set(r.shares) <= set("ABC") for r in replies):
        one, two = (Verdict.of(r.shares) for r in replies)
        win = (one.win + 1.0 - two.win) / 2
        return "tie" if abs(win - 0.5) < 1e-9 else str(win > 0.5)
    return "; ".join(str(r.choice or r.probabilities) for r in replies)
