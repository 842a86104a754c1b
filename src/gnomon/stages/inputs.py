"""The files outside of a run that its stages read, which must be what they were when it goes on:
data, the models' folders with their tokenizers, a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.data.rows import SUFFIXES
from gnomon.errors import ConfigError, ModelError
from gnomon.files import fingerprint
from gnomon.models.load import fetch
from gnomon.runs.folder import StageFolder
from gnomon.stages.names import other_model, reward_folder, stage_data
from gnomon.stages.sources import is_made

if TYPE_CHECKING:
    from gnomon.stages.stage import Stage

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


def stage_inputs(stage: Stage) -> Inputs:
    """The files outside of the run that a stage reads, as they are now; what is not there, or is
    generated, or lies in the run is in no place."""
    found: Inputs = {}
    for model in _models(stage):
        if not Path(model).absolute().is_relative_to((stage.run.path / "stages").absolute()):
            found[model] = _files(_model_folder(model), MODEL_FILES)
    for source in stage_data(stage.spec):
        if not is_made(source.path) and not source.path.startswith("stage:"):
            place = _first_there(stage.base, source.path)
            found[source.path] = _files(place, tuple(f"*{end}" for end in SUFFIXES))
    template = stage.recipe.template or ""
    if template.endswith(".jinja"):
        found[template] = _files(_first_there(stage.base, template), ("*.jinja",))
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
        str(Path(place, file) if file else place)
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


def _changes(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """(file, whether it is there) of each that is not what it was."""
    for file in sorted({*was, *now}):
        if was.get(file) != now.get(file):
            yield file, file in now


def _models(stage: Stage) -> Iterator[str]:
    """Where the weights are of every model that a stage reads."""
    recipe, run, base = stage.recipe, stage.run, stage.base
    yield stage.start_model()
    named = [need.model for need in stage.needs() if need.model]
    given = stage.settings.model_dump() if hasattr(stage.settings, "model_dump") else {}
    averaged = given.get("models")
    named += averaged if isinstance(averaged, list) else []
    named += [given["init"]] if given.get("init") else []
    yield from (other_model(recipe, run, base, str(name)) for name in named)
    for reward in (*stage.spec.reward, *stage.spec.observe):
        if reward.model:
            yield str(reward_folder(recipe, run, base, reward.model))


def _model_folder(source: str) -> Path | None:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    try:
        return fetch(source)
    except ModelError:  # a reward model's folder that is gone; whoever loads it says so
        return None


def _first_there(base: Path, path: str) -> Path | None:
    return next((p for p in (base / path, Path(path).expanduser()) if p.exists()), None)


def _files(place: Path | None, patterns: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of a file, or of a folder's files of these patterns and of its members'."""
    if place is None:
        return {}
    if place.is_file():
        return {"": _sha256(place)}
    folders = [place, *(p for p in place.iterdir() if p.is_dir() and p.name.startswith(_PARTS))]
    files = {f for folder in folders for pattern in patterns for f in folder.glob(pattern)}
    return {f.relative_to(place).as_posix(): _sha256(f) for f in sorted(files) if f.is_file()}


def _sha256(file: Path) -> str:
    about = file.stat()
    return _hashed(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _hashed(file: Path, changed: int, size: int) -> str:
    return str(fingerprint(file)["sha256"])
