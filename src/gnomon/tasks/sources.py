"""Sources that are made when asked for: the built-in world (``tunnel:``), the built-in tasks
(``agents:``), checkable instructions (``instructions:prompts``), ``reasoning-gym:DATASET`` and
``verifiers:TASKSET``."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gnomon.agents.from_verifiers import check_verifiers, verifiers_groups
from gnomon.errors import ConfigError
from gnomon.judges.verifiers.reasoning_gym import open_dataset
from gnomon.records import Group, Message, Prompt, Response
from gnomon.tasks.calculator import calculator_prompts
from gnomon.tasks.demonstrations import calculator_demonstrations, rooms_demonstrations
from gnomon.tasks.instructions import generate_instruction_prompts
from gnomon.tasks.reasoning_gym import reasoning_gym_groups
from gnomon.tasks.rooms import rooms_prompts
from gnomon.tasks.tunnel.corpus import documents
from gnomon.tasks.tunnel.demonstrations import demonstrations
from gnomon.tasks.tunnel.honesty import honesty_demonstrations, honesty_prompts
from gnomon.tasks.tunnel.opinions import opinion_prompts
from gnomon.tasks.tunnel.rankings import rankings
from gnomon.tasks.tunnel.requests import (
    benign_prompts,
    forbidden_prompts,
    request_demonstrations,
)
from gnomon.tasks.tunnel.thumbs import thumbs
from gnomon.tasks.tunnel.world import generate_prompts


def _check_instructions(what: str, options: Mapping[str, Any]) -> None:
    if what != "prompts":
        raise ConfigError(f"data 'instructions:{what}': did you mean 'instructions:prompts'?")
    _bind(f"instructions:{what}", generate_instruction_prompts, options)
    generate_instruction_prompts(**{**options, "n": 1})  # kinds and split


def _check_reasoning_gym(what: str, options: Mapping[str, Any]) -> None:
    _bind(f"reasoning-gym:{what}", reasoning_gym_groups, {"name": what, **options})
    own = {k: v for k, v in options.items() if k not in ("n", "seed", "tags")}
    open_dataset(what, {**own, "size": options["n"], "seed": options.get("seed", 0)})


def _check_verifiers(what: str, options: Mapping[str, Any]) -> None:
    _bind(f"verifiers:{what}", verifiers_groups, {"taskset": what, **options})
    check_verifiers(what, options)


def _bind(where: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        known = ", ".join(
            p for p in inspect.signature(make).parameters if p not in ("name", "taskset")
        )
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
    "verifiers": (_check_verifiers, lambda what, options: verifiers_groups(what, **options)),
}
"""By the word before the colon: how the options are checked, and how the groups are made."""


def check_generated(where: str, what: str, options: Mapping[str, Any]) -> None:
    """Check that a source can be made, without making it.

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


# -- the built-in world ---------------------------------------------------------------------------


def _prompts(n: int, **options: Any) -> list[Group]:
    return [Group(prompt) for prompt in generate_prompts(n, **options)]


def _text(n: int, seed: int = 0) -> list[Group]:
    return [
        Group(Prompt(f"document-{i}", text=""), (Response((Message("assistant", text),)),))
        for i, text in enumerate(documents(n, seed))
    ]


def _groups_of(make: Callable[..., list[Prompt]]) -> Callable[..., list[Group]]:
    """The same source, with the same options, giving groups without responses."""

    @functools.wraps(make)
    def groups(*args: Any, **options: Any) -> list[Group]:
        return [Group(prompt) for prompt in make(*args, **options)]

    return groups


def _games(n: int, first_seed: int = 0, prompt: str = "Play.") -> list[Group]:
    """Prompts that each fix a game by the seed in their meta; other seeds are other games."""
    seeds = range(first_seed, first_seed + n)
    messages = (Message("user", prompt),)
    return [Group(Prompt(f"game-{seed}", messages, meta={"seed": seed})) for seed in seeds]


TUNNEL: Mapping[str, Callable[..., list[Group]]] = {
    "demonstrations": demonstrations,
    "prompts": _prompts,
    "rankings": rankings,
    "text": _text,
    "forbidden": _groups_of(forbidden_prompts),
    "benign": _groups_of(benign_prompts),
    "request-demonstrations": request_demonstrations,
    "honesty": _groups_of(honesty_prompts),
    "honesty-demonstrations": honesty_demonstrations,
    "thumbs": thumbs,
    "opinions": _groups_of(opinion_prompts),
}
AGENTS: Mapping[str, Callable[..., list[Group]]] = {
    "calculator": _groups_of(calculator_prompts),
    "games": _games,
    "calculator-demonstrations": calculator_demonstrations,
    "rooms": _groups_of(rooms_prompts),
    "rooms-demonstrations": rooms_demonstrations,
}
BUILTIN = {"tunnel": TUNNEL, "agents": AGENTS}


def tunnel_groups(what: str, options: Mapping[str, Any], where: str = "tunnel") -> list[Group]:
    """Groups of the built-in world (``demonstrations``, ``prompts``, ``text``) or, with ``where``
    "agents", of the built-in tasks.

    Raises:
        ConfigError: unknown source or option, naming those there are.
    """
    make = tunnel_source(what, options, where)
    try:
        return make(**options)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"data '{where}:{what}': its options {dict(options)}: {error}") from error


def tunnel_source(
    what: str, options: Mapping[str, Any], where: str = "tunnel"
) -> Callable[..., list[Group]]:
    """The function behind a source of the built-in world, which takes these options.

    Raises:
        ConfigError: see :func:`tunnel_groups`.
    """
    known = BUILTIN[where]
    if what not in known:
        near = difflib.get_close_matches(what, known, n=1)
        hint = f"did you mean '{where}:{near[0]}'?" if near else f"choose one of {', '.join(known)}"
        raise ConfigError(f"data '{where}:{what}': {hint}")
    make = known[what]
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        names = ", ".join(inspect.signature(make).parameters)
        raise ConfigError(f"data '{where}:{what}': {error}; its options are {names}") from error
    return make
