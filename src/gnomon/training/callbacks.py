"""Callbacks: what is told how training goes. Progress and trackers are callbacks; so is a user's.

    class Longest(gnomon.Callback):
        def on_step(self, event):
            if event.metrics["length"] > 400:
                event.stop("responses became too long")

on_start, then on_step after every iteration, on_evaluation and on_checkpoint where there are any,
and on_end however training ends. Every event comes between two iterations, where a run can stop and
be resumed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gnomon.errors import ConfigError
from gnomon.plugins import load_own
from gnomon.usercode import FailedError, called

if TYPE_CHECKING:
    from gnomon.models.roles import Role

Rows = Sequence[Mapping[str, Any]]
"""Of samples.parquet; ``gnomon.runs.rows.SampleRow`` has the columns."""


class Callback:
    """Derive from it and give the methods that are wanted; the others do nothing.

    What one raises stops the run with an error that names it; the state is saved first, so the run
    can be resumed once it is mended. One that is told of a resumed run sees the events after the
    checkpoint again. Training draws the same random numbers whatever a callback draws.
    """

    def on_start(self, stage: StageStart) -> None:
        """A stage begins to train, or goes on from a checkpoint."""

    def on_step(self, event: StepDone) -> None:
        """An iteration is done: samples, if any, and one or more optimizer steps."""

    def on_evaluation(self, event: EvaluationDone) -> None:
        """Something was measured on held-out data."""

    def on_checkpoint(self, event: CheckpointSaved) -> None:
        """A checkpoint is written."""

    def on_end(self, event: StageEnd) -> None:
        """Training ended, well or not; the next stage that trains begins with on_start."""


@dataclass
class Asked:
    """What callbacks ask of the loop."""

    stop: str | None = None
    finish: bool = False


@dataclass(frozen=True)
class Event:
    """Where a stage is.

    Attributes:
        stage: its name.
        folder: its folder; metrics.parquet, samples.parquet and checkpoints are there.
        iteration: iterations done.
        iterations: of the whole stage.
        step: optimizer steps taken.
    """

    stage: str
    folder: Path
    iteration: int
    iterations: int
    step: int
    asked: Asked = field(default_factory=Asked, repr=False, kw_only=True)

    def stop(self, reason: str) -> None:
        """Stop the run here, as Ctrl-C does: it is saved and can be resumed; ``reason`` is
        shown."""
        self.asked.stop = self.asked.stop or reason

    def finish(self) -> None:
        """End the stage's training here, as if this had been its last iteration: the model is
        evaluated and saved, and the run goes on with what comes next."""
        self.asked.finish = True

    def deliver(self, to: Callback) -> None:
        """Call the method that this event belongs to."""
        raise NotImplementedError


@dataclass(frozen=True)
class StageStart(Event):
    """A stage begins to train; ``iteration`` and ``step`` are those of the checkpoint where it is
    ``resumed``.

    Attributes:
        method: what trains it, as the recipe names it.
        roles: its models by role ("policy", ...), to look at and not to change.
    """

    method: str
    resumed: bool
    roles: Mapping[str, Role] = field(repr=False)

    def deliver(self, to: Callback) -> None:
        to.on_start(self)


@dataclass(frozen=True)
class StepDone(Event):
    """An iteration is done.

    Attributes:
        metrics: its row of metrics.parquet; docs/runs.md has names and units.
        samples: its rows of samples.parquet, where it has any (every ``train.sample_every``).
    """

    metrics: Mapping[str, float]
    samples: Rows = ()

    def deliver(self, to: Callback) -> None:
        to.on_step(self)


@dataclass(frozen=True)
class EvaluationDone(Event):
    """The policy was measured as it is after ``iteration`` iterations.

    Attributes:
        metrics: ``eval/...`` and what scheduled suites measured.
        samples: its rows of samples.parquet.
        final: whether it is the one at the end of training.
    """

    metrics: Mapping[str, float]
    samples: Rows = ()
    final: bool = False

    def deliver(self, to: Callback) -> None:
        to.on_evaluation(self)


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is written to the folder ``path``; older ones may be removed later."""

    path: Path

    def deliver(self, to: Callback) -> None:
        to.on_checkpoint(self)


@dataclass(frozen=True)
class StageEnd(Event):
    """Training ended.

    Attributes:
        status: "done"; "stopped", where it can be resumed; or "failed".
        metrics: the last iteration's and the final evaluation's, where it is done.
        error: why it stopped or failed.
    """

    status: Literal["done", "stopped", "failed"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def deliver(self, to: Callback) -> None:
        to.on_end(self)


def tell(callbacks: Iterable[Callback], event: Event) -> str | None:
    """Tell every callback; what those that raised say, or None.

    Raises:
        KeyboardInterrupt: one of them raised it.
    """
    problems: list[str] = []
    for callback in callbacks:
        try:
            called(event.deliver, callback)
        except FailedError as error:
            name = getattr(callback, "name", type(callback).__name__)
            problems.append(f"the callback {name} failed ({type(event).__name__}): {error}")
    return "; ".join(problems) or None


def callback_maker(name: str, options: Mapping[str, Any], base: Path) -> Callable[[], Callback]:
    """What makes a callback that a recipe names, its options checked.

    Args:
        name: ``file.py:Name`` or ``package.module:Name``; a class, or a function that gives one.
        options: its keyword arguments.
        base: the folder that a file is looked up in.

    Raises:
        ConfigError: there is none, or it does not take the options.
    """
    found = load_own(name, base, "callback")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(f"callback {name!r}: its options: {error}") from error
    except ValueError:  # it has no signature
        pass

    def make() -> Callback:
        try:
            made = called(found, **options)
        except FailedError as error:
            raise ConfigError(f"callback {name!r} could not be made: {error}") from error
        return checked([made])[0]

    return make


def checked(callbacks: Any) -> list[Callback]:
    """The callbacks, each of them one; one by itself is a list of it.

    Raises:
        ConfigError: one is a class, or something else that cannot be told anything.
    """
    told = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for given in told:
        if isinstance(given, type) and issubclass(given, Callback):
            raise ConfigError(f"callbacks: {given.__name__} is a class; give {given.__name__}()")
        if not isinstance(given, Callback):
            raise ConfigError(
                f"callbacks: {given!r} is no callback: derive its class from gnomon.Callback and "
                "give on_step(self, event), on_evaluation, on_checkpoint, on_start or on_end"
            )
    return told
