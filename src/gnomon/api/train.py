"""``gnomon.train``: one stage of training without a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.algorithms.offline_settings import Settings
from gnomon.algorithms.registry import METHODS
from gnomon.api.inputs import INPUTS, Inputs
from gnomon.api.keywords import (
    DATA,
    RECIPE,
    SETTINGS,
    STAGE,
    describe_keywords,
    signature_of,
    sort_keywords,
)
from gnomon.api.passed import Passed
from gnomon.api.place import (
    BEGUN,
    clear_leftovers,
    is_left_over,
    note_begun,
    remove_if_empty_handed,
    room_for,
)
from gnomon.api.recipe import Recipe
from gnomon.api.run import Run, plainly, start
from gnomon.errors import ConfigError, DataError
from gnomon.files import make_folder
from gnomon.plugins import handed
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import DataSpec, check_name
from gnomon.runs.folder import RunFolder
from gnomon.stages.names import KINDS, describe

if TYPE_CHECKING:
    from gnomon.training.callbacks import Callback

_PARAMETERS = [
    *("model", "tokenizer", "data", "held_out", "eval_data", "rewards", "observe"),
    *("name", "output", "overwrite", "resume", "seed", "callbacks"),
]
_TRIED = 200
"""Rows that are read and tokenised before a run begins."""
_SOURCES = ("pretraining", "normalise_on")
"""Keys of a stage that are data as well."""


@plainly
def train(
    method: str | type,
    *,
    model: Any,
    tokenizer: Any = None,
    data: Any = None,
    held_out: Any = None,
    eval_data: Any = None,
    rewards: Any = None,
    observe: Any = None,
    name: str | None = None,
    output: str | os.PathLike[str] = "runs",
    overwrite: bool = False,
    resume: bool = False,
    seed: int = 0,
    callbacks: Callback | Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Train a model by a method, and return the :class:`Run` that it left in ``output/name``.

    It is a recipe of one stage: the same run comes of the YAML that is written into its folder.

    Args:
        method: "dpo", "grpo", ... (``gnomon algorithms`` lists them), ``file.py:Class``, or the
            class itself.
        model: a name ("tunnel", "smollm2-135m", a hub id), a folder, or a causal language model of
            transformers in memory, of which the run keeps a copy.
        tokenizer: of a model in memory, or in place of a folder's own.
        data: a path, a hub id, a list of rows (dicts) or a ``datasets.Dataset``; rows have TRL's
            columns or any that docs/data.md lists.
        held_out: rows to evaluate on, likewise; ``eval_data`` is another name for it.
        rewards: of methods that sample: Python functions, f(samples) or, as TRL's,
            f(prompts, completions, **columns); names of builtin rewards; folders of reward models;
            dicts as in a recipe; pairs (reward, weight). One or a list.
        observe: rewards that are logged and not trained on.
        name: of the run. Without one it is the method's, with a number where that is taken.
        output: folder that holds the run's folder.
        overwrite: remove a run that has this name already.
        resume: go on with the run of this name.
        seed: fixes order, sampling and noise.
        callbacks: told of each step, evaluation and checkpoint.
        settings: anything else that a recipe can say, by its own name: the method's settings
            (``beta=0.1``), ``train`` (``lr``, ``steps``, ``batch_size``), ``rollout``
            (``max_new_tokens``, ``samples``), ``lora`` (``rank``), the stage's (``holdout``,
            ``gates``), how rows are read (``columns``, ``kind``), the recipe's (``template``,
            ``max_length``, ``device``). A name that two of them have is given as
            ``train={"epochs": 1}``.

    Raises:
        GnomonError: whatever is in your hands, in words; what was saved before is whole.
    """
    passed = Passed()
    if isinstance(method, type):
        method = passed.name(method)
    if method in KINDS:
        raise ConfigError(f"{method} trains nothing: it is a stage of a recipe (gnomon.run)")
    with handed(passed.objects):
        known, _ = describe(method, Path.cwd())
    places = sort_keywords(method, known, settings, _PARAMETERS)
    short = re.sub(r"[^a-z0-9_]+", "_", method.rpartition(":")[-1].lower()).strip("_")
    if eval_data is not None and held_out is not None:
        raise ConfigError("held_out and eval_data are two names for the same rows: give one")
    if resume and name is None:
        raise ConfigError("resume=True goes on with the run of a name: give name=")
    entries = {
        "reward": passed.rewards(rewards),
        "observe": passed.rewards(observe, "observe"),
        "data": data,
        "eval_data": eval_data if held_out is None else held_out,
        **places[STAGE],
    }
    with _claimed(output, name, short, overwrite, resume) as (folder, settle):
        inputs = Inputs(folder / INPUTS)
        raw = {
            "name": folder.name,
            "model": inputs.model(model, tokenizer),
            "seed": seed,
            "output": str(output),
            **_recipe_keys(places[RECIPE], inputs, passed),
            "stages": [_stage(short, method, entries, places, inputs, passed)],
        }
        recipe = Recipe.of(parse_recipe(raw, f"gnomon.train({method!r})"), Path.cwd())
        passed.check_columns(inputs.columns)
        new = not (resume and (folder / "recipe.yaml").is_file())

        def first() -> None:
            if new:
                _try_rows(recipe, inputs)
            settle()

        if new:
            inputs.write()
        else:
            inputs.check_same()
        return start(recipe, passed.objects, resume, callbacks, first)


