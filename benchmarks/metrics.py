"""What writing a stage's metrics costs: processor seconds for so many iterations.

    python benchmarks/metrics.py                 1,000, 10,000 and 40,000 rows of 32 figures

Each row is appended as the loop appends it; a checkpoint's mark is taken every 50 rows, and the
parquet file is written at the end. ``resume`` is the time to take up the rows at the last mark.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gnomon.runs.rows import MetricsStore

FIGURES = 32
CHECKPOINT_EVERY = 50


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Processor seconds to write ``rows`` rows, to finish, and to resume; and the files' sizes."""
    store = MetricsStore(folder / "metrics.parquet")
    began = time.process_time()
    mark = store.mark()
    for step in range(1, rows + 1):
        row: dict[str, float | int | str | None] = {"step": step, "iteration": step}
        row |= {f"figure/{i}": (step * 0.123456789 + i) % 1 for i in range(FIGURES - 2)}
        store.append(row)
        if step % CHECKPOINT_EVERY == 0:
            mark = store.mark()
    written = time.process_time()
    store.finish()
    finished = time.process_time()
    MetricsStore(folder / "metrics.parquet").restore(mark)
    return {
        "append": written - began,
        "finish": finished - written,
        "resume": time.process_time() - finished,
        "MB of lines": store.lines.stat().st_size / 1e6,
        "MB of parquet": store.path.stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 40_000])
    arguments = parser.parse_args()
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            seen = measure(rows, Path(folder))
        figures = "  ".join(f"{name} {value:.2f}" for name, value in seen.items())
        print(f"{rows:>7,} rows: {figures}")


if __name__ == "__main__":
    main()
