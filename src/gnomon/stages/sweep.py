"""One recipe with many settings: a run for each setting and seed, kept apart and compared.

Every run is an ordinary one, in ``OUTPUT/NAME-sweep``. One that fails, or whose gate stays closed,
is a row that says so; the others go on. A sweep that was killed goes on where it was: runs that are
done are kept, the one that it was in is resumed.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, GateClosed, GnomonError, RunStopped
from gnomon.files import first_line, write_text
from gnomon.recipe.schema import Recipe
from gnomon.report.sweep_files import write_sweep
from gnomon.report.sweeps import known_figures, read_setting
from gnomon.runs.folder import RunFolder
from gnomon.runs.lock import run_lock
from gnomon.runs.sweeps import SWEEP, SweptRun
from gnomon.runs.sweeps import Sweep as SweepRecord
from gnomon.stages.run import Announce, run_recipe
from gnomon.stages.search import STUDY, Grid, OptunaSearch, Search, Setting
from gnomon.stages.share import take_over
from gnomon.stages.sweep_plan import SweepPlan
from gnomon.usercode import explain

ERROR = "error.txt"
"""What a run raised that no cure is known for, in its folder."""


def run_sweep(
    plan: SweepPlan,
    *,
    resume: bool = False,
    budget: float | None = None,
    max_runs: int | None = None,
    announce: Announce = print,
) -> Path:
    """Run every setting with every seed, and write the table and the plot.

    Args:
        budget: seconds that this call may take; a run that is going on then is stopped where it
            can be resumed.
        max_runs: how many runs this call may start or resume.

    Returns:
        The sweep's folder.

    Raises:
        ConfigError: the folder holds a sweep and ``resume`` was not asked for, or another one; the
            first run did not measure the objective.
        RunStopped: it was asked to stop; what is done is kept.
    """
    _check_folder(plan, resume)
    with run_lock(plan.folder):
        return _Sweeping(plan, budget, max_runs, announce).execute()


def _check_folder(plan: SweepPlan, resume: bool) -> None:
    file = plan.folder / SWEEP
    if file.exists() and not resume:
        raise ConfigError(
            f"{plan.folder} already holds a sweep. Resume it (--resume), choose another name "
            "(name=...), or remove the folder."
        )
    known = SweepRecord.read_or_empty(file)
    keys = [axis.key for axis in plan.axes]
    if known.keys and known.keys != keys:
        raise ConfigError(
            f"{plan.folder} is a sweep of {', '.join(known.keys)}, not of {', '.join(keys)}. Give "
            "the same keys in the same order, or choose another name (name=...)"
        )
    if known.recipe_sha256 and known.recipe_sha256 != plan.sha256:
        raise ConfigError(
            f"{plan.folder} is a sweep of another recipe, whose runs cannot be compared with this "
            "one's. Give the recipe and the overrides that it was begun with, or choose another "
            "name (name=...)"
        )
    missing = [seed for seed in known.seeds if seed not in plan.seeds]
    if missing:
        raise ConfigError(
            f"{plan.folder} has runs of the seeds {_list(known.seeds)}, and now {_list(missing)} "
            f"would be left out: --seeds {_list(dict.fromkeys([*known.seeds, *plan.seeds]))}, or "
            "choose another name (name=...)"
        )
    for recipe in plan.recipes(known):
        RunFolder(recipe).check(resume)


def _list(seeds: Iterable[int]) -> str:
    return ",".join(map(str, seeds))


class _Sweeping:
    """One call of :func:`run_sweep`, the sweep's folder locked."""

    def __init__(
        self, plan: SweepPlan, budget: float | None, max_runs: int | None, announce: Announce
    ) -> None:
        self.plan, self.announce = plan, announce
        self.ends = None if budget is None else time.monotonic() + budget
        self.runs_left = max_runs
        self.recipes: list[Recipe] = []
        self.tried: set[str] = set()
        self.measured = False
        self.compared = False
        self.record = SweepRecord.read_or_empty(plan.folder / SWEEP)
        self.record.note(
            recipe=plan.make(plan.fixed).name,
            recipe_sha256=plan.sha256,
            keys=[axis.key for axis in plan.axes],
            log=[a.key for a in plan.axes if a.range is not None and a.range.scale == "log"],
            search="grid" if plan.trials is None else "optuna",
            seeds=list(plan.seeds),
            objective=plan.objective.name,
            sign=plan.objective.sign,
            why=plan.objective.why,
            settings=len(plan.settings) if plan.trials is None else plan.trials,
            runs=list(self.record.runs),
            stopped="",
        )

    def execute(self) -> Path:
        search = self._search()
        self._save()
        try:
            while self._more_seeds() and (setting := search.next()) is not None:
                if not self._setting(setting):
                    break
                search.tell(*self._score(setting))
        except RunStopped:
            self.record.stopped = "it was asked to stop"
            raise
        finally:
            self._save()
            write_sweep(self.plan.folder)
        return self.plan.folder

    def _more_seeds(self) -> bool:
        """Run what a search has tried with the seeds that it was not given then, so that all its
        settings can be compared; False where nothing more may be started."""
        if self.plan.trials is None or self.compared:  # a grid comes by all its settings anyway
            return True
        self.compared = True
        begun: dict[str, set[int]] = {}
        for run in self.record.runs:
            begun.setdefault(json.dumps(run.settings), set()).add(run.seed)
        lacking = [json.loads(key) for key, own in begun.items() if {*self.plan.seeds} - own]
        if lacking:
            self.announce(
                f"{len(lacking)} settings that were tried lack a seed: they are run with it first. "
                "What is drawn next still goes by the figures of the seeds that they had when they "
                "were tried"
            )
        return all(self._setting(tuple((a.key, known[a.key]) for a in self.plan.axes))
                   for known in lacking)  # fmt: skip

    def _search(self) -> Search:
        plan = self.plan
        if plan.trials is None:
            return Grid(plan.settings)
        return OptunaSearch(
            plan.axes, plan.folder / STUDY, trials=plan.trials,
            seed=plan.make(plan.fixed).seed, objective=plan.objective.name,
            sign=plan.objective.sign,
        )  # fmt: skip

    def _save(self) -> None:
        self.record.write(self.plan.folder / SWEEP)

    def _setting(self, setting: Setting) -> bool:
        """Run a setting with every seed; False where nothing more may be started."""
        for seed in self.plan.seeds:
            recipe = self.plan.recipe(setting, seed, self.record)
            if not self._is_done(recipe):
                self.record.stopped = self._spent()
                if self.record.stopped:
                    return False
                self._run(recipe, dict(setting))
                if self.record.stopped:  # by the budget, within the run
                    return False
            self._check_measured(recipe, setting)
            self.recipes.append(recipe)
        return True

    def _is_done(self, recipe: Recipe) -> bool:
        """Whether a run came to its end, or was tried in this call."""
        known = self.record.run(recipe.name)
        return recipe.name in self.tried or (known is not None and not known.problem)

    def _spent(self) -> str:
        """Why no further run may start; empty where one may."""
        if self.runs_left is not None and self.runs_left <= 0:
            return "--max-runs was reached; --resume goes on"
        if self.ends is not None and time.monotonic() >= self.ends:
            return "the budget of time was spent; --resume goes on"
        return ""

    def _run(self, recipe: Recipe, values: Mapping[str, Any]) -> None:
        name, began = recipe.name, self.record.run(recipe.name)
        self.tried.add(name)
        if began is None:
            began = SweptRun(name=name, settings=dict(values), seed=recipe.seed)
            self.record.runs.append(began)
        if self.runs_left is not None:
            self.runs_left -= 1
        shared = take_over(recipe, self.recipes)
        if shared:
            began.note(shared=shared)
        began.note(problem="it has not finished")
        self._save()
        others = ", ".join(f"{stage} (of {giver})" for stage, giver in shared.items())
        self.announce(f"run {len(self.record.runs)}: {name}" + (f"; as made already: {others}" if
                                                               others else ""))  # fmt: skip
        problem = self._attempt(recipe)
        began.problem = problem
        self._save()
        if problem:
            self.announce(f"{name}: {problem}")

    def _attempt(self, recipe: Recipe) -> str:
        """Run one; what stood in its way, empty where nothing did."""
        resume = RunFolder(recipe).path.exists()
        try:
            with _deadline(self.ends):
                run_recipe(recipe, base=self.plan.base, resume=resume, announce=self._inner)
        except RunStopped as stopped:
            if self.ends is None or time.monotonic() < self.ends:
                raise
            self.record.stopped = "the budget of time was spent; --resume goes on"
            return f"stopped by the budget: {first_line(stopped)}"
        except GateClosed as gate:
            return f"gate closed: {' '.join(str(gate).split())}"
        except GnomonError as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        except Exception as error:
            file = RunFolder(recipe).path / ERROR
            write_text(file, traceback.format_exc())
            return f"{explain(error)} (see {file})"
        return ""

    def _inner(self, line: str) -> None:
        self.announce(f"  {line}")

    def _score(self, setting: Setting) -> tuple[float | None, bool]:
        """The objective of a setting, None where a seed lacks it or nobody looked for alarms, and
        whether it is held."""
        row = read_setting(self.plan.folder, self.record, dict(setting))
        sound = row.held or (row.complete and row.looked)
        if row.objective is None or len(row.values) < row.seeds or not sound:
            return None, False
        return row.objective.value, row.held

    def _check_measured(self, recipe: Recipe, setting: Setting) -> None:
        """Stop after the first run that came to its end, where it did not measure the objective.

        Raises:
            ConfigError: it did not; the message names what it measured.
        """
        known = self.record.run(recipe.name)
        if self.measured or known is None or known.problem:
            return
        self.measured = True
        row = read_setting(self.plan.folder, self.record, dict(setting))
        if recipe.seed in row.values:
            return
        near = known_figures(self.plan.folder, recipe.name, self.plan.objective.name)
        raise ConfigError(
            f"the run {recipe.name} is done and has no figure {self.plan.objective.name!r}; "
            f"{near}. It is kept: the same command with --resume and another --objective goes on "
            "from it"
        )


@contextmanager
def _deadline(ends: float | None) -> Iterator[None]:
    """Ask the run within the block to stop at a time, as SIGTERM would: what is done is saved.

    In the main thread only, where the system has timers; elsewhere a run comes to its end.
    """
    main = threading.current_thread() is threading.main_thread()
    if ends is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def ask(number: int, frame: Any) -> None:
        stop = signal.getsignal(signal.SIGTERM)
        if callable(stop):  # the run listens
            stop(signal.SIGTERM, frame)

    before = signal.signal(signal.SIGALRM, ask)
    timer = signal.setitimer(signal.ITIMER_REAL, max(0.001, ends - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # of a program that has one of its own
