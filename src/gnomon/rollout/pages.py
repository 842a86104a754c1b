"""A KV cache in pages: rows hold what they use, and share what they have in common.

A page holds the keys and values of ``size`` successive positions in every layer. It is free, held
by rows (one or more), or kept: nobody holds it, but a later prompt may begin with its tokens. Kept
pages are given away when nothing else is left, the longest unused first (Kwon et al. 2023,
"PagedAttention"; the tree of prefixes is that of Zheng et al. 2024, "SGLang").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_GROWTH = 16  # least pages by which the pool grows


class OutOfPagesError(Exception):
    """Every page is held by a row."""


class PagePool:
    """Keys and values of every layer, [pages, size, kv heads, head size], grown on demand.

    Page 0 belongs to nobody: rows that wait for nothing write there.

    Args:
        size: positions per page.
        limit: most pages that rows can hold together.
        whole: a page holds a whole row.

    Attributes:
        layers: the stores, by layer index.
        growths: how often the stores were replaced by larger ones.
    """

    def __init__(self, size: int, limit: int, whole: bool = False) -> None:
        self.size = size
        self.limit = limit
        self.whole = whole
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.growths = 0
        self._count = 1
        self._free: list[int] = []
        self._holders: Counter[int] = Counter()
        # Page 0 is the root of a tree: what follows a page's tokens is found by their text.
        self._tree: dict[int, dict[tuple[int, ...], int]] = {}
        self._place: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._kept: dict[int, None] = {}  # the longest unused first

    def pages(self, positions: int) -> int:
        """How many pages hold ``positions`` tokens."""
        return -(-positions // self.size)

    @property
    def held(self) -> int:
        """Pages that rows hold; a shared one counts once."""
        return len(self._holders)

    @property
    def kept(self) -> int:
        """Pages that only wait for a prompt that begins with their tokens."""
        return len(self._kept)

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The stores of one layer for keys and values [1, kv heads, N, head size].

        Zeros at first, since a masked NaN would still be a NaN.
        """
        if index not in self.layers:
            shapes = [(self._count, self.size, x.shape[1], x.shape[3]) for x in (key, value)]
            self.layers[index] = (key.new_zeros(shapes[0]), value.new_zeros(shapes[1]))
        return self.layers[index]

    # -- who holds what ---------------------------------------------------------------------------

    def take(self) -> int:
        """A page that is the caller's alone.

        Raises:
            OutOfPagesError: rows hold all of them.
        """
        if not self._free and self._count <= self.limit:
            self._grow()
        if not self._free:
            self._give_up_one()
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def hold(self, pages: Iterable[int]) -> None:
        """One more row holds ``pages``."""
        for page in pages:
            self._holders[page] += 1
            self._kept.pop(page, None)

    def release(self, pages: Sequence[int]) -> None:
        """One row less holds ``pages``; those that nobody holds are kept if known, else free."""
        for page in reversed(pages):  # what follows is given up before what it follows
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            del self._holders[page]
            if page in self._place:
                self._kept[page] = None
            else:
                self._free.append(page)

    def trim(self, most: int) -> None:
        """Give up kept pages until ``most`` are left."""
        while len(self._kept) > most:
            self._give_up_one()

    def _give_up_one(self) -> None:
        # A page that is held holds those before it, so some kept page has none after it.
        page = next((p for p in self._kept if not self._tree.get(p)), None)
        if page is None:
            raise OutOfPagesError
        del self._kept[page]
        self._forget(page)
        self._free.append(page)

    def _grow(self) -> None:
        wanted = min(self.limit + 1, max(self._count * 3 // 2, self._count + _GROWTH))
        for index, stores in self.layers.items():
            self.layers[index] = (_grown(stores[0], wanted), _grown(stores[1], wanted))
            del stores  # so that one layer at a time is there twice
        self._free.extend(range(wanted - 1, self._count - 1, -1))
        self._count = wanted
        self.growths += 1

    # -- what they hold ---------------------------------------------------------------------------

    def remember(self, ids: Sequence[int], pages: Sequence[int]) -> None:
        """``pages`` hold ``ids``, and will go on to; their further positions may change."""
        parent = 0
        for i, page in enumerate(pages[: self.pages(len(ids))]):
            tokens = tuple(ids[i * self.size : (i + 1) * self.size])
            before = self._place.get(page)
            if before != (parent, tokens):
                children = self._tree.setdefault(parent, {})
                if tokens in children:
                    return  # another page holds the same; what follows that is its own
                if before is not None:
                    self._forget(page)
                self._place[page] = (parent, tokens)
                self._tree.setdefault(parent, {})[tokens] = page
            parent = page

    def match(self, ids: Sequence[int]) -> tuple[list[int], int, int]:
        """The whole pages that ``ids`` begin with, then a page to copy from and how many of its
        first tokens come next (0, 0 where none does)."""
        pages: list[int] = []
        parent, at = 0, 0
        while at + self.size <= len(ids):
            page = self._tree.get(parent, {}).get(tuple(ids[at : at + self.size]))
            if page is None:
                break
            pages.append(page)
            parent, at = page, at + self.size
        rest = tuple(ids[at : at + self.size])
        page, most = 0, 0
        for tokens, candidate in self._tree.get(parent, {}).items():
            same = _common(tokens, rest)
            if same > most:
                page, most = candidate, same
        return pages, page, most

    def copy(self, source: Sequence[int], target: Sequence[int], most: int) -> None:
        """Copy the first ``most`` positions of the pages ``source`` over those of ``target``."""
        if not target:
            return
        for stores in self.layers.values():
            for store in stores:
                part = store[:, :most]
                src, dst = (torch.tensor(pages, device=store.device) for pages in (source, target))
                part.index_copy_(0, dst, part.index_select(0, src))

    def _forget(self, page: int) -> None:
        parent, tokens = self._place.pop(page)
        del self._tree[parent][tokens]
        if not self._tree[parent]:
            del self._tree[parent]


def _grown(old: Tensor, pages: int) -> Tensor:
    new = old.new_zeros(pages, *old.shape[1:])
    new[: len(old)] = old
    return new


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two texts share at their beginning: rows may be long, and most part early."""
    end, at, step = min(len(a), len(b)), 0, 16
    while at < end and a[at : at + step] == b[at : at + step]:
        at, step = at + step, 2 * step
    last = min(end, at + step)
    return next((i for i in range(at, last) if a[i] != b[i]), end if at >= end else last)
