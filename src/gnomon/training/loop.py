"""THE loop: experience, micro-batches, one optimiser step per minibatch, metrics, checkpoints.

It does not know which algorithm it runs. All randomness depends on (seed, iteration), so a run that
is killed continues from its last checkpoint with the same result as if it had never stopped.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from gnomon.algorithms.base import Evaluation
from gnomon.algorithms.metric import MetricSums
from gnomon.errors import (
    EngineError,
    MemoryExhaustedError,
    Pending,
    RewardsFailedError,
    RunError,
    RunStopped,
)
from gnomon.models.counting import counting
from gnomon.models.instants import CHECKPOINT, EVALUATION, TRAINING, instant
from gnomon.models.ranks import heard
from gnomon.runs.records import EVALS, Evals
from gnomon.training.callbacks import (
    Callback,
    CheckpointSaved,
    EvaluationDone,
    Event,
    StageEnd,
    StageStart,
    StepDone,
    tell,
)
from gnomon.training.kept import Kept
from gnomon.training.learner import Learner
from gnomon.training.optim import LoopOptions
from gnomon.training.peak import Peak
from gnomon.training.progress import Progress
from gnomon.training.state import TrainState
from gnomon.training.strategy import OneDevice, Strategy
from gnomon.training.update import Updater
from gnomon.training.watch import IdleWatch, Stop

LOOP_METRICS = (
    *("loss", "text_loss", "grad_norm", "lr", "step", "iteration", "final", "seconds"),
    *("tokens_per_second", "peak_rss_gb", "peak_gpu_gb"),
)
"""What every training stage logs."""


Watcher = Callable[[int, int, bool], Mapping[str, float]]
"""Called before an iteration, and after the last, with its number, the optimizer's step and whether
training has ended; what it gives is logged. What it raises stops the run as a stop during sampling
does."""


class Loop:
    """Runs an algorithm in a stage's folder.

    Args:
        learner: what to train.
        options: see :class:`LoopOptions`.
        folder: the stage's folder; metrics, samples, evals and checkpoints are kept there.
        progress: shows how it goes; it is told first.
        callbacks: told how it goes (:class:`~gnomon.training.callbacks.Callback`).
        stop: asked between iterations whether to stop.
        strategy: where the work is done; with several processes ``folder`` is the stage's in the
            first of them, and one to be thrown away in the others.
        stage: its name; the folder's, where none is given.
        checkpoints: where they are; in ``folder``, where nothing is given.

    Attributes:
        watchers: look at the policy now and then; see :data:`Watcher`.
        state: how far it is.
    """

    def __init__(
        self,
        learner: Learner,
        options: LoopOptions,
        folder: Path,
        progress: Progress,
        callbacks: Sequence[Callback] = (),
        stop: Stop | None = None,
        strategy: Strategy | None = None,
        stage: str | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self.learner = learner
        self.options = options
        self.folder = folder
        self.callbacks = [progress, *callbacks]
        self.stop = stop or Stop()
        self.stage = stage or folder.name
        self.strategy = strategy or OneDevice()
        self.ranks = self.strategy.ranks
        self.checkpoints = self.strategy.checkpoints(
            checkpoints or folder / "checkpoints",
            options.keep_checkpoints,
            options.checkpoint_every,
        )
        self.updater = Updater(learner, options, self.strategy, self.checkpoints.intact)
        self.kept = Kept(folder)
        self.idle = IdleWatch(learner.algorithm, options.iterations, progress.note)
        self.watchers: list[Watcher] = []
        peak = None if options.stop_at_peak is None else Peak(options.stop_at_peak)
        self.state = TrainState(learner, self.updater, self.kept, self.checkpoints, folder, peak)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Everything that is trained, by name."""
        return self.updater.parameters

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.updater.taken

    @property
    def end(self) -> int:
        """How many iterations there are, or were where the run stopped early."""
        return self.options.iterations if self.state.stopped is None else self.state.stopped

    def run(self, resume: bool = False) -> dict[str, float]:
        """Train to the end and return the last iteration's metrics and the final evaluation's.

        Args:
            resume: continue from the newest checkpoint in the folder, if there is one.

        Raises:
            RunError: NaN loss or gradient, weights that are not finite, too many failed rewards, a
                full disk. The last checkpoint stays usable.
            Pending: people have to judge first; everything up to here is saved.
            RunStopped: the run was asked to stop; everything up to here is saved.
        """
        with self.ranks.together():
            start = done = self.state.restore() if resume else self.state.begin()
        try:
            begins = {"method": self.learner.name, "roles": self.learner.roles}
            self._tell(StageStart, start, resumed=self.state.saved is not None, **begins)
            while done < self.end:  # which an iteration may bring forward
                self._or_save(done, start, self._iteration)
                done += 1
                if done % self.options.checkpoint_every == 0 and done < self.end:
                    self._checkpoint(done)
            # before the last checkpoint, so that it is done once
            if not self.state.evals_are_there():
                self._or_save(self.end, start, self._final_evaluation)
            if self.state.saved != self.end:
                self._checkpoint(self.end)
            self.kept.finish()

        except BaseException as error:
            if isinstance(error, MemoryExhaustedError):
                error.saved = self.checkpoints.intact()
            self.kept.failed(error, self.step)
            self._tell_failed(error)
            raise
        finally:
            self.kept.close()
        self.idle.sum_up(self.kept.metrics.rows)
        last = self.kept.last(self.end)
        self._tell(StageEnd, self.end, status="done", metrics=last)
        return last

    def _or_save(self, iteration: int, start: int, work: Callable[[int], None]) -> None:
        """Do ``work``, or save the state before it if the run has to stop, pause or give up first.

        It stops before ``work`` or in its first part, which samples and evaluates: the iteration
        has not changed the state yet. A reward or an engine that fails costs no iteration that is
        done.
        """
        try:
            with self.ranks.together(leave=True):
                self._check_stop()
                work(iteration)
        except (Pending, RunStopped, RewardsFailedError, EngineError) as pause:
            # a Ctrl-C reaches the processes of rewards and engines too, and they fail from it
            number = self.strategy.stopping(
                pause.signal if isinstance(pause, RunStopped) else self.stop.signal
            )
            if iteration > start and self.state.saved != iteration:
                self._checkpoint(iteration)
            if number is None or isinstance(pause, Pending):
                raise
            total = self.options.iterations
            what = f"the checkpoint of iteration {iteration} of {total} is saved"
            if self.state.saved is None:
                what = "before its first iteration: there was nothing to save"
            raise heard(RunStopped(what, number or 0)) from None

    def _check_stop(self) -> None:
        """Stop here if any process was asked to: all do."""
        self.stop.signal = self.strategy.stopping(self.stop.signal)
        try:
            self.stop.check()
        except RunStopped as stopped:
            raise heard(stopped) from None

    # -- one iteration ----------------------------------------------------------------------------

    def _iteration(self, iteration: int) -> None:
        began = time.perf_counter()
        torch.manual_seed(self.options.seed * 1_000_003 + iteration)
        evaluation = self._evaluate(iteration)
        watched = self._watched(iteration) if self.state.stopped is None else {}
        found = {**evaluation.metrics, **watched}
        answers = self._rows(evaluation.samples, evaluation=iteration)
        if found or answers:
            self._tell(EvaluationDone, iteration, metrics=dict(found), samples=answers)
        if self.state.stopped is not None:  # this iteration trains nothing more
            self.kept.evaluation(iteration, self.step, found)
            return
        self._check_stop()
        lr = self.updater.begin(iteration)
        self.learner.train_mode(False)
        with counting() as counts:
            experience = self.learner.experience(iteration)
            self._check_stop()
            self._draw_apart(iteration)
            self.learner.train_mode(True)
            sums = MetricSums()
            norms: list[float] = []
            losses: list[float] = []
            tokens = 0
            for minibatch in experience.minibatches:
                with instant(f"{TRAINING} of iteration {iteration + 1}"):
                    norms.append(self.updater.step(experience, minibatch, sums, losses))
                tokens += sum(g.num_tokens() for g in (*minibatch.trained, *minibatch.text))
        self.learner.train_mode(False)
        seconds = time.perf_counter() - began
        row = {
            **self.updater.strategy.figures(sums),
            **({"loss": sum(losses) / len(losses)} if losses else {}),
            **experience.metrics,
            "grad_norm": sum(norms) / max(1, len(norms)),
            "lr": lr,
            **found,
        }
        self.learner.end_iteration(experience, row)
        self.kept.answers(answers)
        row = self.kept.iteration(iteration, self.step, row, seconds, tokens)
        samples = self._rows(experience.samples) if self._keeps_samples(iteration + 1) else []
        self.kept.answers(samples)
        self.state.tokens.add(counts)
        self.state.tokens.add(experience.tokens)
        self.idle.see(iteration + 1, row)
        self._tell(StepDone, iteration + 1, metrics=row, samples=samples)

    def _draw_apart(self, iteration: int) -> None:
        """Let every process draw dropout of its own; up to here all draw the same."""
        if self.ranks.rank:
            torch.manual_seed(self.options.seed * 1_000_003 + iteration + (self.ranks.rank << 40))

    # -- callbacks --------------------------------------------------------------------------------

    def _tell(self, kind: type[Event], iteration: int, **more: Any) -> None:
        """Tell the callbacks, and do what they ask; the state is as between two iterations.

        Raises:
            RunError: one of them failed; the state is saved.
        """
        event = kind(self.stage, self.folder, iteration, self.options.iterations, self.step, **more)

        def told() -> tuple[str | None, str | None, bool]:
            problem = tell(self.callbacks, event)
            return problem, event.asked.stop, event.asked.finish

        with _own_random():
            problem, stop, finish = self.ranks.first(told)
        if problem is not None:
            if iteration and self.state.saved != iteration:
                self.state.save(iteration)
            raise heard(
                RunError(
                    f"{problem}; {self.checkpoints.intact()}. Mend the callback or leave it out, "
                    "and resume with --resume."
                )
            )
        if stop is not None:
            self.stop.ask(stop)
        if finish and iteration < self.end:
            self.state.stopped = iteration
            if self.state.saved == iteration:  # by a checkpoint that does not know of it
                self.state.save(iteration)

    def _tell_failed(self, error: BaseException) -> None:
        """Tell the callbacks that training ends with ``error``, which is what is raised."""
        paused = isinstance(error, Pending | RunStopped | KeyboardInterrupt)
        event = StageEnd(
            self.stage,
            self.folder,
            self.state.saved or 0,
            self.options.iterations,
            self.step,
            status="stopped" if paused else "failed",
            error=str(error) or repr(error),
        )
        with _own_random():
            problem = tell(self.callbacks, event)
        if problem is not None:
            warnings.warn(problem, stacklevel=2)

    # -- samples and evaluations ------------------------------------------------------------------

    def _keeps_samples(self, done: int) -> bool:
        """The first are what later ones are compared with."""
        ends, left = self.options.sample_ends, self.options.iterations - done
        return done % self.options.sample_every == 0 or done <= ends or left < ends

    def _rows(
        self, samples: Sequence[Mapping[str, Any]], evaluation: int | None = None
    ) -> list[dict[str, Any]]:
        """Samples as they are kept: of training, or of the ``evaluation`` of the policy that was
        trained for so many iterations."""
        marked = {} if evaluation is None else {"evaluation": evaluation}
        return [{"step": self.step, **sample, **marked} for sample in samples]

    def _evaluate(self, iteration: int) -> Evaluation:
        """The evaluation before an iteration, where one is due; where it shows that the peak has
        passed, the run is ``stopped`` there."""
        every, first = self.options.eval_every, self.options.eval_first and iteration == 0
        if not (first or (every and iteration % every == 0)):
            return Evaluation()
        evaluation = self._evaluated(iteration)
        if self.state.peak is not None and self.state.peak.passed:
            self.state.stopped = iteration
        return evaluation

    def _evaluated(self, iteration: int) -> Evaluation:
        self.learner.train_mode(False)
        with instant(EVALUATION):
            evaluation = self.learner.evaluate()
        if self.state.peak is not None and self.state.peak.last != iteration:
            value = evaluation.metrics.get(f"eval/{self.state.peak.spec.judge}")
            self.state.peak.see(iteration, value, self.parameters)
        return evaluation

    def _watched(self, iteration: int, last: bool = False) -> dict[str, float]:
        """What the watchers find; they draw no random numbers that training would have drawn."""
        found: dict[str, float] = {}
        with _own_random():
            for watcher in self.watchers:
                self.learner.train_mode(False)
                look = partial(watcher, iteration, self.step, last)
                found |= self.strategy.alone(look)
        return found

    def _final_evaluation(self, iteration: int) -> None:
        """Evaluate and keep the results; the rows only once, even if their file was lost."""
        torch.manual_seed(self.options.seed * 1_000_003 + iteration)
        evaluation, of = self._at_peak(iteration), iteration
        if self.state.peak is not None and self.state.peak.iteration is not None:
            of = self.state.peak.iteration
        if evaluation is None:
            evaluation = self._evaluated(iteration)
        Evals(dict(evaluation.details)).write(self.folder / EVALS)
        if self.state.evaluated:
            return
        metrics = {**evaluation.metrics, **self._watched(iteration, last=True)}
        self.kept.evaluation(iteration, self.step, metrics, final=1)
        answers = self._rows(evaluation.samples, evaluation=of)
        self.kept.answers(answers)
        self.state.evaluated = True
        self.state.saved = None  # a checkpoint of this iteration does not know of it
        if metrics or answers:
            self._tell(EvaluationDone, iteration, metrics=metrics, samples=answers, final=True)

    def _at_peak(self, iteration: int) -> Evaluation | None:
        """Give the model the weights of the best evaluation, the one after the last iteration among
        them; that one's results, where it is the best."""
        peak = self.state.peak
        if peak is None:
            return None
        if peak.last != iteration:
            evaluation = self._evaluated(iteration)
            if peak.iteration == iteration:
                return evaluation
            self.kept.evaluation(iteration, self.step, evaluation.metrics)
        if peak.iteration is not None:
            peak.restore(self.parameters)
        return None

    def _checkpoint(self, iteration: int) -> None:
        with instant(CHECKPOINT):
            self.state.save(iteration)
        self._tell(CheckpointSaved, iteration, path=self.checkpoints.path(iteration))


def _own_random() -> AbstractContextManager[None]:
    """Within it random numbers are drawn that training does not miss."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices=cuda)
