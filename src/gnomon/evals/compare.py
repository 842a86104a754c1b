"""Two models' results of the same suites side by side: paired by item where the items are the same,
else from their intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.evals.targets import STAGES, stage_models
from gnomon.runs.evals import (
    EVAL_FOLDER,
    EvalResult,
    is_outdated,
    model_fingerprints,
    outdated,
)
from gnomon.stats.intervals import Interval, t_quantile
from gnomon.stats.prompts import (
    AskedBounds,
    common_bounds,
    gain_between_runs,
    independent_difference,
    over_items,
)

POWER = 0.8
FEW = 20
"""Items of a category below which it is not looked at by itself; the same request under several
attacks is one."""
LEVEL = 0.95
NEAR = 0.05
"""How far the mean over items may be from a score, relative to it where it is above 1, that is
still the items' own; a perplexity is not the mean of its items' log-likelihoods."""
Scores = dict[str, list[float | None]]
"""Each item's, by its id."""


@dataclass(frozen=True)
class ScoreChange:
    """One score of one suite, of two models.

    Attributes:
        before, after: the two figures.
        change: after less before, with its interval.
        paired: whether it is paired by item; else Newcombe's interval from the two.
        score: of a category, which score; empty where it is the items' own.
    """

    name: str
    before: Interval
    after: Interval
    change: Interval
    paired: bool
    score: str = ""

    @property
    def title(self) -> str:
        """Its name, of a category with its score's."""
        return f"{self.score} of {self.name}" if self.score else self.name

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
        categories: the items' own score by category, or each harm that they show, paired by
            item; the intervals are of 95% for all of them together (Bonferroni). Only categories
            with :data:`FEW` items that both answered.
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
    changes = [_change(suite, old[suite], new[suite]) for suite in shared]
    for place in dict.fromkeys((before, after)):
        models = model_fingerprints(place)  # none where it is not a run's folder
        for change, one in ((c, one) for c in changes for one in (c.before, c.after)):
            if is_outdated(one, models) and outdated(one) not in change.notes:
                change.notes.append(outdated(one))
    return changes


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
    before = _renamed(before, after.item_score)
    sides = _items(old_file, before.item_score), _items(new_file, after.item_score)
    values = [side.scores.get(side.own, {}) for side in sides]
    asked = [list(one.data.items()) for one in (before, after)]
    same = asked[0] == asked[1] and bool(set(values[0]) & set(values[1]))
    names = [after.main, *(name for name in after.scores if name != after.main)]
    scores = []
    for name in names:
        a, b = before.scores.get(name), after.scores.get(name)
        if a is None or b is None:
            continue
        paired = same and all(
            _is_mean(side.scores.get(name, {}), figure)
            for side, figure in zip(sides, (a, b), strict=True)
        )
        change = _paired(*sides, name) if paired else independent_difference(b, a)
        scores.append(ScoreChange(name, a, b, change, paired))
    if same:
        lost = len(set(values[0]) ^ set(values[1]))
        if lost:
            notes.append(f"{lost} items have a score of one of the two only, and are left out of "
                         "the paired change")  # fmt: skip
    elif asked[0] != asked[1]:
        notes.append("the two were asked different items, or the same files in another order: the "
                     "change is not paired")  # fmt: skip
    categories = _by_category(*sides) if same and before.item_score == after.item_score else []
    return SuiteChange(suite, before, after, scores, categories, notes)


def _renamed(result: EvalResult, name: str) -> EvalResult:
    """The result with its main score under another name: ``questions`` calls it ``accuracy`` where
    all answers are right or wrong, and ``score`` where there are marks between."""
    own = result.item_score
    if own == name or own != result.main or {own, name} != {"accuracy", "score"}:
        return result
    scores = {name if key == own else key: figure for key, figure in result.scores.items()}
    return result.model_copy(update={"scores": scores, "main": name, "item_score": name})


def _paired(
    old: _Items,
    new: _Items,
    name: str,
    among: Sequence[str] | None = None,
    *,
    bounds: AskedBounds = "auto",
    level: float = LEVEL,
) -> Interval:
    """The change of a score over the items that both answered (over ``among`` alone, where given):
    the mean over items, of which those that ask the same count as one in its interval."""
    of = {**old.of, **new.of}  # an older version wrote down no requests
    first, second = (side.scores.get(name, {}) for side in (old, new))
    asked = second if among is None else among
    both = [item for item in asked if _answered(first, item) and _answered(second, item)]
    after, before = (_by_request(side, both, of) for side in (second, first))
    weights = Counter(of.get(item, item) for item in both)
    return gain_between_runs(after, before, bounds, level, weights)


