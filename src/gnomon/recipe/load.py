"""Reading a recipe: YAML, ``key=value`` overrides, and errors that say what was probably meant."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gnomon.errors import ConfigError
from gnomon.recipe.schema import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: a YAML file.
        overrides: ``key=value`` with dotted keys; the first part may be a stage's name, as in
            ``ppo.settings.beta=0.05``. Values are read as YAML.

    Raises:
        ConfigError: unreadable file, unknown key (with a suggestion), bad value.
    """
    raw = _read(path)
    for override in overrides:
        apply_override(raw, override)
    return parse_recipe(raw, where=str(path))


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    """The raw recipe in a file; ``extends: other.yaml`` with ``changes: [key=value]`` is another
    recipe with those overrides."""
    if depth > 8:
        raise ConfigError(f"{path}: recipes extend each other in a circle")
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: no such recipe{hint}")
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a recipe is a mapping with name, model and stages")
    if "extends" not in raw:
        return raw
    unknown = sorted(set(raw) - {"extends", "changes"})
    if unknown:
        raise ConfigError(f"{path}: beside extends there is only changes, not {', '.join(unknown)}")
    extended = _read(path.parent / str(raw["extends"]), depth + 1)
    for change in raw.get("changes") or []:
        apply_override(extended, str(change))
    return extended


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-5 is a number, and a key written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Plain data from YAML.

    Raises:
        yaml.YAMLError: it is not YAML, or a mapping has a key twice.
    """
    return yaml.load(text, Loader=_Loader)


def parse_recipe(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate an already parsed recipe; see :func:`load_recipe`."""
    return cast(Recipe, validate_as(Recipe, raw, where))


def validate_as(model: type[BaseModel], raw: Any, where: str) -> BaseModel:
    """Validate ``raw`` against a pydantic model; its errors become one readable ConfigError."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(model, item, raw) for item in _without_alternatives(error.errors())]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted ``key=value`` in a raw recipe, in place."""
    key, eq, text = override.partition("=")
    if not eq or not key:
        raise ConfigError(f"{override!r}: an override is key=value, as in train.lr=1e-5")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML: {error}") from error
    parts = key.split(".")
    node: Any = raw
    stages = raw.get("stages")
    names = (
        [s.get("name") for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []
    )
    if parts[0] in names:
        node = cast(list[Any], stages)[names.index(parts[0])]
        parts = parts[1:]
    elif len(parts) > 1 and parts[0] not in raw and parts[0] != "stages":
        near = difflib.get_close_matches(parts[0], [str(n) for n in names] + list(raw))
        hint = (
            f"; did you mean {near[0]!r}?"
            if near
            else f"; the stages are {', '.join(map(str, names))}"
        )
        raise ConfigError(f"{override!r}: {parts[0]!r} is neither a stage nor a key{hint}")
    if not parts:
        raise ConfigError(f"{override!r}: name the setting of the stage, as in {key}.train.lr=1e-5")
    for part in parts[:-1]:
        is_list = isinstance(node, list)
        if not is_list and node.get(part) is None:
            node[part] = {}
        node = _item(node, part, override) if is_list else node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{override!r}: {part!r} holds a value, not settings")
    if isinstance(node, list):
        node[_index(node, parts[-1], override)] = value
    else:
        node[parts[-1]] = value


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{override!r}: {part!r} must be a number below {len(node)}")
    return int(part)


def _item(node: list[Any], part: str, override: str) -> Any:
    return node[_index(node, part, override)]


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


def _explain(model: type[BaseModel], item: Any, raw: Any) -> str:
    location = ".".join(_readable(item["loc"], raw))
    if item["type"] == "extra_forbidden":
        owner = _model_at(model, item["loc"][:-1])
        known = _field_names(owner) if owner else []
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {location!r}; {hint}"
    if item["type"] == "missing":
        return f"missing key {location!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict | list) else f" (got {item['input']!r})"
    return f"{location or 'recipe'}: {message}{shown}"


def _readable(loc: Sequence[int | str], raw: Any) -> list[str]:
    """Name stages by their name rather than their index."""
    out = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "stages" and isinstance(loc[1], int):
        with contextlib.suppress(KeyError, TypeError, IndexError):
            out = [str(raw["stages"][loc[1]]["name"]), *out[2:]]
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
