"""Signs that a labeller goes by something else than which answer is better: flags, not scores.

Every sign has a figure with its interval, what an honest labeller would show, and the smallest
departure that these labels could have shown. A flag is raised where the figure leaves out what is
allowed at a level shared by all figures of the report (Bonferroni), so that a report on honest
labellers raises a single one in about 5% of cases. No flag changes a weight: a person looks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped]

from gnomon.feedback.ballots import A, B, Ballots, Floats, Ints, Pair
from gnomon.feedback.dawid_skene import fit, without_own
from gnomon.feedback.records import Item, Label, Vote, standing
from gnomon.feedback.records import votes as votes_of
from gnomon.records import Prompt, Response
from gnomon.stats.intervals import Interval, t_quantile, weighted_proportion

LEVEL, POWER = 0.95, 0.8
LEAST = 10
"""Votes (or labels) below which nothing is said."""
READING = 238.0 * 3.0
"""Words a minute that nobody reads: three times the mean of silent reading (Brysbaert 2019, "How
many words do we read per minute?")."""
SMALL, TOO_FAST, SAME_KEY, COPIED = 0.02, 0.2, 0.8, 0.1
"""Shares that are allowed: leaning to one side, labels given too fast, the same key, comments that
were made before."""
COMMENT = 4
"""Words from which on a comment that was made before is a copy, not a short remark."""

Agrees = Callable[[Prompt, Response], bool | None]


@dataclass(frozen=True, slots=True)
class Sign:
    """One figure of one labeller.

    Attributes:
        kind: length, position, belief, drift, speed, same_key or copied.
        figure: what was measured, with its 95% interval.
        allowed: the most that raises nothing; signs on both sides of 0 or 1/2 are symmetrical
            about ``honest``.
        honest: what an honest labeller shows.
        detectable: the smallest departure from what is allowed that would be flagged with a chance
            of 80%, of as many labels; infinite where no departure would.
        raised: whether it is a flag.
        words: the same for people.
    """

    labeller: str
    kind: str
    figure: Interval
    honest: float
    allowed: float
    detectable: float
    raised: bool
    words: str


def stated_belief(prompt: Prompt, response: Response) -> bool | None:
    """Whether a response says what the user stated as their belief (``prompt.meta["belief"]``);
    None where none is known."""
    belief = prompt.meta.get("belief")
    if belief is None or not str(belief).strip():
        return None
    said = rf"(?<!\w){re.escape(str(belief).strip())}(?!\w)"
    return re.search(said, response.text, re.IGNORECASE) is not None


def flags(
    items: Iterable[Item],
    labels: Iterable[Label],
    *,
    votes: Sequence[Vote] | None = None,
    agrees: Agrees = stated_belief,
) -> list[Sign]:
    """Every sign of every labeller who has left enough for it, flags first.

    Args:
        votes: those in the labels; given where there are votes only.
        agrees: whether a response agrees with what the user said they believe.
    """
    known = {item.id: item for item in items}
    kept = standing(labels)
    given = votes_of(kept) if votes is None else list(votes)
    tests = [*_against_consensus(known, kept, given, agrees), *_own_ways(known, kept)]
    level = 1.0 - (1.0 - LEVEL) / max(1, len(tests))
    signs = [test.sign(level) for test in tests]
    return sorted(signs, key=lambda s: (not s.raised, s.labeller, s.kind))


@dataclass(frozen=True)
class _Test:
    """A figure before it is compared with others: its interval at a level."""

    labeller: str
    kind: str
    at: Callable[[float], Interval]
    honest: float
    allowed: float
    most: float
    says: str
    two_sided: bool = True

    def sign(self, level: float) -> Sign:
        shown, strict = self.at(LEVEL), self.at(level)
        room = self.allowed - self.honest
        raised = strict.low > self.honest + room
        raised = raised or (self.two_sided and strict.high < self.honest - room)
        error = (shown.high - shown.low) / (2.0 * float(ndtri((1.0 + LEVEL) / 2.0)))
        needed = error * (float(ndtri((1.0 + level) / 2.0)) + float(ndtri(POWER)))
        detectable = needed if needed <= self.most - self.allowed else math.inf
        words = self.says.format(
            who=self.labeller, shown=f"{shown.value:+.2f}", share=f"{shown.value:.0%}"
        )
        return Sign(
            self.labeller, self.kind, shown, self.honest, self.allowed, detectable, raised, words
        )


# -- what is compared with the others' consensus --------------------------------------------------


def _against_consensus(
    known: Mapping[str, Item], labels: Sequence[Label], votes: Sequence[Vote], agrees: Agrees
) -> Iterator[_Test]:
    """Length, belief, position and drift."""
    ballots = Ballots.of(votes)
    if not ballots.pairs:
        return
    fitted = fit(ballots)
    rest = without_own(ballots, fitted)
    said = 1.0 - ballots.said  # 1 for a, 0 for a tie, -1 for b
    lean = rest[:, A] - rest[:, B]  # what the others say
    beyond = (said - lean * (fitted.right - fitted.wrong)[ballots.labeller]) / 2.0
    pairs = [ballots.pairs[p] for p in ballots.pair.tolist()]
    for kind, side, says in (
        ("length", _longer(known, pairs), "{who} takes the longer answer {shown} more often than "
         "the others' verdicts and their own accuracy let expect"),
        ("belief", _agreeing(known, pairs, agrees), "{who} takes the answer that agrees with what "
         "the user said they believe {shown} more often than the others' verdicts let expect"),
    ):  # fmt: skip
        yield from _leaning(ballots, kind, side, beyond, says)
    first = np.array([_first(votes[i]) for i in ballots.kept.tolist()])
    shown_first = (1.0 + said * first) / 2.0
    for k, at in _by_labeller(ballots, (first != 0) & (said != 0)):
        item = ballots.item[ballots.pair[at]].tolist()
        yield _Test(
            ballots.labellers[k], "position", _share(shown_first[at], item), 0.5, 0.5 + SMALL, 1.0,
            "{who} takes the answer shown first in {share} of the choices",
        )  # fmt: skip
    yield from _drift(ballots, labels, said * lean, pairs)


def _leaning(
    ballots: Ballots, kind: str, side: Floats, beyond: Floats, says: str
) -> Iterator[_Test]:
    """Whether a labeller leans to the side [N] (1: a, -1: b, 0: neither) more than the others.

    What all share is no sign: the longer answer may well be the better one.
    """
    leaning = side * beyond
    for k, at in _by_labeller(ballots, side != 0):
        others = np.flatnonzero((side != 0) & (ballots.labeller != k))
        own = _item_means(ballots, leaning, at)
        pool = _item_means(ballots, leaning, others)
        if len(pool) >= 2:
            yield _Test(
                ballots.labellers[k], kind, _less(own, pool), 0.0, SMALL, 1.0, says
            )  # fmt: skip


def _drift(
    ballots: Ballots, labels: Sequence[Label], agreement: Floats, pairs: Sequence[Pair]
) -> Iterator[_Test]:
    """Whether a labeller's agreement with the others changes from their first half to the second.

    Agreement is 1 where the others are sure of what was said, -1 where of the contrary. The halves
    are parted by time: labels of one moment (all of a day, where only days are known) stay
    together, whatever order their items are in.
    """
    when = {(x.item, x.labeller): t for x in labels if (t := _moment(x.at)) is not None}
    for k, at in _by_labeller(ballots, np.ones(len(agreement), dtype=bool)):
        name = ballots.labellers[k]
        known = [(when[key], int(n)) for n in at if (key := (pairs[n][0], name)) in when]
        timed = sorted(known, key=lambda one: one[0])
        half = _middle([time for time, _ in timed])
        if len(timed) >= LEAST and half:
            order = np.array([n for _, n in timed], dtype=np.int64)
            early, late = (_item_means(ballots, agreement, o) for o in (order[:half], order[half:]))
            yield _Test(
                name, "drift", _less(late, early), 0.0, SMALL, 2.0,
                "{who}'s agreement with the others changes by {shown} from the first half to the "
                "second",
            )  # fmt: skip


def _moment(at: str) -> float | None:
    """A label's time in seconds; of one without a zone, as UTC. None where it has none."""
    try:
        time = datetime.fromisoformat(at.strip())
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _middle(times: Sequence[float]) -> int:
    """The place nearest the middle at which the time changes; 0 where it never does."""
    places = [i for i in range(1, len(times)) if times[i] != times[i - 1]]
    return min(places, key=lambda i: abs(i - len(times) / 2), default=0)


def _longer(known: Mapping[str, Item], pairs: Sequence[Pair]) -> Floats:
    """[N] 1 where a has more words, -1 where b has, 0 where neither or not known."""

    def side(pair: Pair) -> float:
        item = known.get(pair[0])
        if item is None:
            return 0.0
        a, b = (len(item.responses[i].text.split()) for i in pair[1:])
        return float((a > b) - (a < b))

    return _each(pairs, side)


def _agreeing(known: Mapping[str, Item], pairs: Sequence[Pair], agrees: Agrees) -> Floats:
    """[N] 1 where only a agrees with the user, -1 where only b does, else 0."""

    def side(pair: Pair) -> float:
        item = known.get(pair[0])
        if item is None:
            return 0.0
        a, b = (agrees(item.prompt, item.responses[i]) for i in pair[1:])
        return 0.0 if a is None or b is None else float(a) - float(b)

    return _each(pairs, side)


def _each(pairs: Sequence[Pair], side: Callable[[Pair], float]) -> Floats:
    seen = {pair: side(pair) for pair in dict.fromkeys(pairs)}
    return np.array([seen[pair] for pair in pairs], dtype=np.float64)


def _first(vote: Vote) -> int:
    return 0 if vote.a_first is None else 1 if vote.a_first else -1


def _by_labeller(ballots: Ballots, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Ints]]:
    """Each labeller with LEAST wanted votes or more, and the places of those."""
    order = np.flatnonzero(wanted)
    order = order[np.argsort(ballots.labeller[order], kind="stable")]
    ends = np.searchsorted(ballots.labeller[order], np.arange(len(ballots.labellers) + 1))
    for k in range(len(ballots.labellers)):
        if ends[k + 1] - ends[k] >= LEAST:
            yield k, order[ends[k] : ends[k + 1]]


