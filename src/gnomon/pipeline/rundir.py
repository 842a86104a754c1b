"""The run directory: what was asked, what happened, and where each stage keeps its files."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

import gnomon
from gnomon.atomic import write_json, write_text
from gnomon.errors import ConfigError
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "pyarrow")


@dataclass(frozen=True)
class StageFolder:
    """A stage's files under ``stages/``."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def groups(self) -> Path:
        """What a ``collect`` stage wrote."""
        return self.path / "groups.jsonl"

    def info(self) -> dict[str, Any]:
        """stage.json, or nothing when the stage has not begun."""
        file = self.path / "stage.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def done(self) -> bool:
        return self.info().get("status") == "done"

    def write_info(self, info: Mapping[str, Any]) -> None:
        write_json(self.path / "stage.json", dict(info))


class RunFolder:
    """``<output>/<name>``: the recipe, the manifest and the stages of one run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.output) / recipe.name

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / "stages" / self.recipe.stage_folder(name))

    def open(self, resume: bool) -> bool:
        """Create the folder, or check that it may be gone on with.

        Returns:
            True when it held a run already.

        Raises:
            ConfigError: see :meth:`check`.
        """
        if self.check(resume):
            return True
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "manifest.json", self._manifest())
        # last: it says that a run is here
        write_text(self.path / "recipe.yaml", dump_recipe(self.recipe))
        return False

    def check(self, resume: bool) -> bool:
        """Whether a run is here already; nothing is written.

        Raises:
            ConfigError: one is and ``resume`` was not asked for, or it is of another recipe.
        """
        existing = self.path / "recipe.yaml"
        if not existing.is_file():
            return False
        if not resume:
            raise ConfigError(
                f"{self.path} already holds a run. Go on with it (--resume), choose another "
                "name (name=...), or remove the folder."
            )
        self._same_recipe(existing)
        return True

    def _same_recipe(self, file: Path) -> None:
        before = parse_recipe(yaml.safe_load(file.read_text(encoding="utf-8")), str(file))
        old, new = _plain(before), _plain(self.recipe)
        changed = sorted(_differences(old, new))
        if changed:
            raise ConfigError(
                f"{self.path} was begun with another recipe ({', '.join(changed[:5])} differ). "
                "Resume with the same recipe and overrides, or choose another name (name=...)."
            )

    def update_manifest(self, **entries: Any) -> None:
        """Merge entries into manifest.json (dicts one level deep)."""
        file = self.path / "manifest.json"
        manifest = json.loads(file.read_text(encoding="utf-8"))
        for key, value in entries.items():
            if isinstance(value, dict):
                manifest.setdefault(key, {}).update(value)
            else:
                manifest[key] = value
        write_json(file, manifest)

    def _manifest(self) -> dict[str, Any]:
        return {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {"gnomon": gnomon.__version__, "python": platform.python_version()}
            | {name: _version(name) for name in PACKAGES},
            "hardware": hardware(),
            "data": {},
            "models": {},
        }


def hardware() -> dict[str, Any]:
    """What this run runs on."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": devices,
    }


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)


def _plain(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True)


def _differences(old: Any, new: Any, at: str = "") -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            d
            for key in old.keys() | new.keys()
            for d in _differences(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
        }
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return {
            d
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for d in _differences(a, b, f"{at}.{i}")
        }
    return set() if old == new else {at}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
