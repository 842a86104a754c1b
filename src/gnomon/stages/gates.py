"""Asking the gates of a recipe after its stages, and what follows from their decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gnomon.audit.detectors import audit_run
from gnomon.audit.gates import Facts, decide
from gnomon.audit.readings import (
    CAPABILITY_DROP,
    WIN_RATE,
    Reading,
    capability_drops,
    compared_readings,
    drop_reading,
    eval_readings,
    shared_scores,
    stage_readings,
    suite_changes,
)
from gnomon.errors import ConfigError, GateClosed, RunError
from gnomon.evals.evaluate import file_name
from gnomon.judges.build import one_judge
from gnomon.recipe.gates import Bound, Gate, NoAlarm, parse_gate
from gnomon.recipe.schema import Recipe, RewardSpec, StageSpec
from gnomon.runs.audit import GATES, Finding, GateResult
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import (
    BASE,
    EVAL_FOLDER,
    outdated,
    outdated_evals,
    read_calibrations,
    read_evals,
    unread_evals,
)
from gnomon.runs.folder import RunFolder
from gnomon.runs.manifest import resume_command
from gnomon.runs.read import StageView, read_stage
from gnomon.runs.records import COMPARISON
from gnomon.stages.names import (
    gated_policy,
    held_back,
    policy_stages,
    produces,
    resolve_start,
    start_of,
)
from gnomon.stats.intervals import Interval

AI = "ai"
"""The builtin reward that is a language model's opinion."""
_OF_THE_REWARD = ("reward", "return", "solved", "unsolved", "pass@")
"""Metrics that are made of a stage's whole reward."""


