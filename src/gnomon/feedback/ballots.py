"""Votes as arrays: who said what of which pair, once each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import DataError
from gnomon.feedback.records import Vote

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Pair = tuple[str, int, int]
"""An item's id and the indices of two of its responses, the lower one first."""

A, TIE, B = 0, 1, 2
"""What is said of a pair, and what may be true of it."""
_SAID = {1.0: A, 0.5: TIE, 0.0: B}


@dataclass(frozen=True)
class Ballots:
    """N votes of L labellers on P pairs of I items.

    Attributes:
        pairs: [P].  labellers: [L] names.
        pair, labeller: [N] indices into these.
        said: [N] ``A``, ``TIE`` or ``B``.
        item: [P] a number for each pair's item, 0..I-1.
        repeated: votes left out since the same labeller gave a later one on the same pair.
        kept: [N] the place of each vote among those given.
    """

    pairs: Sequence[Pair]
    labellers: Sequence[str]
    pair: Ints
    labeller: Ints
    said: Ints
    item: Ints
    repeated: int
    kept: Ints

    @classmethod
    def of(cls, votes: Iterable[Vote]) -> Ballots:
        """Count votes; of a labeller's several on one pair, the last.

        Raises:
            DataError: a vote that is neither a win nor a tie, or indices in the wrong order.
        """
        pairs: dict[Pair, int] = {}
        names: dict[str, int] = {}
        items: dict[str, int] = {}
        rows: list[tuple[int, int, int]] = []
        item: list[int] = []
        for v in votes:
            said = _SAID.get(v.won)
            if said is None or not 0 <= v.a < v.b:
                raise DataError(
                    f"item {v.item!r}: the vote of labeller {v.labeller!r} on responses {v.a} and "
                    f"{v.b} is {v.won!r}; a vote is 1, 0.5 or 0, on two indices, the lower first"
                )
            key = (v.item, v.a, v.b)
            at = pairs.get(key)
            if at is None:
                at = pairs[key] = len(pairs)
                item.append(items.setdefault(v.item, len(items)))
            rows.append((at, names.setdefault(v.labeller, len(names)), said))
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        kept = _last(table[:, 0] * max(1, len(names)) + table[:, 1])
        table = table[kept]
        return cls(
            list(pairs),
            list(names),
            pair=table[:, 0],
            labeller=table[:, 1],
            said=table[:, 2],
            item=np.array(item, dtype=np.int64),
            repeated=len(rows) - len(kept),
            kept=kept,
        )

    def by_pair(self, values: Floats) -> Floats:
        """[P] sums of [N] values."""
        return np.bincount(self.pair, values, len(self.pairs)).astype(np.float64)

    def by_labeller(self, values: Floats) -> Floats:
        """[L] sums of [N] values."""
        return np.bincount(self.labeller, values, len(self.labellers)).astype(np.float64)

    def counts(self) -> Floats:
        """[P, 3] how many said ``A``, ``TIE``, ``B``."""
        flat = np.bincount(self.pair * 3 + self.said, minlength=3 * len(self.pairs))
        return flat.reshape(-1, 3).astype(np.float64)

    def of_pairs(self, some: NDArray[np.bool_]) -> Ballots:
        """The votes on some pairs [P], of the same labellers."""
        place = np.cumsum(some) - 1
        at = some[self.pair]
        pairs = [pair for pair, wanted in zip(self.pairs, some.tolist(), strict=True) if wanted]
        _, item = np.unique(self.item[some], return_inverse=True)
        return Ballots(
            pairs, self.labellers, place[self.pair[at]], self.labeller[at], self.said[at], item,
            self.repeated, self.kept[at],
        )  # fmt: skip

    def shared(self) -> NDArray[np.bool_]:
        """[N] whether somebody else has voted on the same item: nothing else shows how right a vote
        is."""
        item = self.item[self.pair]
        who = np.unique(np.stack([item, self.labeller], axis=1), axis=0)[:, 0]
        return np.bincount(who, minlength=len(self.item))[item] > 1


def _last(keys: Ints) -> Ints:
    """The places of the last of equal keys, in order."""
    _, back = np.unique(keys[::-1], return_index=True)
    return np.sort(len(keys) - 1 - back)
