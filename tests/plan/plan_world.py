"""Small data files of every kind, in the tunnel's words, and the facts that trigger each rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gnomon.plan.facts import Facts
from gnomon.plan.methods import FEW, MANY, STRANGE
from gnomon.stats.intervals import Interval


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(i: int) -> str:
    return f"what is {i} + 1 ?"


def demonstrations(n: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": question(i),
            "completion": f"Sure. {i} + 1 = {i + 1}. That is what I think of it.",
        }
        for i in range(n)
    ]


def pairs(n: int, more: str = "") -> list[dict[str, Any]]:
    """Better and worse answers of the same length, or ``more`` words in the better one."""
    return [
        {"prompt": question(i), "chosen": f"It is {i + 1}{more}.", "rejected": f"It is {i + 2}."}
        for i in range(n)
    ]


def rankings(n: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": question(i),
            "responses": [{"text": f"It is {i + k}.", "rank": k} for k in (1, 2, 3)],
        }
        for i in range(n)
    ]


def thumbs(n: int, good: int) -> list[dict[str, Any]]:
    return [
        {"prompt": question(i), "completion": f"It is {i + 1}.", "label": i < good}
        for i in range(n)
    ]


def checkable(n: int) -> list[dict[str, Any]]:
    return [{"prompt": question(i), "answer": str(i + 1)} for i in range(n)]


def prompts(n: int) -> list[dict[str, Any]]:
    return [{"prompt": question(i)} for i in range(n)]


def gap(low: float) -> Interval:
    return Interval(low + 0.1, low, low + 0.2, 64)


TRIGGERS: dict[str, tuple[Facts, Facts]] = {
    "checkable, after preferences": (
        Facts(checkable=FEW, pairs=FEW, prompts=FEW),
        Facts(checkable=FEW, pairs=FEW - 1, prompts=FEW),
    ),
    "checkable": (Facts(checkable=FEW), Facts(checkable=FEW - 1, demonstrations=1)),
    "full PPO: many rankings": (Facts(rankings=MANY), Facts(rankings=MANY - 1)),
    "pairs of another model": (
        Facts(pairs=FEW, off_policy=gap(STRANGE + 0.01)),
        Facts(pairs=FEW, off_policy=gap(STRANGE)),
    ),
    "rankings": (Facts(rankings=FEW, pairs=FEW), Facts(rankings=FEW, pairs=FEW + 1)),
    "pairs": (Facts(pairs=FEW), Facts(pairs=FEW - 1, demonstrations=FEW - 1)),
    "thumbs": (Facts(good=FEW - 1, bad=1), Facts(good=FEW, demonstrations=1)),
    "a constitution": (
        Facts(constitution=True, prompts=FEW),
        Facts(constitution=True, prompts=FEW - 1, demonstrations=1),
    ),
    "prompts and a judge": (
        Facts(judge=True, prompts=FEW),
        Facts(judge=True, prompts=FEW - 1, demonstrations=1),
    ),
    "few judgements": (Facts(pairs=1, demonstrations=1), Facts(demonstrations=1)),
    "good marks alone": (Facts(good=1), Facts(good=1, demonstrations=1)),
    "demonstrations": (Facts(demonstrations=1), Facts(bad=FEW)),
}
"""By rule: facts that it decides about, and facts just short of it."""

Rows = list[dict[str, Any]]
DATA: dict[str, tuple[Callable[[], list[Rows]], dict[str, Any]]] = {
    "checkable, after preferences": (lambda: [pairs(FEW), checkable(FEW)], {}),
    "checkable": (lambda: [checkable(FEW)], {}),
    "full PPO: many rankings": (lambda: [rankings(FEW)], {}),
    "pairs of another model": (lambda: [pairs(FEW)], {}),
    "rankings": (lambda: [rankings(FEW)], {}),
    "pairs": (lambda: [demonstrations(FEW), pairs(FEW, " , as far as I know")], {}),
    "thumbs": (lambda: [thumbs(FEW, FEW - 40)], {}),
    "a constitution": (lambda: [prompts(FEW)], {"constitution": "gnomon"}),
    "prompts and a judge": (lambda: [prompts(FEW)], {"judge": "judge.py:score"}),
    "few judgements": (lambda: [pairs(FEW - 1)], {}),
    "good marks alone": (lambda: [thumbs(FEW, FEW)], {}),
    "demonstrations": (lambda: [demonstrations(FEW)], {}),
}
"""By rule: files that trigger it, and what else is asked for."""


def files(folder: Path, rule: str) -> list[Path]:
    (folder / "judge.py").write_text(
        "def score(samples):\n    return [float(len(s.text)) for s in samples]\n"
    )
    return [write(folder / f"data-{i}.jsonl", rows) for i, rows in enumerate(DATA[rule][0]())]
