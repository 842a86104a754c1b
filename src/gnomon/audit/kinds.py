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
