"""``gnomon.run`` and ``gnomon.Run``: a recipe that runs, and what it left."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pyarrow as pa

from gnomon.api.passed import by_name
from gnomon.api.place import room_for
from gnomon.api.recipe import Recipe
from gnomon.console import announce
from gnomon.errors import ConfigError, DataError, GnomonError, RunError
from gnomon.plugins import handed
from gnomon.recipe import schema
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.report.candidate import candidate
from gnomon.report.html import write_report
from gnomon.report.ship import Answer, answer, standing
from gnomon.runs.audit import Finding
from gnomon.runs.folder import RunFolder
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.peak import kept_stage, peak_of
from gnomon.runs.read import RunView, StageView, read_run, read_stage, read_stage_records
from gnomon.runs.records import read_recipe
from gnomon.runs.rows import MetricsStore, RowStore, SampleStore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from gnomon.training.callbacks import Callback

_KEY_FIGURES = ("reward", "gold", "kl", "length", "loss", "accuracy", "margin", "entropy")
"""Of a notebook's summary, of the last iteration and of held-out rows."""
P = ParamSpec("P")
R = TypeVar("R")


def plainly(function: Callable[P, R]) -> Callable[P, R]:
    """Errors that are in the user's hands come without the frames and causes behind them."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except GnomonError as error:
            plain = error.with_traceback(None)
        raise plain from None

    return called


@plainly
def run(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | schema.Recipe,
    *overrides: str,
    base: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callback | Sequence[Callback] = (),
    passed: Sequence[Any] | Mapping[str, Any] = (),
) -> Run:
    """Run a recipe, as ``gnomon run`` does, and return the :class:`Run`.

    Args:
        recipe: a file, a :class:`Recipe`, or a dict with a recipe's keys.
        overrides: ``key=value``, as on the command line.
        base: the folder that relative paths start from: the file's, or else the current one.
        resume: go on with a run that was stopped or killed.
        overwrite: remove a run that has this name already.
        callbacks: told of each step, evaluation and checkpoint.
        passed: functions that the recipe names as ``python:NAME``: a list, or by name.

    Raises:
        GnomonError: whatever is in your hands, in words; what was saved before is whole.
    """
    parsed = _parsed(recipe, overrides)
    if base is not None:
        parsed._base = Path(base)
    with room_for(RunFolder(parsed).path, overwrite, resume) as settle:
        return start(parsed, by_name(passed), resume, callbacks, settle)


def _parsed(recipe: Any, overrides: Sequence[str]) -> Recipe:
    if isinstance(recipe, str | os.PathLike):
        return Recipe.from_yaml(Path(recipe), *overrides)
    if isinstance(recipe, schema.Recipe):
        base = getattr(recipe, "_base", None)
        raw = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    elif isinstance(recipe, Mapping):
        base, raw = None, deepcopy(dict(recipe))  # overrides are set in it
    else:
        raise ConfigError(
            f"a recipe is a file, a gnomon.Recipe or a dict, not a {type(recipe).__name__}"
        )
    for override in overrides:
        apply_override(raw, override)
    return Recipe.of(parse_recipe(raw), base)


def start(
    recipe: Recipe,
    passed: Mapping[str, Any],
    resume: bool,
    callbacks: Callback | Sequence[Callback],
    first: Callable[[], None] = lambda: None,
) -> Run:
    """Check a recipe and run it, its ``python:NAME`` meaning what was ``passed``.

    Args:
        first: called when all is checked, before anything runs.
    """
    from gnomon.models.load import quietly
    from gnomon.stages.check import check_recipe
    from gnomon.stages.names import check_names
    from gnomon.stages.run import run_recipe
    from gnomon.training.callbacks import checked

    run = RunFolder(recipe)
    try:
        with handed(passed), quietly():
            callbacks = checked(callbacks)
            check_names(recipe, recipe.base)
            check_recipe(recipe, run, recipe.base)
            first()
            run_recipe(
                recipe, base=recipe.base, resume=resume, announce=announce, callbacks=callbacks
            )
    except GnomonError as error:
        text = str(error).replace("--resume", f"gnomon.Run({str(run.path)!r}).resume()")
        error.args = (text, *error.args[1:])
        raise
    return Run(run.path, passed, callbacks)


class Run:
    """A run that is done, stopped or still going, by its folder.

    Everything is read from the folder when it is asked for, so ``gnomon.Run("runs/dpo")`` opens an
    old run, of the command line as well.

    Args:
        folder: ``runs/NAME``.
        passed: Python objects by the name that the recipe has for each; :meth:`resume` needs them.
        callbacks: that :meth:`resume` tells again.

    Raises:
        DataError: it is not a run's folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        passed: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.folder = Path(folder).absolute()
        self._passed = dict(passed or {})
        self._callbacks = tuple(callbacks)
        try:
            read_run(self.folder, read_stage_records)
        except DataError as error:
            raise DataError(str(error)) from None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        """The recipe that it ran, every default written out.

        Raises:
            ConfigError, RunError: its recipe.yaml cannot be read.
        """
        file = self.folder / "recipe.yaml"
        try:
            parsed = parse_recipe(read_recipe(file), str(file))
        except ValueError as error:
            raise RunError(f"{error}: put it back") from None
        noted = Manifest.read_or_empty(self.folder / MANIFEST).base
        return Recipe.of(parsed, Path(noted) if noted else None)

    # -- figures ----------------------------------------------------------------------------------

    @property
    def metrics(self) -> pa.Table:
        """A row for each iteration and evaluation, the stage's name in ``stage``; a table of
        pyarrow, whose ``to_pandas()`` and ``to_pylist()`` give a data frame or a list of dicts."""
        return self._table(MetricsStore, "metrics.parquet")

    @property
    def samples(self) -> pa.Table:
        """Sampled responses with their rewards, likewise."""
        return self._table(SampleStore, "samples.parquet")

    def _table(self, store: type[RowStore], file: str) -> pa.Table:
        tables = []
        for stage in self._view.stages:
            rows, _ = store.read_table(stage.folder / file, stage.info.status == "done")
            names = pa.array([stage.name] * rows.num_rows, pa.string())
            if rows.num_rows:
                tables.append(rows.add_column(0, "stage", names))
        if not tables:
            return pa.table({"stage": pa.array([], pa.string())})
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()

    @property
    def figures(self) -> dict[str, float]:
        """The last stage's figures: of its last iteration whose weights it kept, and
        ``held_out/...``."""
        stages = self._view.stages
        if not stages:
            return {}
        past_peak = peak_of(stages[-1].info) is not None
        stage = kept_stage(read_stage(stages[-1].folder, [])) if past_peak else stages[-1]
        info = stage.info
        found = {**info.summary, **{f"held_out/{k}": v for k, v in info.held_out.items()}}
        return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}

    # -- what it came to --------------------------------------------------------------------------

    @property
    def answer(self) -> str:
        """Whether the model may ship: "ship", "hold" or "not shown"; docs/cures.md says by what."""
        return self._answer.kind

    @property
    def reasons(self) -> list[str]:
        """What the answer rests on, and what is missing for another."""
        found = self._answer
        needs = (f"{need.text} {need.command}".strip() for need in found.needs)
        return [*(reason.text for reason in found.reasons), *needs]

    @property
    def alarms(self) -> list[Finding]:
        """What the audit is alarmed by, and no later stage replaced."""
        return standing(self._view)

    def report(self) -> Path:
        """Build report.html and the plots; the page's path."""
        return write_report(self.folder)

    # -- the model --------------------------------------------------------------------------------

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model that it trained, as plain transformers loads it; read once, in evaluation mode,
        on the CPU.

        Raises:
            RunError: there is none (yet).
        """
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        from gnomon.models.load import dtype_of, load_weights, read_model

        stage = self._trained()
        folder = stage.folder / "model"
        config, _ = read_model(folder)
        names = " ".join(config.architectures or ())
        kind = AutoModelForCausalLM
        if "SequenceClassification" in names:
            kind = AutoModelForSequenceClassification
        narrow = self._view.recipe.get("precision") == "bfloat16"
        dtype = dtype_of("bfloat16" if narrow else "float32")
        return load_weights(kind, folder, config=config, dtype=dtype).eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, with the chat template that it was trained with.

        Raises:
            RunError: there is none (yet).
        """
        from gnomon.models.load import load_tokenizer

        return load_tokenizer(self._trained().folder / "model")

    def _trained(self) -> StageView:
        """The stage whose model the run ends with."""
        view = self._view
        chosen = candidate(view)
        stages = [s for s in view.stages if (s.folder / "model").is_dir() and s.name]
        for stage in reversed(stages):
            if (not chosen or stage.name == chosen) and not (
                stage.folder / "model/member-0"
            ).is_dir():
                return stage
        waiting = [s for s in view.stages if s.info.status != "done"]
        status = f"stage {waiting[-1].name} is {waiting[-1].info.status}" if waiting else "no stage"
        raise RunError(
            f"{self.folder} has no model to load ({status}); run.resume() goes on with a run that "
            "was stopped, and an ensemble's members are folders in its stage's model/"
        )

    # -- going on ---------------------------------------------------------------------------------

    @plainly
    def resume(
        self,
        passed: Sequence[Any] | Mapping[str, Any] = (),
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> Run:
        """Go on from the last checkpoint; what is done stays as it is.

        Args:
            passed: functions of the recipe that are in no file (``python:NAME``), a list or by
                name, where this object does not have them from :func:`gnomon.train`.
            callbacks: told how it goes; None for those of before.

        Raises:
            GnomonError: as :func:`gnomon.run`.
        """
        recipe = self.recipe
        recipe.output = str(self.folder.parent)
        recipe.name = self.folder.name
        objects = {**self._passed, **by_name(passed)}
        told = self._callbacks if callbacks is None else callbacks
        self._callbacks = start(recipe, objects, True, told)._callbacks
        self._passed = objects
        for cached in ("model", "tokenizer"):
            self.__dict__.pop(cached, None)
        return self

    # -- shown ------------------------------------------------------------------------------------

    @property
    def _view(self) -> RunView:
        return read_run(self.folder, read_stage_records)

    @property
    def _answer(self) -> Answer:
        return answer(self._view)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.answer})"

    def _repr_html_(self) -> str:
        """In a notebook: the answer, why, alarms and the last stage's figures."""
        found, view = self._answer, self._view
        lines = [f"<b>{html.escape(self.name)}: {found.kind}</b>. {html.escape(found.sentence)}"]
        lines += [f"ALARM: {html.escape(f'{a.name} ({a.stage})')}" for a in standing(view)]
        states = ", ".join(f"{s.name} {s.info.status}" for s in view.stages)
        lines.append(html.escape(f"Stages: {states}"))
        reasons = "".join(f"<li>{html.escape(text)}</li>" for text in self.reasons)
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td></tr>"
            for name, value in self.figures.items()
            if name.removeprefix("held_out/") in _KEY_FIGURES
        )
        table = f"<table><tr><th>figure</th><th>last</th></tr>{rows}</table>" if rows else ""
        place = f"<code>{html.escape(str(self.folder))}</code>"
        return f"<p>{'<br>'.join(lines)}</p><ul>{reasons}</ul>{table}<p>{place}</p>"
