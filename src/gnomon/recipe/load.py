"""Reading a recipe: a YAML file, what it extends, ``key=value`` overrides, and validation."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gnomon.errors import ConfigError
from gnomon.recipe.explain import validate_as
from gnomon.recipe.overrides import apply_override
from gnomon.recipe.read import MAX_BYTES, Document, Where, explain_yaml, read_document, read_yaml
from gnomon.recipe.schema import Recipe

__all__ = ["apply_override", "load_recipe", "parse_recipe", "read_yaml", "validate_as"]


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
        lines[place] = 0  # it stands in no line
    return parse_recipe(document.data, where=str(path), lines=lines)


def parse_recipe(
    raw: dict[str, Any], where: str = "recipe", lines: Mapping[Where, int] | None = None
) -> Recipe:
    """Validate an already parsed recipe; see :func:`load_recipe`."""
    return validate_as(Recipe, raw, where, lines)


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
        raise ConfigError(f"{path}: beside extends there is only changes, not {', '.join(unknown)}")
    other, changes = raw["extends"], raw.get("changes")
    if not isinstance(other, str) or not other:
        raise ConfigError(f"{path}: extends is the name of another recipe file (got {other!r})")
    changes = [] if changes is None else changes
    if not isinstance(changes, list) or not all(isinstance(c, str) for c in changes):
        raise ConfigError(f"{path}: changes is a list of key=value, as in [name=mine, seed=1]")
    try:
        extended = _read(path.parent / other, depth + 1).data
    except ConfigError as error:
        if depth:  # the outermost says it once
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
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes, so it is no recipe")
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
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")])
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    return f"{path}: no such recipe{hint}"
