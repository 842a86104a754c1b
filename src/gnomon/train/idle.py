"""Iterations that trained nothing: said on the screen, since a loss of 0 looks like success."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnomon.algorithms.base import Algorithm


class IdleWatch:
    """Tells of iterations that trained nothing: the first in a row, the tenth, the hundredth, ...

    Args:
        algorithm: says why (:meth:`~gnomon.algorithms.base.Algorithm.why_idle`).
        iterations: of the whole stage.
        tell: shows a line to the user.

    Attributes:
        count: how many there were, once :meth:`sum_up` was called.
    """

    def __init__(self, algorithm: Algorithm, iterations: int, tell: Callable[[str], None]) -> None:
        self.algorithm = algorithm
        self.iterations = iterations
        self.tell = tell
        self.count = 0
        self._in_a_row = 0
        self._tell_at = 1

    def see(self, iteration: int, row: Mapping[str, Any]) -> None:
        """Look at what an iteration recorded."""
        why = self.algorithm.why_idle(row)
        if why is None:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row < self._tell_at:
            return
        self._tell_at *= 10
        before = f" (and {self._in_a_row - 1} before it)" if self._in_a_row > 1 else ""
        self.tell(f"warning: iteration {iteration}{before} trained nothing: {why}")

    def sum_up(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Look at all rows of the stage, and say how many of its iterations trained nothing."""
        reasons = [why for row in rows if not row.get("final") and (why := self._why(row))]
        self.count = len(reasons)
        if self.count == self.iterations:
            self.tell(
                f"warning: the stage trained nothing in any of its {self.count} iterations: "
                f"{reasons[-1]}. Its model is the one it started from."
            )
        elif self.count:
            self.tell(
                f"warning: {self.count} of {self.iterations} iterations trained nothing; the last "
                f"of them: {reasons[-1]}"
            )

    def _why(self, row: Mapping[str, Any]) -> str | None:
        return self.algorithm.why_idle({k: v for k, v in row.items() if v is not None})
