"""A callback of one's own: told how training goes, and asked nothing else.

    python examples/own_callback.py

It writes the policy's answer to one prompt at each step, so that one can read how it changes, and
ends training once the reward is high enough. Any recipe takes it:

    callbacks: {callback: "own_callback.py:Diary", options: {enough: 0.9}}

From Python it is ``run_recipe(..., callbacks=[Diary()])``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import gnomon
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.stages.run import run_recipe
from gnomon.training.callbacks import StageEnd, StageStart, StepDone


class Diary(gnomon.Callback):
    """Writes diary.txt in the stage's folder: a line for each step whose samples are kept.

    Args:
        enough: end the stage's training at this mean reward; None never does.
    """

    def __init__(self, enough: float | None = None) -> None:
        self.enough = enough

    def on_start(self, stage: StageStart) -> None:
        self.file = stage.folder / "diary.txt"
        if not stage.resumed:
            self.file.write_text(
                f"{stage.stage}: {stage.iterations} iterations of {stage.method}\n"
            )

    def on_step(self, event: StepDone) -> None:
        if event.samples:
            first = event.samples[0]
            with self.file.open("a") as file:
                file.write(f"{event.iteration}\t{first['reward']}\t{first['response']}\n")
        if self.enough is not None and event.metrics.get("reward", -1.0) >= self.enough:
            event.finish()  # event.stop("why") would stop the whole run, to be resumed

    def on_end(self, event: StageEnd) -> None:
        with self.file.open("a") as file:
            file.write(f"{event.status} after {event.iteration} iterations\n")


RECIPE: Mapping[str, Any] = {
    "name": "own-callback",
    "model": "tunnel",
    "max_length": 128,
    "callbacks": {"callback": "own_callback.py:Diary", "options": {"enough": 0.9}},
    "stages": [
        {
            "name": "grpo",
            "algorithm": "grpo",
            "data": {"path": "tunnel:prompts", "options": {"n": 400, "seed": 4}},
            "reward": {"function": "own_reward.py:brief"},
            "rollout": {"samples": 8, "max_new_tokens": 16},
            "train": {"steps": 30, "batch_size": 8, "lr": 4e-4, "sample_every": 1},
            "settings": {"beta": 0.0},
        },
    ],
}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the recipe, with ``key=value`` changes, and return the run's folder."""
    raw = deepcopy(dict(RECIPE))
    for override in overrides:
        apply_override(raw, override)
    run = run_recipe(parse_recipe(raw), base=Path(__file__).parent)
    print((run / "stages" / "01-grpo" / "diary.txt").read_text())
    return run


if __name__ == "__main__":
    main(sys.argv[1:])
