"""Reading a recipe: a YAML file, what it extends, ``key=value`` overrides, and validation."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean, nearest
from gnomon.recipe.foreign import hint
from gnomon.recipe.read import (
    MAX_BYTES,
    MAX_DEPTH,
    Document,
    Where,
    explain_yaml,
    read_document,
    read_yaml,
)
from gnomon.recipe.schema import Recipe
from gnomon.recipe.spec import Spec

RENAMED = {
    "dtype": "it is called precision now: float32 and bfloat16 mean what they did; mixed, which "
    "auto takes on a GPU, trains float32 weights and multiplies in bfloat16"
}
"""What to say of keys that had another name."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: a YAML file.
        overrides: ``key=value`` with dotted keys; the first part may be a stage's name, as in
            ``ppo.settings.beta=0.05``. Values are read as YAML.

    Raises:
        ConfigError: unreadable file, unknown key (with a suggestion), bad value.
    """
    document = _read(path)
    lines = dict(document.lines)
    for override in overrides:
        place = apply_override(document.data, override)
        lines = {w: n for w, n in lines.items() if w[: len(place)] != place}
        lines[place] = 0  # it is in no line
    return parse_recipe(document.data, where=str(path), lines=lines)


def parse_recipe(
    raw: dict[str, Any], where: str = "recipe", lines: Mapping[Where, int] | None = None
) -> Recipe:
    """Validate an already parsed recipe; see :func:`load_recipe`."""
    return validate_as(Recipe, raw, where, lines)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: it cannot be read, or holds something else than ``what``.
    """
    raw = _document(path).data
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: it holds no mapping of {what}")
    return raw


def _read(path: Path, depth: int = 0) -> Document:
    """The raw recipe in a file, with lines where they are this file's own; ``extends: other.yaml``
    with ``changes: [key=value]`` is another recipe with those overrides."""
    if depth > 8:
        raise ConfigError(f"{path}: recipes extend each other in a circle")
    document = _document(path)
    raw = document.data
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a recipe is a mapping with name, model and stages")
    if "extends" not in raw:
        return document
    unknown = sorted(set(raw) - {"extends", "changes"})
    if unknown:
        raise ConfigError(f"{path}: extends goes only with changes, not with {', '.join(unknown)}")
    other, changes = raw["extends"], raw.get("changes")
    if not isinstance(other, str) or not other:
        raise ConfigError(f"{path}: extends is the name of another recipe file (got {other!r})")
    changes = [] if changes is None else changes
    if not isinstance(changes, list) or not all(isinstance(c, str) for c in changes):
        raise ConfigError(f"{path}: changes is a list of key=value, as in [name=mine, seed=1]")
    try:
        extended = _read(path.parent / other, depth + 1).data
    except ConfigError as error:
        if depth:  # only the outermost adds its own path
            raise
        raise ConfigError(f"{path}: extends {other}: {error}") from error
    for change in changes:
        try:
            apply_override(extended, change)
        except ConfigError as error:
            raise ConfigError(f"{path}: changes: {error}") from error
    return Document(extended)


