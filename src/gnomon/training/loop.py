"""THE loop: experience, micro-batches, one optimiser step per minibatch, metrics, checkpoints.

It does not know which algorithm it runs. All randomness depends on (seed, iteration), so a run that
is killed continues from its last checkpoint with the same result as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from gnomon.algorithms.base import Evaluation
from gnomon.algorithms.metric import MetricSums
from gnomon.errors import EngineError, Pending, RewardsFailedError, RunError, RunStopped
from gnomon.files import Fingerprints, damage, fingerprints
from gnomon.models.counting import TokenCounts, counting
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.runs.records import EVALS, Evals
from gnomon.runs.rows import Mark, MetricsStore, RowStore, SampleStore
from gnomon.training.learner import Learner
from gnomon.training.optim import LoopOptions
from gnomon.training.peak import Peak
from gnomon.training.progress import Progress
from gnomon.training.sinks import Sink
from gnomon.training.strategy import OneDevice, Strategy
from gnomon.training.update import Updater
from gnomon.training.watch import IdleWatch, PeakMemory, Stop

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
        progress: shows how it goes.
        sinks: further places metrics are sent to.
        stop: asked between iterations whether to stop.
        strategy: where the work is done.

    Attributes:
        watchers: look at the policy now and then; see :data:`Watcher`.
        tokens: what the finished iterations computed, evaluations left out.
    """

    def __init__(
        self,
        learner: Learner,
        options: LoopOptions,
        folder: Path,
        progress: Progress,
        sinks: Sequence[Sink] = (),
        stop: Stop | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.learner = learner
        self.options = options
        self.folder = folder
        self.progress = progress
        self.sinks = sinks
        self.stop = stop or Stop()
        self.checkpoints = CheckpointStore(folder / "checkpoints", options.keep_checkpoints)
        self.updater = Updater(learner, options, strategy or OneDevice(), self._last_saved)
        self.metrics = MetricsStore(folder / "metrics.parquet")
        self.samples = SampleStore(folder / "samples.parquet")
        self.idle = IdleWatch(learner.algorithm, options.iterations, progress.note)
        self.watchers: list[Watcher] = []
        self.peak = None if options.stop_at_peak is None else Peak(options.stop_at_peak)
        self.stopped: int | None = None
        self.evaluated = False
        self.evals: Fingerprints | None = None
        self.saved: int | None = None
        self.memory = PeakMemory()
        self.tokens = TokenCounts()

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
        return self.options.iterations if self.stopped is None else self.stopped

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
        start = self._restore() if resume else self._begin()
        try:
            done = start
            while done < self.end:  # which an iteration may bring forward
                self._or_save(done, start, self._iteration)
                done += 1
                if done % self.options.checkpoint_every == 0 and done < self.end:
                    self._checkpoint(done)
            if not self._evals_are_there():  # before the last checkpoint, so that it is done once
                self._or_save(self.end, start, self._final_evaluation)
            if self.saved != self.end:
                self._checkpoint(self.end)
            self.metrics.finish()
            self.samples.finish()
        except BaseException as error:
            self._keep_rows(error)
            raise
        finally:
            self.metrics.close()
            self.samples.close()
        return self._last_metrics()

    def _or_save(self, iteration: int, start: int, work: Callable[[int], None]) -> None:
        """Do ``work``, or save the state before it if the run has to stop, pause or give up first.

        It stops before ``work`` or in its first part, which samples and evaluates: the iteration
        has not changed the state yet. A reward or an engine that fails costs no iteration that is
        done, but where sampling ahead has given the iteration's responses away already.
        """
        try:
            self.stop.check()
            work(iteration)
        except (Pending, RunStopped, RewardsFailedError, EngineError) as pause:
            # a Ctrl-C reaches the processes of rewards and engines too, and they fail from it
            number = pause.signal if isinstance(pause, RunStopped) else self.stop.signal
            last = iteration == self.end
            again = last or self.learner.source.can_draw_again()
            if number is None and not isinstance(pause, Pending) and not again:
                raise
            if iteration > start and self.saved != iteration:
                self._checkpoint(iteration)
            if number is None or isinstance(pause, Pending):
                raise
            total = self.options.iterations
            what = f"the checkpoint of iteration {iteration} of {total} is saved"
            if self.saved is None:
                what = "before its first iteration: there was nothing to save"
            raise RunStopped(what, number or 0) from None

    # -- one iteration ----------------------------------------------------------------------------

    def _iteration(self, iteration: int) -> None:
        began = time.perf_counter()
        torch.manual_seed(self.options.seed * 1_000_003 + iteration)
        evaluation = self._evaluate(iteration)
        if self.stopped is not None:  # the peak has passed: this iteration trains nothing more
            self._record_evaluation(iteration, evaluation.metrics)
            return
        watched = self._watched(iteration)
        lr = self.updater.begin(iteration)
        self.learner.train_mode(False)
        with counting() as counts:
            experience = self.learner.experience(iteration)
            if self.learner.source.can_draw_again():
                self.stop.check()
            self.learner.train_mode(True)
            step, sums = self.step, MetricSums()
            norms: list[float] = []
            losses: list[float] = []
            tokens = 0
            for minibatch in experience.minibatches:
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
            **evaluation.metrics,
            **watched,
        }
        self.learner.end_iteration(experience, row)
        self._keep_samples(evaluation.samples, evaluation=iteration, step=step)
        self._record(iteration, row, experience.samples, seconds, tokens)
        self.tokens.add(counts)
        self.tokens.add(experience.tokens)
        self.idle.see(iteration + 1, row)

    # -- records ----------------------------------------------------------------------------------

    def _record(
        self,
        iteration: int,
        row: Mapping[str, float],
        samples: Sequence[Mapping[str, Any]],
        seconds: float,
        tokens: int,
    ) -> None:
        place = {"step": self.step, "iteration": iteration + 1}
        full: dict[str, float | int] = {
            **place,
            **row,
            **place,  # whatever a method calls its metrics
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            **self.memory.metrics(),
        }
        self.metrics.append(full)
        self.progress.update(iteration + 1, full)
        for sink in self.sinks:
            sink.log(self.step, full)
        done = iteration + 1
        ends = (1, self.options.iterations)  # the first are what later ones are compared with
        if samples and (done % self.options.sample_every == 0 or done in ends):
            self._keep_samples(samples)

    def _keep_samples(
        self,
        samples: Sequence[Mapping[str, Any]],
        *,
        evaluation: int | None = None,
        step: int | None = None,
    ) -> None:
        """Keep rows of samples.

        Args:
            evaluation: where they are of an evaluation: iterations that the policy was trained for.
            step: optimizer steps taken; None for as many as now.
        """
        at = self.step if step is None else step
        marked = {} if evaluation is None else {"evaluation": evaluation}
        rows = [{"step": at, **sample, **marked} for sample in samples]
        for row in rows:
            self.samples.append(row)
        for sink in self.sinks if rows else ():
            sink.text(at, rows)

    def _record_evaluation(self, iteration: int, found: Mapping[str, float], **more: int) -> None:
        """A row for the figures of an evaluation, where they belong to no iteration of training."""
        if found:
            self.metrics.append({"step": self.step, "iteration": iteration, **more, **found})

    def _evaluate(self, iteration: int) -> Evaluation:
        """The evaluation before an iteration, where one is due; where it shows that the peak has
        passed, the run is ``stopped`` there."""
        every, first = self.options.eval_every, self.options.eval_first and iteration == 0
        if not (first or (every and iteration % every == 0)):
            return Evaluation()
        evaluation = self._evaluated(iteration)
        if self.peak is not None and self.peak.passed:
            self.stopped = iteration
        return evaluation

    def _evaluated(self, iteration: int) -> Evaluation:
        self.learner.train_mode(False)
        evaluation = self.learner.evaluate()
        if self.peak is not None and self.peak.last != iteration:
            value = evaluation.metrics.get(f"eval/{self.peak.spec.judge}")
            self.peak.see(iteration, value, self.parameters)
        return evaluation

    def _watched(self, iteration: int, last: bool = False) -> dict[str, float]:
        """What the watchers find; they draw no random numbers that training would have drawn."""
        found: dict[str, float] = {}
        cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=cuda):
            for watcher in self.watchers:
                self.learner.train_mode(False)
                found |= watcher(iteration, self.step, last)
        return found

    def _final_evaluation(self, iteration: int) -> None:
        """Evaluate and keep the results; the rows only once, even if their file was lost."""
        torch.manual_seed(self.options.seed * 1_000_003 + iteration)
        evaluation, of = self._at_peak(iteration), iteration
        if self.peak is not None and self.peak.iteration is not None:
            of = self.peak.iteration
        if evaluation is None:
            evaluation = self._evaluated(iteration)
        Evals(dict(evaluation.details)).write(self.folder / EVALS)
        if self.evaluated:
            return
        metrics = {**evaluation.metrics, **self._watched(iteration, last=True)}
        self._record_evaluation(iteration, metrics, final=1)
        self._keep_samples(evaluation.samples, evaluation=of)
        self.evaluated = True

    def _at_peak(self, iteration: int) -> Evaluation | None:
        """Give the model the weights of the best evaluation, the one after the last iteration among
        them; that one's results, where it is the best."""
        peak = self.peak
        if peak is None:
            return None
        if peak.last != iteration:
            evaluation = self._evaluated(iteration)
            if peak.iteration == iteration:
                return evaluation
            self._record_evaluation(iteration, evaluation.metrics)
        if peak.iteration is not None:
            peak.restore(self.parameters)
        return None

    def _evals_are_there(self) -> bool:
        """Whether the final evaluation was done and its file is what was written."""
        return self.evaluated and (self.evals is None or damage(self.folder, self.evals) is None)

    def _keep_rows(self, error: BaseException) -> None:
        """Write the rows up to the error, and the samples whose rewards failed.

        A resumed run drops them again: they belong to steps after its checkpoint.
        """
        with contextlib.suppress(RunError):  # a full disk; the error itself says more
            if isinstance(error, RewardsFailedError):
                for sample in error.samples:
                    self.samples.append({"step": self.step + 1, **sample})
            self.metrics.finish()
            self.samples.finish()

    def _last_metrics(self) -> dict[str, float]:
        """The last training row and what the final evaluation added to it."""
        everything = self.metrics.rows
        self.idle.sum_up(everything)
        rows = [row for row in everything if row["iteration"] == self.end]
        merged = {k: v for row in rows for k, v in row.items() if v is not None}
        places = ("step", "iteration", "final")
        return {k: float(v) for k, v in merged.items() if k not in places}

    # -- checkpoints ------------------------------------------------------------------------------

    def _last_saved(self) -> str:
        saved = self.checkpoints.latest()
        return f"the checkpoint of iteration {saved} is intact" if saved else "no checkpoint yet"

    def _checkpoint(self, iteration: int) -> None:
        parameters = self.updater.finite(iteration)
        marks = {name: store.mark().to_dict() for name, store in self._tables.items()}
        self.checkpoints.save(
            iteration,
            parameters=parameters,
            optimizer=self.updater.optimizer,
            state={
                "algorithm_name": self.learner.name,
                "step": self.step,
                "evaluated": self.evaluated,
                "evals": fingerprints(self.folder, [EVALS]) if self.evaluated else None,
                "rows": marks,
                "algorithm": self.learner.state_dict(),
                "memory": self.memory.metrics(),
                "stopped": self.stopped,
                "peak": None if self.peak is None else self.peak.state_dict(),
                "tokens": self.tokens.to_dict(),
            },
        )
        self.saved = iteration

    @property
    def _tables(self) -> dict[str, RowStore]:
        return {"metrics": self.metrics, "samples": self.samples}

    def _begin(self) -> int:
        for store in self._tables.values():
            store.reset()
        return 0

    def _restore(self) -> int:
        iteration = self.checkpoints.latest()
        if iteration is None:
            return self._begin()
        folder = self.checkpoints.path(iteration)
        state = self.checkpoints.read(iteration).algorithm_state
        method = state.get("algorithm_name")
        if method != self.learner.name:
            raise RunError(
                f"The checkpoint {folder} is of another stage (its algorithm is {method}, not "
                f"{self.learner.name}). Put this stage's own checkpoints back, or remove "
                f"{folder.parent} to start the stage again."
            )
        for name, store in self._tables.items():
            store.restore(Mark(**state["rows"][name]))
        self.checkpoints.load(iteration, self.parameters, self.updater.optimizer)
        self.learner.load_state_dict(state["algorithm"])
        self.updater.taken = int(state["step"])
        self.evaluated, self.evals = bool(state["evaluated"]), state["evals"]
        self.saved = iteration
        self.memory.restore(state["memory"])
        self.stopped = state.get("stopped")
        if self.peak is not None and state.get("peak") is not None:
            self.peak.load_state_dict(state["peak"])
        self.tokens = TokenCounts.of(state.get("tokens", {}))  # earlier versions have none
        self.progress.resume(iteration)
        return iteration
