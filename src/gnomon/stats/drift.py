"""Where texts have moved: surface features of sets of answers, and how far one set has come from
another in a given direction.

An edit (padding, say) moves a set of answers in some direction of these features. Whether training
moved the policy the same way is the position of its late answers on the line from its early answers
(0) to the edited ones (1).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gnomon.stats.intervals import Floats, Interval, mean_interval
from gnomon.stats.prompts import independent_difference
from gnomon.stats.texts import sentences, words

Item = tuple[str, str]
"""A prompt and an answer to it."""

FEATURES = (
    *(
        "words",
        "sentences",
        "word_length",
        "distinct_words",
        "repeated_pairs",
        "repeated_sentences",
    ),
    *("numbers", "distinct_numbers", "capitals", "punctuation", "markup", "prompt_words"),
    *("own_prompt", "common_pairs"),
)
"""``words``, ``sentences``, ``numbers``: logarithms of 1 + their count. ``distinct_words``: share
of words not said before. ``repeated_pairs``: share of neighbouring words said before.
``prompt_words``: share of the answer's words that are its prompt's; ``own_prompt``: that less the
share that are another prompt's. ``common_pairs``: share of its pairs of neighbouring words that
some answer to another prompt in the same set has."""

_ENOUGH = 4
"""Prompts below which no position is given."""
_RIDGE = 1e-3
_CLEAR = 0.05
"""Squared standard deviations that an edit must move answers by to give a direction."""


def features(items: Sequence[Item]) -> Floats:
    """[n, features] of a set of answers; see :data:`FEATURES`."""
    tokens = [words(text) for _, text in items]
    prompts = [frozenset(words(prompt)) for prompt, _ in items]
    pairs = [frozenset(pairwise(found)) for found in tokens]
    holders = _holders(pairs, [prompt for prompt, _ in items])
    rows = []
    for i, (prompt, text) in enumerate(items):
        other = next((p for p in prompts[i:] + prompts[:i] if p != prompts[i]), frozenset())
        own, theirs = _share(tokens[i], prompts[i]), _share(tokens[i], other)
        common = [p for p in pairs[i] if holders[p] - {prompt}]
        rows.append(
            [*_surface(text, tokens[i]), own, own - theirs, len(common) / max(1, len(pairs[i]))]
        )
    return np.asarray(rows, dtype=np.float64).reshape(len(items), len(FEATURES))


def _holders(
    pairs: Sequence[frozenset[tuple[str, str]]], prompts: Sequence[str]
) -> dict[tuple[str, str], set[str]]:
    """The prompts whose answers have each pair; two are enough to know that another one has it."""
    holders: dict[tuple[str, str], set[str]] = {}
    for found, prompt in zip(pairs, prompts, strict=True):
        for pair in found:
            who = holders.setdefault(pair, set())
            if len(who) < 2:
                who.add(prompt)
    return holders


def _surface(text: str, tokens: Sequence[str]) -> list[float]:
    said = [t for t in tokens if t[0].isalnum()]
    numbers = [t for t in said if t.isdigit()]
    neighbours = Counter(pairwise(tokens))
    lines = sentences(text.lower())
    letters = [c for c in text if c.isalpha()]
    count, n = max(1, len(said)), max(1, sum(neighbours.values()))
    return [
        math.log1p(len(said)),
        math.log1p(len(lines)),
        sum(map(len, said)) / count,
        len(set(said)) / count,
        sum(k - 1 for k in neighbours.values()) / n,
        1.0 - len(set(lines)) / max(1, len(lines)),
        math.log1p(len(numbers)),
        math.log1p(len(set(numbers))),
        sum(c.isupper() for c in letters) / max(1, len(letters)),
        sum(not t[0].isalnum() for t in tokens) / max(1, len(tokens)),
        math.log1p(len(re.findall(r"[*#`$\\<>{}|]|^\s*[-+] ", text, re.MULTILINE))),
    ]


def _share(found: Sequence[str], of: frozenset[str]) -> float:
    return sum(word in of for word in found) / max(1, len(found))


class Drift:
    """How far ``late`` answers have come from ``early`` ones in the direction of others.

    Args:
        early, late: answers of the two times, several to a prompt or one.
    """

    def __init__(self, early: Sequence[Item], late: Sequence[Item]) -> None:
        self.early, self.late = list(early), list(late)
        self._start, self._now = features(self.early), features(self.late)
        self._common: dict[tuple[bool, int], float] = {}

    def towards(self, edited: Sequence[Item]) -> Interval:
        """Where the late answers are on the line from the early ones (0) to ``edited`` ones (1),
        with its interval over prompts; NaN where the edit moves no feature, or there are fewer than
        four prompts.

        The direction is the linear discriminant of early and edited answers with a diagonal
        covariance (Dudoit, Fridlyand & Speed 2002): features count by how clearly the edit moves
        them.
        """
        sets = (self.early, edited, self.late)
        if min(len({prompt for prompt, _ in items}) for items in sets) < _ENOUGH:
            return Interval(math.nan)
        size = min(map(len, sets))
        start = self._at_size(self._start, self.early, size)
        now = self._at_size(self._now, self.late, size)
        end = features(edited)
        scale = start.std(0) + 0.05 * (1.0 + np.abs(start.mean(0)))
        start, end, now = start / scale, end / scale, now / scale
        shift = end.mean(0) - start.mean(0)
        weights = shift / ((start.var(0) + end.var(0)) / 2 + _RIDGE)
        length = float(shift @ weights)
        if length < _CLEAR:
            return Interval(math.nan)
        began, came = ((x - start.mean(0)) @ weights / length for x in (start, now))
        return independent_difference(_over(self.late, came), _over(self.early, began))

    def _at_size(self, values: Floats, items: Sequence[Item], size: int) -> Floats:
        """``common_pairs`` as it would be in a set of ``size``: the larger a set, the more of an
        answer's pairs some other answer has."""
        if len(items) == size:
            return values
        key = (items is self.early, size)
        if key not in self._common:
            some = [items[i * len(items) // size] for i in range(size)]
            self._common[key] = float(features(some)[:, -1].mean())
        out = values.copy()
        out[:, -1] += self._common[key] - out[:, -1].mean()
        return out


def _over(items: Sequence[Item], values: Floats) -> Interval:
    """The mean over prompts of their answers' means; of a policy that says one thing it is that."""
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in zip(items, values.tolist(), strict=True):
        by_prompt.setdefault(prompt, []).append(value)
    mean = mean_interval([sum(v) / len(v) for v in by_prompt.values()], method="t")
    return mean if mean.known else Interval(mean.value, mean.value, mean.value, mean.n)


# -- phrases --------------------------------------------------------------------------------------


def grown_phrases(
    early: Sequence[str],
    late: Sequence[str],
    *,
    most: int = 6,
    longest: int = 5,
    least_growth: float = 0.2,
) -> list[tuple[str, float, float]]:
    """(phrase, share of early answers, share of late answers) that have become commoner by at
    least ``least_growth`` of the answers; the most grown first, none within another.

    Phrases are 1 to ``longest`` words as written, punctuation on them included. Of phrases that
    grew alike the longest is kept.
    """
    before, after = _phrase_shares(early, longest), _phrase_shares(late, longest)
    grown = [(p, before.get(p, 0.0), share) for p, share in after.items()]
    grown = [g for g in grown if g[2] - g[1] >= least_growth]
    grown.sort(key=lambda g: (-(round(g[2] - g[1], 2)) - 0.05 * len(g[0].split()), g[0]))
    kept: list[tuple[str, float, float]] = []
    for found in grown:
        around = [f" {k[0]} " for k in kept]
        if not any(f" {found[0]} " in a or a in f" {found[0]} " for a in around):
            kept.append(found)
        if len(kept) == most:
            break
    return kept


def _phrase_shares(texts: Sequence[str], longest: int) -> dict[str, float]:
    """The share of texts that hold each phrase, of those in more than one text."""
    counts: Counter[str] = Counter()
    for text in texts:
        found = text.split()
        runs = (found[i : i + n] for n in range(1, longest + 1) for i in range(len(found) - n + 1))
        counts.update({" ".join(run) for run in runs})
    return {phrase: k / max(1, len(texts)) for phrase, k in counts.items() if k > 1}
