"""What a run leaves, as typed records: each class writes its file and reads it again.

    recipe.yaml        the recipe            :func:`dump_recipe`, :func:`read_recipe`
    stage.json         :class:`StageInfo`    what a stage did, and fingerprints of what it left
    evals.json         :class:`Evals`        held-out figures
    data.json          :class:`DataFiles`    SHA-256 and rows of a stage's data

manifest.json is in :mod:`gnomon.runs.manifest`, metrics and samples in :mod:`gnomon.runs.rows`,
checkpoints in :mod:`gnomon.runs.checkpoint`, comparison.json in :mod:`gnomon.runs.comparison`.
What a run of an older version does not have, or has in another form, is the field's default; keys
that a class does not know are kept.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    RootModel,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from gnomon.files import first_line, read_object, write_json
from gnomon.recipe.load import apply_override
from gnomon.recipe.schema import Recipe
from gnomon.runs.yaml_text import read_yaml_text, write_yaml_text
from gnomon.stats.intervals import Interval

STAGE, EVALS, DATA = "stage.json", "evals.json", "data.json"
COMPARISON = "comparison.json"

_READ = {"lenient": True}
"""The context of validation where a file is read; a record that is made is checked strictly."""


class JsonFile(BaseModel):
    """A record in a file of its own, a JSON object."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """The record in ``file``.

        Raises:
            ValueError: the file cannot be read or holds something else; the message begins with it.
        """
        try:
            return cls.parse(read_object(file))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{file}: {first['loc'][0]}: {first['msg']}") from error

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The record in JSON that was read already, as forgiving as :meth:`read`."""
        return cls.model_validate(raw, context=_READ)

    @classmethod
    def read_or_empty(cls, file: Path) -> Self:
        """The record in ``file``; an empty one where the file is missing or damaged."""
        try:
            return cls.read(file)
        except ValueError:
            return cls.model_validate({})

    def write(self, file: Path) -> None:
        """Replace ``file`` in one step; fields that were never set are left out."""
        write_json(file, self.model_dump(exclude_unset=True))


