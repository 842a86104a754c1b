"""JSON Schema 2020-12 (the library jsonschema), with every schema checked before it is used.

What the library would pass over is refused when the schema is read: a misspelt keyword, and a
reference that leads out of the schema or nowhere. jsonschema is imported on first use.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from gnomon.errors import ConfigError

_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_NOTES |= {"format", "contentEncoding", "contentMediaType", "contentSchema", "$schema", "$id"}
_NOTES |= {"$comment", "$anchor", "$dynamicAnchor", "$defs", "definitions", "then", "else"}
_NOTES |= {"minContains", "maxContains"}
"""Keywords that are notes, or that another keyword reads."""
_LONGEST = 200
"""Characters of a problem in words; a value in it may be huge."""


def check_schema(schema: Any) -> None:
    """Refuse a schema of which :func:`violations` could not check all.

    Raises:
        ConfigError: no schema, an unknown keyword or type, a pattern that does not compile, a
            reference that cannot be followed.
    """
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped,unused-ignore]
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    if not isinstance(schema, Mapping | bool):
        raise ConfigError(f"JSON schema: {str(schema)[:80]!r} is not a schema")
    try:
        _validator().check_schema(schema)
        root = DRAFT202012.create_resource(schema)
        _check_part(root, Registry().resolver_with_root(root))
    except SchemaError as error:
        place = f"{error.json_path}: " if error.path else ""
        if error.path and error.path[-1] == "type" and isinstance(error.instance, str):
            raise ConfigError(f"JSON schema: {place}no type {error.instance!r}") from error
        raise ConfigError(f"JSON schema: {place}{_short(error.message)}") from error
    except RecursionError as error:
        raise ConfigError("JSON schema: nested too deep") from error


def violations(value: Any, schema: Any) -> list[str]:
    """What ``value`` breaks, each with its path; empty when it obeys ``schema``."""
    from referencing import Registry

    try:  # the empty registry: nothing is ever fetched
        errors = _validator()(schema, registry=Registry()).iter_errors(value)
        return [f"{error.json_path}: {_short(error.message)}" for error in errors]
    except RecursionError:
        return ["$: nested too deep"]


def with_integers(value: Any, schema: Any) -> Any:
    """``value``, which obeys ``schema``, with 1 for every 1.0 where only integers do.

    JSON has one kind of number, so both are integers to a schema; Python has two. The value given
    is left as it is.
    """
    from referencing import Registry

    if not _has_whole_float(value):
        return value
    value = copy.deepcopy(value)
    validator = _integers()(schema, registry=Registry())
    while places := list(dict.fromkeys(_whole_floats(validator.iter_errors(value)))):
        for *above, last in places:
            inner = value
            for key in above:
                inner = inner[key]
            inner[last] = int(inner[last])
    return value


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_whole_float, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


def _whole_floats(errors: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Where whole floats stand that are wrong for being floats, within other errors too."""
    for error in errors:
        yield from _whole_floats(error.context or ())
        if error.validator == "type" and _has_whole_float(error.instance):
            types = error.validator_value
            wanted = "integer" in ([types] if isinstance(types, str) else types)
            if wanted and isinstance(error.instance, float) and error.absolute_path:
                yield tuple(error.absolute_path)


@lru_cache(maxsize=1)
def _integers() -> Any:
    """The validator to which 1.0 is no integer."""
    from jsonschema import validators  # type: ignore[import-untyped,unused-ignore]

    def whole(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    plain = _validator()
    return validators.extend(plain, type_checker=plain.TYPE_CHECKER.redefine("integer", whole))


@lru_cache(maxsize=1)
def _validator() -> Any:
    from jsonschema import (  # type: ignore[import-untyped,unused-ignore]
        Draft202012Validator,
        ValidationError,
        validators,
    )

    def multiple_of(validator: Any, step: float, value: Any, schema: Any) -> Iterator[Any]:
        """0.3 is three times 0.1, as written, whatever binary fractions say."""
        if validator.is_type(value, "number"):
            times = Fraction(str(value)) / Fraction(str(step))
            if times.denominator != 1:
                yield ValidationError(f"{value} is not a multiple of {step}")

    return validators.extend(Draft202012Validator, {"multipleOf": multiple_of})


def _check_part(part: Any, resolver: Any) -> None:
    """Check the keywords and references of a schema and of those within it."""
    from referencing.exceptions import Unresolvable

    schema = part.contents
    known = _NOTES | _validator().VALIDATORS.keys()
    for key in schema if isinstance(schema, Mapping) else ():
        if key not in known:
            near = [f"; did you mean {k!r}?" for k in difflib.get_close_matches(key, known, n=1)]
            raise ConfigError(f"JSON schema: unknown keyword {key!r}{''.join(near)}")
        if key in ("$ref", "$dynamicRef"):
            if not schema[key].startswith("#"):
                raise ConfigError(f"JSON schema: $ref {schema[key]!r} leads out of the schema")
            try:
                resolver.lookup(schema[key])
            except Unresolvable as error:
                raise ConfigError(f"JSON schema: $ref {schema[key]!r} leads nowhere") from error
    for inner in part.subresources():
        _check_part(inner, resolver.in_subresource(inner))


def _short(message: str) -> str:
    half = _LONGEST // 2
    return message if len(message) <= _LONGEST else f"{message[:half]} ... {message[-half:]}"
