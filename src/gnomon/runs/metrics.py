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
