"""The model that a plan starts from: shape, tokenizer, window, and whether it answers already."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from gnomon.plan.shapes import Shape, shape_of

_ANSWERS = re.compile(
    r"(?:^|[-_.])(instruct|it|chat|thinking|sft|dpo|rlhf|rlvr|zephyr|tulu|hermes)(?=$|[-_.\d])",
    re.IGNORECASE,
)


def shape_and_folder(model: str) -> tuple[Shape, Path | None]:
    """Its shape, and its folder where it is on this machine."""
    if model == "tunnel":
        folder = Path(str(package_files("gnomon"))) / "tasks" / "tunnel" / "base"
        return replace(shape_of(str(folder)), name=model), folder
    path = Path(model).expanduser()
    shape = shape_of(str(path) if path.exists() else model)
    if path.is_file():
        return shape, path.resolve().parent
    return shape, path.resolve() if path.is_dir() else None


def tokenizer_of(folder: Path | None) -> Any:
    """The model's own, where it is on this machine."""
    files = ("tokenizer.json", "tokenizer_config.json")
    if folder is None or not any((folder / name).is_file() for name in files):
        return None
    from gnomon.models.load import load_tokenizer  # loads transformers

    return load_tokenizer(folder)


def is_tuned(model: str, folder: Path | None) -> bool:
    """Whether a model answers already: its folder has a chat template, or its name says so."""
    if model == "smollm2-135m":
        return True
    if folder is not None:
        return _has_template(folder)
    name = model.rpartition("/")[2]
    base = re.search(r"(?:^|[-_.])(base|pt)$", name, re.IGNORECASE)
    return bool(_ANSWERS.search(name)) or (name.lower().startswith("qwen3-") and not base)


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    return bool(_json(folder / "tokenizer_config.json").get("chat_template"))


def window_of(folder: Path | None) -> int | None:
    config = {} if folder is None else _json(folder / "config.json")
    text = config.get("text_config", config)
    length = text.get("max_position_embeddings") if isinstance(text, dict) else None
    return int(length) if isinstance(length, int) else None


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
