"""Running a recipe: its stages in order, those done skipped; then the comparison and the audit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gnomon.algorithms.eval_settings import EVAL
from gnomon.audit.detectors import audit_run
from gnomon.errors import GateClosed, RunError, RunStopped
from gnomon.evals.evaluate import set_evals_aside
from gnomon.models.precision import has_bfloat16
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.report.card import CARD, write_cards
from gnomon.report.findings import audit_summary
from gnomon.report.html import write_report
from gnomon.runs.audit import AUDIT, Audit
from gnomon.runs.folder import RunFolder, StageFolder
from gnomon.runs.lock import run_lock
from gnomon.runs.manifest import MANIFEST, Manifest, resume_command
from gnomon.runs.peak import in_words
from gnomon.runs.records import COMPARISON, StageInfo, now
from gnomon.stages.check import check_recipe
from gnomon.stages.compare import compare
from gnomon.stages.exhausted import explained
from gnomon.stages.gates import GateKeeper
from gnomon.stages.inputs import check_inputs, refuse_held_back, stage_inputs
from gnomon.stages.machine_checks import check_machine
from gnomon.stages.names import policy_stages
from gnomon.stages.processes import Processes, join
from gnomon.stages.stage import Stage, memory_info, open_stage, run_stage
from gnomon.training.callbacks import Callback, callback_maker, checked
from gnomon.training.progress import Progress
from gnomon.training.watch import Stop
from gnomon.usercode import explain

Announce = Callable[[str], None]


def run_recipe(
    recipe: Recipe,
    *,
    base: Path,
    resume: bool = False,
    announce: Announce = print,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Run every stage that is not done, compare the policies, audit the run, write the report.

    Ctrl-C and SIGTERM stop it where it can be resumed: what is done is saved first. A second one
    stops it at once.

    Args:
        recipe: what to run.
        base: the folder that the recipe's relative paths start from.
        resume: continue an earlier run of the same recipe.
        announce: called with a line when a stage starts or ends. Where it fails (on a closed pipe,
            say), the run continues without it.
        callbacks: told how training goes in every stage that trains, after those that the recipe
            names.

    Returns:
        The run's folder.

    Raises:
        RunStopped: it was asked to stop; the message says what is saved and how to resume.
        GateClosed: a gate did not open, and the run stopped there or ended without what it was of;
            the report is written.
        GnomonError: whatever the user can fix; everything saved so far stays usable.
    """
    run = RunFolder(recipe)
    processes = join(recipe)
    with ExitStack() as closing:
        if processes is not None:
            closing.callback(processes.close)
            if not processes.first:
                processes.follow(partial(_train_along, recipe, run, base, processes))
                return run.path
        check_machine(recipe)
        run.check(resume)
        check_recipe(recipe, run, base)
        named = [callback_maker(spec.callback, spec.options, base)() for spec in recipe.callbacks]
        told = [*named, *checked(callbacks)]
        closing.enter_context(run_lock(run.path))
        announce = _ignoring_failures(announce)
        return _Running(recipe, run, base, resume, announce, told, processes).execute()


def _train_along(
    recipe: Recipe, run: RunFolder, base: Path, processes: Processes, name: str, resume: bool
) -> None:
    """Train a stage in step with the first process, which keeps what comes of it."""
    spec = next(stage for stage in recipe.stages if stage.name == name)
    stage = open_stage(recipe, spec, run, base)
    stage.processes = processes
    stage.stop.quiet = True
    with stage.closing, stage.stop.listening(), explained(stage.job, name):
        torch.manual_seed(stage.seed)
        stage.perform(StageInfo(), resume)


