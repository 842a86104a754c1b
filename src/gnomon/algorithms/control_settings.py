"""The settings of the ``control`` stage. Nothing here needs torch or Gymnasium."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from gnomon.algorithms.offline_settings import Settings
from gnomon.recipe.spec import Spec

CONTROL = "control"
CONTROL_SUMMARY = "learn a Gymnasium control task from comparisons of clips (Christiano 2017)"


class ClipLabellerSpec(Spec):
    """Who compares two clips."""

    kind: Literal["simulated", "people"] = Field(
        "simulated",
        description="a program that knows the true reward, or people in the labelling app",
    )
    rationality: float = Field(
        1.0,
        gt=0,
        description="simulated: log-odds that one more unit of true return over a clip gives "
        "(Boltzmann)",
    )
    error: float = Field(
        0.1, ge=0, le=1, description="simulated: share of answers given by the toss of a coin"
    )
    seconds: float = Field(
        5.0, ge=0, description="simulated: what an answer is booked at, as a person's time"
    )


class ControlSettings(Settings):
    """Settings of a control stage."""

    environment: str = Field(description="a Gymnasium environment by its id, as in `Pendulum-v1`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of `gymnasium.make`"
    )
    end_penalty: float | None = Field(
        None,
        ge=0,
        description="what a step costs after which the environment would have ended the episode, "
        "which goes on to its limit; null: an environment that ends an episode is refused",
    )
    task: str = Field(
        "Which clip does what it should, or comes closer to it?",
        description="what who compares two clips is told",
    )
    reward: Literal["comparisons", "truth", "random"] = Field(
        "comparisons",
        description="what is trained on: a reward learned from comparisons, the environment's own, "
        "or noise (which must not do)",
    )
    episodes: int = Field(40, ge=2, description="episodes in all")
    first_episodes: int = Field(5, ge=1, description="of them, played at random before training")
    round_episodes: int = Field(
        5, ge=1, description="episodes of a round; comparisons are asked for between rounds"
    )
    comparisons: int = Field(700, ge=8, description="comparisons in all")
    first_comparisons: float = Field(
        0.25, gt=0, le=1, description="the share asked about random play; then fewer every round"
    )
    clip_steps: int = Field(25, ge=1, description="steps of a clip")
    candidates: int = Field(
        10, ge=1, description="pairs drawn for each that is asked about; 1: no choice"
    )
    members: int = Field(3, ge=1, description="reward nets")
    assumed_error: float = Field(
        0.1, ge=0, lt=1, description="share of answers that the fit takes for the toss of a coin"
    )
    fit_updates: int = Field(200, ge=1, description="updates of the reward nets in a round")
    labeller: ClipLabellerSpec = Field(
        default_factory=ClipLabellerSpec, description="who compares the clips"
    )
    store: str | None = Field(
        None, description="where comparisons are kept (a file beside the recipe, or a "
        "postgresql:// URL); null: `labels.db` in the stage's folder"
    )  # fmt: skip
    learner: Literal["sac", "td3"] = Field(
        "sac",
        description="the policy's algorithm, of stable-baselines3; an update of TD3 takes half the "
        "time, and it needs more of them",
    )
    lr: float = Field(1e-3, gt=0, description="learning rate of the policy and its critics")
    gamma: float = Field(0.99, gt=0, lt=1, description="discount")
    hidden: int = Field(64, ge=1, description="width of the policy's two hidden layers")
    noise: float | None = Field(
        None,
        ge=0,
        description="td3: standard deviation of what is added to actions (-1 to 1); null is 0.1",
    )
    batch_size: int = Field(128, ge=1, description="transitions of an update")
    eval_episodes: int = Field(20, ge=2, description="episodes that the finished policy plays")
    against: str | None = Field(
        None, description="an earlier control stage, trained on the true reward: how much of its "
        "gain over the better of random play and no action is reached"
    )  # fmt: skip

    @model_validator(mode="after")
    def _combinations(self) -> ControlSettings:
        if self.first_episodes >= self.episodes:
            raise ValueError(
                f"first_episodes ({self.first_episodes}) leave nothing of {self.episodes} episodes "
                "to train on"
            )
        used = self.model_fields_set & {
            *("comparisons", "first_comparisons", "clip_steps", "candidates", "members"),
            *("assumed_error", "fit_updates", "labeller", "store", "task"),
        }
        if self.reward != "comparisons" and used:
            raise ValueError(
                f"reward: {self.reward} asks for no comparisons: remove {', '.join(sorted(used))}"
            )
        if self.learner == "sac" and self.noise is not None:
            raise ValueError("noise is td3's; sac draws its actions by itself: remove it")
        if self.candidates > 1 and self.members < 2:
            raise ValueError(
                "one reward net disagrees with nobody: set candidates: 1, or members: 2"
            )
        if self.labeller.kind == "people":
            simulated = self.labeller.model_fields_set - {"kind"}
            if simulated:
                raise ValueError(
                    f"people answer as they do: remove {', '.join(sorted(simulated))} from labeller"
                )
        return self

    @property
    def rounds(self) -> int:
        """Rounds of training, the last of which may be shorter."""
        return -(-(self.episodes - self.first_episodes) // self.round_episodes)
