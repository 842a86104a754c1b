"""Tokens that each role has computed, forward and backward: what a stage's compute is made from.

A role says so itself wherever it runs (:meth:`~gnomon.models.roles.Role.hidden`), so that a forward
pass that a method adds is counted without a word of the method's. Only what runs within
:func:`counting`, and in the same thread, is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TokenCounts:
    """Tokens by role.

    Attributes:
        forward: tokens of every forward pass, those that a backward pass follows among them.
        backward: tokens of the passes that a backward pass follows.
    """

    forward: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)

    def add(self, other: TokenCounts) -> None:
        """Count another's tokens too."""
        self.forward.update(other.forward)
        self.backward.update(other.backward)

    def to_dict(self) -> dict[str, dict[str, int]]:
        """As JSON has it; roles in the order of their names."""
        return {
            "forward": dict(sorted(self.forward.items())),
            "backward": dict(sorted(self.backward.items())),
        }

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> TokenCounts:
        """What :meth:`to_dict` gave; empty for a checkpoint of an earlier version."""
        return cls(Counter(raw.get("forward", {})), Counter(raw.get("backward", {})))


_CURRENT: ContextVar[TokenCounts | None] = ContextVar("token_counts", default=None)


@contextmanager
def counting() -> Iterator[TokenCounts]:
    """Count what roles compute within the block; an outer count does not see it."""
    counts = TokenCounts()
    token = _CURRENT.set(counts)
    try:
        yield counts
    finally:
        _CURRENT.reset(token)


def count(role: str, tokens: int, *, backward: bool) -> None:
    """Note that a role computes so many tokens, if anybody counts."""
    counts = _CURRENT.get()
    if counts is None:
        return
    counts.forward[role] += tokens
    if backward:
        counts.backward[role] += tokens


def recount(counts: TokenCounts) -> None:
    """Note what was counted elsewhere, in another process, if anybody counts."""
    current = _CURRENT.get()
    if current is not None:
        current.add(counts)
