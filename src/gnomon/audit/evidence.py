"""What a detector may read: one stage of a run, without any true reward.

Everything here comes from the run's records; a detector has no path to the folder, and what a
simulation's true reward has touched is not in it (:mod:`gnomon.audit.truths`). So a detector reads
the same whether the truth was observed or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from gnomon.audit.kinds import average_start, averaged, is_program, stands_apart, trained_on
from gnomon.audit.readings import suite_changes
from gnomon.audit.same_labels import same_labels
from gnomon.audit.samples import Sample, read_samples
from gnomon.audit.truths import (
    Truths,
    is_truth,
    label,
    reward_entries,
    same_reward,
    stripped_info,
    stripped_recipe,
    untold,
)
from gnomon.evals.compare import SuiteChange
from gnomon.runs.answers import Answer, read_answers
from gnomon.runs.audit import Finding
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.joins import Joins
from gnomon.runs.peak import kept_results, kept_stage
from gnomon.runs.probes import Probes
from gnomon.runs.read import RunView, StageView
from gnomon.runs.records import Evals, StageInfo
from gnomon.runs.rows import Column
from gnomon.runs.spotchecks import SpotCheck

SHARE = 5
"""The last 1 / SHARE of the samples are those of a stage's end."""
NOT_OPTIMISED = ("sft", "reward_model", "collect", "revise", "eval")
"""Kinds of stages that optimise no reward and no preference."""
ENOUGH = 128
"""Answers that are looked at together."""


