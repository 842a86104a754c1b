"""Which reward models learned from the labels that a run's policies learned from: what such a one
likes is what was trained on, and it is no held-out judge.

Told by the hashes of what was read as ``data`` (``data.json`` of the stages, the one that made a
reward model in another run included), and by data that the recipe spells alike. What two reward
models were warmed up on or are measured on (``pretraining``, ``eval_data``) are no labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from gnomon.audit.truths import label, reward_entries
from gnomon.runs.read import RunView
from gnomon.runs.records import DATA, DataFiles, read_recipe

Spec = Mapping[str, Any]
_TOLD = ("sft", "distill", "reward_model", "collect", "revise", "eval", "average")
"""Stages that learn no preference, or make no policy."""


def same_labels(run: RunView) -> set[str]:
    """The names of the observed and compared reward models that learned from the labels which a
    stage of the run learns from, by itself or by the reward model that it is trained on."""
    stages = run.recipe.get("stages")
    specs = [s for s in stages if isinstance(s, Mapping)] if isinstance(stages, list) else []
    asked = [entry for entry in _asked(run.recipe, specs) if entry.get("model")]
    if not asked:
        return set()
    learned = [spec for spec in specs if spec.get("algorithm") not in _TOLD]
    labels, spelled = _sources(run, specs, learned)
    found = set()
    for entry in asked:
        own = _stage(specs, entry)
        alike = own is not None and own.get("data") in spelled
        if alike or _labels(_folder(run, entry), own) & labels:
            found.add(label(entry))
    return found


def labels_learned(model: Path) -> set[str]:
    """The SHA-256 of each source of labels that the reward model in this folder learned from; empty
    where no run made it."""
    return _labels(model.parent, None)


def _asked(recipe: Mapping[str, Any], specs: list[Spec]) -> Iterator[Spec]:
    """What a recipe observes and compares by."""
    compare = recipe.get("compare")
    if isinstance(compare, Mapping):
        yield from reward_entries(compare.get("rewards") or [])
    for spec in specs:
        yield from reward_entries(spec.get("observe") or [])


def _sources(run: RunView, specs: list[Spec], learned: list[Spec]) -> tuple[set[str], list[Any]]:
    """The hashes of the labels that stages learn from, and the recipe's words for them."""
    labels: set[str] = set()
    spelled: list[Any] = []
    for spec in learned:
        rewards = reward_entries(spec.get("reward") or [])
        if not rewards:
            labels |= _labels(_own_folder(run, spec.get("name")), spec)
            spelled += [spec["data"]] if spec.get("data") else []
        for entry in (entry for entry in rewards if entry.get("model")):
            made = _stage(specs, entry)
            labels |= _labels(_folder(run, entry), made)
            spelled += [made["data"]] if made is not None and made.get("data") else []
    return labels, spelled


def _stage(specs: list[Spec], entry: Spec) -> Spec | None:
    return next((spec for spec in specs if spec.get("name") == entry.get("model")), None)


def _own_folder(run: RunView, name: object) -> Path | None:
    return next((view.folder for view in run.stages if view.name == name), None)


def _folder(run: RunView, entry: Spec) -> Path | None:
    """The folder of the stage that made a reward model, in this run or another."""
    return _own_folder(run, entry.get("model")) or Path(str(entry.get("model"))).parent


def _labels(folder: Path | None, spec: Spec | None) -> set[str]:
    """The SHA-256 of what a stage read as its data; empty where nobody noted it.

    Args:
        spec: the stage's part of the recipe; of a stage of another run it is looked up there.
    """
    if folder is None or not (folder / DATA).is_file():
        return set()
    read = _hashes(folder / DATA, _state(folder / DATA))
    mine = _named(spec if spec is not None else _spec_in(folder))
    return set(read.values()) if mine is None else {read[key] for key in mine if key in read}


def _named(spec: Spec) -> list[str] | None:
    """The keys in data.json of a stage's ``data``, which is read first: a source that is used again
    is noted with a number. None where the recipe does not say."""
    data = spec.get("data")
    entries = data if isinstance(data, list) else [data]
    told = [e.get("path") if isinstance(e, Mapping) else e for e in entries]
    paths = [path for path in told if isinstance(path, str)]
    if len(paths) < len(told):
        return None
    counts = [paths[:place].count(path) + 1 for place, path in enumerate(paths)]
    return [p if n == 1 else f"{p} ({n})" for p, n in zip(paths, counts, strict=True)]


def _spec_in(folder: Path) -> Spec:
    """The recipe's part of a stage of another run, by its folder's name (``02-rm``)."""
    file = folder.parent.parent / "recipe.yaml"
    name = folder.name.partition("-")[2]
    return next((s for s in _stages_in(file, _state(file)) if s.get("name") == name), {})


# A page asks some sixty times which judges are held out; what is on the disk is read once.


def _state(file: Path) -> tuple[int, int]:
    """What changes when a file does; zeros of one that is not there."""
    try:
        about = file.stat()
    except OSError:
        return 0, 0
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=512)
def _hashes(file: Path, state: tuple[int, int]) -> Mapping[str, str]:
    try:
        files = DataFiles.read(file).root
    except ValueError:
        return {}
    return {key: str(f["sha256"]) for key, f in files.items()
            if isinstance(f, Mapping) and f.get("sha256")}  # fmt: skip


@lru_cache(maxsize=512)
def _stages_in(file: Path, state: tuple[int, int]) -> Sequence[Spec]:
    try:
        stages = read_recipe(file).get("stages")
    except ValueError:
        return ()
    return [s for s in stages if isinstance(s, Mapping)] if isinstance(stages, list) else ()
