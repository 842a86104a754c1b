"""Metrics of a stage: one row per iteration (and per evaluation).

They are in ``metrics.jsonl`` as they come, and in ``metrics.parquet`` when the stage ends.
"""

from __future__ import annotations

from collections.abc import Mapping

from gnomon.runs.rows import RowStore


class MetricsStore(RowStore):
    """A :class:`~gnomon.runs.rows.RowStore` of figures; every row has a ``step``."""

    def append(self, row: Mapping[str, float | int | str | None]) -> None:
        """Add a row.

        Raises:
            ValueError: it has no ``step``, so a resumed run could not tell whether to keep it.
        """
        if row.get("step") is None:
            raise ValueError("a row of metrics needs a 'step'")
        super().append(row)


class Averages:
    """Weighted means of metrics over an iteration's micro-batches."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, name: str, total: float, weight: float) -> None:
        """Count a (sum, weight) pair in."""
        entry = self._sums.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += weight

    def means(self) -> dict[str, float]:
        """The mean of each metric that anything counted in."""
        return {name: total / weight for name, (total, weight) in self._sums.items() if weight}
