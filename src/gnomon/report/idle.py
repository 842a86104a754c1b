"""Stages that trained nothing, for the reader who would take their model for a trained one."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.runs.read import StageView


@dataclass(frozen=True, slots=True)
class Idle:
    """Iterations whose gradient was 0.

    Attributes:
        count: how many, ``of`` how many.
        why: the reason of the last, with its cure; empty where no record says.
    """

    count: int
    of: int
    why: str

    @property
    def whole(self) -> bool:
        """Whether the stage's model is the one that it started from."""
        return self.count >= self.of

    @property
    def sentence(self) -> str:
        """What follows ``Stage NAME``."""
        if self.whole:
            times = "its only iteration" if self.of == 1 else f"any of its {self.of} iterations"
            said, end = f"trained nothing in {times}", " Its model is the one that it started from."
        else:
            said, end = f"trained nothing in {self.count} of its {self.of} iterations", ""
        return f"{said}{': ' + self.why.rstrip('.') if self.why else ''}.{end}"


def idle(stage: StageView) -> Idle | None:
    """The iterations that trained nothing; None without any. Of a stage that has not come to its
    end, or of another trainer's, by its gradients."""
    _, norms = stage.series("grad_norm")
    counted = int((norms == 0).sum())
    count = stage.info.idle_iterations or counted
    total = stage.info.iterations or stage.info.planned_iterations or norms.size
    return Idle(count, total, stage.info.idle_reason) if count and total else None
