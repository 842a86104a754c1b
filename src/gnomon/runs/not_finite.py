"""Metrics that are NaN or infinite, in words.

Whoever reads metrics leaves such values out, as if they had not been logged: a loss that became NaN
would be a curve that ends. So it is said which, how many, and from which step on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

BOUNDS = ("_low", "_high", "_n")
"""How the columns of a figure's interval end."""


def is_bound(name: str, columns: Collection[str]) -> bool:
    """Whether ``x_low``, ``x_high`` or ``x_n`` is of the interval of a logged x."""
    return any(name.endswith(end) and name.removesuffix(end) in columns for end in BOUNDS)


def not_finite(steps: Mapping[str, Sequence[int]]) -> list[str]:
    """A sentence for the metrics that are not finite in as many rows from the same step on.

    Args:
        steps: by metric, the step of every row in which it is not finite.
    """
    alike: dict[tuple[int, int], list[str]] = {}
    for name, broken in steps.items():
        if broken:
            alike.setdefault((len(broken), min(broken)), []).append(name)
    return [_said(names, count, first) for (count, first), names in alike.items()]


def _said(names: Sequence[str], count: int, first: int) -> str:
    what = "metric" if len(names) == 1 else "metrics"
    verb = "is" if len(names) == 1 else "are"
    rows = "1 row" if count == 1 else f"{count} rows"
    which = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{what} {which} {verb} not finite in {rows}, first at step {first}: left out there"
