"""Settings of the ``collect`` stage, which a recipe names where an algorithm is named."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gnomon.algorithms.offline_settings import Settings

COLLECT = "collect"
"""The name of this stage in a recipe."""
COLLECT_SUMMARY = "sample responses and have a judge rank them"


class LabellerSpec(Settings):
    """A simulated labeller of the tunnel; see ``gnomon.tasks.tunnel.labellers.Labeller``."""

    name: str = Field("labeller", description="labellers of different names draw different noise")
    noise: float = Field(
        0.2, ge=0, description="temperature of the choice, in units of gold reward; 0 is exact"
    )
    careless: float = Field(
        0.0, ge=0, le=1, description="chance that a whole group is ranked at random"
    )
    inattention: float = Field(
        0.0, ge=0, le=1, description="chance that correctness is not checked"
    )
    length_bias: float = Field(0.0, description="utility per ten words")
    politeness_bias: float = Field(0.0, description="utility per polite or flattering sentence")
    sycophancy: float = Field(
        0.0, description="utility for agreeing with what the user said they believe"
    )
    tie_margin: float = Field(
        0.0, ge=0, description="responses closer than this in noisy utility tie"
    )


class CollectSettings(Settings):
    """Settings of a collect stage."""

    labellers: list[LabellerSpec] = Field(
        default_factory=list,
        description="simulated labellers, taking turns; else the reward judges",
    )
    tie_margin: float = Field(0.0, ge=0, description="rewards closer than this are ties")
    keep: Literal["all", "best-worst", "best"] = Field(
        "all",
        description="every distinct response; only the best and the worst; or only the best that "
        "ended by itself, as a demonstration (rejection sampling)",
    )
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="with keep: best, the lowest reward that is kept; prompts without one are left "
        "out",
    )
    chunk: int = Field(64, ge=1, description="prompts between two saves")

    @model_validator(mode="after")
    def _threshold_is_used(self) -> CollectSettings:
        if self.threshold is not None and self.keep != "best":
            raise ValueError(f"threshold goes only with keep: best (keep is {self.keep})")
        if self.threshold is not None and self.labellers:
            raise ValueError("threshold is of a reward, and labellers give none: remove one")
        return self
