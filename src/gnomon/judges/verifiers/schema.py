"""A checked subset of JSON Schema 2020-12: enough for outputs people ask models for.

Anything outside the subset is refused when the schema is read, never silently let through.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gnomon.errors import ConfigError

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "format"}
_NOTES |= {"deprecated", "readOnly", "writeOnly", "$defs", "definitions"}
_CHECKED = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"}
_CHECKED |= {"prefixItems", "minItems", "maxItems", "uniqueItems", "minimum", "maximum", "pattern"}
_CHECKED |= {"exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "$ref"}
_CHECKED |= {"anyOf", "oneOf", "allOf", "not", "minProperties", "maxProperties"}
_MAX_DEPTH = 60


def check_schema(schema: Any) -> None:
    """Refuse what :func:`violations` would not check.

    Raises:
        ConfigError: not a schema, an unknown keyword or type, a pattern that does not compile.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise ConfigError(f"JSON schema: {str(schema)[:80]!r} is not a schema")
    unknown = set(schema) - _CHECKED - _NOTES
    if unknown:
        raise ConfigError(f"JSON schema: keywords we do not check: {', '.join(sorted(unknown))}")
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in _TYPES:
            raise ConfigError(f"JSON schema: no type {kind!r}")
    try:
        re.compile(schema.get("pattern", ""))
    except re.error as error:
        raise ConfigError(f"JSON schema: pattern {schema['pattern']!r}: {error}") from error
    for key in ("properties", "$defs", "definitions"):
        for inner in schema.get(key, {}).values():
            check_schema(inner)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for inner in schema.get(key, []):
            check_schema(inner)
    for key in ("items", "not", "additionalProperties"):
        if key in schema:
            check_schema(schema[key])


def violations(value: Any, schema: Any) -> list[str]:
    """What ``value`` breaks, each with its path; empty when it obeys ``schema``."""
    return list(_check(value, schema, schema, "$", 0))


def _check(value: Any, schema: Any, root: Any, path: str, depth: int) -> list[str]:
    if isinstance(schema, bool):
        return [] if schema else [f"{path}: not allowed"]
    if depth > _MAX_DEPTH:
        return [f"{path}: nested too deep"]
    out: list[str] = []
    if "$ref" in schema:
        out += _check(value, _resolve(schema["$ref"], root), root, path, depth + 1)
    if "type" in schema and not _is_type(value, schema["type"]):
        return [*out, f"{path}: not of type {schema['type']}"]
    if "enum" in schema and not any(_equal(value, item) for item in schema["enum"]):
        out.append(f"{path}: not one of the allowed values")
    if "const" in schema and not _equal(value, schema["const"]):
        out.append(f"{path}: not the constant asked for")
    if isinstance(value, str):
        out += _check_string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        out += _check_number(value, schema, path)
    elif isinstance(value, list):
        out += _check_array(value, schema, root, path, depth)
    elif isinstance(value, dict):
        out += _check_object(value, schema, root, path, depth)
    return out + _check_combined(value, schema, root, path, depth)


def _is_type(value: Any, kinds: Any) -> bool:
    whole = not isinstance(value, float) or value.is_integer()
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if isinstance(value, bool) and kind != "boolean":
            continue
        if isinstance(value, _TYPES[kind]) and (kind != "integer" or whole):
            return True
    return False


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _check_string(value: str, schema: Mapping[str, Any], path: str) -> list[str]:
    out = []
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        out.append(f"{path}: length {len(value)}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        out.append(f"{path}: does not match {schema['pattern']}")
    return out


def _check_number(value: float, schema: Mapping[str, Any], path: str) -> list[str]:
    good = schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
    good &= "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]
    good &= "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]
    if good and "multipleOf" in schema:
        ratio = value / schema["multipleOf"]
        good = math.isclose(ratio, round(ratio), rel_tol=1e-12, abs_tol=1e-9)
    return [] if good else [f"{path}: {value} is out of range"]


def _check_array(
    value: list[Any], schema: Mapping[str, Any], root: Any, path: str, depth: int
) -> list[str]:
    out = []
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        out.append(f"{path}: {len(value)} items")
    if schema.get("uniqueItems") and any(
        _equal(a, b) for i, a in enumerate(value) for b in value[:i]
    ):
        out.append(f"{path}: an item twice")
    first = schema.get("prefixItems", [])
    for i, item in enumerate(value):
        inner = first[i] if i < len(first) else schema.get("items", True)
        out += _check(item, inner, root, f"{path}[{i}]", depth + 1)
    return out


def _check_object(
    value: dict[str, Any], schema: Mapping[str, Any], root: Any, path: str, depth: int
) -> list[str]:
    out = [f"{path}: lacks {key}" for key in schema.get("required", []) if key not in value]
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        out.append(f"{path}: {len(value)} properties")
    known = schema.get("properties", {})
    for key, item in value.items():
        inner = known.get(key, schema.get("additionalProperties", True))
        out += _check(item, inner, root, f"{path}.{key}", depth + 1)
    return out


def _check_combined(
    value: Any, schema: Mapping[str, Any], root: Any, path: str, depth: int
) -> list[str]:
    def passing(key: str) -> list[bool]:
        return [not _check(value, inner, root, path, depth + 1) for inner in schema[key]]

    out = []
    if "allOf" in schema and not all(passing("allOf")):
        out.append(f"{path}: breaks a part of allOf")
    if "anyOf" in schema and not any(passing("anyOf")):
        out.append(f"{path}: fits none of anyOf")
    if "oneOf" in schema and sum(passing("oneOf")) != 1:
        out.append(f"{path}: does not fit exactly one of oneOf")
    if "not" in schema and not _check(value, schema["not"], root, path, depth + 1):
        out.append(f"{path}: fits what is ruled out")
    return out


def _resolve(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        raise ConfigError(f"JSON schema: $ref {reference!r} leads out of the schema")
    found = root
    for part in reference[1:].strip("/").split("/") if reference.strip("#/") else []:
        try:
            found = found[part.replace("~1", "/").replace("~0", "~")]
        except (KeyError, TypeError) as error:
            raise ConfigError(f"JSON schema: $ref {reference!r} leads nowhere") from error
    return found