class _Running:
    """One call of :func:`run_recipe`, the run's folder locked."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        base: Path,
        resume: bool,
        announce: Announce,
        callbacks: Sequence[Callback],
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes
        self.recipe = recipe
        self.run = run
        self.base = base
        self.resume = resume
        self.announce = announce
        self.callbacks = callbacks
        self.stop = Stop()
        self.where = "before the first stage"
        self.worked = False
        self.taken_over: list[StageSpec] = []
        self.gates = GateKeeper(recipe, run, base, announce)

    def execute(self) -> Path:
        try:
            with self.stop.listening():
                return self._execute()
        except RunStopped as stopped:
            raise RunStopped(self._stop_message(str(stopped)), stopped.signal) from None
        except KeyboardInterrupt:
            number = self.stop.signal or signal.SIGINT
            what = "at once; what was saved before is whole"
            raise RunStopped(self._stop_message(what), number) from None

    def _stop_message(self, what: str) -> str:
        detail = f" ({what})" if what else ""
        why = f": {self.stop.reason}" if self.stop.reason else ""
        return f"stopped {self.where}{why}{detail}. Resume with: {resume_command(self.run.path)}"

    def _execute(self) -> Path:
        for line in self.run.open(self.resume):
            self.announce(line)
        if self.processes is not None:
            self.announce(self.processes.said())
            about = f"{self.processes.ranks.world}, {self.processes.kind}"
            self.run.update_manifest(hardware={"processes": about})
        if not Manifest.read_or_empty(self.run.path / MANIFEST).base:
            self.run.update_manifest(base=str(self.base.absolute()))
        began = time.time()
        held: GateClosed | None = None
        ended = False
        try:
            for stage in self.recipe.stages:
                self.where = f"before stage {stage.name}; those before it are done"
                self._stage(stage)
                self.gates.after(stage)
            self._compare()
            ended = True  # whatever its last gates then say of it
            self.gates.after_all()
        except GateClosed as gate:
            held = gate  # what was made is shown before it is raised
        path = self.run.path
        if self.worked:
            self.run.update_manifest(
                **({"finished": now()} if ended else {}),
                seconds={"last call": round(time.time() - began, 1)},
            )
        elif ended and self.gates.changed:
            self.run.update_manifest(finished=now())
        if self.worked or not _is_whole(path / AUDIT):
            self.where = "before the audit; the stages are done"
            self._audit()
        if self.worked or self.gates.changed or not (path / "report.html").is_file():
            self.where = "before the report; all else is done"
            write_report(path)
        if self.worked or self.gates.changed or not (path / CARD).is_file():
            self.where = "before the model card; all else is done"
            self._card()
        if held is not None:
            raise held
        return path

    def _card(self) -> None:
        """Write the model card and the models' READMEs; a run does not fail because of them."""
        try:
            write_cards(self.run.path)
        except Exception as error:
            self.announce(f"warning: the model card could not be written: {explain(error)}")

    def _audit(self) -> None:
        """Look for what is wrong; a run does not fail because its audit does."""
        try:
            found = audit_run(self.run.path)
        except Exception as error:
            self.announce(f"warning: the run could not be audited: {explain(error)}")
            return
        for line in audit_summary(found, self.run.path):
            self.announce(line)

    def _stage(self, stage: StageSpec) -> None:
        """Run a stage, unless it is done and all that it left is as it was."""
        folder = self.run.stage(stage.name)
        damage = folder.damage() if self.resume else None
        if self.resume and folder.done() and damage is None:
            self.announce(f"{stage.name}: done already")
            self.taken_over.append(stage)
            return
        before = _artefacts(folder.info())
        if damage is not None:
            _check_repairable(folder, damage)
            self.announce(f"{stage.name}: warning: {damage}; it is made again from what was saved")
        self.stop.check()
        self.where = f"in stage {stage.name}"
        self.worked = True
        self._check_taken_over()
        if not folder.path.is_dir() and (self.processes is None or self.processes.first):
            for file in set_evals_aside(self.run.path, stage.name):
                self.announce(f"{stage.name}: {file} is of an earlier model; kept as .old")
        opened = open_stage(self.recipe, stage, self.run, self.base)
        refuse_held_back(opened, stage.name)
        opened.processes = self.processes
        memory = memory_info(opened)
        self.announce(f"{stage.name}: {stage.algorithm} begins{_memory(memory)}")
        self._warn_of_precision(opened)
        info = run_stage(opened, self.resume, memory, self.stop, self.callbacks)
        self.announce(f"{stage.name}: {_summary(info)}")
        if before and before != _artefacts(info):
            self._refuse_changed(stage, folder)

    def _warn_of_precision(self, stage: Stage) -> None:
        """Say where the precision loses what is learned, or much time."""
        name = stage.precision.name
        if name == "bfloat16" and stage.spec.lora is None and stage.trains:
            self.announce(
                f"{stage.name}: warning: all weights are trained in bfloat16, which rounds steps "
                "below about 1/256 of a weight away; give it lora, or set precision=mixed"
            )
        if name != "float32" and stage.reads_model and not has_bfloat16(stage.device):
            self.announce(
                f"{stage.name}: warning: this processor imitates bfloat16, up to a hundred times "
                f"slower than float32 (precision: {name}); set precision=float32"
            )

    def _check_taken_over(self) -> None:
        """Refuse to go on from stages that are done where a file that they read has changed."""
        for stage in self.taken_over:
            opened = open_stage(self.recipe, stage, self.run, self.base)
            before, now = opened.folder.info().inputs, stage_inputs(opened)
            check_inputs(opened.folder, stage.name, before, now, done=True)
        self.taken_over = []

    def _refuse_changed(self, stage: StageSpec, folder: StageFolder) -> None:
        """Refuse to continue if later stages were built on what the stage was before."""
        names = [s.name for s in self.recipe.stages]
        later = [self.run.stage(n) for n in names[names.index(stage.name) + 1 :]]
        built = [str(f.path) for f in later if f.info().status != "unknown"]
        if built:
            raise RunError(
                f"{folder.path} was damaged and came out differently this time (another machine or "
                "version?), and later stages were built on what it was. Put the old files back, or "
                f"remove {', '.join(built)} and resume with --resume to make those again too."
            )

    def _compare(self) -> None:
        if self.recipe.compare is None:
            return
        wrong = self.run.comparison_problem()
        if wrong is None:
            return
        if (self.run.path / COMPARISON).exists():
            self.announce(f"compare: warning: {wrong}; the policies are compared again")
        self.where = "before the comparison; the stages are done"
        self.stop.check()
        self._check_taken_over()
        self.where = "in the comparison, which starts over; the stages are done"
        self.worked = True
        with Progress("compare", 1 + len(policy_stages(self.recipe, self.base))) as progress:
            compare(self.recipe, self.run, self.base, self.stop, progress)
        self.run.note_comparison()


