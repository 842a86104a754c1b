"""What the gates of a recipe may ask for: checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gnomon.algorithms.eval_settings import EVAL
from gnomon.audit.detectors import DETECTORS
from gnomon.audit.readings import CAPABILITY_DROP, GAIN, WIN_RATE, eval_readings
from gnomon.errors import ConfigError, GnomonError
from gnomon.evals.table import SUITES, make_suite, suite_class
from gnomon.plugins import did_you_mean, is_own, nearest
from gnomon.recipe.gates import NoAlarm, parse_gate
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.recipe.training import EvalSpec
from gnomon.runs.audit import ALARMS
from gnomon.runs.evals import read_evals
from gnomon.runs.folder import RunFolder
from gnomon.stages.names import policy_stages, produces
from gnomon.stages.stage import open_stage

_OF_SAMPLES = ("reward", "return")
_OF_PAIRS = ("ece", "mean_margin", "undecided", "ties", "tie_margin", "by_category.", "length.")
"""What evals.json has of ranked pairs beside their accuracy."""
_OPEN = ("/", ".", "@", "_")
"""Ends of names that stand for everything which begins so."""
_TYPO = 0.7
"""How alike a score's name and one that its suite has are from which on it is a typing error; what
follows a dot may as well be a part of the suite's own name."""


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
            if gate.metric.startswith("eval/") and not any(k.startswith("eval/") for k in known):
                near = "it holds no rows out: give it holdout, a share of its rows, or eval_data"
            problems.append(f"gate {gate.text!r}: no metric {gate.metric!r} here; {near}")
    if problems:
        raise ConfigError("\n".join(problems))


def _is_known(metric: str, known: Sequence[str]) -> bool:
    """Whether it is one of the names, or begins with one that stands for more."""
    opens = [name for name in known if name.endswith(_OPEN) and metric.startswith(name)]
    return metric in known or any(not _is_typo(metric, name) for name in opens)


def _is_typo(metric: str, begins: str) -> bool:
    """Whether a name that begins as a suite's ends as no score of it, and nearly as one."""
    suite, _, score = metric.rpartition(".")
    scores = _SCORES.get(begins.removesuffix("/"), ()) if suite else ()
    known = score in scores or score.startswith(tuple(s for s in scores if s.endswith(_OPEN)))
    return not known and bool(nearest(score, scores, cutoff=_TYPO))


def stage_metrics(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> list[str]:
    """What gates after a stage can ask for; ``NAME/`` stands for every part of NAME."""
    opened = open_stage(recipe, stage, run, base)
    own = list(opened.metrics())
    observers = [spec.label for spec in stage.observe]
    judged = [name for name in _OF_SAMPLES if name in own]
    own += [form for name in observers for form in (name, f"{name}_errors")]
    own += [f"{name}/" for name in (*judged, *observers)]
    own += [f"pass@{stage.rollout.samples}"] if "pass@1" in own else []
    pairs = _OF_PAIRS if "accuracy" in own else ()
    held_out = [f"eval/{name}" for name in (*own, *pairs)]
    if not (stage.holdout or stage.eval_data) and opened.reads_data:
        held_out = []
    scheduled = [f"eval/{name}/" for name, _ in _own_suites(recipe, run, base)]
    return list(dict.fromkeys([*own, *held_out, *scheduled, *_eval_names(recipe, run, base)]))


def run_metrics(recipe: Recipe, run: RunFolder, base: Path) -> list[str]:
    """What the whole run's gates can ask for: of the last policy, and of the comparison."""
    last = policy_stages(recipe, base)
    known = stage_metrics(recipe, last[-1], run, base) if last else _eval_names(recipe, run, base)
    if recipe.compare is not None:
        judged = recipe.compare.columns
        columns = [*judged, "kl", "length", "finished"]
        known = [*columns, *(GAIN + name for name in judged), *known]
    return list(dict.fromkeys(known))


_SCORES = {suite: suite_class(suite, Path()).scores for suite in SUITES}
"""What each suite can measure, as far as it says so before it has read its files."""


def _eval_names(recipe: Recipe, run: RunFolder, base: Path) -> list[str]:
    """Names of evals' scores: those that stand alone, those that are there already, and what the
    recipe's suites and those that gnomon knows can measure."""
    there = [result for _, result in read_evals(run.path)]
    found = [name for r in there for name in eval_readings([r], r.model)]
    suites = [*_own_suites(recipe, run, base), *_SCORES.items()]
    for name, scores in suites:
        found += [name, *(f"{name}.{score}" for score in scores), *scores]
        found += [] if scores else [f"{name}."]
    found += [f"{name}/" for name, _ in suites]
    return [WIN_RATE, CAPABILITY_DROP, *found]


def _own_suites(recipe: Recipe, run: RunFolder, base: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """The recipe's suites by the names of their records, and what they can measure; code of the
    recipe's own is not imported."""
    for stage in recipe.stages:
        asks: Sequence[EvalSpec] = stage.train.evals
        if stage.algorithm == EVAL:
            asks = open_stage(recipe, stage, run, base).settings.suites
        for spec in asks:
            if not is_own(spec.suite):
                suite = make_suite(spec.suite, spec.options, base)
                yield suite.name, suite.scores
            else:
                yield str(spec.options.get("name") or spec.suite.rpartition(":")[2].lower()), ()
