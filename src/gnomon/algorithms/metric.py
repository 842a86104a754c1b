"""A metric of a micro-batch: a tensor that stays on its device until the iteration is logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "max"]


@dataclass(frozen=True)
class Metric:
    """A value and how those of several micro-batches become one.

    Attributes:
        total: 0-dim; of "mean" the weighted sum, else the sum or the maximum itself.
        weight: 0-dim; what ``total`` is divided by in a mean. A weight of 0 counts nothing.
        reduce: "mean" by weight, "sum", or "max".
    """

    total: Tensor
    weight: Tensor
    reduce: Reduction = "mean"


def mean(values: Tensor, weight: Tensor | None = None) -> Metric:
    """The mean of a tensor's values, each counted by ``weight`` (of the same shape; 1 if None)."""
    values = values.detach().float()
    if weight is None:
        count = values.new_full((), values.numel(), dtype=torch.float64)
        return Metric(values.sum().double(), count)
    weight = weight.to(values.dtype)
    return Metric((values * weight).sum().double(), weight.sum().double())


def ratio(total: Tensor, weight: float) -> Metric:
    """A sum over something counted elsewhere (nats over responses, say)."""
    total = total.detach().double()
    return Metric(total, total.new_full((), weight))


def largest(values: Tensor, mask: Tensor) -> Metric:
    """The maximum of the values where ``mask`` is True; it counts nothing where none is."""
    top = values.detach().masked_fill(~mask, float("-inf")).max()
    return Metric(top.double(), mask.any().double(), "max")


class MetricSums:
    """Metrics of an iteration's micro-batches, added up where they are; read out once."""

    def __init__(self) -> None:
        self._kept: dict[str, Metric] = {}

    def add(self, metrics: Mapping[str, Metric]) -> None:
        """Count a micro-batch in."""
        for name, new in metrics.items():
            old = self._kept.get(name)
            if old is None:
                self._kept[name] = new
            elif new.reduce == "max":
                top = torch.maximum(old.total, new.total)
                self._kept[name] = Metric(top, old.weight + new.weight, "max")
            else:
                total, weight = old.total + new.total, old.weight + new.weight
                self._kept[name] = Metric(total, weight, new.reduce)

    def merge(self, other: MetricSums) -> None:
        """Count in what another process has added up."""
        self.add(other._kept)

    def values(self) -> dict[str, float]:
        """Each metric that anything was counted in, as a number: one transfer for all of them."""
        if not self._kept:
            return {}
        kept = self._kept.values()
        both = torch.stack([*(m.total for m in kept), *(m.weight for m in kept)]).tolist()
        pairs = zip(both[: len(both) // 2], both[len(both) // 2 :], strict=True)
        return {
            name: total / weight if metric.reduce == "mean" else total
            for (name, metric), (total, weight) in zip(self._kept.items(), pairs, strict=True)
            if weight
        }
