"""The rows that a stage keeps of its training: metrics.parquet and samples.parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import RewardsFailedError, RunError
from gnomon.runs.rows import Mark, MetricsStore, RowStore, SampleStore
from gnomon.training.watch import PeakMemory


class Kept:
    """A stage's rows, and the peak of the memory that is noted in them.

    Args:
        folder: the stage's.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics = MetricsStore(folder / "metrics.parquet")
        self.samples = SampleStore(folder / "samples.parquet")
        self.memory = PeakMemory()

    def iteration(
        self, iteration: int, step: int, row: Mapping[str, float], seconds: float, tokens: int
    ) -> dict[str, float]:
        """Keep the row of an iteration (from 0) and return it whole."""
        place = {"step": step, "iteration": iteration + 1}
        full: dict[str, float] = {
            **place,
            **row,
            **place,  # whatever a method calls its metrics
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            **self.memory.metrics(),
        }
        self.metrics.append(full)
        return full

    def evaluation(
        self, iteration: int, step: int, found: Mapping[str, float], **more: int
    ) -> None:
        """A row for the figures of an evaluation, where they belong to no iteration of training."""
        if found:
            self.metrics.append({"step": step, "iteration": iteration, **more, **found})

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows of samples."""
        for row in rows:
            self.samples.append(row)

    def last(self, iteration: int) -> dict[str, float]:
        """The last training row and what the final evaluation added to it."""
        rows = [row for row in self.metrics.rows if row["iteration"] == iteration]
        merged = {k: v for row in rows for k, v in row.items() if v is not None}
        places = ("step", "iteration", "final")
        return {k: float(v) for k, v in merged.items() if k not in places}

    def failed(self, error: BaseException, step: int) -> None:
        """Write the rows up to the error, and the samples whose rewards failed.

        A resumed run drops them again: they belong to steps after its checkpoint.
        """
        with contextlib.suppress(RunError):  # a full disk; the error itself says more
            if isinstance(error, RewardsFailedError):
                self.answers([{"step": step + 1, **sample} for sample in error.samples])
            self.finish()

    @property
    def _tables(self) -> dict[str, RowStore]:
        return {"metrics": self.metrics, "samples": self.samples}

    def marks(self) -> dict[str, Any]:
        """How far both files are, for a checkpoint."""
        return {name: store.mark().to_dict() for name, store in self._tables.items()}

    def restore(self, marks: Mapping[str, Any]) -> None:
        """Drop what came after a checkpoint."""
        for name, store in self._tables.items():
            store.restore(Mark(**marks[name]))

    def reset(self) -> None:
        """Begin without rows."""
        for store in self._tables.values():
            store.reset()

    def finish(self) -> None:
        """Write both files whole."""
        for store in self._tables.values():
            store.finish()

    def close(self) -> None:
        for store in self._tables.values():
            store.close()
