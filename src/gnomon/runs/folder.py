"""The run directory: what was asked, what happened, and where each stage keeps its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock
import psutil
import torch
import yaml

import gnomon
from gnomon.errors import ConfigError, RunError
from gnomon.files import (
    clean_tree,
    fingerprints,
    make_folder,
    plain_errors,
    problem,
    read_object,
    write_json,
    write_text,
)
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe

OUTPUTS = ("model", "groups.jsonl", "metrics.parquet", "samples.parquet", "evals.json")
"""What a stage leaves for what comes after it."""
COMPARISON = "comparison.json"
_SHOWN = 8
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
        """stage.json; nothing when the stage has not begun, or the file is damaged (see
        :meth:`damage`)."""
        try:
            return read_object(self.path / "stage.json")
        except ValueError:
            return {}

    def done(self) -> bool:
        return self.info().get("status") == "done"

    def damage(self) -> str | None:
        """What is wrong with a stage that was done or begun, or None.

        Every file that it left is compared with what it was when the stage was done.
        """
        file = self.path / "stage.json"
        if not file.exists():
            began = self.path.is_dir() and any(self.path.iterdir())
            return f"{file} is missing" if began else None
        try:
            info = read_object(file)
        except ValueError as error:
            return str(error)
        if info.get("status") != "done":
            return None
        try:
            wrong = problem(self.path, info["files"])
        except (KeyError, TypeError, AttributeError):
            return f"{file} does not list the stage's files"
        return None if wrong is None else f"{self.path}: {wrong}"

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Sizes and SHA-256 of what the stage left."""
        return fingerprints(self.path, OUTPUTS)

    def write_info(self, info: Mapping[str, Any]) -> None:
        write_json(self.path / "stage.json", dict(info))


class RunFolder:
    """``<output>/<name>``: the recipe, the manifest and the stages of one run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.output) / recipe.name

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / "stages" / self.recipe.stage_folder(name))

    def open(self, resume: bool) -> list[str]:
        """Create the folder, or prepare it for resuming; nobody else may work in it.

        Damaged notes that can be made again are; what killed processes left half-written goes.

        Returns:
            What the user should know of it.

        Raises:
            ConfigError, RunError: see :meth:`check`.
        """
        if not self.check(resume):
            make_folder(self.path)
            write_json(self.path / "manifest.json", self._manifest())
            # last: it says that a run is here
            self._write_recipe()
            nothing = "nothing to resume, so it starts from the beginning"
            return [f"{self.path} holds no run yet: {nothing}"] if resume else []
        said = []
        clean_tree(self.path)
        try:
            read_object(self.path / "manifest.json")
        except ValueError as error:
            said.append(f"warning: {error}; it is written anew")
            write_json(self.path / "manifest.json", self._manifest() | self._remembered())
        try:
            moved = self._written().get("output") != _plain(self.recipe)["output"]
        except ValueError as error:
            said.append(f"warning: {error}; it is written anew: the recipe is the same")
            moved = True
        if moved:
            self._write_recipe()
        return said

    def check(self, resume: bool) -> bool:
        """Whether a run is here already; nothing is written.

        A run that was moved (another ``output``) is the same run.

        Raises:
            ConfigError: one is and ``resume`` was not asked for, or it is of another recipe.
            RunError: its recipe.yaml is damaged, and nothing else says that it is the same.
        """
        if not (self.path / "recipe.yaml").exists() and not (self.path / "stages").exists():
            return False
        if not resume:
            raise ConfigError(
                f"{self.path} already holds a run. Go on with it (--resume), choose another "
                "name (name=...), or remove the folder."
            )
        try:
            self._same_recipe(self._written())
        except ValueError as error:
            if self._noted_recipe() != recipe_hash(self.recipe):
                raise RunError(
                    f"{error}, and manifest.json does not say that this recipe is the one that the "
                    f"run was begun with. Put {self.path / 'recipe.yaml'} back and resume; or "
                    "begin anew under another name (name=...)."
                ) from error
        return True

    def _written(self) -> dict[str, Any]:
        """recipe.yaml as plain data.

        Raises:
            ValueError: it cannot be read; the message begins with the file.
        """
        file = self.path / "recipe.yaml"
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{file} cannot be read ({_first_line(error)})") from error
        if not isinstance(raw, dict):
            raise ValueError(f"{file} holds no recipe")
        try:
            return _plain(parse_recipe(raw, str(file)))
        except ConfigError as error:
            raise ValueError(f"{file} holds no recipe ({_first_line(error)})") from error

    def _write_recipe(self) -> None:
        write_text(self.path / "recipe.yaml", dump_recipe(self.recipe))

    def _noted_recipe(self) -> str | None:
        try:
            noted = read_object(self.path / "manifest.json").get("recipe_sha256")
        except ValueError:
            return None
        return noted if isinstance(noted, str) else None

    def _same_recipe(self, old: dict[str, Any]) -> None:
        changed = list(_differences(_by_stage(old), _by_stage(_plain(self.recipe))))
        if changed:
            more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            listed = "".join(f"\n  {line}" for line in changed[:_SHOWN])
            raise ConfigError(
                f"{self.path} was begun with another recipe (see its recipe.yaml):{listed}{more}\n"
                "Resume with the same recipe and overrides, or choose another name (name=...)."
            )

    def _remembered(self) -> dict[str, Any]:
        """What the stages know of the manifest's entries."""
        out: dict[str, Any] = {"data": {}, "models": {}}
        for stage in self.recipe.stages:
            folder = self.stage(stage.name)
            start = folder.info().get("start")
            if isinstance(start, dict):
                out["models"][stage.name] = start
            try:
                files = read_object(folder.path / "data.json")
            except ValueError:
                continue
            out["data"] |= {f"{stage.name}: {name}": about for name, about in files.items()}
        return out

    def update_manifest(self, **entries: Any) -> None:
        """Merge entries into manifest.json (dicts one level deep).

        Raises:
            RunError: it was removed or damaged while the run went on.
        """
        file = self.path / "manifest.json"
        try:
            manifest = read_object(file)
        except ValueError as error:
            raise RunError(
                f"{error}: it was removed or changed while the run went on. Put the run's folder "
                "back and go on with --resume."
            ) from error
        for key, value in entries.items():
            known = manifest.get(key)
            manifest[key] = known | value if isinstance(known, dict) and value else value
        write_json(file, manifest)

    def comparison_problem(self) -> str | None:
        """What is wrong with comparison.json, or None if it is what was written."""
        try:
            noted = read_object(self.path / "manifest.json").get("files")
        except ValueError:
            noted = None
        if not isinstance(noted, dict) or COMPARISON not in noted:
            return f"{COMPARISON} is not noted in manifest.json"
        try:
            return problem(self.path, {COMPARISON: noted[COMPARISON]})
        except (TypeError, AttributeError):
            return f"{COMPARISON} is not noted in manifest.json as it should be"

    def note_comparison(self) -> None:
        """Note in manifest.json what comparison.json is."""
        self.update_manifest(files=fingerprints(self.path, [COMPARISON]))

    def _manifest(self) -> dict[str, Any]:
        return {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {"gnomon": gnomon.__version__, "python": platform.python_version()}
            | {name: _version(name) for name in PACKAGES},
            "hardware": hardware(),
            "recipe_sha256": recipe_hash(self.recipe),
            **invocation(),
            "data": {},
            "models": {},
            "files": {},
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
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=float("inf"))


