"""Whether answers stand beside their own prompts: a join that was shifted by a line, a column that
was shuffled, a key that matches the wrong rows.

An answer takes up words of what it was asked. Of each answer, its own prompt is compared with all
other prompts of the same data by the words that they share with the answer, each weighted by how
rare it is in prompts and in answers: a refusal that says the same to everybody shares none, and is
not judged. It strays where another prompt fits it far better than its own does, and it fits that
prompt at least as well as half of the answers which stand there. A prompt that quotes the answer
(a later turn of the same conversation, a critique of it, an example of it, its translation back)
is no other prompt, and an answer in another script than its own prompt is not judged. How often
that is right on real data is in docs/data.md (``benchmarks/joins.py``).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import median_low

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from scipy.special import bdtrc  # type: ignore[import-untyped]

from gnomon.stats.intervals import Floats, Interval, exact_interval, weighted_proportion
from gnomon.stats.texts import scripts, stems, words

LIMIT = 0.1
"""Where more of the judged answers than this stray, by the interval's lower end, the join is at
fault: in sound data it is 0 to 2 per cent, in short talk 3 to 5."""
ENOUGH = 20
"""Judged answers from which on their share says something."""
COMMON = 0.2
"""A word in more than this share of the prompts, or of the answers, tells none of them apart."""
SHORTEST = 3
"""Letters of the shortest words that are read."""
SAID, WORDS = 9.0, 2.0
"""How much a prompt and an answer must share: as many nats, and as much as two words that no other
prompt or answer has. The more prompts there are, the better one of them fits by chance."""
FAR = 3.0
"""How many times as well another prompt fits an answer that strays."""
NEAR = 2.0
"""An answer stands right where no other prompt fits it so many times as well."""
POWER = 0.8
"""The chance of telling the smallest share that is called detectable."""
MOST_ANSWERS, MOST_PROMPTS = 2000, 20_000
"""Of more, as many are drawn."""
READ = 4000
"""Letters that are read of a text, half of them at its end."""
QUOTED, ASKED = 100, 20
"""Letters: a prompt that holds so many of an answer's first quotes it; of a shorter answer it holds
all, behind so many of the last of what was asked."""
_AT_ONCE = 200
_MOST_QUOTES = 100
_NEIGHBOURS = (-2, -1, 1, 2)
_SHIFTED = 5


@dataclass(frozen=True)
class Joined:
    """How the answers of one kind stand to the prompts beside them.

    Attributes:
        answers: that were looked at.
        judged: those of them that clearly fit a prompt, their own or another.
        share: of the judged that stray, one row's answers together counting as a cluster.
        strayed: (row of the answer, row of the prompt that it fits), the clearest first.
        texts: those answers, in the same order.
        shift: the answer in row i fits the prompt of row i + shift, in most of those that stray;
            None where no one number of rows explains them.
        explained: how many of the strays that is.
        compared: the share of the prompts that answers were compared with; the others are missed.
    """

    answers: int
    judged: int
    share: Interval
    strayed: tuple[tuple[int, int], ...] = ()
    texts: tuple[str, ...] = ()
    shift: int | None = None
    explained: int = 0
    compared: float = 1.0

    @property
    def looked(self) -> bool:
        """Whether enough answers could be judged."""
        return self.judged >= ENOUGH

    @property
    def told(self) -> bool:
        """Whether the join is at fault, and not chance."""
        return self.looked and self.share.low > LIMIT

    @property
    def detectable(self) -> float | None:
        """The share of strays that would have been told with a chance of 80%; None where none would
        have been."""
        least = _detectable(self.judged) if self.looked else None
        return None if least is None or least > self.compared else least / self.compared


@cache
def _detectable(judged: int) -> float | None:
    told = next(k for k in range(judged + 1) if exact_interval(k, judged).low > LIMIT)
    shares = (share / 100 for share in range(1, 101))
    return next((share for share in shares if bdtrc(told - 1, judged, share) >= POWER), None)


def joined(
    prompts: Sequence[str],
    answers: Sequence[tuple[int, str]],
    rows: Sequence[int] | None = None,
) -> Joined:
    """Compare each answer's own prompt with the others.

    Prompts that differ in case and spacing only are one. 100,000 rows take some seconds: 2,000
    answers are judged, always the same ones, against 20,000 prompts.

    Args:
        prompts: one of each row, in order.
        answers: (index of the row, text); a row may have several, or none.
        rows: the number of each row in its file, for ``shift``; its index by default.
    """
    taken = list(answers)
    if len(taken) > MOST_ANSWERS:
        chosen = random.Random(0).sample(range(len(taken)), MOST_ANSWERS)
        taken = [taken[i] for i in sorted(chosen)]
    asked = _Prompts(prompts, [row for row, _ in taken])
    own = np.array([asked.known[asked.of[row]] for row, _ in taken], dtype=np.intp)
    fits = _Fits(asked.stems, [_stems(text) for _, text in taken])
    beside: dict[int, list[str]] = {}
    for row, text in answers:
        beside.setdefault(asked.of[row], []).append(text)

    @cache
    def stands(prompt: int) -> float:
        """How well the answers which stand beside a prompt fit it: half of them, or more."""
        there = [fits.fit(_stems(text), prompt) for text in beside.get(asked.keys[prompt], [])]
        return median_low(there) if there else 0.0

    clear: list[tuple[float, int, int]] = []
    right: list[int] = []
    for answer, others, mine in fits.each(own):
        row, text = int(own[answer]), taken[answer][1]
        best = asked.rival(others, mine, row, text)
        if best is None:
            continue
        other = float(others[best])
        enough, enough_own = other * fits.norms[best], mine * fits.norms[row]
        if enough >= fits.said and other >= FAR * mine and other >= stands(best):
            if not fits.foreign(text, row):
                clear.append((-(other - mine), answer, best))
        elif enough_own >= fits.said and NEAR * mine > other:
            right.append(answer)
    clear.sort()
    judged = [taken[answer][0] for _, answer, _ in clear] + [taken[answer][0] for answer in right]
    strays = [1.0] * len(clear) + [0.0] * len(right)
    shift, explained = _shift([(taken[a][0], asked.rows[p]) for _, a, p in clear], rows)
    return Joined(
        answers=len(taken),
        judged=len(judged),
        share=weighted_proportion(strays, clusters=judged),
        strayed=tuple((taken[a][0], asked.rows[p][0]) for _, a, p in clear),
        texts=tuple(taken[a][1] for _, a, _ in clear),
        shift=shift,
        explained=explained,
        compared=len(asked.keys) / max(1, len(set(asked.of))),
    )


def _shift(
    strays: Sequence[tuple[int, Sequence[int]]], rows: Sequence[int] | None
) -> tuple[int | None, int]:
    """The number of rows that lies between most strays and the prompts which they fit."""
    number = (lambda row: row) if rows is None else rows.__getitem__
    found: Counter[int] = Counter()
    for row, others in strays:
        found.update({number(other) - number(row) for other in others})
    if not found:
        return None, 0
    shift, explained = min(found.items(), key=lambda kv: (-kv[1], abs(kv[0]), kv[0]))
    enough = explained >= _SHIFTED and 2 * explained > len(strays)
    return (shift, explained) if enough else (None, 0)


class _Prompts:
    """The different prompts that answers are compared with.

    Attributes:
        of: by row, the key of its prompt.
        keys: of the prompts that are compared; ``known``: their places by key.
        rows: by place, the rows that have the prompt.
        stems: by place.
    """

    def __init__(self, prompts: Sequence[str], needed: Sequence[int]) -> None:
        first: dict[str, int] = {}
        self.of: list[int] = []
        rows: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            key = first.setdefault(_plain(prompt), len(first))
            self.of.append(key)
            rows.setdefault(key, []).append(row)
        self.keys = list(rows)
        if len(self.keys) > MOST_PROMPTS:
            near = {row + step for row in needed for step in (0, *_NEIGHBOURS)}
            kept = {self.of[row] for row in near if 0 <= row < len(prompts)}
            rest = [key for key in self.keys if key not in kept]
            kept.update(random.Random(0).sample(rest, MOST_PROMPTS - len(kept)))
            self.keys = sorted(kept)
        self.known = {key: place for place, key in enumerate(self.keys)}
        self.rows = [rows[key] for key in self.keys]
        self.stems = [_stems(prompts[found[0]]) for found in self.rows]
        self._texts = [prompts[found[0]] for found in self.rows]
        self._plains: dict[int, str] = {}

    def rival(self, fits: Floats, mine: float, own: int, answer: str) -> int | None:
        """The other prompt that fits an answer best, those that quote it apart; None where that is
        a later turn, or works on the answer, and nothing can be said."""
        best = int(fits.argmax())
        if self.continues(best, own) or self.works_on(best, answer):
            return None
        for _ in range(_MOST_QUOTES):
            if fits[best] < FAR * mine or not self.quotes(best, own, answer):
                break
            fits[best] = -1.0
            best = int(fits.argmax())
        return best

    def continues(self, prompt: int, other: int) -> bool:
        """Whether a prompt is a later turn of another's conversation: it holds its answers too."""
        return self._plain(prompt).startswith(self._plain(other))

    def quotes(self, prompt: int, other: int, answer: str) -> bool:
        """Whether a prompt holds an answer to another one, rather than asks for it."""
        there, said = self._plain(prompt), _plain(answer)
        if len(said) >= QUOTED:
            return said[:QUOTED] in there
        return f"{self._plain(other)[-ASKED:]} {said}" in there

    def works_on(self, prompt: int, answer: str) -> bool:
        """Whether half of a prompt is the answer: it asks to better it, or to translate it back.
        Then what the answer was asked need not have its words at all."""
        there, said = self._plain(prompt), _plain(answer)
        return 2 * len(said) >= len(there) and said in there

    def _plain(self, prompt: int) -> str:
        if prompt not in self._plains:
            self._plains[prompt] = _plain(self._texts[prompt])
        return self._plains[prompt]


