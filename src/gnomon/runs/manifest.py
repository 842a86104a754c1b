"""manifest.json: what was run, when, how it was called, and on what."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import psutil
from pydantic import Field

import gnomon
from gnomon.recipe.schema import Recipe
from gnomon.runs.records import Record, now, recipe_hash

MANIFEST = "manifest.json"
_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "pyarrow")


class Manifest(Record):
    """manifest.json: what was run, when, how and on what.

    Attributes:
        recipe_kept: whether ``recipe_sha256`` is that of the recipe as it was resumed last; not in
            runs of earlier versions.
        command, cwd: how the ``gnomon`` command was called, and where.
        base: the folder that the recipe's relative paths start from.
        data: SHA-256 and rows of each source, by stage.
        models: where each stage's weights came from.
        inputs: by stage and place outside of the run, SHA-256 of each file that was read there.
        optimizer: the optimizer of each stage.
        files: fingerprints of the run's own files.
        imported: of another trainer's logs (``gnomon import``): whose, and what was said of them.
    """

    name: str = ""
    seed: int | None = None
    started: str = ""
    versions: dict[str, Any] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    recipe_sha256: str = ""
    recipe_kept: bool = False
    command: str | list[str] = ""
    cwd: str = ""
    base: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, Any] = Field(default_factory=dict)
    optimizer: dict[str, Any] = Field(default_factory=dict)
    finished: str = ""
    seconds: dict[str, Any] = Field(default_factory=dict)
    imported: dict[str, Any] = Field(default_factory=dict)

    @property
    def trainer(self) -> str:
        """Who trained it, where it was not gnomon, which then imported the logs; else empty."""
        name = str(self.imported.get("trainer") or "")
        return {"trl": "TRL"}.get(name, name)

    @property
    def said_of_import(self) -> list[str]:
        """What the importer noted: what is missing or was taken for something."""
        notes = self.imported.get("notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    @classmethod
    def begin(cls, recipe: Recipe) -> Self:
        """The manifest of a run that starts now, on this machine."""
        installed = {name: _version(name) for name in _PACKAGES}
        return cls(
            name=recipe.name,
            seed=recipe.seed,
            started=now(),
            versions={"gnomon": gnomon.__version__, "python": platform.python_version()}
            | installed,
            hardware=_hardware(),
            recipe_sha256=recipe_hash(recipe),
            recipe_kept=True,
            **invocation(),
            data={},
            models={},
            files={},
        )


def invocation() -> dict[str, Any]:
    """``command`` and ``cwd`` of this process, for the manifest; empty where it is not the
    ``gnomon`` command (a program that calls gnomon knows how it was called)."""
    arguments = _arguments()
    return {} if arguments is None else {"command": shlex.join(arguments), "cwd": os.getcwd()}


def resume_command(run: Path | None = None) -> str:
    """What to type, in this folder, to resume the run in the folder ``run``."""
    arguments = _arguments()
    if arguments is None:
        return f"gnomon.Run({'FOLDER' if run is None else repr(str(run))}).resume()"
    if "--resume" not in arguments:
        arguments = [*arguments, "--resume"]
    return shlex.join(arguments)


def _arguments() -> list[str] | None:
    program = Path(sys.argv[0]) if sys.argv else Path()
    if len(sys.argv) < 2:
        return None
    if program.stem == "gnomon":
        return ["gnomon", *sys.argv[1:]]
    if (program.name, program.parent.name) != ("__main__.py", "gnomon"):
        return None
    here = os.environ.get("LOCAL_WORLD_SIZE")  # torchrun's
    start = ["torchrun", "--nproc-per-node", here] if here else ["python"]
    return [*start, "-m", "gnomon", *sys.argv[1:]]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch  # not at the top: a report needs none of it

    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