def _plain(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of everything in a recipe but where its folder lies."""
    plain = {key: value for key, value in _plain(recipe).items() if key != "output"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _by_stage(plain: dict[str, Any]) -> dict[str, Any]:
    """A plain recipe without its place, its stages by name."""
    stages = {f"stage {stage['name']!r}": stage for stage in plain["stages"]}
    order = {"order of stages": list(stages)} if stages else {}
    rest = {k: v for k, v in plain.items() if k not in ("output", "stages")}
    return {**rest, **stages, **order}


def _differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """A line for each value that differs: where, what it was, what it is now."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            sep = ": " if at.startswith("stage ") and ":" not in at else "."
            yield from _differences(old.get(key), new.get(key), f"{at}{sep}{key}" if at else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f"{at}.{i}")
    elif old != new:
        yield f"{at} was {_shown(old)} and is now {_shown(new)}"


def _shown(value: Any) -> str:
    text = "not there" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


LOCK, HOLDER = ".lock", ".lock.json"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder within the block; the folder is made if it is missing.

    The lock is the operating system's and dies with the process. ``.lock.json`` beside it says who
    holds it.

    Raises:
        RunError: another process works in the folder; the message says which, and where.
    """
    make_folder(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    if not _take(lock, folder):
        yield
        return
    try:
        with plain_errors(folder / HOLDER):
            (folder / HOLDER).write_text(json.dumps(_me()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _take(lock: filelock.BaseFileLock, folder: Path) -> bool:
    """Whether the lock could be taken; False where the file system knows none."""
    for last in (False, True):
        try:
            with plain_errors(folder / LOCK):
                lock.acquire()
            return True
        except filelock.Timeout:
            holder = _holder(folder)
            if last or not _is_dead(holder):
                raise RunError(
                    f"{folder} is being worked on by {_who(holder)}. Wait until it ends, or stop "
                    "it; two at once would overwrite each other. To run the same beside it, give "
                    "this one another name (name=...)."
                ) from None
            # a process that the dead one left behind still has its lock open
            (folder / LOCK).unlink(missing_ok=True)
        except NotImplementedError:
            break
    warnings.warn(
        f"{folder} lies on a file system without locks: see to it that no second process works "
        "in it.",
        stacklevel=4,
    )
    return False


def _me() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:200],
        "born": psutil.Process().create_time(),
    }


def _holder(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to be no more: of this machine, and gone or another by now."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        process = psutil.Process(holder["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(process.create_time() - float(holder.get("born", 0))) > 2
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError, TypeError):
        return False


def _who(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return (
        f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')} "
        f"({holder.get('command')})"
    )


def invocation() -> dict[str, str]:
    """``command`` and ``cwd`` of this process, for the manifest; nothing where it is not the
    ``gnomon`` command (a program that calls gnomon knows itself how it is called)."""
    arguments = _arguments()
    return {} if arguments is None else {"command": shlex.join(arguments), "cwd": os.getcwd()}


def resume_command() -> str:
    """What to type, in this folder, to go on with the run."""
    arguments = _arguments()
    if arguments is None:
        return "the same call with resume=True"
    if "--resume" not in arguments:
        arguments = [*arguments, "--resume"]
    return shlex.join(arguments)


def _arguments() -> list[str] | None:
    program = Path(sys.argv[0]).stem if sys.argv else ""
    return ["gnomon", *sys.argv[1:]] if program == "gnomon" and len(sys.argv) > 1 else None
