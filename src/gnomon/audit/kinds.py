"""What a reward says about a policy: that it was trained on it, a simulation's truth, or something
that stands apart from both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gnomon.audit.truths import is_truth, label, same_reward
from gnomon.runs.evals import EvalResult

Kind = Literal["trained", "truth", "judge", "asked", "verifier", "other"]
"""``judge``: a reward model that nothing was trained on; ``asked``: a language model's opinion, or
people's; ``verifier``: a program that nothing was trained on; ``other``: not a reward, or nobody
knows which."""
Entry = Mapping[str, Any]
AVERAGE = "average"
"""The kind of stage that averages weights."""
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


def stands_apart(result: EvalResult, trained: list[Entry]) -> bool:
    """Whether an eval's grader is neither what was trained on nor a simulation's truth."""
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
