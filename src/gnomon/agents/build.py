"""What plays the episodes of a recipe's environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gnomon.agents.dialogue import Dialogue, format_of
from gnomon.agents.episodes import EpisodeRunner
from gnomon.agents.load import environment_factory
from gnomon.data.encode import Encoder
from gnomon.recipe.environment import EnvironmentSpec
from gnomon.records import Group
from gnomon.usercode import settled


def build_environment(
    spec: EnvironmentSpec, encoder: Encoder, *, base: Path, window: int
) -> EpisodeRunner:
    """What plays the stage's episodes.

    Args:
        encoder: the stage's; its prompt limit leaves room for an episode.
        base: the folder that files are looked up in (the recipe's own).
        window: tokens the model takes.

    Raises:
        ConfigError: see :func:`~gnomon.agents.load.environment_factory` and
            :class:`~gnomon.agents.dialogue.Dialogue`.
    """
    make = environment_factory(spec.name, spec.options, base)
    calls = format_of(encoder.template) if spec.calls == "auto" else spec.calls
    first = make()
    tools = tuple(first.tools)
    close: Callable[[], Any] = first.close
    settled(close())
    dialogue = Dialogue(
        encoder, role=spec.observation_role, tools=tools, calls=calls, show_tools=spec.show_tools
    )
    return EpisodeRunner(
        spec.label,
        make,
        dialogue,
        calls=calls,
        max_turns=spec.max_turns,
        max_episode_tokens=spec.max_episode_tokens,
        window=window,
        step_timeout_s=spec.step_timeout_s,
        workers=spec.workers,
    )


def openings(runner: EpisodeRunner, groups: Sequence[Group]) -> list[Group]:
    """The groups with their prompts as an environment shows them, its tools listed."""
    return [replace(g, prompt=runner.dialogue.opening(g.prompt)) for g in groups]