def _ignoring_failures(announce: Announce) -> Announce:
    """``announce`` for a run that continues when it fails (on a closed pipe, say)."""

    def tell(message: str) -> None:
        try:
            announce(message)
        except (OSError, ValueError):
            return

    return tell


def _is_whole(audit: Path) -> bool:
    """Whether a run's audit is there, and was not made while a stage still trained."""
    return audit.is_file() and not Audit.read_or_empty(audit).so_far


def _artefacts(info: StageInfo) -> dict[str, Any]:
    """The files of a stage that later stages learn from: its weights and its groups."""
    files = info.files or {}
    return {k: v for k, v in files.items() if k.endswith((".safetensors", "groups.jsonl"))}


def _check_repairable(folder: StageFolder, damage: str) -> None:
    """Refuse to train a finished stage from its very beginning without being asked to.

    Raises:
        RunError: it had been finished, and there is nothing left to make it again from.
    """
    finished = folder.model.exists() or folder.groups.exists()
    kept = [folder.path / "checkpoints", folder.path / "parts"]
    if finished and not any(k.is_dir() and any(k.iterdir()) for k in kept):
        raise RunError(
            f"{damage}. It cannot be made again, since the stage's checkpoints are gone. Put it "
            f"back as it was, or remove {folder.path} to run the stage again."
        )


def _memory(memory: Mapping[str, str]) -> str:
    if not memory:
        return ""
    ways = [f"{memory[way]} as {way}" for way in list(memory)[1:]]
    return f"; it runs as {memory['runs as']}; estimated memory {', '.join(ways)}"


def _summary(info: StageInfo) -> str:
    seen = info.summary
    keys = ["reward", "gold", "kl", "length", "groups"]
    if "reward" not in seen:
        keys = ["loss", "accuracy", *keys]
    if info.algorithm == EVAL:
        keys = list(seen)
    figures = [f"{k} {seen[k]:.3g}" for k in keys if k in seen]
    kept = info.held_out
    held_out = [f"{k} {kept[k]:.3g}" for k in keys if k in kept]
    if "accuracy_low" in kept:
        ends = f" [{kept['accuracy_low']:.3g}, {kept['accuracy_high']:.3g}]"
        held_out[-1] += ends + (f" n={kept['accuracy_n']:.0f}" if "accuracy_n" in kept else "")
    if held_out:
        figures.append("held out: " + ", ".join(held_out))
    if peak := in_words(info):
        figures.append(peak)
    if info.idle_iterations:
        figures.append(f"{info.idle_iterations} iterations trained nothing")
    skipped = info.skipped.count
    tail = f", {skipped} rows skipped (see skipped.txt)" if skipped else ""
    return f"{info.seconds or 0.0:.0f} s, {', '.join(figures)}{tail}"
