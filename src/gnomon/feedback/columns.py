"""A million votes in a few arrays: the same sequence of votes, at some twenty bytes each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from gnomon.feedback.records import Vote


@dataclass(frozen=True, eq=False)
class VoteColumns(Sequence[Vote]):
    """V votes; also a sequence of :class:`~gnomon.feedback.records.Vote`, made as it is read.

    Attributes:
        items, labellers: the ids and pseudonyms that the columns point into.
        item, labeller: [V] places in ``items`` and ``labellers``.
        a, b: [V] indices of the item's responses, ``a < b``.
        won: [V] 1 where ``a`` won, 0 where ``b`` did, 0.5 for a tie.
        confidence: [V] NaN where it was not asked.
        a_first: [V] 1 where ``a`` was shown before ``b``, 0 where after, -1 where there was no
            order.
    """

    items: tuple[str, ...]
    labellers: tuple[str, ...]
    item: NDArray[np.int32]
    labeller: NDArray[np.int32]
    a: NDArray[np.int16]
    b: NDArray[np.int16]
    won: NDArray[np.float32]
    confidence: NDArray[np.float32]
    a_first: NDArray[np.int8]

    @classmethod
    def of(cls, votes: Iterable[Vote]) -> VoteColumns:
        """The columns of any votes."""
        built = ColumnBuilder()
        for v in votes:
            first = -1 if v.a_first is None else int(v.a_first)
            built.add(v.item, v.labeller, ((v.a, v.b, v.won, first),), v.confidence)
        return built.columns()

    def __len__(self) -> int:
        return len(self.item)

    @overload
    def __getitem__(self, index: int) -> Vote: ...
    @overload
    def __getitem__(self, index: slice) -> VoteColumns: ...
    def __getitem__(self, index: int | slice) -> Vote | VoteColumns:
        if isinstance(index, slice):
            return self.where(np.arange(len(self))[index])
        confidence, first = float(self.confidence[index]), int(self.a_first[index])
        return Vote(
            self.items[self.item[index]],
            self.labellers[self.labeller[index]],
            int(self.a[index]),
            int(self.b[index]),
            float(self.won[index]),
            None if confidence != confidence else confidence,
            None if first < 0 else bool(first),
        )

    def __iter__(self) -> Iterator[Vote]:
        for start in range(0, len(self), 4096):  # lists of numbers are read faster than arrays
            part = slice(start, start + 4096)
            rows = zip(
                self.item[part].tolist(), self.labeller[part].tolist(), self.a[part].tolist(),
                self.b[part].tolist(), self.won[part].tolist(), self.confidence[part].tolist(),
                self.a_first[part].tolist(), strict=True,
            )  # fmt: skip
            for item, who, a, b, won, sure, first in rows:
                yield Vote(
                    self.items[item],
                    self.labellers[who],
                    a,
                    b,
                    won,
                    None if sure != sure else sure,
                    None if first < 0 else bool(first),
                )

    def where(self, rows: NDArray[np.bool_] | NDArray[np.int_]) -> VoteColumns:
        """The votes in some rows: a mask or indices."""
        return VoteColumns(
            self.items, self.labellers, self.item[rows], self.labeller[rows], self.a[rows],
            self.b[rows], self.won[rows], self.confidence[rows], self.a_first[rows],
        )  # fmt: skip


class ColumnBuilder:
    """Grows the columns of :class:`VoteColumns`, label by label."""

    def __init__(self) -> None:
        from array import array

        self._items: dict[str, int] = {}
        self._labellers: dict[str, int] = {}
        self._ints = [array(code) for code in "iihhb"]
        self._floats = [array("f"), array("f")]

    def add(
        self,
        item: str,
        labeller: str,
        compared: Iterable[tuple[int, int, float, int]],
        confidence: float | None,
    ) -> None:
        """Add a label's comparisons: (a, b, won, a_first) each."""
        i = self._items.setdefault(item, len(self._items))
        who = self._labellers.setdefault(labeller, len(self._labellers))
        items, labellers, a, b, first = self._ints
        won, sure = self._floats
        given = np.nan if confidence is None else confidence
        for one, other, result, order in compared:
            items.append(i)
            labellers.append(who)
            a.append(one)
            b.append(other)
            first.append(order)
            won.append(result)
            sure.append(given)

    def columns(self) -> VoteColumns:
        """What was added, in its order."""
        items, labellers, a, b, first = self._ints
        won, sure = self._floats
        return VoteColumns(
            tuple(self._items),
            tuple(self._labellers),
            np.frombuffer(items, np.int32) if items else np.zeros(0, np.int32),
            np.frombuffer(labellers, np.int32) if items else np.zeros(0, np.int32),
            np.frombuffer(a, np.int16) if items else np.zeros(0, np.int16),
            np.frombuffer(b, np.int16) if items else np.zeros(0, np.int16),
            np.frombuffer(won, np.float32) if items else np.zeros(0, np.float32),
            np.frombuffer(sure, np.float32) if items else np.zeros(0, np.float32),
            np.frombuffer(first, np.int8) if items else np.zeros(0, np.int8),
        )
