"""What a sweep leaves in its folder: the table as Markdown and as jsonl, and the plot."""

from __future__ import annotations

import json
from pathlib import Path

from gnomon.files import write_text
from gnomon.report.sweep_plot import plot_sweep
from gnomon.report.sweeps import (
    PLOT,
    ROWS,
    TABLE,
    SweepView,
    read_sweep,
    sweep_markdown,
    sweep_rows,
)


def write_sweep(folder: Path) -> SweepView:
    """Write a sweep's table (Markdown, jsonl) and plot into its folder, and return what they
    show."""
    view = read_sweep(folder)
    write_text(folder / TABLE, sweep_markdown(view))
    rows = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in sweep_rows(view))
    write_text(folder / ROWS, rows)
    plot_sweep(view, folder / PLOT)
    return view