class Record(JsonFile):
    """A record of named fields; one of the wrong type is read as the field's default."""

    model_config = ConfigDict(strict=True, extra="allow")

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_default(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        try:
            return handler(value)
        except ValidationError:
            field = cls.model_fields[str(info.field_name)]
            if info.context != _READ or field.is_required():
                raise
            return field.get_default(call_default_factory=True)

    def note(self, **entries: Any) -> None:
        """Set fields; a mapping is merged into the one that is there."""
        for name, value in entries.items():
            known = getattr(self, name)
            setattr(self, name, {**known, **value} if isinstance(known, dict) else value)


class Skipped(Record):
    """How many rows of a stage's data were left out, and the first of them in words."""

    count: int = 0
    examples: list[str] = []


class Compute(Record):
    """What a stage computed, evaluations left out.

    Attributes:
        parameters: of each role's model, adapters left out.
        trained: those of them, or of its adapter and head, that are trained.
        forward: tokens of each role's forward passes; ``sampler`` is the policy as it samples.
        backward: those among them that a backward pass follows.
        recomputed: whether backward passes compute the layers once more (gradient checkpointing).
    """

    parameters: dict[str, int] = {}
    trained: dict[str, int] = {}
    forward: dict[str, int] = {}
    backward: dict[str, int] = {}
    recomputed: bool = False

    def __bool__(self) -> bool:
        return bool(self.forward)


class StageInfo(Record):
    """stage.json.

    Attributes:
        status: running, done, paused, stopped, failed; unknown where the file does not say.
        error: why it did not get to its end.
        seconds: on the clock, of all calls together.
        cpu_seconds: of the process on all cores together, which a busy machine does not lengthen.
        memory: the estimate, in words.
        start: where the weights came ``from`` and their ``sha256``.
        inputs: by place outside of the run that it reads, SHA-256 of each file there.
        planned_iterations: of the whole stage, noted when its training begins.
        iterations: that it came to have; ``idle_iterations`` of them trained nothing, the last for
            ``idle_reason``.
        summary: the last figures; ``held_out`` are those of the held-out rows.
        reference: what the cache of reference log-probs did.
        peak: with ``train.stop_at_peak``: by which ``judge``, after which ``iteration`` the kept
            weights were best, the judge's mean (``value``) there, and how far it was
            ``trained_until``.
        files: fingerprints of what the stage left, once it is done.
        model_sha256: the fingerprint of its model's weights and configuration, by which evals of
            it are told from those of an earlier model in its place; empty without one.
        skipped: rows of its data that were left out.
        judges: by judge, its ``version``, the responses it ``judged``, its ``errors`` among them,
            and the ``seconds``, ``tokens`` and ``money`` (euros) that it took.
        compute: what it computed; empty in runs of earlier versions.
        joules: of energy by the meter that was read (``rapl``, ``nvml``), of all calls together;
            empty where the machine has none that may be read.
    """

    name: str = ""
    algorithm: str = ""
    status: str = "unknown"
    memory: dict[str, Any] = {}
    seconds: float | None = None
    cpu_seconds: float | None = None
    start: dict[str, Any] = {}
    inputs: dict[str, dict[str, str]] = {}
    planned_iterations: int | None = None
    iterations: int | None = None
    idle_iterations: int = 0
    idle_reason: str = ""
    summary: dict[str, Any] = {}
    held_out: dict[str, Any] = {}
    reference: dict[str, Any] = {}
    peak: dict[str, Any] = {}
    files: dict[str, dict[str, Any]] | None = None
    model_sha256: str = ""
    error: str = ""
    skipped: Skipped = Skipped()
    judges: dict[str, dict[str, Any]] = {}
    compute: Compute = Compute()
    joules: dict[str, float] = {}

    def planned(self, spec: Mapping[str, Any]) -> int | None:
        """How many iterations the stage was to have: in records of earlier versions as the recipe's
        part of it says, where that is in steps."""
        train = spec.get("train")
        steps = train.get("steps") if isinstance(train, Mapping) else None
        return self.planned_iterations or (steps if isinstance(steps, int) else None)

    @property
    def figures(self) -> dict[str, Interval]:
        """The summary's numbers."""
        return {k: m for k, v in self.summary.items() if (m := Interval.parse(v)) is not None}


def now() -> str:
    """The local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class DataFiles(JsonFile, RootModel[dict[str, Any]]):
    """data.json: SHA-256 and rows of each of a stage's sources."""

    def changed(self, now: Mapping[str, Any]) -> list[str]:
        """The sources that are not what they were, or are gone or new."""
        sources = sorted(self.root.keys() | now.keys())
        return [source for source in sources if self.root.get(source) != now.get(source)]


class Evals(JsonFile, RootModel[dict[str, Any]]):
    """evals.json: nested held-out figures of a stage, each a number or an interval, and tables."""

    root: dict[str, Any] = {}

    def figures(self) -> dict[str, Interval]:
        """Every number by its dotted name; tables are passed over."""
        return dict(_figures(self.root))

    def tables(self, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(dotted name, value) of every mapping that holds ``key``, at any depth."""
        return _holders(self.root, key)


def _figures(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Interval]]:
    for key, raw in tree.items():
        figure = Interval.parse(raw)
        if figure is not None:
            yield f"{prefix}{key}", figure
        elif isinstance(raw, Mapping):
            yield from _figures(raw, f"{prefix}{key}.")


def _holders(
    tree: Mapping[str, Any], key: str, prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, raw in tree.items():
        if isinstance(raw, Mapping):
            if key in raw:
                yield f"{prefix}{name}", raw
            yield from _holders(raw, key, f"{prefix}{name}.")


# -- recipe.yaml ----------------------------------------------------------------------------------


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON has it."""
    return recipe.model_dump(mode="json", by_alias=True)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return write_yaml_text(plain_recipe(recipe))


def recipe_hash(recipe: Recipe, varied: Sequence[str] = ()) -> str:
    """SHA-256 of everything in a recipe except where its folder is, its gates, its card, its
    callbacks, its strategy, what it declares on purpose, and the keys that are ``varied``."""
    plain = plain_recipe(recipe)
    for key in varied:
        apply_override(plain, f"{key}=null")
    return plain_hash(plain)


def plain_hash(plain: Mapping[str, Any]) -> str:
    """:func:`recipe_hash` of a recipe as plain data, such as recipe.yaml has it."""
    kept = {k: v for k, v in plain.items() if k not in ("card", "callbacks", "strategy")}
    listed = kept.get("stages")
    stages = listed if isinstance(listed, list) else []
    kept["stages"] = [_hashed(part) if isinstance(part, Mapping) else part for part in stages]
    text = json.dumps(_hashed(kept), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _hashed(part: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("output", "gates", "on_fail", "on_purpose")
    return {key: value for key, value in part.items() if key not in left_out}


def read_recipe(file: Path) -> dict[str, Any]:
    """recipe.yaml as plain data, which an older version may have written.

    Raises:
        ValueError: it cannot be read, or holds no recipe; the message begins with the file.
    """
    try:
        raw = read_yaml_text(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({first_line(error)})") from error
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"{file} holds no recipe")
    if "dtype" in raw:  # until 0.22 the key's name
        raw.setdefault("precision", raw.pop("dtype"))
    return raw


def recipe_changes(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) of everything that differs between two recipes as plain data.

    Keys are written as on the command line: ``seed``, ``STAGE.train.lr``.
    """
    if at == "stages" and _named(old) and _named(new):
        old, new = ({stage["name"]: stage for stage in stages} for stages in (old, new))
        at = ""
        if list(old) != list(new):
            yield "order of stages", list(old), list(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from recipe_changes(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from recipe_changes(a, b, f"{at}.{i}")
    elif old != new:
        yield at, old, new


def _named(stages: Any) -> bool:
    return isinstance(stages, Sequence) and all(
        isinstance(stage, Mapping) and "name" in stage for stage in stages
    )
