"""What a sweep ranks its settings by: a figure as gates name it, and never by default the reward
that is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.audit.kinds import Kind, entry_kind
from gnomon.audit.readings import CAPABILITY_DROP, WIN_RATE
from gnomon.errors import ConfigError
from gnomon.evals.table import SUITES
from gnomon.plugins import nearest
from gnomon.recipe.schema import Recipe, RewardSpec, StageSpec
from gnomon.report.format import better_sign
from gnomon.runs.folder import RunFolder
from gnomon.stages.gate_names import run_metrics, stage_metrics
from gnomon.stages.names import policy_stages
from gnomon.stages.stage import open_stage

_WORDS: dict[Kind, str] = {
    "verifier": "a verifier that nothing is trained on",
    "judge": "a judge that nothing is trained on",
    "asked": "an opinion that nothing is trained on; let people vouch for it (gnomon calibrate)",
}
_TRUTH = "the truth of a simulated world, which no real run has"
DIRECTIONS = {"max": 1, "maximise": 1, "maximize": 1, "min": -1, "minimise": -1, "minimize": -1}


@dataclass(frozen=True)
class Objective:
    """A figure to rank by; ``sign`` is 1 where higher is better, -1 where lower is.

    ``why`` says why it was chosen, or what speaks against it.
    """

    name: str
    sign: int
    why: str = ""


def find_objective(recipe: Recipe, base: Path, name: str | None, direction: str) -> Objective:
    """The objective that was asked for, or the best that the recipe measures.

    Args:
        name: a figure as gates name it (docs/gates.md); None to choose one.
        direction: ``auto``, ``max`` or ``min``.

    Raises:
        ConfigError: the recipe cannot measure it (with the nearest that it can), or nothing but
            the trained reward; or nobody can tell which direction is better.
    """
    if direction != "auto" and direction not in DIRECTIONS:
        raise ConfigError(f"direction {direction!r}: it is max, min or auto")
    why = ""
    if name is None:
        name, why = _default(recipe, base)
    else:
        _check(recipe, base, name)
        if _is_trained(recipe, base, name):
            why = "it is what the policy is trained on, and its best may be its most hacked"
    if direction != "auto":
        return Objective(name, DIRECTIONS[direction], why)
    unknown = name != WIN_RATE and name.split(".")[0].split("/")[0] in SUITES
    sign = 0 if unknown else better_sign(name.replace("/", " "))
    if sign == 0:
        raise ConfigError(f"objective {name}: say whether higher is better: direction max or min")
    return Objective(name, sign, why)


def _subject(recipe: Recipe, base: Path) -> StageSpec:
    """The stage whose figures are compared: the last policy's, or else the last."""
    return [*recipe.stages[-1:], *policy_stages(recipe, base)][-1]


def _known(recipe: Recipe, base: Path) -> list[str]:
    run = RunFolder(recipe)
    found = (
        run_metrics(recipe, run, base)
        if policy_stages(recipe, base)
        else stage_metrics(recipe, recipe.stages[-1], run, base)
    )
    return [name for name in found if name != CAPABILITY_DROP]


def _check(recipe: Recipe, base: Path, name: str) -> None:
    known = _known(recipe, base)
    if name in known or name.startswith(tuple(k for k in known if k.endswith(("/", ".")))):
        return
    shown = [k for k in known if not k.endswith(("/", "."))]
    near = nearest(name, shown, cutoff=0.6) or f"it can have {', '.join(shown[:30])}"
    raise ConfigError(f"objective {name!r}: this recipe measures no such figure; {near}")


def _default(recipe: Recipe, base: Path) -> tuple[str, str]:
    """The best figure that the recipe measures, and why it is."""
    judged = [*_judged(recipe, base)]
    for kind in ("verifier", "judge", "asked"):
        for name, own in judged:
            if own == kind:
                return name, _WORDS[own]
    held_out = _held_out(recipe, base)
    if held_out is not None:
        return held_out, "of rows that are held out"
    for name, own in judged:
        if own == "truth":
            return name, _TRUTH
    raise ConfigError(
        "the recipe measures nothing to rank by but what is trained on, whose best may be its most "
        "hacked. Give it a judge that is not trained on (observe, with eval_data; or compare), an "
        "eval, or held-out rows (holdout); or name one: objective eval/reward, if you mean it"
    )


def _judged(recipe: Recipe, base: Path) -> Iterator[tuple[str, Kind]]:
    """The rewards that judge the last policy on held-out prompts, by the names of their figures."""
    trained = [_entry(spec) for stage in recipe.stages for spec in stage.reward]
    for spec in recipe.compare.rewards if recipe.compare else []:
        yield spec.label, entry_kind(_entry(spec), trained)
    stage = _subject(recipe, base)
    if stage.eval_data or stage.holdout:
        for spec in stage.observe:
            yield f"eval/{spec.label}", entry_kind(_entry(spec), trained)


def _entry(spec: RewardSpec) -> Mapping[str, Any]:
    return spec.model_dump(exclude_defaults=True)


def _held_out(recipe: Recipe, base: Path) -> str | None:
    """The figure of held-out rows of a method whose data is given."""
    stage = _subject(recipe, base)
    opened = open_stage(recipe, stage, RunFolder(recipe), base)
    if not opened.trains or opened.samples or not (stage.eval_data or stage.holdout):
        return None
    return "eval/accuracy" if "accuracy" in opened.metrics() else "eval/loss"


def _is_trained(recipe: Recipe, base: Path, name: str) -> bool:
    """Whether a figure is of what the policy is trained on."""
    bare = name.removeprefix("gain/").removeprefix("eval/").partition("/")[0]
    kinds = {own.removeprefix("eval/"): kind for own, kind in _judged(recipe, base)}
    labels = {spec.label for spec in _subject(recipe, base).reward}
    return bare in ("reward", "return", *labels) or kinds.get(bare) == "trained"
