"""The runs of a folder, read again only where their files have changed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gnomon.errors import DataError
from gnomon.files import first_line
from gnomon.report.kinds import stage_specs
from gnomon.runs.lock import is_worked_on
from gnomon.runs.read import RunView, StageView, read_run, read_stage_records
from gnomon.runs.rows import Column, MetricsStore
from gnomon.view.follow import Metrics

State = Literal["running", "done", "stopped", "failed"]
"""``stopped``: it is not done, did not fail, and no process works on it: paused, or killed."""
_RECORDS = (".json", ".yaml", ".parquet")
_GROWING = (".jsonl",)
_LEFT_OUT = ("model", "checkpoints", "plots", "parts")
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Opened:
    """A run as it is now.

    Attributes:
        stamp: changes whenever something that is shown does.
        changed: when its files last did, in seconds since 1970.
    """

    run: RunView
    state: State
    stamp: str
    changed: float

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        specs = stage_specs(self.run)
        total = max(len(specs), len(self.run.stages))
        if not self.run.stages:
            return f"no stage of {total} has started"
        stage = self.current
        done = sum(s.info.status == "done" for s in self.run.stages)
        if done == total:
            return f"{total} stage{'s' if total != 1 else ''} done"
        place = self.run.stages.index(stage) + 1
        text = f"stage {place} of {total}, {stage.name}"
        iteration = stage.series("iteration")[1]
        if iteration.size:
            of = stage.info.planned(specs.get(stage.name, {}))
            text += f": iteration {iteration[-1]:.0f}{f' of {of}' if of else ''}"
        return text

    @property
    def current(self) -> StageView:
        """The stage that is at work, or was last."""
        return next((s for s in self.run.stages if s.info.status != "done"), self.run.stages[-1])


class Library:
    """The runs in ``folder``, or the one run that it is.

    A run's records are read again when one of them has changed; of metrics that still grow only the
    new lines are read. Safe to use from several threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.single = _is_run(folder)
        self._lock = threading.RLock()
        self._read: dict[str, tuple[Stamp, RunView]] = {}
        self._metrics: dict[Path, Metrics] = {}

    def names(self) -> list[str]:
        """The runs' folders, those that changed last first.

        Raises:
            DataError: the folder cannot be read.
        """
        if self.single:
            return [self.folder.resolve().name]
        try:
            with os.scandir(self.folder) as entries:
                found = [
                    (_changed(Path(entry.path)), entry.name)
                    for entry in entries
                    if not entry.name.startswith(".") and _is_run(Path(entry.path))
                ]
        except OSError as error:
            raise DataError(f"{self.folder} cannot be read ({first_line(error)})") from error
        return [name for _, name in sorted(found, reverse=True)]

    def path(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            DataError: there is no such run.
        """
        path = self.folder if self.single else self.folder / name
        own = self.folder.resolve().name if self.single else Path(name).name
        if name != own or name.startswith(".") or not _is_run(path):
            raise DataError(f"there is no run {name!r} in {self.folder}")
        return path

    def open(self, name: str) -> Opened:
        """A run as it is now.

        Raises:
            DataError: there is no such run, or its folder is none.
        """
        path = self.path(name)
        with self._lock:
            files = _files(path)
            records = tuple(f for f in files if f[0].endswith(_RECORDS))
            known = self._read.get(name)
            if known is None or known[0] != records:
                known = (records, read_run(path, self._stage))
                self._read[name] = known
            run = self._with_news(known[1])
        changed = _newest(files) / 1e9
        worked = is_worked_on(path)
        digest = hashlib.sha256(repr((files, worked)).encode()).hexdigest()[:20]
        return Opened(run, _state(run, worked), digest, changed)

    def stamp(self, name: str) -> str:
        """:attr:`Opened.stamp`, without reading what the files hold."""
        path = self.path(name)
        return hashlib.sha256(repr((_files(path), is_worked_on(path))).encode()).hexdigest()[:20]

    def view(self, path: Path) -> RunView:
        """The run in a folder of the library, for those who read runs by their folders."""
        return self.open((path.resolve() if self.single else path).name).run

    def _stage(self, folder: Path, problems: list[str]) -> StageView:
        """A stage without its samples; of one that is not done, metrics are added later."""
        view = read_stage_records(folder, problems)
        if not _has_ended(view):
            return view
        metrics, wrong = MetricsStore.read(folder / "metrics.parquet", done=True)
        problems += [f"{folder.name}: {p.replace(f'{folder}/', '')}" for p in wrong]
        self._metrics.pop(folder, None)
        return replace(view, metrics=metrics)

    def _with_news(self, run: RunView) -> RunView:
        """The run with the metrics of stages that are not done as they are now."""
        problems = list(run.problems)
        stages = tuple(
            stage
            if _has_ended(stage)
            else replace(stage, metrics=self._growing(stage.folder, problems))
            for stage in run.stages
        )
        return replace(run, stages=stages, problems=tuple(problems))

    def _growing(self, folder: Path, problems: list[str]) -> Mapping[str, Column]:
        metrics = self._metrics.setdefault(folder, Metrics(folder / "metrics.jsonl"))
        try:
            columns = metrics.columns()
        except OSError as error:
            problems.append(f"{folder.name}: metrics.jsonl cannot be read ({first_line(error)})")
            return {}
        problems += [f"{folder.name}: {problem}" for problem in metrics.problems]
        return columns


def _has_ended(stage: StageView) -> bool:
    return stage.info.status == "done" or not (stage.folder / "metrics.jsonl").exists()


def _state(run: RunView, worked: bool) -> State:
    states = [stage.info.status for stage in run.stages]
    begun = {stage.name for stage in run.stages}
    if worked:
        return "running"
    if "failed" in states:
        return "failed"
    waiting = [name for name in stage_specs(run) if name not in begun]
    return "done" if states and not waiting and set(states) == {"done"} else "stopped"


def _is_run(path: Path) -> bool:
    try:
        return any((path / name).exists() for name in ("recipe.yaml", "manifest.json", "stages"))
    except OSError:
        return False


def _files(path: Path) -> Stamp:
    """(name, when changed, size) of what is shown of a run."""
    return tuple(sorted(_walk(path, "", 3)))


def _changed(path: Path) -> int:
    """When a run changed last, in ns: its newest file that is shown, or its folder without any."""
    return _newest(_files(path)) or path.stat().st_mtime_ns


def _newest(files: Stamp) -> int:
    return max((changed for _, changed, _ in files), default=0)


def _walk(folder: Path, at: str, depth: int) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if depth and entry.name not in _LEFT_OUT and not entry.name.startswith("."):
                        yield from _walk(Path(entry.path), f"{at}{entry.name}/", depth - 1)
                elif entry.name.endswith(_RECORDS + _GROWING):
                    about = entry.stat()
                    yield f"{at}{entry.name}", about.st_mtime_ns, about.st_size
    except OSError:  # it was removed a moment ago; what is missing is named where it is read
        return


def last_figure(stage: StageView, name: str) -> float | None:
    """The last value of a metric."""
    y = stage.series(name)[1]
    return float(y[-1]) if y.size and np.isfinite(y[-1]) else None


def age(then: float) -> str:
    """How long ago a time was: 12 s, 5 min, 3 h, 2 days."""
    seconds = max(0.0, time.time() - then)
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