def _by_request(scores: Scores, items: Sequence[str], of: Mapping[str, str]) -> Scores:
    """The scores of each request, of all the items that ask it."""
    found: Scores = {}
    for item in items:
        found.setdefault(of.get(item, item), []).extend(scores[item])
    return found


@dataclass(frozen=True)
class _Items:
    """What the rows beside a result say of its items.

    Attributes:
        own: the score that each row's ``score`` is.
        scores: by the score's name, each item's: ``score``, and a suite's ``harms``.
        of: by item, what it asks, which other items may ask too: in another form, of another
            sample, about the same passage.
        groups: by item, its category and what else it is counted by.
    """

    own: str
    scores: dict[str, Scores] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)

    @property
    def counted(self) -> list[str]:
        """The scores that categories are compared by."""
        return [name for name in self.scores if name != self.own] or [self.own]


def _items(file: Path, own: str) -> _Items:
    found = _Items(own)
    for row in _rows(file):
        if "error" in row or row.get("score") is None:
            continue
        id = str(row.get("id"))
        more = row.get("harms")
        for name, score in [(own, row["score"]), *(more.items() if isinstance(more, dict) else [])]:
            values = score if isinstance(score, list) else [score]
            found.scores.setdefault(name, {})[id] = [_number(value) for value in values]
        if row.get("request"):
            found.of[id] = str(row["request"])
        groups = row.get("groups")
        named = [row.get("category"), *(groups if isinstance(groups, list) else [])]
        found.groups[id] = [str(name) for name in named if name]
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _is_mean(scores: Scores, figure: Interval) -> bool:
    """Whether a figure is the mean of the items' scores."""
    known = [value for values in scores.values() for value in values if value is not None]
    if not known:
        return False
    return abs(sum(known) / len(known) - figure.value) <= NEAR * max(1.0, abs(figure.value))


def _by_category(old: _Items, new: _Items) -> list[ScoreChange]:
    """The change of each category that enough items have, by each score."""
    of = {**old.of, **new.of}
    enough: list[tuple[str, str, list[str]]] = []
    for score in new.counted:
        items: dict[str, list[str]] = {}
        sides = old.scores.get(score, {}), new.scores.get(score, {})
        for item in sides[1]:
            if all(_answered(side, item) for side in sides):
                for name in new.groups.get(item, []):
                    items.setdefault(name, []).append(item)
        if len(items) < 2:  # one category of all is the suite itself
            continue
        enough += [
            (score, name, own)
            for name, own in sorted(items.items())
            if len({of.get(item, item) for item in own}) >= FEW
        ]
    level = 1.0 - (1.0 - LEVEL) / max(1, len(enough))
    found = []
    for score, name, own in enough:
        asked = [of.get(item, item) for item in own]
        a, b = ([side.scores[score][item] for item in own] for side in (old, new))
        bounds = common_bounds([*a, *b])
        before, after = (over_items(side, asked, bounds, level) for side in (a, b))
        change = _paired(old, new, score, own, bounds=bounds, level=level)
        which = "" if score == new.own else score
        found.append(ScoreChange(name, before, after, change, paired=True, score=which))
    return found


def _answered(scores: Scores, item: str) -> bool:
    return any(score is not None for score in scores.get(item, []))


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows beside a result that can be read."""
    rows = file.with_suffix(".jsonl")
    for line in rows.read_bytes().split(b"\n") if rows.is_file() else ():
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
        *(
            (f"version of {name}", before.versions.get(name, ""), after.versions.get(name, ""))
            for name in _makers(before, after)
        ),
    ):
        if a != b:
            notes.append(f"another {what}: {a.strip() or 'none'}, then {b.strip() or 'none'}")
    if before.judge == after.judge and before.judge_version != after.judge_version:
        notes.append(
            f"{after.judge} judges otherwise in the two versions, so part of the change may be its "
            "own: gnomon eval measures the older one anew"
        )
    known = {*before.settings, *after.settings} - {"judge_version"}
    changed = [key for key in sorted(known) if before.settings.get(key) != after.settings.get(key)]
    if changed:
        shown = "; ".join(
            f"{key} {before.settings.get(key)!r}, then {after.settings.get(key)!r}"
            for key in changed[:4]
        )
        notes.append(f"other settings: {shown}")
    return notes


def _makers(before: EvalResult, after: EvalResult) -> list[str]:
    """What both results say the version of that decides what counts: gnomon, and libraries' tasks.
    Those of numerical libraries change last digits alone."""
    shared = [name for name in after.versions if name in before.versions]
    return [name for name in shared if name == "gnomon" or name.startswith("task ")]


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
                score.title: {
                    "before": score.before.to_dict(),
                    "after": score.after.to_dict(),
                    "change": score.change.to_dict(),
                }
                for score in change.categories
            },
        }
        for change in changes
    ]
