"""Several endpoints of one model: each question goes to the one with the fewest under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds between two tries of an endpoint that is gone: each pause is twice the one before."""


@dataclass(eq=False)
class Line:
    """One of them.

    Attributes:
        url: of its API.
        client: asks it.
        refuses: why it is not asked any more: a wrong key, or no such model.
    """

    url: str
    client: Any = None
    refuses: str = ""
    busy: int = 0
    away_until: float = 0.0
    pause: float = FIRST_PAUSE

    def served(self) -> str:
        """The models that are there, in words."""
        try:
            names = [model.id for model in self.client.models.list()]
        except Exception:  # it need not have such a list, or in this form
            return ""
        return f"; it serves {', '.join(names[:8])}" if names else ""


class Lines:
    """All of them. One that is gone is left out for a while, and then tried again.

    Args:
        urls: of their APIs.
        clock: seconds.
    """

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.every = [Line(url) for url in urls]
        self._clock = clock
        self._lock = threading.Lock()

    def take(self, tried: Collection[Line]) -> Line | None:
        """One that is not among those ``tried``, those that are gone last; None where none is
        left."""
        with self._lock:
            now = self._clock()
            left = [line for line in self.every if not line.refuses and line not in tried]
            if not left:
                return None
            line = min(left, key=lambda line: (max(0.0, line.away_until - now), line.busy))
            line.busy += 1
            return line

    def back(self, line: Line, gone: bool) -> bool:
        """A question is done with; whether the line is gone since now."""
        with self._lock:
            line.busy -= 1
            if not gone:
                line.away_until, line.pause = 0.0, FIRST_PAUSE
                return False
            new, now = not line.away_until, self._clock()
            if now >= line.away_until:  # else another question has found out already
                line.away_until = now + line.pause
                line.pause = min(2 * line.pause, LONGEST_PAUSE)
            return new

    def forgive(self) -> None:
        """Ask those again that refused."""
        for line in self.every:
            line.refuses = ""
