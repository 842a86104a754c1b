"""Run lm-eval's tasks, item by item, and make figures with intervals of what its metrics give."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from lm_eval.evaluator import evaluate

from gnomon.errors import GnomonError, RunError
from gnomon.evals.lm_eval_model import EngineLM
from gnomon.evals.lm_eval_programs import GRADED
from gnomon.evals.lm_eval_tasks import Loaded, quiet
from gnomon.evals.rows import FAILED
from gnomon.evals.suite import Measured, Row
from gnomon.files import first_line
from gnomon.plugins import did_you_mean
from gnomon.stats.intervals import Interval, mean_interval, share_bounds, weighted_proportion
from gnomon.stats.prompts import ks_up_to, over_prompts, pass_curve

RESAMPLES = 500
"""Of the items, for intervals of scores that are no means (F1, perplexity)."""


@dataclass
class ItemResult:
    """What became of one item.

    Attributes:
        task, place: of the item.
        scores: by metric (and filter, where a task has several); empty where it failed.
        marks: of repeated answers that are right or wrong.
        row: as it is kept.
    """

    task: str
    place: int
    scores: dict[str, Any] = field(default_factory=dict)
    marks: list[float] = field(default_factory=list)
    row: Row = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.task}/{self.place}"


def run_tasks(
    model: EngineLM,
    loaded: Loaded,
    *,
    limit: int | None = None,
    chat: bool = False,
    system: str | None = None,
    multiturn: bool = False,
) -> list[ItemResult]:
    """Every item of every task, as lm-eval's own loop makes, filters and scores them.

    An item whose request or metric fails is kept with the reason.

    Raises:
        RunError: an item cannot be made a prompt at all.
    """
    broken: dict[tuple[str, str], str] = {}
    with quiet(), without_bars(), _guarded(loaded, broken), _explained():
        found = evaluate(
            model,
            {"tasks": loaded.tasks, "groups": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=system,
            apply_chat_template=chat,
            fewshot_as_multiturn=multiturn,
        )
    items: dict[tuple[str, int], ItemResult] = {}
    for task, samples in found["samples"].items():
        filters = {sample["filter"] for sample in samples}
        for sample in samples:
            place = (task, int(sample["doc_id"]))
            item = items.setdefault(place, ItemResult(*place))
            several = len(filters) > 1
            for name in sample["metrics"]:
                item.scores[f"{name}/{sample['filter']}" if several else name] = sample[name]
            if sample["filter"] == GRADED and sample["metrics"]:
                item.marks = list(sample["filtered_resps"][0])
            _fill(item, sample)
    for place, item in items.items():
        reason = model.account.failed.get(place) or broken.get((place[0], _name(item.row["item"])))
        item.row["cut"] = model.account.cut.get(place, 0)
        if reason:
            item.scores, item.marks = {}, []
            item.row[FAILED] = reason
        item.row["scores"] = {k: v for k, v in item.scores.items() if _number(v) is not None}
    return list(items.values())


def _fill(item: ItemResult, sample: Mapping[str, Any]) -> None:
    """The item's row: what was asked, answered and wanted."""
    if item.row:
        return
    prompt = str(sample["arguments"][0][0])
    item.row = {
        "id": item.id,
        "item": sample["doc"],
        "prompt": prompt,
        "target": sample["target"],
        "answers": [response for responses in sample["resps"] for response in responses],
    }
    choices = [args[1] for args in sample["arguments"] if len(args) > 1]
    if choices and all(isinstance(choice, str) for choice in choices):
        item.row["choices"] = choices


def _name(doc: Any) -> str:
    return json.dumps(doc, sort_keys=True, default=str)


