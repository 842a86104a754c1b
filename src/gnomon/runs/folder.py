"""The run's folder: what is in it, and whether a run can be resumed there."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, RunError
from gnomon.files import clean_tree, damage, fingerprints, first_line, make_folder, write_text
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.runs.audit import GATES, Gates
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.records import (
    COMPARISON,
    DATA,
    EVALS,
    STAGE,
    DataFiles,
    StageInfo,
    dump_recipe,
    plain_recipe,
    read_recipe,
    recipe_changes,
    recipe_hash,
)

OUTPUTS = ("model", "groups.jsonl", "metrics.parquet", "samples.parquet", EVALS)
"""What a stage leaves for what comes after it."""
_DECISIONS = ("gates", "on_fail", "on_purpose")
"""Keys of a recipe, and of a stage, that a resumed run may have changed: what is done stays done,
and its gates are asked again; ``on_purpose`` only quiets the dry run. So may the recipe's ``card``
and ``callbacks``, which change nothing of what is trained, its ``strategy``, which changes no
more than rounding, ``ray``, which says where, and how many ``workers`` there are, if any."""
_ASKING = (
    *("url", "budget", "budget_tokens", "patience_s"),
    *("requests_per_minute", "tokens_per_minute"),
)
"""Options of an AI judge that a resumed run may have changed: they do not decide what it says."""
_MEMORY = (
    *(".train.tokens_per_microbatch", ".train.gradient_checkpointing", ".rollout.max_rows"),
    ".train.compile",
)
"""Keys of a stage that a resumed run may have changed, after it ran out of memory or could not be
compiled: they decide what is computed at once and by which kernels, the result only to rounding."""
_SHOWN = 8


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

    def info(self) -> StageInfo:
        """stage.json; of status "unknown" when the stage has not started, or the file is damaged
        (see :meth:`damage`)."""
        return StageInfo.read_or_empty(self.path / STAGE)

    def write_info(self, info: StageInfo) -> None:
        info.write(self.path / STAGE)

    def done(self) -> bool:
        return self.info().status == "done"

    def damage(self) -> str | None:
        """What is wrong with a stage that was done or started, or None.

        Every file that it left is compared with what it was when the stage was done.
        """
        file = self.path / STAGE
        if not file.exists():
            began = self.path.is_dir() and any(self.path.iterdir())
            return f"{file} is missing" if began else None
        try:
            info = StageInfo.read(file)
        except ValueError as error:
            return str(error)
        if info.status != "done":
            return None
        if info.files is None:
            return f"{file} does not list the stage's files"
        wrong = damage(self.path, info.files)
        return None if wrong is None else f"{self.path}: {wrong}"

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Sizes and SHA-256 of what the stage left."""
        return fingerprints(self.path, OUTPUTS)


