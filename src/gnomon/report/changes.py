"""What of a policy has changed by figures that it was not trained on: evals, win rates, judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gnomon.audit.evals import fallen
from gnomon.audit.kinds import Kind, wants_people
from gnomon.audit.readings import (
    WIN_RATE,
    capability_drops,
    category_drops,
    latest,
    rise_title,
    rises,
    same_exam,
    suite_changes,
)
from gnomon.report.candidate import before
from gnomon.report.format import measured, number
from gnomon.report.kinds import WORDS, column_kinds, trained_entries
from gnomon.runs.evals import EvalResult, calibrations_of
from gnomon.runs.read import RunView
from gnomon.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that the policy was not trained on, and how it differs from before.

    Attributes:
        what: what was measured, in words.
        gap: after less before, positive where that is better.
        vouched: whether it can be believed by itself; False of a reward model that no people's
            labels vouch for.
        column: the comparison's, where it is one.
    """

    what: str
    gap: Interval
    figure: Interval
    before: str
    link: str
    vouched: bool = True
    column: str = ""

    @property
    def sentence(self) -> str:
        """It in words."""
        word = "better" if self.gap.value > 0 else "worse"
        ends = sorted(abs(end) for end in (self.gap.low, self.gap.high))
        size = f"{number(abs(self.gap.value))} [{number(ends[0])}, {number(ends[1])}]"
        against = f" than {self.before}" if self.before else ""
        doubt = "" if self.vouched else "; no people vouch for it"
        return f"{self.what}: {word}{against} by {size} ({measured(self.figure)}){doubt}."


def changes(run: RunView, model: str) -> list[Change]:
    """Every figure of ``model`` that it was not trained on, against the model before it."""
    return [
        *_evals(run, model),
        *_categories(run, model),
        *_wins(run, model),
        *_columns(run, model),
    ]


def _evals(run: RunView, model: str) -> Iterator[Change]:
    """Evals that are nobody's opinion, of the model and of the one before it."""
    old = before(run, model)
    both, trained = suite_changes(run.path, model, old), trained_entries(run)
    for suite, (drop, figure) in capability_drops(both, trained).items():
        gap = Interval(-drop.value, -drop.high, -drop.low, drop.n)
        yield Change(f"Eval {suite}", gap, figure, old, "evals")
    for change, score in rises(both, trained):
        if calibrated(run, change.after):
            gap = score.change
            gap = Interval(-gap.value, -gap.high, -gap.low, gap.n)
            yield Change(rise_title(change, score), gap, score.after, old, "evals")


def _categories(run: RunView, model: str) -> Iterator[Change]:
    """The category that fell most, of each suite that did not; nothing where an alarm says it."""
    alarms = run.audit.alarms if run.audit is not None else []
    if any((a.detector, a.stage) == ("eval_category_drop", model) for a in alarms):
        return
    old = before(run, model)
    both, trained = suite_changes(run.path, model, old), trained_entries(run)
    whole = capability_drops(both, trained)
    for suite, categories in category_drops(both, trained).items():
        fell = fallen(categories)
        if fell and not (suite in whole and whole[suite][0].low > 0):
            what = f"Eval {suite}, category {fell.name}"
            yield Change(what, fell.change, fell.after, old, "evals")


def _wins(run: RunView, model: str) -> Iterator[Change]:
    for result in latest(run.results, model):
        figure = result.scores.get(WIN_RATE)
        if figure is None or not calibrated(run, result):
            continue
        _, gap = win_change(run, result)
        if gap is not None:
            what = f"Win rate over {result.against} by {result.judge or 'a program'}"
            yield Change(what, gap, figure, before(run, model), "evals")


def win_change(run: RunView, result: EvalResult) -> tuple[Interval | None, Interval | None]:
    """The win rate of the model before and how this one differs from it.

    Over the model before, that one's own is 0.5. Over another baseline, only the win rate of the
    model before on the same exam tells; None where there is none.
    """
    figure = result.scores.get(WIN_RATE)
    if figure is None:
        return None, None
    if is_over_start(run, result):
        gap = Interval(figure.value - 0.5, figure.low - 0.5, figure.high - 0.5, figure.n)
        return Interval(0.5, 0.5, 0.5, figure.n), gap
    for change in suite_changes(run.path, result.model, before(run, result.model)):
        one, other = change.before, change.after
        same = bool(other.data) and same_exam(one, other) and one.against == other.against
        if (other.suite, other.step) == (result.suite, result.step) and same:
            for score in change.scores:
                if score.name == WIN_RATE:
                    return score.before, score.change
    return None, None


def is_over_start(run: RunView, result: EvalResult) -> bool:
    """Whether a win rate is over the model that the policy was trained from: by the weights where
    those of both are known, else by name."""
    starts = [stage.info.start for stage in run.stages if stage.name == result.model]
    own = starts[0].get("sha256") if starts else None
    theirs = result.settings.get("against_sha256")
    if own and theirs:
        return bool(own == theirs)
    return result.against == before(run, result.model)


def calibrated(run: RunView, result: EvalResult) -> bool:
    """Whether its figures can be believed: they are no opinion, or one that people vouch for."""
    own = calibrations_of(run.calibrations, result.judge, result.judge_version)
    return not wants_people(result) or any(c.opens_gates for c in own)


def _columns(run: RunView, model: str) -> Iterator[Change]:
    """Columns of the comparison by judges that nothing was trained on."""
    view = run.comparison
    if model not in view.models or view.reference in ("", model):
        return
    for place, (column, kind) in enumerate(column_kinds(run).items()):
        figure = view.row(model).value(place)
        believed = vouched(run, column)
        if figure is None or not counts(kind, believed):
            continue
        gap = view.difference(place, model, view.reference)
        yield Change(
            f"{WORDS[kind][:1].upper()}{WORDS[kind][1:]} {column}",
            gap,
            figure,
            view.reference,
            "results",
            believed,
            column,
        )


def counts(kind: Kind, believed: bool) -> bool:
    """Whether a reward of that kind is evidence for or against a model.

    A verifier's is not: it may have the loophole that the trained reward has, and a stage's probes
    ask the trained reward, which says nothing of another one's loopholes.
    """
    return kind == "judge" or (kind == "asked" and believed)


def vouched(run: RunView, column: str) -> bool:
    """Whether people's labels vouch for the very judge of a column of the comparison."""
    return _vouched(run, column.replace(" ", "_"), run.comparison.judges)


def observer_vouched(run: RunView, stage: str, name: str) -> bool:
    """The same of a judge that a stage observed."""
    known = [view.info.judges for view in run.stages if view.name == stage]
    return _vouched(run, name, known[0] if known else {})


def _vouched(run: RunView, name: str, judges: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether people vouch for a judge of the version that its record has."""
    version = str(judges.get(name, {}).get("version") or "")
    return any(c.opens_gates for c in calibrations_of(run.calibrations, name, version))
