"""Taking over finished stages from another run of the same recipe, where they would come out the
same: a sweep of PPO's settings trains the model that PPO starts from once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gnomon.algorithms.eval_settings import EVAL
from gnomon.files import write_folder
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder
from gnomon.runs.lock import run_lock
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.records import plain_recipe
from gnomon.stages.names import stage_evals

_OWN = ("name", "output", "stages", "compare", "gates", "card", "sinks")
"""Keys of a recipe that change nothing of what a stage makes; stages are compared one by one."""


def shared_stages(one: Recipe, other: Recipe) -> list[str]:
    """The first stages of two recipes that make the same: equal in all that they depend on.

    It ends before a stage that measures evals, whose results are kept with the run.
    """
    first, second = plain_recipe(one), plain_recipe(other)
    if any(first[key] != second[key] for key in first if key not in _OWN):
        return []
    names = []
    for stage, a, b in zip(one.stages, first["stages"], second["stages"], strict=False):
        if a != b or stage.algorithm == EVAL or stage_evals(stage):
            break
        names.append(stage.name)
    return names


def take_over(recipe: Recipe, donors: Sequence[Recipe]) -> dict[str, str]:
    """Begin a run with the finished stages of another, wherever one has them.

    Weights are hard links where the file system has them (files of runs are replaced, never
    written into), the rest are copies. Nothing is taken over into a run that has begun.

    Args:
        donors: recipes of runs that may have them.

    Returns:
        The stages that were taken over, and the name of the run that they are of.
    """
    run = RunFolder(recipe)
    if run.path.exists():
        return {}
    best: list[str] = []
    giver: RunFolder | None = None
    for donor in donors:
        folder, names = RunFolder(donor), []
        for name in shared_stages(recipe, donor):
            if not folder.stage(name).done():
                break
            names.append(name)
        if len(names) > len(best):
            best, giver = names, folder
    if giver is None or any(giver.stage(name).damage() for name in best):
        return {}
    with run_lock(run.path):
        run.open(resume=False)
        _note(run, Manifest.read_or_empty(giver.path / MANIFEST), best)
        for name in best:
            with write_folder(run.stage(name).path) as tmp:
                shutil.copytree(
                    giver.stage(name).path, tmp, copy_function=_link, dirs_exist_ok=True
                )
    return dict.fromkeys(best, giver.path.name)


def _note(run: RunFolder, manifest: Manifest, names: Sequence[str]) -> None:
    """Note in the manifest what the stages' own runs noted of them."""
    run.update_manifest(
        data={k: v for k, v in manifest.data.items() if k.partition(": ")[0] in names},
        models={k: v for k, v in manifest.models.items() if k in names},
        inputs={k: v for k, v in manifest.inputs.items() if k in names},
        optimizer={k: v for k, v in manifest.optimizer.items() if k in names},
    )


def _link(source: str, target: str) -> None:
    """Copy a file; weights by a hard link, where that can be made."""
    if Path(source).suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copy2(source, target)
