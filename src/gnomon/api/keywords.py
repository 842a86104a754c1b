"""Keywords of :func:`gnomon.train` and where each belongs in a recipe.

A keyword is looked up among the method's own settings, ``train``, ``rollout``, ``lora``, the stage,
how data is read, and the recipe: the same typed specs that a YAML recipe is checked by.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gnomon.errors import ConfigError
from gnomon.plugins import nearest
from gnomon.recipe.foreign import foreign_key
from gnomon.recipe.rollout import RolloutSpec
from gnomon.recipe.schema import DataSpec, Recipe, StageSpec
from gnomon.recipe.training import LoraSpec, TrainSpec

SETTINGS, STAGE, DATA, RECIPE = "settings", "stage", "data", "recipe"
SECTIONS: dict[str, type[BaseModel]] = {
    "train": TrainSpec,
    "rollout": RolloutSpec,
    "lora": LoraSpec,
}
"""Parts of a stage that can be given whole as well: ``train={"lr": 1e-5}``."""
_ELSEWHERE = {
    STAGE: ("name", "algorithm", "from_", "data", "eval_data", "reward", "observe", SETTINGS),
    DATA: ("path", "options"),
    RECIPE: ("name", "model", "seed", "output", "stages", "gates", "on_fail", "callbacks"),
}
"""Keys that :func:`gnomon.train` has parameters for, or that another place has first."""
_AS_GIVEN = ("pretraining", "normalise_on", "environment", "compare")
"""Keys that may hold rows, functions or classes."""
_LORA_ALONE = "rank"
"""The one keyword of ``lora`` that asks for LoRA by itself."""

Places = dict[str, dict[str, Any]]


def fields_by_place(settings: type[BaseModel]) -> Places:
    """By place, the names that are looked up there and the pydantic field of each."""
    stage = {k: v for k, v in StageSpec.model_fields.items() if k not in SECTIONS}
    every: Places = {
        SETTINGS: dict(settings.model_fields),
        **{name: dict(spec.model_fields) for name, spec in SECTIONS.items()},
        STAGE: stage,
        DATA: dict(DataSpec.model_fields),
        RECIPE: dict(Recipe.model_fields),
    }
    return {
        place: {k: v for k, v in fields.items() if k not in _ELSEWHERE.get(place, ())}
        for place, fields in every.items()
    }


def sort_keywords(
    method: str, settings: type[BaseModel], given: Mapping[str, Any], parameters: list[str]
) -> Places:
    """The keywords by the place that they belong to.

    Args:
        method: its name, for the errors.
        settings: the method's own.
        parameters: of the function that was called, which a misspelt keyword may mean.

    Raises:
        ConfigError: all keywords that belong nowhere, with the nearest that do, or to two places.
    """
    fields = fields_by_place(settings)
    out: Places = {place: {} for place in fields}
    problems: list[str] = []
    loose = dict(given)
    for section in (SETTINGS, *SECTIONS):
        if section in loose:
            out[section] = _section(section, loose.pop(section))
    lora = given.get("lora") not in (None, False) or _LORA_ALONE in given
    known = [
        *parameters,
        SETTINGS,
        *SECTIONS,
        *(name for place in fields.values() for name in place),
    ]
    for name, value in loose.items():
        places = [place for place in fields if name in fields[place]]
        if places == ["lora"] and not lora:
            problems.append(
                f"{name} is a key of lora, which trains adapters instead of the whole model: give "
                f"rank as well, or lora={{{name!r}: {value!r}}}"
            )
        elif len(places) > 1:
            problems.append(
                f"{name} is a key of {' and of '.join(places)}: {_which(name, value, places)}"
            )
        elif not places:
            problems.append(f"unknown keyword {name!r}; {_hint(name, method, known)}")
        elif name in out[places[0]]:
            problems.append(f"{name} is given twice: as a keyword and in {places[0]}")
        else:
            out[places[0]][name] = value
    if problems:
        raise ConfigError("\n".join(f"gnomon.train({method!r}): {p}" for p in problems))
    if not lora:
        out.pop("lora")
    return {
        place: {k: v if k in _AS_GIVEN else plain(k, v) for k, v in keys.items()}
        for place, keys in out.items()
    }


def _section(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if value is None or isinstance(value, bool):
        if name != "lora" and value is not None:
            raise ConfigError(f"{name} is a mapping of settings, as in {name}={{...}}, not {value}")
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name} is a mapping of settings, as in {name}={{...}}, not {value!r:.80}"
        )
    return dict(value)


def _which(name: str, value: Any, places: list[str]) -> str:
    ways = [
        f"{place}={{{name!r}: {value!r}}}" for place in places if place in (SETTINGS, *SECTIONS)
    ]
    return f"say which, {' or '.join(ways)}"


def _hint(name: str, method: str, known: list[str]) -> str:
    foreign = foreign_key(name)
    if foreign is not None and (not foreign.ours or foreign.keyword in known):
        return foreign.sentence_for_python
    near = nearest(name, known, cutoff=0.6)
    return near or f"gnomon.train.{method} and docs/recipes.md list them"


def plain(name: str, value: Any) -> Any:
    """A value as YAML could have it: paths are text, and numpy's and torch's numbers are numbers.

    Raises:
        ConfigError: a recipe cannot hold it.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(key): plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # a set's own order changes from process to process
    if isinstance(value, list | tuple):
        return [plain(name, item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    text = str(value)
    if text.startswith("torch."):  # a dtype
        return text.removeprefix("torch.")
    if callable(value):
        raise ConfigError(f"{name} is a {type(value).__name__}, and functions are for rewards")
    raise ConfigError(f"{name} is a {type(value).__name__}; a recipe holds numbers, text and lists")


def signature_of(function: Any, settings: type[BaseModel], method: bool) -> inspect.Signature:
    """The signature of ``function`` with every keyword that it takes in place of ``**settings``.

    Args:
        method: whether ``settings`` are one method's, so that the first parameter is not needed.
    """
    own = list(inspect.signature(function).parameters.values())[:-1]
    keep = own[1:] if method else own
    taken = {parameter.name for parameter in keep}
    fields = fields_by_place(settings)
    listed: dict[str, Any] = {}
    for place in (SETTINGS, "train", "rollout", "lora", STAGE, DATA, RECIPE):
        for name, field in fields[place].items():
            if name not in taken and sum(name in other for other in fields.values()) == 1:
                listed[name] = field
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in listed.items()
    ]
    sections = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=dict)
        for name in (SETTINGS, *SECTIONS)
    ]
    return inspect.Signature([*keep, *more, *sections])


def describe_keywords(settings: type[BaseModel]) -> str:
    """The method's own settings, one line each, for its docstring."""
    lines = [
        f"    {name} ({field.get_default(call_default_factory=True)!r}): {field.description or ''}"
        for name, field in settings.model_fields.items()
    ]
    return "\n".join(lines)
