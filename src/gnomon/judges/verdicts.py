"""What a judge says of two answers, in one order and in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gnomon.judges.prompting import LETTERS, Principle
from gnomon.judges.ranking import comparison
from gnomon.records import Comparison, Cost, Prompt


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, by their texts, and the principle that they are judged by; the
    judge's own for the prompt where it is None."""

    prompt: Prompt
    a: str
    b: str
    principle: Principle | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge says of two answers in one order: probabilities that add up to 1.

    Attributes:
        first, second: that the answer shown first, or second, is better.
        tie: that neither is.
    """

    first: float
    second: float
    tie: float = 0.0

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Verdict:
        """From the probabilities of A, B and C."""
        return cls(*(float(shares.get(letter, 0.0)) for letter in LETTERS))

    @property
    def swapped(self) -> Verdict:
        """The same with the other answer first."""
        return Verdict(self.second, self.first, self.tie)

    @property
    def win(self) -> float:
        """What the first answer won: ties are half."""
        return self.first + self.tie / 2

    @property
    def word(self) -> str:
        """``first``, ``second`` or ``tie``: the likeliest."""
        if self.tie >= max(self.first, self.second) or self.first == self.second:
            return "tie"
        return "first" if self.first > self.second else "second"


@dataclass(frozen=True)
class Compared:
    """What a judge says of a pair, in each order it was asked in.

    Attributes:
        forward: with ``a`` shown first; None where it was not asked, or has no order.
        backward: with ``b`` shown first (``first`` is ``b``).
        mean: both together, ``first`` for ``a``; None where something failed.
        reason: in the judge's words.
        error: what failed.
    """

    forward: Verdict | None = None
    backward: Verdict | None = None
    reason: str | None = None
    error: str | None = None
    cost: Cost = field(default_factory=Cost)

    @property
    def mean(self) -> Verdict | None:
        turned = None if self.backward is None else self.backward.swapped
        known = [v for v in (self.forward, turned) if v is not None]
        if self.error is not None or not known:
            return None
        n = len(known)
        return Verdict(*(sum(getattr(v, k) for v in known) / n for k in ("first", "second", "tie")))

    def comparison(self, i: int, j: int) -> Comparison:
        """As a record, ``a`` being response ``i`` and ``b`` response ``j``.

        Raises:
            ValueError: it failed.
        """
        verdict = self.mean
        if verdict is None:
            raise ValueError(self.error or "nothing was asked")
        if verdict.word == "tie":
            return Comparison(i, j, tie=True)
        return comparison(i, j, verdict.win)


def compared(forward: Verdict | None, backward: Verdict | None) -> Compared:
    """Of a pair that was asked about; two equal texts, which were not, are a tie."""
    if forward is None and backward is None:
        return Compared(Verdict(0, 0, 1), Verdict(0, 0, 1), "the answers are the same text")
    return Compared(forward, backward)