def ask_stage(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> list[GateResult]:
    """The decisions of a stage's gates, from what is in the run's folder."""
    gates = [parse_gate(text) for text in stage.gates]
    policy = gated_policy(recipe, stage, run, base)
    readings = stage_readings(_read(run, stage), _stage_judges(stage, base))
    if policy is None and produces(stage, base) is None:  # an eval of a model that no stage trained
        start = start_of(recipe, stage, run, base)
        name = BASE if start == recipe.model else str(start)
        readings |= eval_readings([result for _, result in read_evals(run.path)], name)
    return _decided(gates, stage.name, readings, policy, recipe, run, base)


def ask_run(recipe: Recipe, run: RunFolder, base: Path) -> list[GateResult]:
    """The decisions of the whole run's gates: on the policy that it ends with."""
    gates = [parse_gate(text) for text in recipe.gates]
    policy = last_policy(recipe, run, base)
    readings: dict[str, Reading] = {}
    if policy is not None:
        readings = stage_readings(_read(run, policy), _stage_judges(policy, base))
        comparison = Comparison.read_or_empty(run.path / COMPARISON)
        compared = recipe.compare.rewards if recipe.compare is not None else []
        readings |= compared_readings(comparison, policy.name, _judges(compared, base))
    return _decided(gates, "", readings, policy, recipe, run, base)


def _stage_judges(stage: StageSpec, base: Path) -> dict[str, tuple[str, str]]:
    """The AI judges of a stage; what is made of its whole reward is the opinion of one in it."""
    trained = _judges(stage.reward, base)
    whole = dict.fromkeys(_OF_THE_REWARD, next(iter(trained.values()))) if trained else {}
    return whole | trained | _judges(stage.observe, base)


def _judges(rewards: Sequence[RewardSpec], base: Path) -> dict[str, tuple[str, str]]:
    """The AI judges among rewards, by label: people have to vouch for these."""

    def load(name: str) -> Any:
        raise ConfigError(f"{name} is a reward model, which no AI judge reads")

    asked = [spec for spec in rewards if spec.builtin == AI]
    return {
        spec.label: (spec.label, one_judge(spec, base=base, load=load).version) for spec in asked
    }


def last_policy(recipe: Recipe, run: RunFolder, base: Path) -> StageSpec | None:
    """The policy that a run ends with: the last one that no gate held back."""
    held = held_back(recipe, run, base, recipe.stages)
    free = [stage for stage in policy_stages(recipe, base) if stage.name not in held]
    return free[-1] if free else None


def _decided(
    gates: Sequence[Gate],
    name: str,
    readings: dict[str, Reading],
    policy: StageSpec | None,
    recipe: Recipe,
    run: RunFolder,
    base: Path,
) -> list[GateResult]:
    results = [result for _, result in read_evals(run.path)]
    before = BASE
    missing: dict[str, str] = {}
    if policy is not None:
        start = start_of(recipe, policy, run, base)
        before = start.name if isinstance(start, StageSpec) else BASE
        readings = {**eval_readings(results, policy.name), **readings}
        missing = (
            _cures(policy.name, before)
            | _outdated(run.path, policy.name)
            | shared_scores(results, policy.name)
        )
    facts = Facts(
        name,
        readings,
        _findings(run, name) if any(isinstance(gate, NoAlarm) for gate in gates) else (),
        [calibration for _, calibration in read_calibrations(run.path)],
        missing,
    )
    changes = [] if policy is None else suite_changes(run.path, policy.name, before)
    trained = [r.model_dump(exclude_defaults=True) for s in recipe.stages for r in s.reward]
    drops = capability_drops(changes, trained)
    if policy is not None and (unread := _unread(run.path, (before, policy.name))):
        facts = replace(facts, missing={**facts.missing, CAPABILITY_DROP: unread})
        drops = {}
    return [decide(gate, _with_drop(gate, facts, drops, before)) for gate in gates]


def _with_drop(
    gate: Gate, facts: Facts, drops: Mapping[str, tuple[Interval, Interval]], before: str
) -> Facts:
    """The facts with the capability drop at the side that the gate asks for."""
    if not isinstance(gate, Bound) or gate.metric != CAPABILITY_DROP:
        return facts
    reading = drop_reading(drops, before, gate.side)
    return facts if reading is None else facts.having(CAPABILITY_DROP, reading)


def _cures(model: str, before: str) -> dict[str, str]:
    """What to do where no eval measured a figure."""
    return {
        WIN_RATE: f"nothing measured {WIN_RATE}; measure it by an eval of {model} against {before} "
        "(gnomon eval --help), then resume with --resume",
        CAPABILITY_DROP: f"nothing measured {CAPABILITY_DROP}; measure both {before} and {model} "
        "by the same eval (gnomon eval --help), then resume with --resume",
    }


def _unread(run: Path, models: Sequence[str]) -> str:
    """That an eval of these models cannot be read, which may be of the largest drop; else empty."""
    folders = [run / EVAL_FOLDER / file_name(model) for model in models]
    for file, why in unread_evals(run):
        if any(file.is_relative_to(folder) for folder in folders):
            return f"{why}; gnomon eval measures it again"
    return ""


def _outdated(run: Path, model: str) -> dict[str, str]:
    """Why scores of evals count for nothing that were measured on other weights than the model has
    now, by their names."""
    old = [result for _, result in outdated_evals(run) if result.model == model]
    return {
        name: outdated(result) for result in old for name in eval_readings([result], result.model)
    }


def _findings(run: RunFolder, stage: str) -> list[Finding]:
    """What the audit finds now: in a stage, or in the whole run where ``stage`` is empty."""
    return audit_run(run.path, stages=[stage] if stage else (), write=False).findings


def _read(run: RunFolder, stage: StageSpec) -> StageView:
    problems: list[str] = []
    return read_stage(run.stage(stage.name).path, problems)


def closed(results: Iterable[GateResult]) -> list[GateResult]:
    """The gates that did not open."""
    return [result for result in results if result.passed is not True]


class GateKeeper:
    """Asks the gates of a run and notes in gates.json what they decide.

    Attributes:
        changed: whether a decision is new, or another than was noted.
    """

    def __init__(
        self, recipe: Recipe, run: RunFolder, base: Path, announce: Callable[[str], None]
    ) -> None:
        self.recipe, self.run, self.base, self.announce = recipe, run, base, announce
        self.changed = False

    def after(self, stage: StageSpec) -> None:
        """Ask the gates after a stage that is done.

        Raises:
            GateClosed: one stays closed, and the run stops here.
            RunError: one decides otherwise than before, and later stages were built on that.
        """
        if not stage.gates and stage.name not in self.run.gates().root:
            return
        results = ask_stage(self.recipe, stage, self.run, self.base) if stage.gates else []
        self._note(stage.name, results)
        shut = closed(results)
        if shut and not self._goes_on(stage):
            raise GateClosed(self._says(f"stage {stage.name}", shut, "The run stops here"))
        self._check_later(stage)
        if shut:
            policy = gated_policy(self.recipe, stage, self.run, self.base)
            names = "nothing" if policy is None else policy.name
            self.announce(
                f"{stage.name}: held back (on_fail: previous): {names} is kept, and later stages "
                "go on from the model before it"
            )

    def after_all(self) -> None:
        """Ask the whole run's gates.

        Raises:
            GateClosed: one stays closed, or the recipe's last policy was held back.
        """
        if self.recipe.gates or self.run.gates().root.get(""):
            results = ask_run(self.recipe, self.run, self.base)
            self._note("", results)
            if shut := closed(results):
                raise GateClosed(self._says("the run", shut, "All stages are done"))
        policies = policy_stages(self.recipe, self.base)
        last = last_policy(self.recipe, self.run, self.base)
        if policies and last != policies[-1]:
            shut = closed(self.run.gates().all())
            ends = "the model it started from" if last is None else last.name
            what = f"All stages are done, and the run ends with {ends}"
            raise GateClosed(self._says(policies[-1].name, shut, what))

    def _goes_on(self, stage: StageSpec) -> bool:
        """Whether later stages go on from the model before a stage whose gate stays closed."""
        policy = gated_policy(self.recipe, stage, self.run, self.base)
        return policy is not None and self.recipe.on_fail_of(stage) == "previous"

    def _note(self, name: str, results: list[GateResult]) -> None:
        """Write the decisions down, and announce them."""
        gates = self.run.gates()
        for result in results:
            word = {True: "opens", False: "fails", None: "stays closed"}[result.passed]
            text = result.text.removeprefix("it stays closed: ")
            self.announce(f"{name or 'run'}: gate {result.condition!r} {word}: {text}")
        if gates.root.get(name, []) != results:
            self.changed = True
            gates.root.pop(name, None)
            if results:
                gates.root[name] = results
            gates.write(self.run.path / GATES)

    def _check_later(self, stage: StageSpec) -> None:
        """Refuse to go on where a later stage was made from another model than it now would be."""
        names = [s.name for s in self.recipe.stages]
        for later in self.recipe.stages[names.index(stage.name) + 1 :]:
            folder = self.run.stage(later.name)
            made_from = folder.info().start.get("from")
            now = resolve_start(self.recipe, later, self.run, self.base)
            if made_from and _stage_in(str(made_from)) != _stage_in(now):
                raise RunError(
                    f"{folder.path} was made from {made_from}, and since the gates after "
                    f"{stage.name} decide otherwise now, it would be made from {now}. Put the "
                    f"gates back; or remove {folder.path} and resume with --resume to make it "
                    "again."
                )

    def _says(self, who: str, shut: Sequence[GateResult], what: str) -> str:
        one = len(shut) == 1
        lines = "".join(f"\n  {r.condition}: {r.text}" for r in shut)
        return (
            f"{who}: {'a gate' if one else f'{len(shut)} gates'} did not open:{lines}\n"
            f"{what}; everything is kept in {self.run.path}. The gates are asked again, as the "
            f"recipe then has them, by: {resume_command(self.run.path)}"
        )


def _stage_in(start: str) -> str:
    """The folder's name of the stage that a start model is of; empty for another model."""
    parts = Path(start).parts
    return parts[-2] if len(parts) > 2 and parts[-1] == "model" and parts[-3] == "stages" else ""