def _item_means(ballots: Ballots, values: Floats, at: Ints) -> Floats:
    """The mean of each item's values: pairs of one ranking are not independent."""
    _, of = np.unique(ballots.item[ballots.pair[at]], return_inverse=True)
    return np.asarray(np.bincount(of, values[at]) / np.bincount(of), dtype=np.float64)


# -- what a labeller's own labels show ------------------------------------------------------------


def _own_ways(known: Mapping[str, Item], labels: Sequence[Label]) -> Iterator[_Test]:
    """Speed, always the same key, and comments that were made before."""
    fast: dict[str, list[float]] = {}
    keys: dict[str, list[object]] = {}
    copied: dict[str, list[float]] = {}
    comments: dict[str, str] = {}
    for label in labels:
        item = known.get(label.item)
        if item is not None and label.cost.seconds > 0 and not label.cost.tokens:
            words = sum(len(m.content.split()) for m in item.prompt.messages)
            words += len((item.prompt.text or "").split())
            words += sum(len(r.text.split()) for r in item.responses)
            fast.setdefault(label.labeller, []).append(
                float(60.0 * words / READING > label.cost.seconds)
            )
        key = _key(label)
        if key is not None:
            keys.setdefault(label.labeller, []).append(key)
        said = " ".join(label.comment.lower().split())
        if len(said.split()) >= COMMENT:
            before = comments.setdefault(said, label.item)
            copied.setdefault(label.labeller, []).append(float(before != label.item))
    same = {
        who: [
            float(key == Counter(map(repr, all_of)).most_common(1)[0][0])
            for key in map(repr, all_of)
        ]
        for who, all_of in keys.items()
    }
    for kind, found, allowed, says in (
        ("speed", fast, TOO_FAST, "{who} gives {share} of the labels in less time than it takes to "
         "read what is judged"),
        ("same_key", same, SAME_KEY, "{who} gives the same answer, by its place or value, in "
         "{share} of the labels"),
        ("copied", copied, COPIED, "{share} of {who}'s comments were made before, on another item"),
    ):  # fmt: skip
        for who, values in found.items():
            if len(values) >= LEAST:
                share = _share(np.array(values), range(len(values)))
                yield _Test(who, kind, share, allowed, allowed, 1.0, says, two_sided=False)


