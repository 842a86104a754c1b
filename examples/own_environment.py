"""An environment of one's own: a task of several turns, and a policy that learns it.

    python examples/own_environment.py

The game: find a number from 1 to 9. The policy says a number in any words; the environment answers
higher or lower. The fewer turns, the better the return. A recipe names the class by its file; the
episode's return is the reward. With tools to call, derive from ``gnomon.agents.ToolEnvironment``
(docs/agents.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from gnomon.agents import Action, Observation, Tool
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.records import Message, Prompt
from gnomon.stages.run import run_recipe


class HigherLower:
    """One game. An object plays one episode: reset, a step for each turn, close.

    Args:
        largest: numbers go from 1 to this.
        turns: how many tries there are.
    """

    tools: Sequence[Tool] = ()

    def __init__(self, largest: int = 9, turns: int = 4) -> None:
        self.largest = largest
        self.turns = turns

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message]:
        """Draw the number from the seed: all samples of a prompt then play the same game."""
        self.secret = Random(seed).randint(1, self.largest)
        self.tried = 0
        return [Message("user", f"Name a number from 1 to {self.largest}.")]

    def step(self, action: Action) -> Observation:
        """Answer a turn. No number at all costs a turn, too, and more than a wrong one."""
        self.tried += 1
        found = re.search(r"\d+", action.text)
        guess = None if found is None else int(found.group()[:3])
        last = self.tried == self.turns
        if guess == self.secret:
            left = 1.0 - (self.tried - 1) / self.turns
            return Observation((), left, True, {"correct": 1.0})
        if guess is None:
            said, cost = "No number.", -0.2
        else:
            said, cost = ("higher." if guess < self.secret else "lower."), 0.0
        return Observation((Message("user", said),), cost, last, {"correct": 0.0})

    def close(self) -> None:
        """Nothing to free."""


RECIPE: Mapping[str, Any] = {
    "name": "own-environment",
    "model": "tunnel",
    "max_length": 200,
    "stages": [
        {
            "name": "grpo",
            "algorithm": "grpo",
            "data": {"path": "tunnel:prompts", "options": {"n": 64, "seed": 4}},
            "environment": {
                "name": "own_environment.py:HigherLower",
                "max_turns": 4,
                "max_episode_tokens": 120,
            },
            "rollout": {"samples": 8, "max_new_tokens": 12},
            "train": {"steps": 60, "batch_size": 16, "lr": 4e-4, "eval_every": 20},
            "holdout": 0.25,
            "settings": {"beta": 0.0, "minibatches": 2},
        },
    ],
}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the recipe, with ``key=value`` changes, and return the run's folder."""
    raw = deepcopy(dict(RECIPE))
    for override in overrides:
        apply_override(raw, override)
    return run_recipe(parse_recipe(raw), base=Path(__file__).parent)


if __name__ == "__main__":
    main(sys.argv[1:])
