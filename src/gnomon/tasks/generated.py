"""Sources of prompts that are generated on demand: ``instructions:prompts`` (checkable
instructions) and ``reasoning-gym:DATASET``. The tunnel's are in ``stages/sources.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.reasoning_gym import open_dataset
from gnomon.records import Group
from gnomon.tasks.instructions import generate_instruction_prompts
from gnomon.tasks.reasoning_gym import reasoning_gym_groups


def _check_instructions(what: str, options: Mapping[str, Any]) -> None:
    if what != "prompts":
        raise ConfigError(f"data 'instructions:{what}': did you mean 'instructions:prompts'?")
    _bind(f"instructions:{what}", generate_instruction_prompts, options)
    generate_instruction_prompts(**{**options, "n": 1})  # kinds and split


def _check_reasoning_gym(what: str, options: Mapping[str, Any]) -> None:
    _bind(f"reasoning-gym:{what}", reasoning_gym_groups, {"name": what, **options})
    own = {k: v for k, v in options.items() if k not in ("n", "seed", "tags")}
    open_dataset(what, {**own, "size": options["n"], "seed": options.get("seed", 0)})


def _bind(where: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        known = ", ".join(p for p in inspect.signature(make).parameters if p != "name")
        raise ConfigError(f"data {where!r}: {error}; its options are {known}") from error


Check = Callable[[str, Mapping[str, Any]], None]
Make = Callable[[str, Mapping[str, Any]], list[Group]]
GENERATED: Mapping[str, tuple[Check, Make]] = {
    "instructions": (
        _check_instructions,
        lambda what, options: [Group(prompt) for prompt in generate_instruction_prompts(**options)],
    ),
    "reasoning-gym": (
        _check_reasoning_gym,
        lambda what, options: reasoning_gym_groups(what, **options),
    ),
}
"""By the word before the colon: how the options are checked, and how the groups are made."""


def check_generated(where: str, what: str, options: Mapping[str, Any]) -> None:
    """Whether a source can be made, without making it.

    Raises:
        ConfigError: it cannot: an unknown name or option, or a missing extra.
    """
    GENERATED[where][0](what, options)


def generated_groups(where: str, what: str, options: Mapping[str, Any]) -> list[Group]:
    """The groups of ``where:what``.

    Raises:
        ConfigError: see :func:`check_generated`.
    """
    check, make = GENERATED[where]
    check(what, options)
    try:
        return make(what, options)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"data '{where}:{what}': its options {dict(options)}: {error}") from error
