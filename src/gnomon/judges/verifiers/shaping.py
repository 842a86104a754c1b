"""Rewards for the shape of a response: how long, in which form, how repetitive."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, SampleJudge, Score

LengthUnit = Literal["tokens", "words", "characters"]

_MEASURES: dict[str, Callable[[Sample], int]] = {
    "tokens": lambda sample: len(sample.response_ids),
    "words": lambda sample: len(sample.text.split()),
    "characters": lambda sample: len(sample.text),
}


class LengthReward(SampleJudge):
    """0 while the length is within bounds, then down linearly to -1.

    Beyond ``high`` the reward falls to -1 over ``ramp`` units. That is DAPO's soft overlong
    punishment (Yu et al. 2025, eq. 13) for high = L_max - L_cache and ramp = L_cache. Below ``low``
    it falls to -1 at length 0.

    Args:
        unit: tokens, words or characters.
        low, high: bounds; None for no bound on that side.
        ramp: over how many units the upper penalty grows.

    Raises:
        ConfigError: no bound at all, or bounds that make no sense.
    """

    def __init__(
        self,
        unit: LengthUnit = "tokens",
        *,
        low: int | None = None,
        high: int | None = None,
        ramp: int = 1,
    ) -> None:
        if unit not in _MEASURES:
            raise ConfigError(f"length reward: unit is {', '.join(_MEASURES)}, not {unit!r}")
        if (low is None and high is None) or (low or 0) < 0 or ramp < 1:
            raise ConfigError("length reward: give low or high, and ramp of at least 1")
        if low is not None and high is not None and low > high:
            raise ConfigError(f"length reward: low {low} is above high {high}")
        self.name = "length"
        self.unit, self.low, self.high, self.ramp = unit, low, high, ramp

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(self.penalty(_MEASURES[self.unit](sample))) for sample in samples]

    def penalty(self, length: int) -> float:
        """The reward of a length, between -1 and 0."""
        if self.high is not None and length > self.high:
            return -min(1.0, (length - self.high) / self.ramp)
        if self.low and length < self.low:
            return -(self.low - length) / self.low
        return 0.0


class FormatReward(SampleJudge):
    """1 where the response is made of the given tags, in order and each once, with text in each.

    ``tags: [think, answer]`` asks for ``<think>...</think><answer>...</answer>`` and nothing
    outside but blanks; ``outside: true`` allows text around and between.

    Args:
        partial: pay the share of tags that are there once and in order, instead of all or nothing.

    Raises:
        ConfigError: no tags, or a name that is not a word.
    """

    def __init__(
        self,
        tags: Sequence[str] = ("think", "answer"),
        *,
        outside: bool = False,
        partial: bool = False,
    ) -> None:
        if not tags or not all(re.fullmatch(r"\w+", tag) for tag in tags):
            raise ConfigError(f"format reward: tags {list(tags)!r} must be one or more words")
        self.name = "format"
        self.tags, self.outside, self.partial = list(tags), outside, partial

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(self.value(sample.text)) for sample in samples]

    def value(self, text: str) -> float:
        """The reward of one response, between 0 and 1."""
        found, position, rest = 0, 0, text
        for tag in self.tags:
            opening, closing = f"<{tag}>", f"</{tag}>"
            start, end = text.find(opening, position), text.find(closing, position)
            once = text.count(opening) == text.count(closing) == 1
            inner = text[start + len(opening) : end]
            if once and 0 <= start < end and inner.strip() and "<" + tag not in inner:
                found += 1
                position = end + len(closing)
                rest = rest.replace(opening + inner + closing, "")
        share = found / len(self.tags)
        if self.partial:
            return share
        return float(share == 1.0 and (self.outside or not rest.strip()))


class RepetitionReward(SampleJudge):
    """Minus the share of n-grams (of words) that were said before: 0 for none, near -1 for a loop.

    Args:
        n: words per n-gram.

    Raises:
        ConfigError: n below 1.
    """

    def __init__(self, n: int = 4) -> None:
        if n < 1:
            raise ConfigError(f"repetition reward: n is at least 1, not {n}")
        self.name = "repetition"
        self.n = n

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(-self.share(sample.text)) for sample in samples]

    def share(self, text: str) -> float:
        """Share of n-grams that repeat an earlier one."""
        words = text.lower().split()
        grams = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
