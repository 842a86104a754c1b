"""Where the work of a step is done: what one device, or many, do with gradients and counts.

Every process holds all groups of a step; only forward passes are shared. So normalisers and metrics
are counted first and then added up over processes, and the loss divided by them is the same however
many there are. One device adds nothing up.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gnomon.algorithms.metric import MetricSums
from gnomon.losses.reduce import Totals


class Strategy(Protocol):
    """What the loop asks of the devices it runs on."""

    def total(self, counted: Totals) -> Totals:
        """The step's normalisers over all processes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to the parameters'."""
        ...

    def figures(self, metrics: MetricSums) -> dict[str, float]:
        """Metrics over all processes, as numbers."""
        ...

    def agree(self, problem: str | None) -> str | None:
        """The first problem that any process has: all stop together."""
        ...


class OneDevice:
    """Everything on this device."""

    def total(self, counted: Totals) -> Totals:
        return counted

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def figures(self, metrics: MetricSums) -> dict[str, float]:
        return metrics.values()

    def agree(self, problem: str | None) -> str | None:
        return problem
