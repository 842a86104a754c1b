"""Overrides that stand for several values, as ``gnomon sweep`` takes them.

ppo.settings.beta=[0.01,0.02,0.05]           each of them, where the key takes no list
sft.train.betas=sweep([0.9,0.95],[0.9,0.999])  each of them, whatever the key takes
ppo.train.lr=log(1e-6,1e-4,5)                five values, equally far apart on a log scale
ppo.settings.lam=lin(0.9,1,3)                three, equally far apart
ppo.train.lr=log(1e-6,1e-4)                  any value between, for a search that draws
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml

from gnomon.errors import ConfigError
from gnomon.recipe.read import explain_yaml, read_yaml

MOST = 10_000
"""Values of one key, and settings of one grid."""
_MARKED = re.compile(r"\s*(sweep|log|lin)\s*\((.*)\)\s*", re.DOTALL)
_BEGUN = re.compile(r"\s*(sweep|log|lin)\s*\(")
_DIGITS = 4


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, drawn evenly on a scale; ``whole`` ones only."""

    scale: Literal["lin", "log"]
    low: float
    high: float
    whole: bool = False

    def spaced(self, count: int) -> tuple[float, ...]:
        """``count`` values, equally far apart on the scale; those between the ends are rounded."""
        inside = []
        for i in range(1, count - 1):
            part = i / (count - 1)
            if self.scale == "log":
                x = math.exp((1 - part) * math.log(self.low) + part * math.log(self.high))
            else:
                x = (1 - part) * self.low + part * self.high
            inside.append(self.rounded(x))
        return (self.low, *inside, self.high)

    def rounded(self, x: float) -> float:
        """``x`` to four digits, or to a whole number, and not beyond the ends."""
        near = float(round(x)) if self.whole else float(f"{x:.{_DIGITS}g}")
        return min(max(near, self.low), self.high)

    def __str__(self) -> str:
        return f"{self.scale}({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Axis:
    """A key and the values that are tried.

    Attributes:
        values: to try; empty where any value of ``range`` is.
        count: how many values of ``range`` are tried.
        marked: whether it was written as ``sweep``, ``log`` or ``lin``; a list alone may also be
            one value of a key that takes lists.
    """

    key: str
    values: tuple[Any, ...] = ()
    range: Range | None = None
    count: int | None = None
    marked: bool = True

    def whole(self) -> Axis:
        """The same with whole numbers alone.

        Raises:
            ConfigError: an end that is none, or fewer numbers than values asked for.
        """
        if self.range is None:
            return self
        ends = (self.range.low, self.range.high)
        if any(not end.is_integer() for end in ends):
            raise ConfigError(f"{self.key} takes whole numbers, and {self.range} has ends that "
                              "are none")  # fmt: skip
        return replace(self, range=replace(self.range, whole=True)).spaced()

    def spaced(self) -> Axis:
        """The same with its values worked out, where ``count`` says how many.

        Raises:
            ConfigError: two of them are the same.
        """
        if self.range is None or self.count is None:
            return self
        values = self.range.spaced(self.count)
        if len(set(values)) < len(values):
            raise ConfigError(
                f"{self.key}: {self.count} values of {self.range} are not all different"
            )
        return replace(self, values=values)

    def __str__(self) -> str:
        if self.range is not None and not self.values:
            return f"{self.key}: {self.range}"
        return f"{self.key}: {', '.join(show(value) for value in self.values)}"


def show(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


def as_override(key: str, value: Any) -> str:
    """``key=value`` that :func:`~gnomon.recipe.load.apply_override` reads as this value."""
    return f"{key}={json.dumps(value)}"


def is_marked(override: str) -> bool:
    """Whether an override is written as ``sweep``, ``log`` or ``lin`` of several values."""
    return _MARKED.fullmatch(override.partition("=")[2]) is not None


def parse_axis(override: str) -> Axis | None:
    """The values that an override stands for; None where it is one value.

    Raises:
        ConfigError: ``sweep(``, ``log(`` or ``lin(`` with something in it that cannot be read, no
            values, a value twice, or ends that are no range.
    """
    key, _, text = override.partition("=")
    key, marked = key.strip(), _MARKED.fullmatch(text)
    if marked is not None:
        kind, inside = marked.groups()
        values = _listed(f"[{inside}]", f"{key}={text.strip()}")
        if kind in ("log", "lin"):
            return _range(key, "log" if kind == "log" else "lin", values)
        return Axis(key, _checked(key, values))
    if _BEGUN.match(text):
        raise ConfigError(f"{override!r}: the bracket is not closed, or something follows it")
    if not text.strip().startswith("["):
        return None
    values = _listed(text, override)
    return Axis(key, _checked(key, values), marked=False)


def axis_of(key: str, values: Any) -> Axis:
    """The values of a key as Python has them: a list of them, or text as on the command line.

    Raises:
        ConfigError: see :func:`parse_axis`; or it is neither.
    """
    if isinstance(values, str):
        found = parse_axis(f"{key}={values}")
        if found is not None:
            return replace(found, marked=True)
    elif isinstance(values, list | tuple):
        try:
            json.dumps(values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key}: its values have to be plain data ({error})") from error
        return Axis(key, _checked(key, list(values)))
    raise ConfigError(
        f"{key}: give the values to try as a list, or as text: 'log(1e-6,1e-4,5)' (got {values!r})"
    )


def _listed(text: str, shown: str) -> list[Any]:
    try:
        found = read_yaml(text)
    except yaml.YAMLError as error:
        problem = explain_yaml(error, with_line=False)
        raise ConfigError(f"{shown!r}: the values cannot be read: {problem}") from error
    if not isinstance(found, list):
        raise ConfigError(f"{shown!r}: values stand in brackets with commas, as in [0.01,0.02]")
    return found


def _checked(key: str, values: list[Any]) -> tuple[Any, ...]:
    if not values:
        raise ConfigError(f"{key}: no values to try, so the sweep has no runs")
    if len(values) > MOST:
        raise ConfigError(f"{key}: {len(values):,} values; at most {MOST:,} can be tried")
    seen = [json.dumps(value) for value in values]
    twice = next((s for i, s in enumerate(seen) if s in seen[:i]), None)
    if twice is not None:
        raise ConfigError(f"{key}: the value {twice} is there twice")
    return tuple(values)


def _range(key: str, scale: Literal["lin", "log"], given: list[Any]) -> Axis:
    form = f"write it as in {key}={scale}(1e-6,1e-4,5): from, to, and how many values"
    numbers = [x for x in given if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) != len(given) or len(given) not in (2, 3):
        raise ConfigError(f"{key}: {scale}({', '.join(map(str, given))}) is no range; {form}")
    low, high = float(given[0]), float(given[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{key}: {scale} goes from a smaller number to a larger one; {form}")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{key}: a log scale has no {low:g}: start above 0, or use lin")
    axis = Axis(key, range=Range(scale, low, high))
    if len(given) == 2:
        return axis
    count = given[2]
    if not isinstance(count, int) or not 2 <= count <= MOST:
        raise ConfigError(f"{key}: {count} is no number of values (2 or more); {form}")
    return replace(axis, count=count).spaced()


def short_keys(keys: list[str]) -> dict[str, str]:
    """Each key by as many of its last parts as tell it from the others."""

    def ends(key: str) -> Iterator[str]:
        parts = key.split(".")
        yield from (".".join(parts[-n:]) for n in range(1, len(parts) + 1))

    def unique(end: str, key: str) -> bool:
        return not any(k != key and (k == end or k.endswith(f".{end}")) for k in keys)

    return {key: next((end for end in ends(key) if unique(end, key)), key) for key in keys}