def _key(label: Label) -> object:
    """What was pressed: the place on the screen of the best, or the values given."""
    if label.kind == "ranking" and len(label.shown) == len(label.ranks) > 1:
        places = [label.ranks[i] for i in label.shown]
        return tuple(place == min(places) for place in places)
    if label.kind == "rating":
        return label.ratings
    return label.approvals if label.kind == "approval" else None


# -- intervals ------------------------------------------------------------------------------------


def _share(values: Floats, clusters: Sequence[object]) -> Callable[[float], Interval]:
    return lambda level: weighted_proportion(values, level=level, clusters=list(clusters))


def _less(own: Floats, other: Floats) -> Callable[[float], Interval]:
    """The difference of two means, by Welch's interval."""

    def at(level: float) -> Interval:
        spread = [x.var(ddof=1) / len(x) for x in (own, other)]
        error = math.sqrt(sum(spread))
        gap = float(own.mean() - other.mean())
        if not error > 0.0:
            return Interval(gap, n=float(len(own)), level=level)
        parts = [s**2 / (len(x) - 1) for s, x in zip(spread, (own, other), strict=True)]
        half = t_quantile(level, sum(spread) ** 2 / sum(parts)) * error
        return Interval(gap, gap - half, gap + half, float(len(own)), level)

    return at