class RunFolder:
    """``<output>/<name>``: the recipe, the manifest and the stages of one run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.output) / recipe.name

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / "stages" / self.recipe.stage_folder(name))

    def place_problem(self) -> str | None:
        """Why the folder cannot be made or written to, or None if it can."""
        try:
            places = (self.path, *self.path.absolute().parents)
            place = next(p for p in places if p.exists() or p.is_symlink())
        except OSError as error:  # a name that is too long, say
            return f"{self.path} cannot be made ({error.strerror})"
        if not place.is_dir():
            return f"{place} is not a folder"
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".gnomon-", dir=place))
        except OSError as error:
            return f"{place} cannot be written to ({error.strerror})"
        return None

    def check(self, resume: bool) -> bool:
        """Check the folder, writing nothing; True where there is a run to resume in it.

        A run that was moved (another ``output``) is the same run.

        Raises:
            ConfigError: the folder holds a run and ``resume`` was not asked for, or it is of
                another recipe.
            RunError: its recipe.yaml is damaged, and nothing else says that it is the same.
        """
        if not (self.path / "recipe.yaml").exists() and not (self.path / "stages").exists():
            return False
        if not resume:
            raise ConfigError(
                f"{self.path} already holds a run. Resume it (--resume), choose another name "
                "(name=...), or remove the folder."
            )
        try:
            self._check_same(self._written())
        except ValueError as error:
            noted = Manifest.read_or_empty(self.path / MANIFEST).recipe_sha256
            if noted != recipe_hash(self.recipe):
                raise RunError(
                    f"{error}, and {MANIFEST} does not say that this recipe is the one that the "
                    f"run was started with. Put {self.path / 'recipe.yaml'} back and resume; or "
                    "start again under another name (name=...)."
                ) from error
        return True

    def open(self, resume: bool) -> list[str]:
        """Create the folder, or prepare it for resuming; nobody else may work in it.

        A damaged manifest or recipe is written again where that is safe; what killed processes
        left half-written is removed.

        Returns:
            What the user should know about it.

        Raises:
            ConfigError, RunError: see :meth:`check`.
        """
        if not self.check(resume):
            make_folder(self.path)
            Manifest.begin(self.recipe).write(self.path / MANIFEST)
            # last: it says that a run is here
            self._write_recipe()
            nothing = "nothing to resume, so it starts from the beginning"
            return [f"{self.path} holds no run yet: {nothing}"] if resume else []
        notes = []
        clean_tree(self.path)
        try:
            Manifest.read(self.path / MANIFEST)
        except ValueError as error:
            notes.append(f"warning: {error}; it is written again")
            manifest = Manifest.begin(self.recipe)
            manifest.note(**self._remembered())
            manifest.write(self.path / MANIFEST)
        try:
            moved = self._written() != plain_recipe(self.recipe)
        except ValueError as error:
            notes.append(f"warning: {error}; it is written again: the recipe is the same")
            moved = True
        if moved:
            self._write_recipe()
        digest = recipe_hash(self.recipe)
        if Manifest.read_or_empty(self.path / MANIFEST).recipe_sha256 != digest:
            self.update_manifest(recipe_sha256=digest, recipe_kept=True)
        return notes

    def update_manifest(self, **entries: Any) -> None:
        """Merge entries into manifest.json (dicts one level deep).

        Raises:
            RunError: it was removed or damaged during the run.
        """
        try:
            manifest = Manifest.read(self.path / MANIFEST)
        except ValueError as error:
            raise RunError(
                f"{error}: it was removed or changed during the run. Put the run's folder back and "
                "resume with --resume."
            ) from error
        manifest.note(**entries)
        manifest.write(self.path / MANIFEST)

    def comparison_problem(self) -> str | None:
        """What is wrong with comparison.json, or None if it is what was written."""
        noted = Manifest.read_or_empty(self.path / MANIFEST).files.get(COMPARISON)
        if not isinstance(noted, dict):
            return f"{COMPARISON} is not noted in {MANIFEST}"
        return damage(self.path, {COMPARISON: noted})

    def note_comparison(self) -> None:
        """Note in manifest.json what comparison.json is."""
        self.update_manifest(files=fingerprints(self.path, [COMPARISON]))

    def gates(self) -> Gates:
        """What the run's gates decided so far."""
        return Gates.read_or_empty(self.path / GATES)

    def holds_back(self, stage: StageSpec) -> bool:
        """Whether a gate after ``stage`` stayed closed and later stages go on from the model before
        it."""
        asked = self.gates().root.get(stage.name, []) if stage.gates else []
        closed = any(result.passed is not True for result in asked)
        return closed and self.recipe.on_fail_of(stage) == "previous"

    def _remembered(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries, as the stages recorded them."""
        out: dict[str, dict[str, Any]] = {"data": {}, "models": {}, "inputs": {}}
        for stage in self.recipe.stages:
            folder = self.stage(stage.name)
            if start := folder.info().start:
                out["models"][stage.name] = start
                out["inputs"][stage.name] = folder.info().inputs
            files = DataFiles.read_or_empty(folder.path / DATA).root
            out["data"] |= {f"{stage.name}: {name}": about for name, about in files.items()}
        return out

    def _written(self) -> dict[str, Any]:
        """recipe.yaml as this version understands it, as plain data.

        Raises:
            ValueError: it cannot be read; the message begins with the file.
        """
        file = self.path / "recipe.yaml"
        try:
            return plain_recipe(parse_recipe(read_recipe(file), str(file)))
        except ConfigError as error:
            raise ValueError(f"{file} holds no recipe ({first_line(error)})") from error

    def _write_recipe(self) -> None:
        write_text(self.path / "recipe.yaml", dump_recipe(self.recipe))

    def _check_same(self, old: dict[str, Any]) -> None:
        changed = [
            f"\n  {key} was {_shown(before)} and is now {_shown(after)}"
            for key, before, after in recipe_changes(old, plain_recipe(self.recipe))
            if key != "output"
            and not _is_decision(key)
            and not _is_asking(key)
            and not (_is_workers(key) and before and after)
            and not key.endswith(_MEMORY)
        ]
        if changed:
            more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise ConfigError(
                f"{self.path} was started with another recipe (see its recipe.yaml):"
                f"{''.join(changed[:_SHOWN])}{more}\n"
                "Resume with the same recipe and overrides, or choose another name (name=...)."
            )


def _is_decision(key: str) -> bool:
    """Whether a key as :func:`recipe_changes` writes it is of a gate, the card, a callback or the
    strategy."""
    parts = [part for part in key.split(".") if not part.isdecimal()]
    if parts[0] in ("card", "callbacks", "strategy", "ray"):
        return True
    if "rollout" in parts and parts[-1] in ("url", "retries"):  # where the same servers are now
        return True
    return parts[-1] in _DECISIONS and "settings" not in parts


def _shown(value: Any) -> str:
    text = "not there" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _is_asking(key: str) -> bool:
    """Whether a key is of how an AI judge is asked."""
    parts = [part for part in key.split(".") if not part.isdecimal() and part != "panel"]
    places = (["reward"], ["observe"], ["rewards"])  # the last in compare
    return parts[-1] in _ASKING and parts[-2:-1] == ["options"] and parts[-3:-2] in places


def _is_workers(key: str) -> bool:
    """Whether a key is of how many workers there are, and not an option that is called so."""
    parts = key.split(".")
    return parts[-1] == "workers" and not {"options", "settings"} & set(parts)
