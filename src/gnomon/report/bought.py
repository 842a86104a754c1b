"""What each stage of a run bought and what it cost, from the run's records.

A stage that trains a policy bought what its policy is better by than the model that it was trained
from: every column of the comparison (paired by prompt), its win rate over that model, and scores of
evals that measured both. It cost what it took itself, what the stages before it took that no
earlier policy needed (labels, reward models, revisions), and the evals that measured it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gnomon.audit.kinds import OPINIONS, Entry, grader
from gnomon.audit.readings import WIN_RATE, latest, same_exam, suite_changes
from gnomon.audit.truths import reward_entries
from gnomon.recipe.card import CardSpec
from gnomon.report.candidate import before, held_back
from gnomon.report.changes import is_over_start
from gnomon.report.compute import AVERAGE, CONTROL, EVAL, energy
from gnomon.report.facts import Facts, facts_of, lineage
from gnomon.report.format import better_sign
from gnomon.report.kinds import policies
from gnomon.runs.audit import GateResult
from gnomon.runs.comparison import LENGTH, Comparison
from gnomon.runs.read import RunView, StageView, own_stage
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import common_bounds, gain_over_prompts

State = Literal["kept", "held back", "beside"]
"""``beside``: no gate held it back, and the policy that the run ends with does not descend from
it."""
LABELS: Mapping[str, str] = {
    "sft": "demonstrations",
    "kto": "answers called good or bad",
    **dict.fromkeys(("reward_model", "dpo", "simpo", "orpo", "cpo"), "preferences"),
}
"""What the rows of a method's data are that no stage of the run wrote."""
COLLECT = "collect"
SIMULATED = ("labeller", "principles")
"""Builtin rewards that stand for people, or for a language model, in the built-in world."""
_ENDED = ("done", "unknown")
"""Of an older version nobody may say how a stage ended."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What a policy is better by in one measure than the model before it.

    Attributes:
        measure: the comparison's column, or the eval's suite.
        figure: after less before; of a win rate, itself.
        nothing: the figure where nothing has changed: 0, of a win rate 1/2.
        sign: 1 where higher is better, -1 where lower is, 0 where neither is.
    """

    measure: str
    figure: Interval
    nothing: float = 0.0
    sign: int = 1

    @property
    def shown(self) -> Literal["better", "worse", "more", "less", "not shown"]:
        """What the interval shows, where it leaves out that nothing has changed."""
        if not self.figure.excludes(self.nothing):
            return "not shown"
        up = self.figure.value > self.nothing
        if self.sign == 0:
            return "more" if up else "less"
        return "better" if up == (self.sign > 0) else "worse"


@dataclass(frozen=True)
class Cost:
    """What a policy took.

    Attributes:
        seconds, cpu_seconds: on the clock, and of all cores; None where a stage does not say.
        tokens: of all forward passes; ``trained`` of them had a backward pass. None where a stage
            did not count its own: it was imported, say, or is of an earlier version; one of control
            has none.
        labels: how many, by what they are.
        money: of judges, in euros.
        joules: None where a stage's are not known; ``estimated`` where stated power stands for a
            meter.
    """

    seconds: float | None
    cpu_seconds: float | None
    tokens: int | None
    trained: int | None
    labels: Mapping[str, int]
    money: float
    joules: float | None
    estimated: bool = False


@dataclass(frozen=True)
class Bought:
    """A policy of a run.

    Attributes:
        before: the model that it was trained from.
        stages: whose cost is counted here, in order.
        gates: the decisions about it.
    """

    policy: str
    algorithm: str
    before: str
    state: State
    gains: tuple[Gain, ...]
    cost: Cost
    stages: tuple[str, ...]
    gates: tuple[GateResult, ...]

    def gain(self, measure: str) -> Gain | None:
        """The gain in a measure, None where it was not measured."""
        return next((gain for gain in self.gains if gain.measure == measure), None)


