"""Two answers to each prompt and a judge's verdicts on them, asked in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gnomon.judges.ai import AIJudge
from gnomon.judges.ai import Pair as AskedPair
from gnomon.judges.protocol import Judge, judged, total_cost
from gnomon.records import Cost, Group, Judgement, Message, Prompt, Response
from gnomon.stats.intervals import Interval, weighted_proportion

ALWAYS = 0.9
"""The share of verdicts for one place from which a judge is called one that looks at the place."""


@dataclass(frozen=True)
class Pair:
    """A prompt with the answer under test and the one that it is compared with."""

    prompt: Prompt
    own: Response
    other: Response


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a pair.

    Attributes:
        own_first, own_second: the probability (or 0, 1/2, 1) that the answer under test is better,
            where it was shown first and where second; None where that order was not asked.
        error: what went wrong, in place of both.
    """

    own_first: float | None = None
    own_second: float | None = None
    reason: str | None = None
    error: str | None = None
    cost: Cost = field(default_factory=Cost)

    @property
    def win(self) -> float:
        """Both orders together."""
        known = [p for p in (self.own_first, self.own_second) if p is not None]
        return sum(known) / len(known)

    def row(self) -> dict[str, Any]:
        """The same for a file of rows."""
        cost = {"tokens": self.cost.tokens, "money": self.cost.money}
        if self.error is not None:
            return {"error": self.error, **cost}
        return {
            "score": self.win,
            "own_first": self.own_first,
            "own_second": self.own_second,
            "reason": self.reason,
            **cost,
        }


def text_pair(prompt: Prompt, own: str, other: str) -> Pair:
    """A pair of texts."""
    one, two = (Response((Message("assistant", text),)) for text in (own, other))
    return Pair(prompt, one, two)


def verdicts(judge: Judge, pairs: Sequence[Pair]) -> list[Verdict]:
    """Ask a judge about pairs: in both orders, unless it scores each answer by itself."""
    if isinstance(judge, AIJudge) and judge.options.mode == "pairs":
        return _asked(judge, pairs)  # it asks in both orders itself, and says what it said in each
    first = judged(judge, [_group(p.prompt, p.own, p.other) for p in pairs])
    ahead = [_share(judgement, 0) for judgement in first]
    if not judge.groupwise:
        return [_verdict(j, p, None) for j, p in zip(first, ahead, strict=True)]
    second = judged(judge, [_group(p.prompt, p.other, p.own) for p in pairs])
    return [_both(a, b, p) for a, b, p in zip(first, second, ahead, strict=True)]


def _asked(judge: AIJudge, pairs: Sequence[Pair]) -> list[Verdict]:
    found = judge.compare([AskedPair(p.prompt, p.own.text, p.other.text) for p in pairs])
    return [
        Verdict(
            None if c.forward is None else c.forward.win,
            None if c.backward is None else 1.0 - c.backward.win,
            c.reason,
            c.error,
            c.cost,
        )
        for c in found
    ]


def _group(prompt: Prompt, one: Response, two: Response) -> Group:
    return Group(prompt, (one, two))


def _both(first: Judgement, second: Judgement, ahead: float | None) -> Verdict:
    behind = _share(second, 1)
    found = _verdict(first, ahead, behind)
    error = found.error or _error(second)
    cost = total_cost([first.cost, second.cost])
    return replace(found, error=error, cost=cost)


def _verdict(judgement: Judgement, first: float | None, second: float | None) -> Verdict:
    return Verdict(first, second, judgement.reason, _error(judgement), judgement.cost)


def _error(judgement: Judgement) -> str | None:
    errors = [score.error for score in judgement.scores if score.error is not None]
    return judgement.error or (errors[0] if errors else None)


def _share(judgement: Judgement, place: int) -> float | None:
    """The share of a comparison that the answer in ``place`` won; None where the judge failed.

    A judge that compares gives it as the score (probabilities stay); of one that only scores, the
    higher score wins.
    """
    own, other = (judgement.scores[i].value for i in (place, 1 - place))
    if own is None or other is None:
        return None
    if judgement.comparisons is not None and 0.0 <= own <= 1.0:
        return own
    return 0.5 if own == other else float(own > other)


@dataclass(frozen=True)
class Orders:
    """How a judge's verdicts depend on the order that it sees the answers in.

    Attributes:
        flips: the share of the pairs whose winner changes with the order.
        first: the share of its verdicts for the answer shown first (ties half).
    """

    flips: Interval
    first: Interval

    def warning(self) -> str | None:
        """What is to be said of a judge that looks at the place of an answer."""
        first, flips = self.first.value, self.flips.value
        if max(first, 1.0 - first) >= ALWAYS:
            place = "first" if first > 0.5 else "second"
            share = max(first, 1.0 - first)
            return (
                f"the judge says that the answer shown {place} is better in {share:.0%} of its "
                f"verdicts, whatever the answers are ({flips:.0%} of the pairs change their winner "
                "with the order): its win rates are drawn to 0.5 and show nothing"
            )
        if flips >= 0.5:
            return f"{flips:.0%} of the pairs change their winner with the order they are shown in"
        return None


def orders(pairs: Sequence[tuple[float, float]], clusters: Sequence[object]) -> Orders | None:
    """From each pair's (own_first, own_second); None without any."""
    if not pairs:
        return None
    flips = [float((a - 0.5) * (b - 0.5) < 0) for a, b in pairs]
    first = [value for a, b in pairs for value in (a, 1.0 - b)]
    twice = [cluster for cluster in clusters for _ in range(2)]
    return Orders(
        weighted_proportion(flips, clusters=clusters),
        weighted_proportion(first, clusters=twice),
    )
