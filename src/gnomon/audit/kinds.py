"""What a reward says about a policy: whether the policy was trained on it, it is a simulation's truth,
or it stands apart from both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gnomon.audit.truths import is_truth, label, same_reward

Kind = Literal["trained", "truth", "judge", "asked", "verifier", "other"]
"""``judge``: a reward model that nothing was trained on; ``asked``: a language model's opinion, or
people's; ``verifier``: a program that nothing was trained on; ``other``: not a reward, or nobody
knows which."""
Entry = Mapping[str, Any]


def entry_kind(entry: Entry, trained: list[Entry]) -> Kind:
    """What a reward of a recipe's ``observe`` or ``compare`` says."""
    if any(same_reward(entry, own) or label(entry) == label(own) for own in trained):
        return "trained"
    if is_truth(entry):
        return "truth"
    if entry.get("builtin") in ("ai", "human_queue"):
        return "asked"
    return "judge" if entry.get("model") else "verifier"