class _Fits:
    """How well answers fit prompts: the cosine of the two by their rare words, times the answer's
    length, which is the same for all prompts. ``said`` is how much they must share to be judged."""

    def __init__(self, prompts: Sequence[set[str]], answers: Sequence[set[str]]) -> None:
        self.place: dict[str, int] = {}
        for stem in sorted({stem for prompt in prompts for stem in prompt}):
            self.place[stem] = len(self.place)
        asked, said = self._matrix(prompts), self._matrix(answers)
        self.weights = np.minimum(_rarity(asked), _rarity(said))
        squares = asked @ self.weights**2
        self.said = max(SAID, WORDS * math.log(max(1, min(len(prompts), len(answers)))))
        self.norms: Floats = np.sqrt(np.maximum(squares, 1e-12))
        self.prompts = prompts
        self._asked = asked.multiply(1.0 / self.norms[:, None]).tocsr()
        self._said = said.multiply(self.weights).tocsr()
        self._said.eliminate_zeros()

    def _matrix(self, texts: Sequence[set[str]]) -> csr_matrix:
        ends, columns = [0], []
        for text in texts:
            columns += sorted(self.place[stem] for stem in text if stem in self.place)
            ends.append(len(columns))
        return csr_matrix((np.ones(len(columns)), columns, ends), (len(texts), len(self.place)))

    def fit(self, answer: set[str], prompt: int) -> float:
        """How well one text fits a prompt."""
        shared = sorted(self.place[stem] for stem in answer & self.prompts[prompt])
        return float(self.weights[shared].sum() / self.norms[prompt])

    def foreign(self, text: str, prompt: int) -> bool:
        """Whether an answer is in another script than most of what a prompt asks: of a translation,
        what another prompt shares with it says nothing."""
        written = Counter(map(_script, _stems(text))).most_common(1)[0][0]
        asked = self.prompts[prompt]
        weights = {stem: float(self.weights[self.place[stem]]) for stem in asked}
        same = sum(weight for stem, weight in weights.items() if _script(stem) == written)
        return 2 * same < sum(weights.values())

    def each(self, own: NDArray[np.intp]) -> Iterator[tuple[int, Floats, float]]:
        """(answer, how well each prompt fits it, but for its own, which is -1, and how its own
        does)."""
        across = self._asked.T.tocsr()
        for start in range(0, len(own), _AT_ONCE):
            fits = (self._said[start : start + _AT_ONCE] @ across).toarray()
            for answer, row in enumerate(fits, start):
                mine = float(row[own[answer]])
                row[own[answer]] = -1.0
                yield answer, row, mine


def _rarity(texts: csr_matrix) -> Floats:
    """ln(texts / those with the word) of each word; 0 of the common ones."""
    often = np.asarray(texts.sum(axis=0)).ravel()
    rarity: Floats = np.log(max(1, texts.shape[0]) / np.maximum(often, 1.0))
    rarity[often > COMMON * texts.shape[0]] = 0.0
    return rarity


@lru_cache(maxsize=1 << 16)
def _script(stem: str) -> str:
    """The script of a word's beginning; that of Chinese and of Japanese are one."""
    found = scripts(stem[:1])
    return "HAN" if found.keys() & {"HIRAGANA", "KATAKANA"} else next(iter(found), "")


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _stems(text: str) -> set[str]:
    if len(text) > READ:
        text = f"{text[: READ // 2]} {text[-READ // 2 :]}"
    return stems(words(text), SHORTEST, unspaced=True)
