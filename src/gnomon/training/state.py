"""How far a run is, beyond its weights, and what its checkpoints hold."""

from __future__ import annotations

from pathlib import Path

from gnomon.errors import RunError
from gnomon.files import Fingerprints, damage, fingerprints
from gnomon.models.counting import TokenCounts
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.runs.records import EVALS
from gnomon.training.kept import Kept
from gnomon.training.learner import Learner
from gnomon.training.peak import Peak
from gnomon.training.update import Updater


class TrainState:
    """What a run that is killed goes on from.

    Args:
        learner, updater: what is trained, and its weights.
        kept: the rows so far.
        checkpoints: where it is saved.
        folder: the stage's, where evaluations are kept.
        peak: the best evaluation so far, where the run stops at it.

    Attributes:
        stopped: the iteration after which the run ended early, or None.
        evaluated, evals: whether the last evaluation is done, and fingerprints of its file.
        saved: the iteration of the newest checkpoint that holds all of this.
        tokens: what the finished iterations computed, evaluations left out.
    """

    def __init__(
        self,
        learner: Learner,
        updater: Updater,
        kept: Kept,
        checkpoints: CheckpointStore,
        folder: Path,
        peak: Peak | None = None,
    ) -> None:
        self.learner = learner
        self.updater = updater
        self.kept = kept
        self.checkpoints = checkpoints
        self.folder = folder
        self.peak = peak
        self.ranks = updater.strategy.ranks
        self.stopped: int | None = None
        self.evaluated = False
        self.evals: Fingerprints | None = None
        self.saved: int | None = None
        self.tokens = TokenCounts()

    def begin(self) -> int:
        """Begin anew, at iteration 0."""
        self.kept.reset()
        return 0

    def save(self, iteration: int) -> None:
        """Write a checkpoint of the state after ``iteration``.

        Raises:
            RunError: the weights are not finite, or the disk is full.
        """
        parameters = self.updater.finite(iteration)
        self.checkpoints.save(
            iteration,
            parameters=parameters,
            optimizer=self.updater.optimizer,
            state={
                "algorithm_name": self.learner.name,
                "precision": self.learner.precision,
                "step": self.updater.taken,
                "evaluated": self.evaluated,
                "evals": fingerprints(self.folder, [EVALS]) if self.evaluated else None,
                "rows": self.kept.marks(),
                "algorithm": self.learner.state_dict(),
                "memory": self.kept.memory.metrics(),
                "stopped": self.stopped,
                "peak": None if self.peak is None else self.peak.state_dict(),
                "tokens": self.tokens.to_dict(),
            },
        )
        self.saved = iteration

    def restore(self) -> int:
        """Go back to the newest checkpoint, if there is one, and return its iteration.

        Raises:
            RunError: it is of another stage, of another precision, or does not fit.
        """
        iteration = self.checkpoints.latest()
        if iteration is None:
            return self.begin()
        folder = self.checkpoints.path(iteration)
        checkpoint = self.checkpoints.read(iteration, spread=True)
        state = checkpoint.algorithm_state
        method = state.get("algorithm_name")
        if method != self.learner.name:
            raise RunError(
                f"The checkpoint {folder} is of another stage (its algorithm is {method}, not "
                f"{self.learner.name}). Put this stage's own checkpoints back, or remove "
                f"{folder.parent} to start the stage again."
            )
        self._check_precision(folder, state.get("precision"))
        if self.ranks.rank:
            self.kept.reset()
        else:
            self.kept.restore(state["rows"])
        self.checkpoints.put(checkpoint, self.updater.parameters, self.updater.optimizer)
        self.learner.load_state_dict(state["algorithm"])
        self.updater.taken = int(state["step"])
        self.evaluated, self.evals = bool(state["evaluated"]), state["evals"]
        self.saved = iteration
        self.kept.memory.restore(state["memory"])
        self.stopped = state.get("stopped")
        if self.peak is not None and state.get("peak") is not None:
            self.peak.load_state_dict(state["peak"])
        self.tokens = TokenCounts.of(state.get("tokens", {}))  # earlier versions have none
        return iteration

    def evals_are_there(self) -> bool:
        """Whether the final evaluation was done and its file is what was written."""

        def there() -> bool:
            return self.evals is None or damage(self.folder, self.evals) is None

        return self.evaluated and self.ranks.first(there)

    def _check_precision(self, folder: Path, before: str | None) -> None:
        """Refuse to go on in another arithmetic; checkpoints of earlier versions say none."""
        now = self.learner.precision
        if before is not None and before != now:
            raise RunError(
                f"The checkpoint {folder} was saved in precision {before}, and this run computes "
                f"in {now} (precision: auto is what the device can do). Go on where it was saved, "
                f"with the same recipe, or start again under another name (name=... "
                f"precision={now})."
            )
