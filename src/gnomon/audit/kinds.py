"""What a reward says about a policy: that it was trained on it, a simulation's truth, or something
that stands apart from both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gnomon.audit.truths import is_truth, label, reward_entries, same_reward
from gnomon.runs.evals import EvalResult

Kind = Literal["trained", "truth", "judge", "asked", "verifier", "other"]
"""``judge``: a reward model that nothing was trained on; ``asked``: a language model's opinion, or
people's; ``verifier``: a program that nothing was trained on; ``other``: not a reward, or nobody
knows which."""
Entry = Mapping[str, Any]
AVERAGE = "average"
"""The kind of stage that averages weights."""
UNREWARDED = ("distill", "sft", "eval", AVERAGE)
"""The kinds of stages that learn from no reward, whatever they play."""
FORM = ("json", "regex", "format", "length", "repetition", "instructions")
"""Builtin verifiers that look at an answer's form and at nothing else."""
OPINIONS = ("ai", "human_queue", "people")
"""Builtin rewards that ask a language model, or people."""


def entry_kind(entry: Entry, trained: list[Entry]) -> Kind:
    """What a reward of a recipe's ``observe`` or ``compare`` says."""
    if any(same_reward(entry, own) or label(entry) == label(own) for own in trained):
        return "trained"
    if is_truth(entry):
        return "truth"
    if entry.get("builtin") in OPINIONS:
        return "asked"
    return "judge" if entry.get("model") else "verifier"


def reads_form(entry: Entry) -> bool:
    """Whether a reward looks at an answer's form alone."""
    return entry.get("builtin") in FORM


def is_program(entry: Entry) -> bool:
    """Whether a reward is a program, whose verdict nobody has to vouch for: no model, and no
    people."""
    return bool(entry) and not entry.get("model") and entry.get("builtin") not in OPINIONS


def grader(result: EvalResult) -> Entry:
    """The reward that graded an eval's answers, as a recipe would name it; empty where the suite
    itself knows what is right, or a judge compared them."""
    entry = result.settings.get("judge")
    return entry if isinstance(entry, Mapping) else {}


def wants_people(result: EvalResult) -> bool:
    """Whether its figures are an opinion, which people's labels have to vouch for."""
    return bool(result.judge) and not is_program(grader(result))


def played(spec: Mapping[str, Any]) -> str:
    """The environment whose return a stage optimises, as the recipe names it; empty for one that
    plays none, or learns from no reward."""
    place = spec.get("environment")
    found = place if isinstance(place, Mapping) else {"name": place}
    return "" if spec.get("algorithm") in UNREWARDED else str(found.get("name") or "")


def trained_on(spec: Mapping[str, Any]) -> list[Entry]:
    """What a stage of a recipe optimises, or labels data with: its rewards and its environment."""
    entries = reward_entries(spec.get("reward") or [])
    place = played(spec)
    return [*entries, *([{"name": place, "environment": place}] if place else [])]


def stands_apart(result: EvalResult, trained: list[Entry]) -> bool:
    """Whether an eval's grader is neither what was trained on nor a simulation's truth; the
    episodes of the environment that a policy was trained in are what it was trained on."""
    place = result.settings.get("environment")
    if isinstance(place, Mapping) and any(own.get("environment") == place.get("name")
                                          for own in trained):  # fmt: skip
        return False
    entry = grader(result)
    return not entry or entry_kind(entry, trained) not in ("trained", "truth")


def averaged(spec: Mapping[str, Any]) -> list[str]:
    """The models whose weights an average stage takes, as the recipe names them; empty for another
    stage."""
    settings = spec.get("settings")
    models = settings.get("models") if isinstance(settings, Mapping) else None
    average = spec.get("algorithm") == AVERAGE and isinstance(models, list)
    return [str(model) for model in models or ()] if average else []


def average_start(spec: Mapping[str, Any]) -> str:
    """What an average stage's models were trained from, as the recipe names it, where it says."""
    settings = spec.get("settings")
    return str(settings.get("init") or "") if isinstance(settings, Mapping) else ""
