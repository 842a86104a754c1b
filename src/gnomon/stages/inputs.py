"""The files outside of a run that its stages read, which must be what they were when it goes on:
data, the models' folders with their tokenizers, a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from gnomon.data.shards import find_files, is_glob
from gnomon.errors import ConfigError, DataError, ModelError
from gnomon.files import fingerprint
from gnomon.models.load import fetch
from gnomon.models.memory import RoleNeed
from gnomon.recipe.schema import DataSpec, Recipe, StageSpec
from gnomon.runs.folder import RunFolder, StageFolder
from gnomon.stages.names import held_back, other_model, reward_folder, stage_data
from gnomon.stages.sources import is_made, resolve_path

Inputs = dict[str, dict[str, str]]
"""By the place as it was asked for, the SHA-256 of each of its files."""
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "gnomon.json", "*.jinja"),
    *("adapter_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.tiktoken", "spiece.model"),
)
"""What of a model's folder decides what it says."""
_PARTS = ("member-", "adapter")
"""How the folders in a model's folder begin that hold weights of it."""
_SHOWN = 3


class Reader(Protocol):
    """What is asked of a stage (:class:`~gnomon.stages.stage.Stage`) to know what it reads."""

    recipe: Recipe
    spec: StageSpec
    run: RunFolder
    base: Path
    settings: Any
    reads_model: ClassVar[bool]

    def start_model(self) -> str: ...
    def needs(self) -> tuple[RoleNeed, ...]: ...


def stage_inputs(stage: Reader) -> Inputs:
    """The files outside of the run that a stage reads, as they are now; what is not there, or is
    generated, or lies in the run is in no place."""
    found: Inputs = {}
    stages = (stage.run.path / "stages").absolute()
    for name, place in _models(stage) if stage.reads_model else ():
        if not Path(place).absolute().is_relative_to(stages):
            found[name] = _model_files(place)
    for source in stage_data(stage.spec):
        if not is_made(source.path) and not source.path.startswith("stage:"):
            found[source.path] = _data_files(source, stage.base)
    template = stage.recipe.template or ""
    if template.endswith(".jinja"):
        file = next((p for p in (stage.base / template, Path(template)) if p.is_file()), None)
        found[template] = {} if file is None else {"": _sha256(file)}
    return {place: files for place, files in found.items() if files}


def check_inputs(folder: StageFolder, name: str, before: Mapping[str, Mapping[str, str]],
                 now: Inputs, *, done: bool) -> None:  # fmt: skip
    """Refuse to go on with other files than a stage began with.

    Args:
        before: what it noted then; empty of stages of earlier versions.
        done: it had come to its end; then what is gone has served.

    Raises:
        ConfigError: a file has changed, is new or is gone; the message names it.
    """
    changed = [
        str(_folder(place) / file) if file else place
        for place, was in before.items()
        for file, is_now in _changes(was, now.get(place, {}))
        if is_now or not done
    ]
    if not changed:
        return
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    state = "is done" if done else "was begun"
    raise ConfigError(
        f"{', '.join(changed[:_SHOWN])}{more} changed since stage {name!r} {state}, so a resumed "
        "run would mix the two. Put it back to resume, or start again under another name "
        f"(name=...). To go on with the file as it is now, remove {folder.path} and the folders "
        "of the stages that were made from it: they are made again."
    )


def _folder(place: str) -> Path:
    """What a place's files are named from."""
    return Path(place).parent if is_glob(Path(place)) else Path(place)


def _changes(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """(file, whether it is there) of each that is not what it was."""
    for file in sorted({*was, *now}):
        if was.get(file) != now.get(file):
            yield file, file in now


def _models(stage: Reader) -> Iterator[tuple[str, str]]:
    """(name in the recipe, where the weights are) of every model that a stage reads."""
    recipe, run, base = stage.recipe, stage.run, stage.base
    yield stage.start_model(), stage.start_model()
    yield from ((name, other_model(recipe, run, base, name)) for name in _named_models(stage))
    for reward in (*stage.spec.reward, *stage.spec.observe):
        if reward.model:
            yield reward.model, str(reward_folder(recipe, run, base, reward.model))


def _named_models(stage: Reader) -> list[str]:
    """The models that a stage names beside what it starts from."""
    named = [need.model for need in stage.needs() if need.model]
    given = stage.settings.model_dump() if hasattr(stage.settings, "model_dump") else {}
    averaged = given.get("models")
    named += averaged if isinstance(averaged, list) else []
    named += [given["init"]] if given.get("init") else []
    return list(map(str, named))


def refuse_held_back(stage: Reader, name: str) -> None:
    """Make nothing of a policy that its gate held back.

    Raises:
        ConfigError: the stage ``name`` names one.
    """
    held = held_back(stage.recipe, stage.run, stage.base, stage.recipe.stages)
    for one in _named_models(stage):
        if one in held:
            raise ConfigError(
                f"stage {name!r} names {one!r} as a model, and its gate held it back (on_fail: "
                "previous), so that nothing is to be made of it. Open the gate, or take it out of "
                f"{name!r}, and resume"
            )


def _model_files(source: str) -> dict[str, str]:
    """Of a model's folder, and of what lies in it as members or an adapter."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        try:
            folder = fetch(source)
        except ModelError:  # it is gone; whoever loads it says so
            return {}
    folders = [folder, *(p for p in folder.iterdir() if p.is_dir() and p.name.startswith(_PARTS))]
    files = {f for place in folders for pattern in MODEL_FILES for f in place.glob(pattern)}
    return {f.relative_to(folder).as_posix(): _sha256(f) for f in sorted(files) if f.is_file()}


def _data_files(source: DataSpec, base: Path) -> dict[str, str]:
    """Of a file, a folder of files or a pattern: those that are read."""
    path = Path(resolve_path(source.path, base))
    try:
        files = find_files(path, source.split)
    except DataError:  # whoever reads it says so
        return {}
    if files == [path]:
        return {"": _sha256(path)}
    return {file.name: _sha256(file) for file in files or ()}


def _sha256(file: Path) -> str:
    about = file.stat()
    return _hashed(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _hashed(file: Path, changed: int, size: int) -> str:
    return str(fingerprint(file)["sha256"])