@contextmanager
def _guarded(loaded: Loaded, broken: dict[tuple[str, str], str]) -> Iterator[None]:
    """A metric that raises costs its item, not the eval."""

    def guard(task: str, score: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(doc: Any, results: Any) -> Any:
            try:
                return score(doc, results)
            except (GnomonError, KeyboardInterrupt):
                raise
            except Exception as error:
                broken[task, _name(doc)] = f"{type(error).__name__}: {first_line(error)}"
                return {}

        return guarded

    own = {name: task.process_results for name, task in loaded.tasks.items()}
    try:
        for name, task in loaded.tasks.items():
            task.process_results = guard(name, own[name])
        yield
    finally:
        for task in loaded.tasks.values():
            vars(task).pop("process_results", None)


@contextmanager
def _explained() -> Iterator[None]:
    """A template that does not take an item, say, as an error of the task's."""
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        raise RunError(
            f"lm-eval could not go through the task's items ({type(error).__name__}: "
            f"{first_line(error)}); answers so far are kept"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """lm-eval shows a bar for every task's prompts and has no switch for it."""
    with patch("lm_eval.api.task.tqdm", lambda items, **unused: items):
        yield


# -- figures ---------------------------------------------------------------------------------------


def measure(
    items: Sequence[ItemResult],
    loaded: Loaded,
    *,
    cluster: str | None = None,
    main: str | None = None,
) -> Measured:
    """Figures of each task and group, over its items; each item's row gets the main one's value.

    Args:
        cluster: a field of the items; those that share it count as one cluster.
        main: the score to show first; by default the first metric of the first task.

    Raises:
        RunError: every item failed.
    """
    good = [item for item in items if item.scores]
    if not good:
        first = next((item.row[FAILED] for item in items if FAILED in item.row), "no items")
        raise RunError(f"all {len(items)} items failed. The first: {first}")
    measured = Measured(n=len(good), errors=len(items) - len(good))
    if measured.errors:
        first = next(item.row[FAILED] for item in items if FAILED in item.row)
        measured.notes.append(
            f"{measured.errors} of {len(items)} items failed and are in no score; the first: "
            f"{first}"
        )
    by_task: dict[str, list[ItemResult]] = defaultdict(list)
    for item in good:
        by_task[item.task].append(item)
    tasks = {
        name: _figures(loaded.tasks[name], by_task[name], cluster)
        for name in loaded.tasks
        if by_task[name]
    }
    grouped = {member for members in loaded.groups.values() for member in members}
    tops = {name: figures for name, figures in tasks.items() if name not in grouped}
    for name, members in loaded.groups.items():
        parts = {member: by_task[member] for member in members if by_task[member]}
        tops[name] = _group_figures(parts, tasks, name in loaded.by_size, cluster)
    place: dict[str, tuple[str, str]] = {}
    for name, figures in tops.items():
        for metric, figure in figures.items():
            full = metric if len(tops) == 1 else f"{name}/{metric}"
            measured.scores[full], place[full] = figure, (name, metric)
    if len(tasks) > 1:
        measured.by_category = {name: {**scores} for name, scores in tasks.items()}
    measured.main = measured.item_score = main_of(main, measured)
    top, metric = place[measured.main]
    members = loaded.groups.get(top, [top])
    for item, key in zip(good, _clusters(good, cluster) or [], strict=False):
        item.row["request"] = key
    for item in good:
        if item.task in members and _number(item.scores.get(metric)) is not None:
            item.row["score"] = item.marks or item.scores[metric]
    measured.higher_is_better = _higher(metric, loaded)
    measured.versions = {
        f"task {name}": str(getattr(task, "VERSION", "")) for name, task in loaded.tasks.items()
    }
    return measured


def main_of(asked: str | None, measured: Measured) -> str:
    """The score to show first: the one that was asked for, or else the first one. A misspelt name
    is noted, not raised: what was measured is worth more."""
    first = next(iter(measured.scores), "")
    if asked is not None and asked not in measured.scores:
        near = did_you_mean(asked, measured.scores)
        measured.notes.append(f"score: no score {asked!r}, so {first} is shown first; {near}")
    return asked if asked in measured.scores else first


def _higher(score: str, loaded: Loaded) -> bool:
    """Which way the score is better, as its task says."""
    for task in loaded.tasks.values():
        for metric, higher in task.higher_is_better().items():
            if metric in score.split("/"):
                return bool(higher)
    return True


def _figures(task: Any, items: Sequence[ItemResult], cluster: str | None) -> dict[str, Interval]:
    """A task's scores."""
    figures: dict[str, Interval] = {}
    names = dict.fromkeys(name for item in items for name in item.scores)
    for name in names:
        having = [item for item in items if name in item.scores]
        values = [item.scores[name] for item in having]
        keys = _clusters(having, cluster)
        aggregate = task.aggregation().get(name.split("/")[0])
        numbers = [_number(value) for value in values]
        if all(number is not None for number in numbers) and _is_mean(aggregate):
            figures[name] = _mean([float(n) for n in numbers if n is not None], keys)
        elif aggregate is not None:
            figures[name] = _resampled(aggregate, values, keys)
    marks = [item.marks for item in items if item.marks]
    most = min(map(len, marks), default=0)
    if most > 1:
        figures["pass@1"] = over_prompts(marks, (0.0, 1.0))
        ks = [k for k in ks_up_to(most) if k > 1]
        right = [[mark == 1.0 for mark in row] for row in marks]
        figures |= {f"pass@{k}": f for k, f in zip(ks, pass_curve(right, ks), strict=True)}
    return figures


def _group_figures(
    parts: Mapping[str, Sequence[ItemResult]],
    tasks: Mapping[str, Mapping[str, Interval]],
    by_size: bool,
    cluster: str | None,
) -> dict[str, Interval]:
    """Scores of tasks together: of all items alike, or of all tasks alike. Only means of numbers
    that every task has."""
    figures: dict[str, Interval] = {}
    shared = [n for n in tasks[next(iter(parts))] if all(n in tasks[member] for member in parts)]
    for name in shared:
        having = [(m, item) for m, items in parts.items() for item in items if name in item.scores]
        numbers = [_number(item.scores[name]) for _, item in having]
        if any(number is None for number in numbers):
            continue
        values = [float(n) for n in numbers if n is not None]
        keys = _clusters([item for _, item in having], cluster)
        sizes = {m: sum(other == m for other, _ in having) for m in parts}
        if by_size:
            figures[name] = _mean(values, keys)
        elif share_bounds(values) == (0.0, 1.0):
            weights = [1.0 / sizes[m] for m, _ in having]
            figures[name] = weighted_proportion(values, weights, clusters=keys)
    return figures


def _clusters(items: Sequence[ItemResult], name: str | None) -> list[str] | None:
    """What each item shares with others of its cluster."""
    if name is None:
        return None
    return [f"{item.task}/{_name(item.row['item'].get(name))}" for item in items]


def _mean(values: Sequence[float], clusters: Sequence[str] | None) -> Interval:
    if clusters is None:
        return mean_interval(values)
    if share_bounds(values) == (0.0, 1.0):
        return weighted_proportion(values, clusters=clusters)
    return _resampled(np.mean, values, clusters)


def _resampled(
    aggregate: Callable[..., Any], values: Sequence[Any], clusters: Sequence[str] | None
) -> Interval:
    """lm-eval's own aggregate, with a percentile bootstrap over items (or clusters of them).

    It has no ends where the draws do not differ: nothing shows then how far others would be."""
    value = float(aggregate(values))
    members: dict[Any, list[Any]] = defaultdict(list)
    for key, one in zip(clusters or range(len(values)), values, strict=True):
        members[key].append(one)
    groups = list(members.values())
    if len(groups) < 2 or not math.isfinite(value):
        return Interval(value, n=len(groups))
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = draw.integers(0, len(groups), len(groups))
        try:
            found.append(float(aggregate([one for i in chosen for one in groups[i]])))
        except (ValueError, ZeroDivisionError):  # a draw with one class alone, say
            continue
    known = [x for x in found if math.isfinite(x)]
    if len(known) < RESAMPLES // 2:
        return Interval(value, n=len(groups))
    low, high = np.quantile(known, [0.025, 0.975])
    if high - low <= 1e-12 * max(1.0, abs(value)):
        return Interval(value, n=len(groups))
    return Interval(value, float(min(low, value)), float(max(high, value)), len(groups))


def _is_mean(aggregate: Any) -> bool:
    return aggregate is None or getattr(aggregate, "__name__", "") in ("mean", "nanmean")


def _number(value: Any) -> float | None:
    """A score as a number; None for one that only lm-eval's aggregate understands."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        number = float(value)
        return number if math.isfinite(number) else None
    return None
