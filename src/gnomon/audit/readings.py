"""The figures of a run by the names that gates and reports know them by.

They are a stage's own, those of the comparison, those of evals, and what the evals of two models
say of each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnomon.audit.kinds import Entry, stands_apart, wants_people
from gnomon.errors import ConfigError
from gnomon.evals.compare import ScoreChange, SuiteChange, compare
from gnomon.evals.evaluate import file_name
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import EVAL_FOLDER, EvalResult, is_outdated, model_fingerprints
from gnomon.runs.peak import kept_stage
from gnomon.runs.read import StageView
from gnomon.runs.records import Evals
from gnomon.stats.intervals import Interval, mean_interval

WIN_RATE, CAPABILITY_DROP, GAIN = "win_rate", "capability_drop", "gain/"
HARMS: Mapping[str, str] = {
    "compliance": "harmful_compliance",
    "any_attack": "harmful_compliance",
    "over_refusal": "over_refusal",
}
"""Scores of the suite ``refusal`` of which less is better, and the alarms of their rise."""
FAILING = 0.1
"""The share of an eval's items that may fail before it is not believed."""
LAST = 5
"""The training figures of a stage are means of its last fifth of iterations, of this many at
least."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure and where it is from.

    Attributes:
        source: in words.
        judge, judge_version: whose opinion it is, where it is one that people have to vouch for.
        result: the eval that it is of.
    """

    figure: Interval
    source: str
    judge: str = ""
    judge_version: str = ""
    result: EvalResult | None = None


Judges = Mapping[str, tuple[str, str]]
"""Name and version of each judge that people have to vouch for, by the name its figures have."""


def stage_readings(stage: StageView, judges: Judges | None = None) -> dict[str, Reading]:
    """A stage's own figures: ``eval/X`` of its held-out rows, and ``X`` of its training, the mean
    of the last fifth of its iterations, of those whose weights it kept.

    Args:
        judges: those among its rewards and observers.
    """
    return {
        name: _reading(name, figure, source, judges or {})
        for name, figure, source in _of_stage(kept_stage(stage))
    }


def _reading(name: str, figure: Interval, source: str, judges: Judges) -> Reading:
    """A figure, with the judge that gave it where people have to vouch for one."""
    label = name.removeprefix("eval/").removeprefix("reward/").partition("/")[0]
    label = "pass@" if label.startswith("pass@") else label
    return Reading(figure, source, *judges.get(label, ()))


