"""The judge that ``--judge`` names, the same way for every command that asks one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError

LEARNED = "reward_model"
"""The option that names a trained reward model's folder: ``model`` is a language model's name."""


def judge_options(given: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The options in YAML files and ``KEY=VALUE``, later ones first, and the folder that their
    files start from. A file may hold the options, or a recipe's reward with them.

    Raises:
        ConfigError: one cannot be read, or none is given.
    """
    from gnomon.recipe.load import read_mapping

    if not given:
        raise ConfigError("which judge? --judge model=NAME --judge url=http://localhost:8000/v1")
    options: dict[str, Any] = {}
    base = Path.cwd()
    for text in given:
        if "=" in text:
            key, value = option(text)
            options[key] = value
            continue
        file = Path(text)
        if not file.is_file():
            raise ConfigError(
                f"--judge {text!r}: no such file; give a YAML file of the judge's options, or "
                "KEY=VALUE, as in model=NAME"
            )
        about = read_mapping(file, "a judge's options")
        more = about.pop("options", None) or {}
        options |= about | more
        base = file.absolute().parent
    return options, base


def judge_entry(given: Sequence[str], name: str | None = None) -> tuple[dict[str, Any], Path]:
    """The judge as a recipe's reward entry, and the folder that its files start from: an AI judge,
    if no ``builtin``, ``function`` or ``reward_model`` says otherwise.

    Args:
        name: of a judge that is given none.

    Raises:
        ConfigError: what is given cannot be read.
    """
    from gnomon.judges.build import AI
    from gnomon.recipe.schema import RewardSpec

    options, base = judge_options(given)
    own = [key for key in RewardSpec.model_fields if key not in ("model", "options")]
    entry = {key: options.pop(key) for key in own if key in options}
    if name and not entry.get("name"):
        entry["name"] = name
    if LEARNED in options:
        folder = str(options.pop(LEARNED))
        found = base / folder
        return {"model": str(found) if found.is_dir() else folder, **entry, **options}, base
    if "function" not in entry:
        entry.setdefault("builtin", AI)
    return {**entry, "options": options}, base


def option(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``.

    Raises:
        ConfigError: it is not that.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--judge {text!r}: write KEY=VALUE, as in --judge model=NAME")
    try:
        return key.strip(), as_written(value)
    except ValueError as error:
        raise ConfigError(f"--judge {text!r}: {value!r} is no list or object") from error


def as_written(value: str) -> Any:
    """A number, truth value, null, list or object as YAML reads it; all else is text.

    Raises:
        ValueError: it begins as a list or object, and is none.
    """
    import yaml

    opens = value.lstrip()[:1] in ("[", "{")
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        if opens:
            raise ValueError(value) from error
        return value
    if isinstance(read, bool) and value.strip().lower() not in ("true", "false"):
        return value  # YAML takes yes and no for truth values; logprobs=yes is a word
    return read if opens or read is None or isinstance(read, bool | int | float) else value
