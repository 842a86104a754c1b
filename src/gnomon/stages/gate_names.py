"""What the gates of a recipe may ask for: checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gnomon.audit.detectors import DETECTORS
from gnomon.audit.readings import CAPABILITY_DROP, GAIN, WIN_RATE, eval_readings
from gnomon.errors import ConfigError, GnomonError
from gnomon.evals.table import SUITES
from gnomon.plugins import did_you_mean, nearest
from gnomon.recipe.gates import NoAlarm, parse_gate
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.runs.audit import ALARMS
from gnomon.runs.evals import read_evals
from gnomon.runs.folder import RunFolder
from gnomon.stages.names import policy_stages, produces
from gnomon.stages.stage import open_stage

_OF_SAMPLES = ("reward", "return")
_OF_PAIRS = ("ece", "mean_margin", "undecided", "ties", "tie_margin", "by_category.", "length.")
"""What evals.json has of ranked pairs beside their accuracy."""
_OPEN = ("/", ".")
"""Ends of names that stand for everything which begins so."""


def check_gates(recipe: Recipe, run: RunFolder, base: Path) -> None:
    """Check that every gate asks for something that can be there.

    Raises:
        ConfigError: all that cannot, one line each, with the nearest name.
    """
    problems = []
    for stage in recipe.stages:
        try:
            known = stage_metrics(recipe, stage, run, base) if stage.gates else ()
            _check_stage_gates(stage, known, base)
        except GnomonError as error:
            problems += [f"stage {stage.name!r}: {line}" for line in str(error).splitlines()]
    try:
        _check_names(recipe.gates, run_metrics(recipe, run, base) if recipe.gates else ())
    except GnomonError as error:
        problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(problems))


def _check_stage_gates(stage: StageSpec, known: Sequence[str], base: Path) -> None:
    if stage.on_fail is not None and not stage.gates:
        raise ConfigError("on_fail says what a gate that stays closed does, and it has no gates")
    if stage.on_fail == "previous" and produces(stage, base) not in ("policy", None):
        raise ConfigError(
            "on_fail: previous lets later stages go on from the policy before this stage, and it "
            f"trains none (it is {stage.algorithm}): use stop"
        )
    _check_names(stage.gates, known)


def _check_names(conditions: Sequence[str], known: Sequence[str]) -> None:
    problems = []
    for gate in map(parse_gate, conditions):
        if isinstance(gate, NoAlarm):
            names = dict.fromkeys([*ALARMS, *DETECTORS])
            if gate.name and gate.name not in names:
                near = did_you_mean(gate.name, names, "the audit knows")
                problems.append(f"gate {gate.text!r}: no alarm {gate.name!r}; {near}")
        elif not _is_known(gate.metric, known):
            shown = [name for name in known if not name.endswith(_OPEN)]
            near = nearest(gate.metric, shown, cutoff=0.6) or (
                f"it can have {', '.join(shown[:40])}{', ...' if len(shown) > 40 else ''}"
            )
            problems.append(f"gate {gate.text!r}: no metric {gate.metric!r} here; {near}")
    if problems:
        raise ConfigError("\n".join(problems))


def _is_known(metric: str, known: Sequence[str]) -> bool:
    """Whether it is one of the names, or begins with one that stands for more."""
    return metric in known or metric.startswith(tuple(k for k in known if k.endswith(_OPEN)))


def stage_metrics(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> list[str]:
    """What gates after a stage can ask for; ``NAME/`` stands for every part of NAME."""
    own = list(open_stage(recipe, stage, run, base).metrics())
    observers = [spec.label for spec in stage.observe]
    judged = [name for name in _OF_SAMPLES if name in own]
    own += [form for name in observers for form in (name, f"{name}_errors")]
    own += [f"{name}/" for name in (*judged, *observers)]
    own += [f"pass@{stage.rollout.samples}"] if "pass@1" in own else []
    pairs = _OF_PAIRS if "accuracy" in own else ()
    held_out = [f"eval/{name}" for name in (*own, *pairs)]
    return list(dict.fromkeys([*own, *held_out, *_eval_names(run)]))


def run_metrics(recipe: Recipe, run: RunFolder, base: Path) -> list[str]:
    """What the whole run's gates can ask for: of the last policy, and of the comparison."""
    last = policy_stages(recipe, base)
    known = stage_metrics(recipe, last[-1], run, base) if last else _eval_names(run)
    if recipe.compare is not None:
        judged = recipe.compare.columns
        columns = [*judged, "kl", "length", "finished"]
        known = [*columns, *(GAIN + name for name in judged), *known]
    return list(dict.fromkeys(known))


def _eval_names(run: RunFolder) -> list[str]:
    """Names of evals' scores: those that stand alone, those that are there already, and whatever a
    suite that gnomon knows can be called."""
    there = [result for _, result in read_evals(run.path)]
    scores = [name for r in there for name in eval_readings([r], r.model)]
    suites = [form for suite in SUITES for form in (suite, f"{suite}.", f"{suite}/")]
    return [WIN_RATE, CAPABILITY_DROP, *scores, *suites]