def _try_rows(recipe: Recipe, inputs: Inputs) -> None:
    """Read and tokenise the first rows, so that what is wrong with all of them is said before
    anything runs.

    Raises:
        DataError, ConfigError: not one can be used, by the method or with this model's template.
    """
    from gnomon.stages.check import stage_encoder
    from gnomon.stages.sources import is_made
    from gnomon.stages.stage import open_stage
    from gnomon.stages.usable import usable_rows

    def few(entry: DataSpec) -> DataSpec:
        changes: dict[str, Any] = {"limit": min(_TRIED, entry.limit or _TRIED)}
        if not is_made(entry.path):
            changes |= {"max_skipped": 1.0}
        return entry.model_copy(update={**changes, "sample_seed": None})

    spec = recipe.stages[0]
    keys = ("data", "eval_data", *_SOURCES)
    tried = spec.model_copy(update={key: [few(one) for one in getattr(spec, key)] for key in keys})
    stage = open_stage(recipe, tried, RunFolder(recipe), recipe.base)
    try:
        usable_rows(stage, stage_encoder(stage), code=True)
    except DataError as error:
        raise DataError(inputs.in_words(str(error))) from None


def _recipe_keys(given: Mapping[str, Any], inputs: Inputs, passed: Passed) -> dict[str, Any]:
    """The recipe's own keys; a comparison may have rows and functions as well."""
    keys = dict(given)
    spec = keys.get("compare")
    if isinstance(spec, Mapping):
        made = {
            "rewards": passed.rewards(spec.get("rewards"), "compare.rewards"),
            "prompts": inputs.data("compare", spec.get("prompts"), {}),
        }
        keys["compare"] = {**spec, **made}
    return keys


def _stage(
    name: str,
    method: str,
    entries: Mapping[str, Any],
    places: Mapping[str, dict[str, Any]],
    inputs: Inputs,
    passed: Passed,
) -> dict[str, Any]:
    """The recipe's one stage."""
    stage = dict(entries)
    for key in ("data", "eval_data", *_SOURCES):
        stage[key] = inputs.data(key, entries.get(key), places[DATA])
    place = entries.get("environment")
    if place is not None and not isinstance(place, str | Mapping):
        stage["environment"] = passed.name(place)
    parts = {key: places[key] for key in (SETTINGS, "train", "rollout", "lora") if key in places}
    used = {key: value for key, value in {**stage, **parts}.items() if value or key == "lora"}
    return {"name": name, "algorithm": method, **used}


@contextmanager
def _claimed(
    output: str | os.PathLike[str], name: str | None, short: str, overwrite: bool, resume: bool
) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The run's folder, made now so that no other run takes it, and what to call once it is sure
    that a run begins there; where the block fails before, all is as it was."""
    if not isinstance(output, str | os.PathLike):
        raise ConfigError(f"output is a {type(output).__name__}; it is a folder's path")
    output = Path(output)
    make_folder(output)
    if name is None:
        folder = _first_free(output, short)
        try:
            note_begun(folder)
            yield folder, lambda: (folder / BEGUN).unlink(missing_ok=True)
        finally:
            remove_if_empty_handed(folder)
        return
    _check_name(name)
    with room_for(output / name, overwrite, resume) as settle:
        yield output / name, settle


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"name is a {type(name).__name__}; it is text")
    try:
        check_name(name, "run")
    except ValueError as error:
        raise ConfigError(f"name={name!r}: {error}") from None


def _first_free(output: Path, short: str) -> Path:
    number = 1
    while True:
        folder = output / (short if number == 1 else f"{short}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            if not is_left_over(folder):
                number += 1
                continue
            clear_leftovers(folder)
            if any(folder.iterdir()):  # of somebody else
                number += 1
            else:
                folder.rmdir()
        else:
            return folder


def _of_method(method: str, settings: type[Settings], summary: str) -> Callable[..., Run]:
    """``gnomon.train.dpo``: the same with the method given, for completion and help."""

    def call(**keywords: Any) -> Run:
        return train(method, **keywords)

    call.__name__ = call.__qualname__ = method
    call.__doc__ = (
        f"{summary[:1].upper()}{summary[1:]}: gnomon.train({method!r}, ...), which explains the "
        f"parameters that every method has.\n\nIts own settings, with their defaults:\n\n"
        f"{describe_keywords(settings)}\n"
    )
    call.__signature__ = signature_of(train, settings, method=True)  # type: ignore[attr-defined]
    return call


for _method in METHODS.values():
    setattr(train, _method.name, _of_method(_method.name, _method.settings, _method.summary))
train.__signature__ = signature_of(train, Settings, method=False)  # type: ignore[attr-defined]
