"""Early stopping at a held-out judge's peak: the best evaluation's weights, kept while training
goes on.

A policy that is trained on a proxy gets better by other judges at first and worse later (Gao et al.
2023, "Scaling laws for reward model overoptimization", arXiv:2210.10760). Which evaluation is best
is decided by means over the held-out prompts, the same ones with the same random numbers each time;
the best of several such means is too high by chance, so its value is no estimate of quality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnomon.models.sharded import assign
from gnomon.recipe.training import PeakSpec


class Peak:
    """The best evaluation so far.

    Attributes:
        spec: whose peak, and how many evaluations without a new best are waited for.
        iteration: after how many iterations it was; None before the first evaluation.
        value: the judge's mean there.
        last: the iterations of the evaluation seen last.
        waited: evaluations since the best one.
    """

    def __init__(self, spec: PeakSpec) -> None:
        self.spec = spec
        self.iteration: int | None = None
        self.value = math.nan
        self.last: int | None = None
        self.waited = 0
        self._weights: dict[str, Tensor] = {}

    def see(self, iteration: int, value: float | None, parameters: Mapping[str, Tensor]) -> None:
        """Count an evaluation in, and keep the weights if it is the best; without a value (the
        judge failed on all of it) it is none."""
        self.last = iteration
        value = -math.inf if value is None or math.isnan(value) else value
        if value > (-math.inf if self.iteration is None else self.value):
            self.iteration, self.value, self.waited = iteration, value, 0
            self._weights = {n: p.detach().cpu().clone() for n, p in parameters.items()}
        else:
            self.waited += 1

    @property
    def passed(self) -> bool:
        """Whether it has been waited long enough for a new best."""
        return self.iteration is not None and self.waited >= self.spec.patience

    @torch.no_grad()
    def restore(self, parameters: Mapping[str, Tensor]) -> None:
        """Give the parameters the best evaluation's weights."""
        for name, parameter in parameters.items():
            assign(parameter, self._weights[name])

    def summary(self, end: int) -> dict[str, Any]:
        """For stage.json; ``end`` is how many iterations were trained."""
        return {
            "judge": self.spec.judge,
            "value": self.value,
            "iteration": self.iteration,
            "trained_until": end,
        }

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        keys = ("iteration", "value", "last", "waited")
        return {key: getattr(self, key) for key in keys} | {"weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for key in ("iteration", "value", "last", "waited"):
            setattr(self, key, state[key])
        self._weights = dict(state["weights"])
