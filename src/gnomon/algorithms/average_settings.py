"""The settings of the ``average`` stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gnomon.algorithms.offline_settings import Settings

AVERAGE = "average"
AVERAGE_SUMMARY = "average the weights of several policies (WARP); nothing is trained"


class AverageSettings(Settings):
    """Settings of an average stage."""

    models: list[str] = Field(
        min_length=1,
        description="what to average: stages, folders, models by name, or `model` (what the recipe "
        "starts from), all of one architecture",
    )
    weights: list[float] | None = Field(
        None, description="how much each of them counts; null: all the same"
    )
    how: Literal["linear", "slerp"] = Field(
        "linear",
        description="the mean, or along the arc between their differences from `init`, one model "
        "after the other",
    )
    init: str | None = Field(None, description="what they were trained from: a name as in `models`")
    init_share: float = Field(
        0.0, ge=0, le=1, description="the share of `init` in the result, taken in at the end"
    )

    @model_validator(mode="after")
    def _one_weight_each(self) -> AverageSettings:
        twice = [name for name in self.models if self.models.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is named twice; give weights to count it more")
        if self.weights is not None:
            if len(self.weights) != len(self.models):
                raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models")
            if not all(0 < weight < float("inf") for weight in self.weights):
                raise ValueError("weights have to be above 0; leave a model out instead")
        if self.init is None and (self.how == "slerp" or self.init_share):
            raise ValueError("how: slerp and init_share need init: what the models started from")
        if self.init is not None and self.how == "linear" and not self.init_share:
            raise ValueError("init has no effect with how: linear and without init_share")
        if len(self.models) < 2 and not self.init_share:
            raise ValueError("one model is its own average: name another, or give init_share")
        return self
