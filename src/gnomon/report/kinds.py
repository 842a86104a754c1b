"""What a figure may say about a model: whether it is what was trained on, a simulation's truth, or
evidence that stands apart from both.

That the reward a policy was trained on rose shows that training worked, not that the policy is
better; and a simulation's truth is nothing a real run would have. Neither is ever good news here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gnomon.audit.kinds import Entry, Kind, entry_kind, trained_on
from gnomon.audit.same_labels import same_labels
from gnomon.audit.truths import label, reward_entries
from gnomon.recipe.environment import EnvironmentSpec
from gnomon.recipe.schema import TRUTHS
from gnomon.runs.read import RunView, StageView

WORDS: dict[Kind, str] = {
    "trained": "trained on",
    "truth": "truth of a simulated world",
    "judge": "held-out judge",
    "asked": "AI judge",
    "verifier": "held-out verifier",
    "other": "",
}
_NO_POLICY = ("reward_model", "collect", "revise", "eval")


def stage_specs(run: RunView) -> dict[str, Mapping[str, Any]]:
    """The recipe's stages by name; those that are none are passed over."""
    stages = run.recipe.get("stages")
    listed = stages if isinstance(stages, list) else []
    return {str(s["name"]): s for s in listed if isinstance(s, Mapping) and "name" in s}


def policies(run: RunView) -> list[StageView]:
    """The stages that trained a policy, in order."""
    specs = stage_specs(run)

    def algorithm(stage: StageView) -> str:
        return stage.info.algorithm or str(specs.get(stage.name, {}).get("algorithm", ""))

    return [stage for stage in run.stages if algorithm(stage) not in _NO_POLICY]


def trained_entries(run: RunView) -> list[Entry]:
    """Every reward and environment that a stage of the recipe trains on, or labels data with."""
    return [entry for spec in stage_specs(run).values() for entry in trained_on(spec)]


def column_kinds(run: RunView) -> dict[str, Kind]:
    """What each column of the comparison says, by the column's name."""
    known = dict(_compared(run))
    return {column: known.get(column) or _by_name(run, column) for column in run.comparison.columns}


def _compared(run: RunView) -> Iterator[tuple[str, Kind]]:
    compare = run.recipe.get("compare")
    rewards = compare.get("rewards") if isinstance(compare, Mapping) else None
    trained, alike = trained_entries(run), same_labels(run)
    for entry in reward_entries(rewards or []):
        kind: Kind = "trained" if label(entry) in alike else entry_kind(entry, trained)
        yield label(entry).replace("_", " "), kind
    played = compare.get("environment") if isinstance(compare, Mapping) else None
    places = [spec.get("environment") for spec in stage_specs(run).values()]
    for place in (place for place in places if isinstance(place, Mapping)):
        if isinstance(played, Mapping) and place.get("name") == played.get("name"):
            yield EnvironmentSpec(name=str(place["name"])).label.replace("_", " "), "trained"


def _by_name(run: RunView, column: str) -> Kind:
    """Where no recipe tells: what is called proxy or after a reward model was trained on, as far as
    anybody knows."""
    learned = {
        s.name.replace("_", " ").lower() for s in run.stages if s.info.algorithm == "reward_model"
    }
    words = column.lower()
    if words in learned or "proxy" in words:
        return "trained"
    return "truth" if set(words.split()) & set(TRUTHS) else "other"


def metric_kind(run: RunView, stage: str, metric: str) -> Kind:
    """What a stage's metric says (``eval/`` or not)."""
    name = metric.removeprefix("eval/")
    head = name.partition("/")[0].removesuffix("_errors")
    spec = stage_specs(run).get(stage, {})
    if head in ("reward", "return"):
        return "trained"
    trained = reward_entries(spec.get("reward") or [])
    if head in {label(entry) for entry in trained}:
        return "trained"
    for entry in reward_entries(spec.get("observe") or []):
        if label(entry) == head:
            return "trained" if head in same_labels(run) else entry_kind(entry, trained)
    return "truth" if head in TRUTHS else "other"


def trained_name(run: RunView, stage: str) -> str:
    """What a stage is trained on, by the labels of its rewards; empty where that is not known."""
    spec = stage_specs(run).get(stage, {})
    names = [label(entry) for entry in reward_entries(spec.get("reward") or [])]
    place = spec.get("environment")
    if isinstance(place, Mapping) and place.get("name"):
        names.append(str(place["name"]))
    return " + ".join(names)
