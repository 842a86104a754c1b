"""Which policy a run is about, and what it was trained from."""

from __future__ import annotations

from gnomon.audit.kinds import average_start, averaged
from gnomon.report.kinds import policies, stage_specs
from gnomon.runs.evals import BASE
from gnomon.runs.read import RunView, own_stage


def candidate(run: RunView) -> str:
    """The policy that the run ends with: the last one that no gate held back."""
    held = held_back(run)
    names = [stage.name for stage in policies(run) if stage.name not in held]
    return names[-1] if names else ""


def subject(run: RunView) -> str:
    """The policy that the run was for: its last, whether a gate held it back or not."""
    return policies(run)[-1].name if policies(run) else ""


def held_back(run: RunView) -> set[str]:
    """The policies that a gate held back, so that later stages went on from the model before."""
    specs, held = stage_specs(run), set()
    names = [stage.name for stage in policies(run)]
    for name, results in run.gates.root.items():
        asked = specs.get(name, {}).get("on_fail") or run.recipe.get("on_fail")
        if asked == "previous" and any(r.passed is not True for r in results):
            order = list(specs)
            before = [n for n in names if n in order and order.index(n) <= order.index(name)]
            held |= set(before[-1:])
    return held


def replaced(run: RunView) -> set[str]:
    """Policies held back whose place a later one took: what is wrong with them holds nothing."""
    names = [stage.name for stage in policies(run)]
    last = candidate(run)
    after = names.index(last) if last else -1
    return {name for name in held_back(run) if names.index(name) < after}


def before(run: RunView, model: str) -> str:
    """The model that ``model`` was trained from, as evals and comparisons call it; of an average
    its ``init``, or what the first of its models was trained from."""
    specs = stage_specs(run)
    names, spec = list(specs), specs.get(model, {})
    if models := averaged(spec):
        if start := average_start(spec):
            return BASE if start == "model" else start
        earlier = models[0] in names[: names.index(model)]
        return before(run, models[0]) if earlier else BASE
    for stage in run.stages:
        if stage.name == model:
            return own_stage(run, str(stage.info.start.get("from") or "")) or BASE
    return BASE


def gate_places(run: RunView, model: str) -> set[str]:
    """The stages whose gates are about a policy: its own, those after it that train none, and the
    whole run's."""
    names, trained = list(stage_specs(run)), {stage.name for stage in policies(run)}
    after = names[names.index(model) + 1 :] if model in names else []
    return {"", model, *(name for name in after if name not in trained)}
