"""Two models' results of the same suites side by side: paired by item where the items are the same,
else from their intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.evals.targets import STAGES, stage_models
from gnomon.runs.evals import EVAL_FOLDER, EvalResult
from gnomon.stats.intervals import Interval, t_quantile
from gnomon.stats.prompts import (
    common_bounds,
    gain_between_runs,
    independent_difference,
    over_prompts,
)

POWER = 0.8
FEW = 20
"""Items of a category below which it is not looked at by itself."""
LEVEL = 0.95
Scores = dict[str, list[float | None]]
"""Each item's, by its id."""


@dataclass(frozen=True)
class ScoreChange:
    """One score of one suite, of two models.

    Attributes:
        before, after: the two figures.
        change: after less before, with its interval.
        paired: whether it is paired by item; else Newcombe's interval from the two.
    """

    name: str
    before: Interval
    after: Interval
    change: Interval
    paired: bool

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.change.excludes(0.0)

    @property
    def detectable(self) -> float:
        """The smallest change that these items would show with a chance of 80%."""
        return detectable(self.change)


@dataclass(frozen=True)
class SuiteChange:
    """A suite's scores of two models, the main one first, and what must be known of them.

    Attributes:
        categories: the items' own score by category, paired by item; the intervals are of 95% for
            all of them together (Bonferroni). Only categories with :data:`FEW` items that both
            answered.
    """

    suite: str
    before: EvalResult
    after: EvalResult
    scores: list[ScoreChange] = field(default_factory=list)
    categories: list[ScoreChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def detectable(figure: Interval) -> float:
    """The smallest effect that a figure with such an interval shows with a chance of 80%: the
    interval's half width times (z + z_power) / z (Lachin 1981)."""
    z, power = t_quantile(figure.level, float("inf")), t_quantile(2 * POWER - 1, float("inf"))
    return (figure.high - figure.low) / 2 * (z + power) / z


def compare(before: Path, after: Path) -> list[SuiteChange]:
    """Every suite that both have a result of.

    Args:
        before, after: a run's folder (its last stage's results), ``RUN/evals/MODEL``, or one
            result's file.

    Raises:
        ConfigError: no results, several models to choose from, or no suite in common.
    """
    old, new = (_results(folder) for folder in (before, after))
    shared = [suite for suite in old if suite in new]
    if not shared:
        raise ConfigError(
            f"no suite in common: {before} has {', '.join(old)}; {after} has {', '.join(new)}"
        )
    return [_change(suite, old[suite], new[suite]) for suite in shared]


def _results(place: Path) -> dict[str, tuple[Path, EvalResult]]:
    """A model's results after training, by suite."""
    files = [place] if place.is_file() else sorted(_folder(place).rglob("*.json"))
    found: dict[str, tuple[Path, EvalResult]] = {}
    for file in files:
        try:
            result = EvalResult.read(file)
        except ValueError:
            continue
        if result.suite and result.step is None:
            found[result.suite] = (file, result)
    if not found:
        raise ConfigError(f"{place}: no results; gnomon eval {place} --suite NAME makes some")
    return found


def _folder(place: Path) -> Path:
    """The folder of one model's results."""
    evals = place / EVAL_FOLDER
    if not evals.is_dir():
        if place.is_dir() and any(place.rglob("*.json")):
            return place
        raise ConfigError(f"{place}: no results; gnomon eval {place} --suite NAME makes some")
    models = [folder.name for folder in sorted(evals.iterdir()) if folder.is_dir()]
    stages = list(stage_models(place)) if (place / STAGES).is_dir() else []
    last = [name for name in stages if name in models and any((evals / name).glob("*.json"))]
    deep = [name for name in stages if name in models and _finished(evals / name)]
    chosen = (last or deep or models)[-1:]
    if not last and not deep and len(models) > 1:
        raise ConfigError(
            f"{evals} has results of {', '.join(models)}: name one, as in {evals / models[0]}"
        )
    if not chosen:
        raise ConfigError(f"{place}: no results; gnomon eval {place} --suite NAME makes some")
    return evals / chosen[0]


def _finished(folder: Path) -> bool:
    """Whether a model's folder has results that are not of its training."""
    return any(not f.relative_to(folder).parts[0].startswith("step-")
               for f in folder.rglob("*.json"))  # fmt: skip


def result_change(before: Path, after: Path) -> SuiteChange:
    """What changed between two results of one suite.

    Raises:
        ValueError: a file that holds no result.
    """
    old, new = EvalResult.read(before), EvalResult.read(after)
    return _change(new.suite, (before, old), (after, new))


def _change(suite: str, old: tuple[Path, EvalResult], new: tuple[Path, EvalResult]) -> SuiteChange:
    (old_file, before), (new_file, after) = old, new
    notes = _differences(before, after)
    values = [_item_scores(file) for file in (old_file, new_file)]
    same = before.data == after.data and bool(set(values[0]) & set(values[1]))
    names = [after.main, *(name for name in after.scores if name != after.main)]
    scores = []
    for name in names:
        a, b = before.scores.get(name), after.scores.get(name)
        if a is None or b is None:
            continue
        paired = same and name == after.item_score == before.item_score
        change = gain_between_runs(values[1], values[0]) if paired else independent_difference(b, a)
        scores.append(ScoreChange(name, a, b, change, paired))
    if same:
        lost = len(set(values[0]) ^ set(values[1]))
        if lost:
            notes.append(f"{lost} items have a score of one of the two only, and are left out of "
                         "the paired change")  # fmt: skip
    elif before.data != after.data:
        notes.append("the two were asked different items: the change is not paired")
    named = _categories(new_file) if same and before.item_score == after.item_score else {}
    return SuiteChange(suite, before, after, scores, _by_category(named, *values), notes)


def _by_category(named: Mapping[str, str], old: Scores, new: Scores) -> list[ScoreChange]:
    """The change of each category that enough items have."""
    items: dict[str, list[str]] = {}
    for item in named:
        if _answered(old, item) and _answered(new, item):
            items.setdefault(named[item], []).append(item)
    enough = {name: own for name, own in sorted(items.items()) if len(own) >= FEW}
    if len(items) < 2:  # one category of all is the suite itself
        return []
    level = 1.0 - (1.0 - LEVEL) / max(1, len(enough))
    found = []
    for name, own in enough.items():
        a, b = ({item: scores[item] for item in own} for scores in (old, new))
        bounds = common_bounds([*a.values(), *b.values()])
        before, after = (over_prompts(list(side.values()), bounds, level) for side in (a, b))
        change = gain_between_runs(b, a, level=level)
        found.append(ScoreChange(name, before, after, change, paired=True))
    return found


def _answered(scores: Scores, item: str) -> bool:
    return any(score is not None for score in scores.get(item, []))


def _item_scores(file: Path) -> Scores:
    """Each item's score, by its id, from the rows beside a result."""
    found: Scores = {}
    for row in _rows(file):
        score = row.get("score")
        if score is not None and "error" not in row:
            found[str(row.get("id"))] = score if isinstance(score, list) else [score]
    return found


def _categories(file: Path) -> dict[str, str]:
    """The category of each item that has one, by its id."""
    return {str(row.get("id")): str(row["category"]) for row in _rows(file) if row.get("category")}


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows beside a result that can be read."""
    rows = file.with_suffix(".jsonl")
    for line in rows.read_text(encoding="utf-8").splitlines() if rows.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _differences(before: EvalResult, after: EvalResult) -> list[str]:
    """Settings, judges and opponents that are not the same, in words."""
    notes = []
    for what, a, b in (
        ("judge", f"{before.judge} {before.judge_version}", f"{after.judge} {after.judge_version}"),
        ("opponent", before.against, after.against),
    ):
        if a != b:
            notes.append(f"another {what}: {a.strip() or 'none'}, then {b.strip() or 'none'}")
    known = {*before.settings, *after.settings} - {"judge_version"}
    changed = [key for key in sorted(known) if before.settings.get(key) != after.settings.get(key)]
    if changed:
        shown = "; ".join(
            f"{key} {before.settings.get(key)!r}, then {after.settings.get(key)!r}"
            for key in changed[:4]
        )
        notes.append(f"other settings: {shown}")
    return notes


def as_json(changes: Sequence[SuiteChange]) -> list[Mapping[str, Any]]:
    """The same as plain data."""
    return [
        {
            "suite": change.suite,
            "before": change.before.model,
            "after": change.after.model,
            "notes": change.notes,
            "scores": {
                score.name: {
                    "before": score.before.to_dict(),
                    "after": score.after.to_dict(),
                    "change": score.change.to_dict(),
                    "paired": score.paired,
                    "detectable": score.detectable,
                }
                for score in change.scores
            },
            "categories": {
                score.name: {
                    "before": score.before.to_dict(),
                    "after": score.after.to_dict(),
                    "change": score.change.to_dict(),
                }
                for score in change.categories
            },
        }
        for change in changes
    ]
