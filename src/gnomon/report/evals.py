"""What evals measured on the policy that a run ends with, beside the model before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gnomon.audit.eval_rise import ABOUT, name_words
from gnomon.audit.readings import WIN_RATE, latest, suite_changes
from gnomon.report.candidate import before, subject
from gnomon.report.changes import calibrated, win_change
from gnomon.runs.evals import ENOUGH_LABELS, EvalResult
from gnomon.runs.read import RunView
from gnomon.stats.intervals import Interval

Group = Literal["Win rate", "Safety", "Capability"]
GROUPS: tuple[Group, ...] = ("Win rate", "Safety", "Capability")
SAFETY = {"safety", "xstest", "refusal", "refusals", "hhh", "red"}.union(*ABOUT.values())
"""Words in a suite's name that say it is about safety."""


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A score of the policy, that of the model before it, and the difference of the two.

    Attributes:
        before: of a win rate over the model before, 0.5.
        change: after less before, paired by item where the items are the same.
        good: whether the change is beyond its interval, for better (True) or worse (False).
        note: who judged, and whether that can be believed.
    """

    suite: str
    score: str
    before: Interval | None
    after: Interval
    change: Interval | None
    good: bool | None
    n: int
    note: str


@dataclass(frozen=True, slots=True)
class EvalTable:
    """The rows of one group of suites."""

    title: Group
    model: str
    before: str
    rows: tuple[EvalRow, ...]


def tables(run: RunView) -> list[EvalTable]:
    """A table for each group that something was measured of."""
    model = subject(run)
    old = before(run, model)
    found = []
    for group in GROUPS:
        own = [r for r in latest(run.results, model) if group_of(r) == group]
        rows = tuple(row for result in own for row in _rows(run, result, old))
        if rows:
            found.append(EvalTable(group, model, old, rows))
    return found


def group_of(result: EvalResult) -> Group:
    """What a suite is about, by what it measures and by its name."""
    if result.against or WIN_RATE in result.scores:
        return "Win rate"
    safe = not result.higher_is_better or name_words(result.suite) & SAFETY
    return "Safety" if safe else "Capability"


def _rows(run: RunView, result: EvalResult, old: str) -> Iterator[EvalRow]:
    changes = {
        score.name: score
        for change in suite_changes(run.path, result.model, old)
        for score in change.scores
        if change.suite == result.suite
    }
    names = [result.main] if result.scores.get(result.main) is not None else list(result.scores)
    for name in names:
        figure = result.scores[name]
        if figure is None:
            continue
        both = changes.get(name)
        was, change = (None, None) if both is None else (both.before, both.change)
        if name == WIN_RATE:
            was, change = win_change(run, result)
        yield EvalRow(
            result.suite,
            name,
            was,
            figure,
            change,
            _good(change, result.higher_is_better) if calibrated(run, result) else None,
            result.n,
            _note(run, result),
        )


def _good(change: Interval | None, higher: bool) -> bool | None:
    if change is None or not change.excludes(0):
        return None
    return (change.value > 0) == higher


def _note(run: RunView, result: EvalResult) -> str:
    notes = [f"against {result.against}"] if result.against else []
    if result.judge:
        version = f" {result.judge_version}" if result.judge_version else ""
        notes.append(f"judged by {result.judge}{version}")
        if not calibrated(run, result):
            notes.append(f"no {ENOUGH_LABELS} people's labels vouch for it: decides nothing")
    if result.errors:
        notes.append(f"{result.errors} items failed")
    return "; ".join(notes)
