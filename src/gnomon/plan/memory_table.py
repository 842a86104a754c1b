"""What a stage takes, shown: what is always there, each instant, and which of them decides."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from gnomon.plan.memory import Memory


def memory_table(ways: Mapping[str, Memory], title: str) -> Table:
    """Ways to run a stage side by side, the instant of each peak marked.

    Args:
        ways: by their titles.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ways:
        table.add_column(name, justify="right")
    every = list(ways.values())
    for part in dict.fromkeys(name for way in every for name in way.always):
        sizes = [way.always.get(part, 0.0) for way in every]
        table.add_row(part, *(human(size) if size else "" for size in sizes))
    table.add_row("always there", *(human(way.persistent) for way in every), style="bold")
    table.add_section()
    for instant in dict.fromkeys(name for way in every for name in way.instants):
        table.add_row(f"+ {instant}", *(_marked(way, instant) for way in every))
    table.add_section()
    table.add_row("peak", *(human(way.peak) for way in every), style="bold")
    return table


def _marked(way: Memory, instant: str) -> str:
    if instant not in way.instants:
        return ""
    return f"{human(way.instants[instant])} {'<' if instant == way.worst else ' '}"


def human(size: float) -> str:
    """Bytes in words, decimal units."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
