"""``key=value`` changes to a recipe that is not validated yet."""

from __future__ import annotations

import difflib
from typing import Any

import yaml

from gnomon.errors import ConfigError
from gnomon.recipe.read import MAX_BYTES, MAX_DEPTH, Where, explain_yaml, read_yaml
from gnomon.recipe.schema import Recipe


def apply_override(raw: dict[str, Any], override: str) -> Where:
    """Set one dotted ``key=value`` in a raw recipe, in place.

    Args:
        raw: the recipe as read.
        override: the first part of the key may be a stage's name; items of a list go by number; the
            value is YAML.

    Returns:
        The place that was set.

    Raises:
        ConfigError: it is no ``key=value``, its value is not YAML, or its key leads nowhere.
    """
    shown = override if len(override) <= 200 else override[:197] + "..."
    key, eq, text = override.partition("=")
    if not eq or not key.strip():
        raise ConfigError(f"{shown!r}: an override is key=value, as in train.lr=1e-5")
    parts = key.split(".")
    if not all(part.strip() for part in parts) or len(parts) > MAX_DEPTH:
        raise ConfigError(f"{shown!r}: a key is words with dots between them, as in train.lr")
    value = _value(text, shown)
    node: Any = raw
    where: list[str | int] = []
    path = _from_root(raw, parts, shown)
    for part in path[:-1]:
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        where.append(_index(node, part, shown) if isinstance(node, list) else part)
        node = node[where[-1]]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{shown!r}: {part!r} holds a value, not settings")
    where.append(_index(node, path[-1], shown) if isinstance(node, list) else path[-1])
    node[where[-1]] = value
    return tuple(where)


def _value(text: str, shown: str) -> Any:
    if not text.strip():
        raise ConfigError(
            f"{shown!r}: the value is missing; write null for none, or '\"\"' for empty text"
        )
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{shown!r}: the value is longer than {MAX_BYTES:,} characters")
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        said = explain_yaml(error, with_line=False)
        raise ConfigError(f"{shown!r}: the value is not valid YAML: {said}") from error


def _from_root(raw: dict[str, Any], parts: list[str], shown: str) -> list[str]:
    """The key from the recipe's root on: a stage's name becomes its number among the stages."""
    stages = raw.get("stages")
    listed = stages if isinstance(stages, list) else []
    named = {str(s["name"]): i for i, s in enumerate(listed) if isinstance(s, dict) and "name" in s}
    if parts[0] in named:
        if len(parts) == 1:
            raise ConfigError(
                f"{shown!r}: name the setting of the stage, as in {parts[0]}.train.lr=1e-5"
            )
        return ["stages", str(named[parts[0]]), *parts[1:]]
    if len(parts) > 1 and parts[0] == "stages" and parts[1] in named:
        raise ConfigError(
            f"{shown!r}: did you mean {'.'.join(parts[1:])}? A stage goes by its name"
        )
    if len(parts) > 1 and parts[0] not in raw and parts[0] not in Recipe.model_fields:
        near = difflib.get_close_matches(parts[0], [*named, *Recipe.model_fields], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the stages are {', '.join(named)}"
        raise ConfigError(f"{shown!r}: {parts[0]!r} is neither a stage nor a key; {hint}")
    return parts


def _index(node: list[Any], part: str, shown: str) -> int:
    if not node:
        raise ConfigError(f"{shown!r}: there is nothing to number: the list is empty")
    if not (part.isascii() and part.isdecimal() and len(part) < 9 and int(part) < len(node)):
        raise ConfigError(f"{shown!r}: {part!r} must be a number below {len(node)}")
    return int(part)