def _document(path: Path) -> Document:
    text = _text(path)
    try:
        return read_document(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {explain_yaml(error)}") from error


def _text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ConfigError(_absent(path, error)) from error
    if stat.S_ISDIR(mode):
        inside = sorted(p.name for p in path.glob("*.y*ml"))
        hint = f"; it holds {', '.join(inside[:6])}" if inside else ""
        raise ConfigError(f"{path}: a folder, not a recipe file{hint}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes, so it is not a recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}: not valid YAML: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); "
            "save the file as UTF-8"
        ) from error


def _absent(path: Path, error: Exception) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
    hint = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")], cutoff=0.6)
    return f"{path}: no such recipe" + (f"; {hint}" if hint else "")


def apply_override(raw: dict[str, Any], override: str) -> Where:
    """Set one dotted ``key=value`` in a raw recipe, in place.

    Args:
        raw: the recipe as read.
        override: the first part of the key may be a stage's name; items of a list go by number; the
            value is YAML.

    Returns:
        The place that was set.

    Raises:
        ConfigError: it is not ``key=value``, its value is not YAML, or there is no such place.
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
        problem = explain_yaml(error, with_line=False)
        raise ConfigError(f"{shown!r}: the value is not valid YAML: {problem}") from error


def _from_root(raw: dict[str, Any], parts: list[str], shown: str) -> list[str]:
    """The key from the recipe's root on: a stage's name becomes its number among the stages."""
    stages = raw.get("stages")
    listed = stages if isinstance(stages, list) else []
    named = {str(s["name"]): i for i, s in enumerate(listed) if isinstance(s, dict) and "name" in s}
    whole = ".".join(parts)
    dotted = [name for name in named if "." in name and f"{whole}.".startswith(f"{name}.")]
    if dotted:  # the longest name that the key begins with
        name = max(dotted, key=len)
        parts = [name, *filter(None, whole.removeprefix(name).lstrip(".").split("."))]
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
        hint = nearest(parts[0], [*named, *Recipe.model_fields], cutoff=0.6)
        hint = hint or f"the stages are {', '.join(named)}"
        raise ConfigError(f"{shown!r}: {parts[0]!r} is neither a stage nor a key; {hint}")
    return parts


def _index(node: list[Any], part: str, shown: str) -> int:
    if not node:
        raise ConfigError(f"{shown!r}: the list is empty, so it has no item of that number")
    if not (part.isascii() and part.isdecimal() and len(part) < 9 and int(part) < len(node)):
        raise ConfigError(f"{shown!r}: {part!r} must be a number below {len(node)}")
    return int(part)


Model = TypeVar("Model", bound=BaseModel)


def validate_as(
    model: type[Model], raw: Any, where: str, lines: Mapping[Where, int] | None = None
) -> Model:
    """Validate ``raw`` against a pydantic model.

    Args:
        where: the file, or the part of it, that the errors begin with.
        lines: the line of each value in the file, where it is known (0: set by an override).

    Raises:
        ConfigError: all that is wrong, one line each.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = []
        for item in _without_alternatives(error.errors()):
            line = _line(item, lines or {})
            at = where if line is None else f"{where}, line {line}"
            problems.append(f"{at}: {_explain(model, item, raw)}")
        raise ConfigError("\n".join(problems)) from None


def _line(item: Mapping[str, Any], lines: Mapping[Where, int]) -> int | None:
    """The line of the value, or of the nearest thing around it that the file has."""
    place = tuple(item["loc"])
    if item["type"] != "extra_forbidden":
        while place and place not in lines:
            place = place[:-1]
    return lines.get(place) or None


def _without_alternatives(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """One error for a value that fits none of the types it may have.

    Pydantic gives one for each, with the type's name at the end of the location.
    """
    out: dict[tuple[int | str, ...], dict[str, Any]] = {}
    for error in errors:
        loc, kind = tuple(error["loc"]), str(error["loc"][-1]) if error["loc"] else ""
        union = kind in ("float", "int", "str") or kind.startswith(("literal[", "list["))
        key = loc[:-1] if union else loc
        if union and key in out:
            out[key]["msg"] += f", or: {str(error['msg']).removeprefix('Input ')}"
        else:
            out[key] = {**error, "loc": key}
    return list(out.values())


def _explain(model: type[BaseModel], item: Mapping[str, Any], raw: Any) -> str:
    location = ".".join(_readable(item["loc"], raw))
    if item["type"] == "extra_forbidden":
        owner = _model_at(model, item["loc"][:-1])
        known = _field_names(owner) if owner else []
        key, place = str(item["loc"][-1]), [str(part) for part in item["loc"]]
        written = place[2:] if place[0] == "stages" else place
        own = [] if issubclass(model, Spec) else ["settings"]
        theirs = RENAMED.get(".".join(place)) or hint(key, ".".join([*own, *written]))
        return f"unknown key {location!r}; {theirs or did_you_mean(key, known, 'known keys:')}"
    if item["type"] == "missing":
        return f"missing key {location!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "string_type" and isinstance(item["input"], bool):
        message = "Input should be text; yes, no, on, off, true and false need quotes to be text"
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "Input should be a mapping (key: value)"
    shown = "" if isinstance(item["input"], dict | list) else f" (got {_short(item['input'])})"
    choices = re.findall("'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
    near = nearest(str(item["input"]), choices, cutoff=0.6)
    return f"{location or 'recipe'}: {message}{shown}{near and f'; {near}'}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... of {len(text):,} characters"


def _readable(loc: Sequence[int | str], raw: Any) -> list[str]:
    """The place with a stage's name, or a principle's id, in place of its index."""
    out = [str(part) for part in loc]
    if len(loc) > 1 and isinstance(loc[1], int):
        with contextlib.suppress(KeyError, TypeError, IndexError):
            if loc[0] == "stages":
                out = [str(raw["stages"][loc[1]]["name"])[:60], *out[2:]]
            elif loc[0] == "principles":
                out = [f"principle {raw['principles'][loc[1]]['id']}"[:60], *out[2:]]
    return out


def _field_names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The model class that holds the key at ``loc``."""
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int) or current is None:
            continue
        field = next(
            (f for n, f in current.model_fields.items() if part in (n, f.alias)),
            None,
        )
        current = _inner_model(field.annotation) if field else None
    return current


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_model(argument)
        if found:
            return found
    return None