def bought(run: RunView) -> list[Bought]:
    """Every policy whose training has ended, in order."""
    facts = replace(facts_of(run), stages=run.stages)
    held, counted, line = held_back(run), set[str](), _line(run)
    out = []
    for view in policies(run):
        if view.info.status not in _ENDED:
            continue
        own = _needed(run, view, counted)
        counted |= {stage.name for stage in own}
        kept = view.name in line
        out.append(
            Bought(
                policy=view.name,
                algorithm=view.info.algorithm,
                before=before(run, view.name),
                state="held back" if view.name in held else "kept" if kept else "beside",
                gains=tuple(_gains(run, view.name, before(run, view.name))),
                cost=_cost(facts, own),
                stages=tuple(stage.name for stage in own),
                gates=tuple(_gates(run, view)),
            )
        )
    return out


def _line(run: RunView) -> tuple[str, ...]:
    """The last policy that no gate held back (the last of all where each was), and those whose
    weights it continues: from the records, whether or not the models are still there."""
    held = held_back(run)
    ended = [view for view in policies(run) if view.info.status in _ENDED]
    last = [view for view in ended if view.name not in held] or ended
    return lineage(run, last[-1])[1] if last else ()


def measures(rows: Sequence[Bought]) -> list[str]:
    """Every measure of any of them, in order."""
    return list(dict.fromkeys(gain.measure for row in rows for gain in row.gains))


# -- what it bought -------------------------------------------------------------------------------


def _gains(run: RunView, model: str, old: str) -> Iterator[Gain]:
    yield from _wins(run, model)
    view = run.comparison
    if {model, old} <= set(view.models):
        for place, column in enumerate(view.columns):
            if column == LENGTH or place < len(view.row(model).gains):
                gap = _difference(view, place, model, old)
                if math.isfinite(gap.value):
                    yield Gain(column, gap, 0.0, better_sign(column))
    for change in suite_changes(run.path, model, old):
        after = change.after
        if WIN_RATE in after.scores or not same_exam(after, change.before):
            continue
        for score in change.scores:
            if score.name == after.main:
                if after.higher_is_better:
                    yield Gain(change.suite, score.change, 0.0)
                else:
                    name = f"{change.suite}, {score.name} (less is better)"
                    yield Gain(name, score.change, 0.0, -1)


def _wins(run: RunView, model: str) -> Iterator[Gain]:
    named = set()
    for result in latest(run.results, model):
        figure = result.scores.get(WIN_RATE)
        if figure is not None and is_over_start(run, result):
            name = f"win rate by {result.judge}" if result.judge else "win rate"
            name += f" ({result.suite})" if name in named else ""
            named.add(name)
            yield Gain(name, figure, 0.5)


def _difference(view: Comparison, place: int, model: str, old: str) -> Interval:
    """One model less another in a column: paired by prompt where the answers' scores are kept."""
    column = view.columns[place]
    scores = {name: view.scores(name).get(column) for name in view.models}
    own, theirs = scores[model], scores[old]
    if own is None or theirs is None:
        return view.difference(place, model, old)
    every = [row for known in scores.values() if known is not None for row in known.values()]
    bounds = common_bounds(every)
    return gain_over_prompts(list(own.values()), list(theirs.values()), bounds)


def _gates(run: RunView, view: StageView) -> Iterator[GateResult]:
    """The decisions of its own gates, and of those after stages that measured it."""
    for stage in run.stages:
        if stage.name == view.name or _measured(run, stage) == view.name:
            yield from run.gates.root.get(stage.name, [])


def _measured(run: RunView, stage: StageView) -> str | None:
    """The policy that a stage which trains none started from."""
    if stage.name in {policy.name for policy in policies(run)}:
        return None
    return own_stage(run, str(stage.info.start.get("from", "")))


# -- what it cost ---------------------------------------------------------------------------------


