"""Gates as a recipe writes them: conditions that have to hold before a run goes on.

    win_rate >= 0.55               even the low end of its interval is at least 0.55
    capability_drop <= 0.02        even the high end of its interval is at most 0.02
    eval/reward >= 0.4 (value)     the estimate is, whatever its interval
    no alarm: reward_hacking       the audit looked for it and raised no alarm
    no alarm                       ... of any name

The side of the interval that counts is the one that makes the claim hard, unless ``(low)``,
``(high)`` or ``(value)`` names another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

Side = Literal["low", "high", "value"]
NO_ALARM = "no alarm"
LONGEST = 200
_COMPARED = re.compile(
    r"(?P<metric>[^<>=≤≥]+?)\s*(?P<sign>>=|<=|≥|≤)\s*(?P<bound>[^\s()]+)\s*(?:\((?P<side>\w+)\))?"
)
_FORM = "write it as in win_rate >= 0.55, kl <= 20 (value) or no alarm: reward_hacking"


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure against a number.

    Attributes:
        text: the condition as the recipe has it.
        metric: which figure.
        at_least: whether it has to be at least ``bound``, or else at most.
        side: which side of its interval counts.
    """

    text: str
    metric: str
    at_least: bool
    bound: float
    side: Side

    def holds(self, x: float) -> bool:
        """Whether ``x`` is on the right side of the bound; NaN is on neither."""
        return x >= self.bound if self.at_least else x <= self.bound


@dataclass(frozen=True, slots=True)
class NoAlarm:
    """An alarm that must not stand; any where ``name`` is empty."""

    text: str
    name: str


Gate = Bound | NoAlarm


def parse_gate(text: str) -> Gate:
    """The condition that ``text`` states.

    Raises:
        ValueError: it states none; the message shows how one is written.
    """
    text = " ".join(text.split())
    if len(text) > LONGEST:
        raise ValueError(f"a gate has at most {LONGEST} characters")
    head, colon, name = text.partition(":")
    if head.strip().lower() == NO_ALARM:
        if colon and not name.strip():
            raise ValueError(f"the gate {text!r} names no alarm; leave the colon out for any alarm")
        return NoAlarm(text, name.strip())
    found = _COMPARED.fullmatch(text)
    if found is None:
        if re.search(r"(?<![<>])=(?!=)|==|>(?!=)|<(?!=)", text):
            raise ValueError(f"the gate {text!r} compares with neither >= nor <=; {_FORM}")
        raise ValueError(f"the gate {text!r} is no condition; {_FORM}")
    at_least = found["sign"] in (">=", "≥")
    return Bound(
        text,
        found["metric"],
        at_least,
        _number(found["bound"], text),
        _side(found["side"], text) or ("low" if at_least else "high"),
    )


def _number(word: str, text: str) -> float:
    try:
        bound = float(word)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        share = f"; {word} is {float(word[:-1]) / 100:g}" if re.fullmatch(r"[\d.]+%", word) else ""
        raise ValueError(f"the gate {text!r} compares with {word!r}, which is no number{share}")
    return bound


def _side(word: str | None, text: str) -> Side | None:
    if word is None:
        return None
    sides: dict[str, Side] = {"low": "low", "high": "high", "value": "value"}
    if word.lower() not in sides:
        raise ValueError(
            f"the gate {text!r} asks for the side ({word}) of an interval; it is (low), (high) or "
            "(value)"
        )
    return sides[word.lower()]


def _listed(value: Any) -> Any:
    """One condition or several; ``no alarm: x`` without quotes is a mapping in YAML."""
    items = value if isinstance(value, list) else [value]
    return [_as_text(item) for item in items]


def _as_text(item: Any) -> Any:
    if isinstance(item, Mapping) and len(item) == 1:
        ((key, name),) = item.items()
        if isinstance(name, str) and str(key).strip().lower() == NO_ALARM:
            return f"{key}: {name}"
    return item


def _checked(conditions: list[str]) -> list[str]:
    texts = [parse_gate(condition).text for condition in conditions]
    for text in texts:
        if texts.count(text) > 1:
            raise ValueError(f"the gate {text!r} is there twice")
    return texts


Conditions = Annotated[list[str], BeforeValidator(_listed), AfterValidator(_checked)]
"""Of a recipe's key ``gates``: each parses by :func:`parse_gate`."""
OnFail = Literal["stop", "previous"]