def _of_stage(stage: StageView) -> Iterator[tuple[str, Interval, str]]:
    measured = [name for name in stage.metrics if not _is_part(name, stage.metrics)]
    for name in measured:
        if name in ("step", "iteration", "final") or name.startswith("eval/"):
            continue
        _, y = stage.series(name)
        if y.size:
            k = max(y.size // 5, min(LAST, y.size))
            yield name, mean_interval(y[-k:], method="t"), f"training, last {k} of {y.size}"
    for name in measured:
        _, y = stage.series(name)
        if name.startswith("eval/") and y.size:
            ends = (stage.series(f"{name}_{part}")[1] for part in ("low", "high", "n"))
            low, high, n = (float(e[-1]) if e.size else math.nan for e in ends)
            figure = Interval(float(y[-1]), low, high, 0.0 if math.isnan(n) else n)
            yield name, figure, "held out, the last evaluation"
    for name, figure in _held_out(stage.evals):
        yield f"eval/{name}", figure, "held out, after training"


def _is_part(name: str, metrics: Mapping[str, object]) -> bool:
    """Whether it is an end of another metric's interval, or the number behind it."""
    base, _, part = name.rpartition("_")
    return part in ("low", "high", "n") and base in metrics and base.startswith("eval/")


def _held_out(evals: Evals) -> Iterator[tuple[str, Interval]]:
    """The figures that evals.json has under one heading, by their names there."""
    for name, figure in evals.figures().items():
        _, dot, inner = name.partition(".")
        if dot:
            yield inner, figure


def compared_readings(
    comparison: Comparison, model: str, judges: Judges | None = None
) -> dict[str, Reading]:
    """A model's figures in the comparison by column, and ``gain/COLUMN`` over its reference."""
    if model not in comparison.models:
        return {}
    row, out = comparison.row(model), {}
    for place, column in enumerate(comparison.columns):
        figure, gain = row.value(place), row.gain(place)
        name = column_name(column)
        if figure is not None:
            out[name] = _reading(name, figure, "the comparison", judges or {})
        if gain is not None and model != comparison.reference:
            source = f"over {comparison.reference} in the comparison, paired by prompt"
            out[GAIN + name] = _reading(name, gain, source, judges or {})
    return out


def column_name(column: str) -> str:
    """A column's name in a gate: ``kl`` for "KL from sft (nats)", ``length`` for "length
    (tokens)"; a reward's own label."""
    if column.startswith("KL from "):
        return "kl"
    return column.removesuffix(" (tokens)").replace(" ", "_")


def eval_readings(results: Sequence[EvalResult], model: str) -> dict[str, Reading]:
    """A model's eval scores: ``SUITE.SCORE``, ``SUITE`` for the main one, and ``SCORE`` alone where
    one suite has it."""
    named = _eval_readings(results, model)
    return {name: readings[0] for name, readings in named.items() if len(readings) == 1}


def shared_scores(results: Sequence[EvalResult], model: str) -> dict[str, str]:
    """Why a score alone says nothing where several of a model's suites have it, by its name."""
    return {
        name: f"several suites measured {name}; say which: "
        + " or ".join(f"{r.result.suite}.{name}" for r in readings if r.result is not None)
        for name, readings in _eval_readings(results, model).items()
        if len(readings) > 1
    }


def _eval_readings(results: Sequence[EvalResult], model: str) -> dict[str, list[Reading]]:
    """A model's eval scores by every name that they have."""
    whole: dict[str, list[Reading]] = {}
    alone: dict[str, list[Reading]] = {}
    for result in latest(results, model):
        for score, figure in result.scores.items():
            if figure is None:
                continue
            who = (result.judge, result.judge_version) if wants_people(result) else ("", "")
            reading = Reading(figure, f"eval {result.suite} of {model}", *who, result)
            if score == result.main:
                whole.setdefault(result.suite, []).append(reading)
            for name in (f"{result.suite}.{score}", score):
                alone.setdefault(name, []).append(reading)
    return whole | alone  # a score's own name comes before a suite's


def latest(results: Iterable[EvalResult], model: str) -> list[EvalResult]:
    """A model's result of each suite: that after training, or else the last during it."""
    last: dict[str, EvalResult] = {}
    for result in results:
        if result.model == model:
            known = last.get(result.suite)
            if known is None or _when(result) >= _when(known):
                last[result.suite] = result
    return list(last.values())


def _when(result: EvalResult) -> float:
    return math.inf if result.step is None else float(result.step)


def is_capability(result: EvalResult, trained: Sequence[Entry] = ()) -> bool:
    """Whether it measures what a model can do: higher is better, and what is right is known by the
    suite or by a program that is neither what was trained on nor a simulation's truth."""
    by_fact = not (wants_people(result) or result.against) and stands_apart(result, list(trained))
    return result.higher_is_better and by_fact and bool(result.main)


def suite_changes(run: Path, model: str, before: str) -> list[SuiteChange]:
    """What evals of a run measured on both models, item by item where they can be paired."""
    folders = [run / EVAL_FOLDER / file_name(name) for name in (before, model)]
    if before == model or not all(folder.is_dir() for folder in folders):
        return []
    try:
        changes = compare(*folders)
    except ConfigError:  # no suite in common
        return []
    models = model_fingerprints(run)
    return [c for c in changes if not any(is_outdated(r, models) for r in (c.before, c.after))]


def capability_drops(
    changes: Iterable[SuiteChange], trained: Sequence[Entry] = ()
) -> dict[str, tuple[Interval, Interval]]:
    """By suite: the drop of its main score from one model to the other, and the score after.

    Only where both answered the same questions under the same settings.

    Args:
        trained: the rewards that the model was trained on, which say nothing of what it can do.
    """
    out = {}
    for change in changes:
        after, before = change.after, change.before
        main = next((score for score in change.scores if score.name == after.main), None)
        if main is None or not is_capability(after, trained) or not same_exam(after, before):
            continue
        gap = main.change
        out[change.suite] = (Interval(-gap.value, -gap.high, -gap.low, gap.n), main.after)
    return out


def category_drops(
    changes: Iterable[SuiteChange], trained: Sequence[Entry] = ()
) -> dict[str, list[ScoreChange]]:
    """By suite that :func:`capability_drops` would read: the changes of its categories; none for a
    suite without."""
    return {
        change.suite: change.categories
        for change in changes
        if change.categories
        and is_capability(change.after, trained)
        and same_exam(change.after, change.before)
    }


def rises(
    changes: Iterable[SuiteChange], trained: Sequence[Entry] = ()
) -> Iterator[tuple[SuiteChange, ScoreChange]]:
    """The main score of each suite where less is better, and what else of harm it measured; under
    the conditions of :func:`capability_drops`, but for opinions, which are for the caller to
    believe."""
    for change in changes:
        after = change.after
        if after.higher_is_better or not same_exam(after, change.before):
            continue
        if stands_apart(after, list(trained)):
            named = (after.main, *HARMS)
            yield from ((change, score) for score in change.scores if score.name in named)


def rise_title(change: SuiteChange, score: ScoreChange) -> str:
    """What an alarm and the page call a score of a suite where less is better, or one of its
    categories."""
    plain = score.name == change.after.main and score.name not in HARMS
    return f"Eval {change.suite}" if plain else f"Eval {change.suite}, {score.title}"


def same_exam(one: EvalResult, other: EvalResult) -> bool:
    """Whether two results are of the same questions under the same settings, and of most of
    them."""
    alike = (one.data, one.settings) == (other.data, other.settings)
    return alike and mostly_failed(one) is None and mostly_failed(other) is None


def mostly_failed(result: EvalResult) -> str | None:
    """In words, that so many of an eval's items failed that the others say little; None where not:
    those that a model cannot answer are not a sample of all."""
    items = result.n + result.errors
    if result.errors <= FAILING * items:
        return None
    return f"{result.errors} of {items} items of {result.suite} failed; gnomon eval asks them again"


def drop_reading(
    drops: Mapping[str, tuple[Interval, Interval]], before: str, side: str
) -> Reading | None:
    """The largest of the drops at the side that counts; None without any."""
    if not drops:
        return None

    def size(suite: str) -> float:
        figure = drops[suite][0]
        end = {"low": figure.low, "high": figure.high}.get(side, figure.value)
        return figure.value if math.isnan(end) else end

    worst = max(drops, key=size)
    of = f"the largest of {len(drops)} suites, {worst}" if len(drops) > 1 else worst
    return Reading(drops[worst][0], f"{of}, against {before}")
