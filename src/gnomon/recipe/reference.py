"""What a key takes, what it is by default, and what it means: for tables, here and in the docs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
PLAIN = {str: "text", int: "integer", float: "number", bool: "true | false", Any: "anything"}


def type_of(field: FieldInfo, names: Mapping[Any, str] | None = None) -> str:
    """A field's type and range in words.

    Args:
        names: what models are called.
    """
    bounds = [
        f"{sign} {getattr(m, bound):g}"
        for m in field.metadata
        for bound, sign in BOUNDS.items()
        if hasattr(m, bound)
    ]
    return ", ".join([_name(field.annotation, names or {}), *bounds])


def default_of(field: FieldInfo) -> str:
    """A field's default as one would write it in a recipe."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, float) and value and abs(value) < 1e-3:
        return f"`{value:g}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _name(annotation: Any, names: Mapping[Any, str]) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(f"`{a}`" for a in arguments)
    if origin in (Union, UnionType):
        parts = [_name(a, names) for a in arguments if a is not NoneType]
        return " | ".join(parts + (["null"] if NoneType in arguments else []))
    if origin is list:
        return f"list of {_name(arguments[0], names)}"
    if origin is tuple:
        return f"[{', '.join(_name(a, names) for a in arguments)}]"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping to {_name(arguments[1], names)}"
    if annotation in names or annotation in PLAIN:
        return names.get(annotation) or PLAIN[annotation]
    return "mapping" if isinstance(annotation, type) else str(annotation)