@dataclass(frozen=True)
class Evidence:
    """One stage of a run.

    Attributes:
        run: the run's name.
        stage: the stage's name.
        recipe: the whole recipe as plain data; empty where there is none.
        spec: this stage's part of it.
        info: what the stage did; no times.
        metrics: column -> [rows] floats, NaN where a row has none; no times. None of weights that
            were thrown away (:mod:`gnomon.runs.peak`).
        samples: training's and evaluations' responses, in order of training; none of these either.
        judges: names of the held-out judges: observed, never trained on, and no truth. Their
            figures are metrics of that name and parts of the samples.
        same_labels: names of reward models that learned from what the run's policies learn from.
        comparison: of every policy on the same prompts.
        answers: by policy, what it answered to the compared prompts.
        start: the policy that the stage started from, as the comparison calls it; empty where it
            is not compared.
        held_out: nested held-out figures (evals.json).
        probes: of the trained reward, and of the policy.
        changes: by suite, what evals say of the start and of this policy; none that a truth or the
            trained reward graded.
        results: of the evals of this policy; none of these either.
        calibrations: of the run's judges.
        joins: whether the answers that it learned from stand beside their own prompts.
        spotcheck: what people said of the best-rewarded samples.
    """

    run: str
    stage: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    info: StageInfo = field(default_factory=StageInfo)
    metrics: Mapping[str, Column] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    judges: Sequence[str] = ()
    same_labels: Sequence[str] = ()
    comparison: Comparison = field(default_factory=Comparison)
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    start: str = ""
    held_out: Evals = field(default_factory=lambda: Evals({}))
    probes: Probes = field(default_factory=Probes)
    changes: Sequence[SuiteChange] = ()
    results: Sequence[EvalResult] = ()
    calibrations: Sequence[Calibration] = ()
    joins: Joins = field(default_factory=lambda: Joins({}))
    spotcheck: SpotCheck = field(default_factory=SpotCheck)

    @property
    def algorithm(self) -> str:
        """The stage's algorithm."""
        return self.info.algorithm or str(self.spec.get("algorithm") or "")

    @property
    def is_policy(self) -> bool:
        """Whether the stage optimises a policy by a reward or by preferences: nothing else can be
        hacked. A method that is not gnomon's own is taken as one."""
        return self.algorithm not in NOT_OPTIMISED

    @property
    def trained(self) -> list[Mapping[str, Any]]:
        """The recipe's entries of what the stage is trained on."""
        return reward_entries(self.spec.get("reward") or [])

    def series(self, name: str, against: str = "step") -> tuple[Column, Column]:
        """(x, y) of a metric where it was logged, in order of training."""
        y = self.metrics.get(name)
        if y is None:
            return np.empty(0), np.empty(0)
        x = self.metrics.get(against, np.arange(y.size, dtype=np.float64))
        present = np.isfinite(y) & np.isfinite(x)
        return x[present], y[present]

    @cached_property
    def rollouts(self) -> list[Sample]:
        """The samples that were trained on."""
        return [sample for sample in self.samples if not sample.held_out]

    @cached_property
    def steps(self) -> list[int]:
        """The steps at which training's samples were kept, in order."""
        return sorted({sample.step for sample in self.rollouts})

    def at(self, steps: Iterable[int]) -> list[Sample]:
        """Training's samples at these steps."""
        wanted = set(steps)
        return [sample for sample in self.rollouts if sample.step in wanted]

    @cached_property
    def windows(self) -> list[tuple[int, list[Sample]]]:
        """Training's samples in order, some neighbouring steps together so that each window holds
        at least ENOUGH answers (half of them where there are few); (last step, samples)."""
        enough = min(ENOUGH, max(1, len(self.rollouts) // 2))
        found: list[tuple[int, list[Sample]]] = []
        held: list[Sample] = []
        for sample, after in zip_longest(self.rollouts, self.rollouts[1:]):
            held.append(sample)
            if after is not None and after.step == sample.step:
                continue
            if len(held) >= enough or (after is None and not found):
                found.append((sample.step, held))
                held = []
        if held:
            found[-1] = (held[-1].step, found[-1][1] + held)
        return found

    @cached_property
    def first(self) -> list[Sample]:
        """Training's samples at the beginning: the first window; empty where there are not two."""
        return self.windows[0][1] if len(self.windows) > 1 else []

    @cached_property
    def last(self) -> list[Sample]:
        """Training's samples at the end: the last fifth of the windows; empty where there are not
        two."""
        windows = self.windows[-max(1, len(self.windows) // SHARE) :]
        return [s for _, samples in windows for s in samples] if len(self.windows) > 1 else []

    @cached_property
    def late(self) -> list[Sample]:
        """Training's samples of the second half of the windows; ``after`` where there are none."""
        windows = self.windows[len(self.windows) // 2 :]
        return [s for _, samples in windows for s in samples] if self.last else self.after

    @property
    def paired(self) -> bool:
        """Whether ``before`` and ``after`` answer the same prompts: they are the compared answers,
        since training kept no samples."""
        return not self.last

    @cached_property
    def before(self) -> list[Sample]:
        """Answers at the stage's beginning: training's first, or the start model's."""
        return self.first or self._compared(self.start)

    @cached_property
    def after(self) -> list[Sample]:
        """Answers at the stage's end: training's last, or the stage's compared ones."""
        return self.last or self._compared(self.stage)

    def _compared(self, model: str) -> list[Sample]:
        """A policy's compared answers as samples; the trained reward is not among their figures."""
        if self.stage not in self.answers or self.start not in self.answers:
            return []
        if self.stage not in self.comparison.models:
            return []
        known = self.comparison.scores(model)
        return [
            Sample(
                step=0,
                prompt_id=answer.prompt_id,
                prompt=answer.prompt,
                response=answer.response,
                reward=None,
                parts=_scored(known, answer),
                category=answer.category,
                error=None,
                length=answer.length,
                finished=answer.finished,
                held_out=True,
            )
            for answer in self.answers[model]
        ]

    @property
    def _at_fault(self) -> str:
        """What a policy that was hacked asks to be mended, before it is held back by any setting;
        empty of a reward model, which holding the policy back does help."""
        if not self.trained and self.rollouts:  # of another trainer, whose reward is not known
            return ""
        if not self.trained:
            return (
                "look at the labels: what do the chosen answers have that the rejected ones lack, "
                "and are the two the right way round"
            )
        if all(map(is_program, self.trained)):
            return "mend the reward, which pays for what these samples show"
        return ""

    def finding(self, name: str, detector: str, **fields: Any) -> Finding:
        """A finding of this stage."""
        fields = {"stage": self.stage, "algorithm": self.algorithm} | fields
        if name == "reward_hacking" and fields.get("status") == "alarm":
            fields.setdefault("first", self._at_fault)
        return Finding(name=name, detector=detector, **fields)


Detector = Callable[[Evidence], list[Finding]]
"""Looks for something in a stage; see :mod:`gnomon.audit.detectors`."""


def evidence(run: RunView, stage: StageView) -> tuple[Evidence, list[str]]:
    """What detectors may read of a stage, and what of it could not be read."""
    stage = kept_stage(stage)
    specs = _stages(run.recipe)
    spec = next((s for s in specs if s.get("name") == stage.name), {})
    compare = run.recipe.get("compare")
    compared = reward_entries(compare.get("rewards") or []) if isinstance(compare, Mapping) else []
    trained = reward_entries(spec.get("reward") or [])
    optimised = [entry for every in specs for entry in trained_on(every)]
    observed = reward_entries(spec.get("observe") or [])
    truths = Truths(trained, [*observed, *compared])
    alike = sorted(same_labels(run))
    sampled = bool(trained) and stage.info.status == "done"
    samples, problems = read_samples(stage, truths, expected=sampled)
    answers, unread = read_answers(run.path)
    start = _start(specs, stage.name, spec, run.comparison.models)
    examined = _start(specs, stage.name, spec, [result.model for result in run.results])
    found = Evidence(
        run=run.name,
        stage=stage.name,
        recipe=stripped_recipe(run.recipe),
        spec={**spec, "observe": untold(observed)} if spec else {},
        info=stripped_info(stage.info, truths),
        metrics=truths.without(stage.metrics),
        samples=samples,
        judges=[name for name in _judges(trained, observed) if name not in alike],
        same_labels=alike,
        comparison=truths.comparison(run.comparison),
        answers=_by_model(answers),
        start=start,
        held_out=Evals(truths.tree(stage.evals.root)),
        probes=stage.probes.timeless(),
        changes=[
            change
            for change in suite_changes(run.path, stage.name, examined)
            if stands_apart(change.after, optimised)
        ],
        results=[
            r for r in kept_results(run) if r.model == stage.name and stands_apart(r, optimised)
        ],
        calibrations=run.calibrations,
        joins=stage.joins,
        spotcheck=next((c for c in run.spotchecks if c.stage == stage.name), SpotCheck()),
    )
    return found, problems + unread


def _stages(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stages = recipe.get("stages")
    return [s for s in stages if isinstance(s, Mapping)] if isinstance(stages, list) else []


def _judges(
    trained: Sequence[Mapping[str, Any]], observed: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The observers that neither know the truth nor are what is trained on."""
    return [
        label(entry)
        for entry in observed
        if not is_truth(entry) and not any(same_reward(entry, own) for own in trained)
    ]


def _start(
    specs: Sequence[Mapping[str, Any]], name: str, spec: Mapping[str, Any], models: Sequence[str]
) -> str:
    """The policy that a stage starts from: as the recipe says, or the last one before it; of an
    average its ``init``, or what the first of its models started from."""
    before = [str(s.get("name")) for s in specs]
    before = before[: before.index(name)] if name in before else []
    asked = spec.get("from")
    if models_averaged := averaged(spec):
        asked, first = average_start(spec), models_averaged[0]
        if not asked and first in before:
            own = next(s for s in specs if str(s.get("name")) == first)
            return _start(specs, first, own, models)
        asked = asked or first
    if asked == "model":
        return "base"
    if isinstance(asked, str) and asked:
        return asked if asked in before else ""  # a folder is in no comparison
    policies = [stage for stage in before if stage in models]
    return policies[-1] if policies else "base"


def _by_model(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Each policy's answers, without the episodes that failed."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.error is None:
            found.setdefault(answer.model, []).append(answer)
    return found


def _scored(
    known: Mapping[str, Mapping[str, list[float | None]]], answer: Answer
) -> dict[str, float]:
    """What the compared judges gave an answer."""
    found: dict[str, float] = {}
    for judge, by_prompt in known.items():
        scores = by_prompt.get(answer.prompt_id, [])
        value = scores[answer.sample] if 0 <= answer.sample < len(scores) else None
        if value is not None:
            found[judge] = value
    return found
