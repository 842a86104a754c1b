"""Pydantic's errors as sentences that name the file, the line, the key and what was meant."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean
from gnomon.recipe.read import Where

Model = TypeVar("Model", bound=BaseModel)


def validate_as(
    model: type[Model], raw: Any, where: str, lines: Mapping[Where, int] | None = None
) -> Model:
    """Validate ``raw`` against a pydantic model.

    Args:
        where: the file, or the part of it, that the errors begin with.
        lines: the line of each value in the file, where it is known (0: it was put there later).

    Raises:
        ConfigError: all that is wrong, one line each.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        said = []
        for item in _without_alternatives(error.errors()):
            line = _line(item, lines or {})
            at = where if line is None else f"{where}, line {line}"
            said.append(f"{at}: {_explain(model, item, raw)}")
        raise ConfigError("\n".join(said)) from None


def _line(item: Mapping[str, Any], lines: Mapping[Where, int]) -> int | None:
    """The line of the value, or of the nearest thing around it that was written."""
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
        return (
            f"unknown key {location!r}; {did_you_mean(str(item['loc'][-1]), known, 'known keys:')}"
        )
    if item["type"] == "missing":
        return f"missing key {location!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "string_type" and isinstance(item["input"], bool):
        message = "Input should be text; yes, no, on, off, true and false need quotes to be text"
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "Input should be a mapping (key: value)"
    shown = "" if isinstance(item["input"], dict | list) else f" (got {_short(item['input'])})"
    return f"{location or 'recipe'}: {message}{shown}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... of {len(text):,} characters"


def _readable(loc: Sequence[int | str], raw: Any) -> list[str]:
    """Name stages by their name rather than their index."""
    out = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "stages" and isinstance(loc[1], int):
        with contextlib.suppress(KeyError, TypeError, IndexError):
            out = [str(raw["stages"][loc[1]]["name"])[:60], *out[2:]]
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