def _needed(run: RunView, view: StageView, counted: set[str]) -> list[StageView]:
    """The stages whose cost is this policy's: its own, those that it needed and no earlier policy
    did, and the evals of it."""
    trained = {policy.name for policy in policies(run)} - {view.name}
    had_part = {stage.name for stage in lineage(run, view)[0]} - trained
    evals = {
        stage.name
        for stage in run.stages
        if stage.info.algorithm == EVAL and _measured(run, stage) == view.name
    }
    return [stage for stage in run.stages if stage.name in (had_part | evals) - counted]


def _cost(facts: Facts, stages: Sequence[StageView]) -> Cost:
    infos = [stage.info for stage in stages]
    stated: CardSpec = facts.stated
    used = [
        energy(stage, facts.gpus, stated.watts_per_cpu, stated.watts_per_gpu) for stage in stages
    ]
    names = {stage.name for stage in stages}
    asked = [result for result in facts.run.results if result.model in names]
    money = sum(_number(took.get("money")) for info in infos for took in info.judges.values())
    counted = all(info.compute or info.algorithm in (EVAL, AVERAGE, CONTROL) for info in infos)
    labels = Counter[str]()
    for stage in stages:
        labels.update(dict(_labels(facts, stage)))
    for result in asked:
        if result.against and _gives_labels(grader(result)):
            labels[f"pairs compared by {result.judge}"] += result.n
    return Cost(
        seconds=_sum([info.seconds for info in infos]),
        cpu_seconds=_sum([info.cpu_seconds for info in infos]),
        tokens=sum(sum(info.compute.forward.values()) for info in infos) if counted else None,
        trained=sum(sum(info.compute.backward.values()) for info in infos) if counted else None,
        labels=labels,
        money=money + sum(result.money for result in asked),
        joules=_sum([found.joules for found in used]),
        estimated=any("estimated" in found.how for found in used),
    )


def total(rows: Sequence[Bought]) -> Cost:
    """What all policies took together."""
    costs = [row.cost for row in rows]
    return Cost(
        seconds=_sum([cost.seconds for cost in costs]),
        cpu_seconds=_sum([cost.cpu_seconds for cost in costs]),
        tokens=_whole([cost.tokens for cost in costs]),
        trained=_whole([cost.trained for cost in costs]),
        labels=sum((Counter(cost.labels) for cost in costs), Counter[str]()),
        money=sum(cost.money for cost in costs),
        joules=_sum([cost.joules for cost in costs]),
        estimated=any(cost.estimated for cost in costs),
    )


def _gives_labels(entry: Entry) -> bool:
    """Whether a judge says what it thinks, as a labeller does, and does not check an answer."""
    return bool(entry.get("model")) or entry.get("builtin") in (*OPINIONS, *SIMULATED)


def _labels(facts: Facts, stage: StageView) -> Iterator[tuple[str, int]]:
    """What was labelled for a stage: by its judges where it collects, else the rows that it read
    from outside the run."""
    spec = facts.spec(stage.name)
    settings, rewards = spec.get("settings"), reward_entries(spec.get("reward") or [])
    people = isinstance(settings, Mapping) and settings.get("labellers")
    if stage.info.algorithm == COLLECT and (people or any(map(_gives_labels, rewards))):
        judged = sum(int(_number(took.get("judged"))) for took in stage.info.judges.values())
        if judged:
            yield f"answers judged by {', '.join(stage.info.judges)}", judged
    what = LABELS.get(stage.info.algorithm)
    data, read = spec.get("data"), 0
    asked = [str(source.get("path")) for source in data or [] if isinstance(source, Mapping)]
    for source in facts.sources():
        if source.stage == stage.name and source.plain_path in asked:
            asked.remove(source.plain_path)  # evaluation may read the same file once more
            read += 0 if source.made_here else source.rows or 0
    if what and read:
        yield what, read


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _whole(values: Sequence[int | None]) -> int | None:
    found = _sum(values)
    return None if found is None else int(found)


def _number(raw: Any) -> float:
    return float(raw) if isinstance(raw, int | float) else 0.0
