"""The pairs of runs on which cures are tried: a sick recipe, and the same with a cure's overrides.

A sick run and its cures start from the same model, see the same prompts in the same order and learn
from the same labels; only the cure's settings differ. Each seed is a world of its own: its own
demonstrations, labellers, start model and held-out judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planted_plan import ALL, JUDGE, REWARD, Planned
from planted_recipes import labels_recipe, reward_model, run_recipe_of

SEEDS = (0, 1, 2)
RM, POLICY = "rm", "policy"
"""The stages that a cure's overrides may name."""

SAMPLED = {
    "steps": 30,
    "schedule": "constant",
    "rows": 96,
    "tokens": 40,
    "temperature": 1.0,
    "entropy": 0.0,
}


@dataclass(frozen=True)
class Sickness:
    """What goes wrong without a cure.

    Attributes:
        method, reward, families: as in :class:`~planted_plan.Planned`.
        settings: of the policy's stage.
    """

    method: str
    reward: str
    settings: Mapping[str, Any]
    families: tuple[str, ...] = ALL


SICKNESSES: Mapping[str, Sickness] = {
    "overoptimised": Sickness("ppo", "few-0", {**SAMPLED, "samples": 2, "lr": 4e-4, "beta": 0.0}),
    "length": Sickness("grpo", "length-1", {**SAMPLED, "samples": 6, "lr": 4e-4, "beta": 0.01}),
    "collapse": Sickness("grpo", "consensus", {**SAMPLED, "samples": 6, "lr": 7e-4, "beta": 0.0}),
    "tax": Sickness(
        "grpo", "correct", {**SAMPLED, "samples": 6, "lr": 6e-4, "beta": 0.0}, ("arithmetic",)
    ),
}


@dataclass(frozen=True)
class Cure:
    """A cure as overrides of a sick recipe; those of ``rm`` are for the reward model's stage."""

    sickness: str
    overrides: tuple[str, ...]

    def of(self, stage: str) -> list[str]:
        """The overrides of a stage."""
        return [o for o in self.overrides if o.startswith(f"{stage}.")]


MEMBERS = "rm.settings.members=4"
CURES: Mapping[str, Cure] = {
    "kl": Cure("overoptimised", ("policy.settings.beta=0.1",)),
    "adaptive_kl": Cure(
        "overoptimised",
        (
            "policy.settings.beta=0.05",
            "policy.settings.target_kl=3",
            "policy.settings.kl_horizon=500",
        ),
    ),
    "stop_at_peak": Cure(
        "overoptimised",
        (f"policy.train.stop_at_peak={{judge: {JUDGE}}}", "policy.train.eval_every=3"),
    ),
    "ensemble_mean_std": Cure(
        "overoptimised", (MEMBERS, "policy.reward.0.ensemble=mean-std")
    ),
    "ensemble_wco": Cure("overoptimised", (MEMBERS, "policy.reward.0.ensemble=wco")),
    "ensemble_uwo": Cure("overoptimised", (MEMBERS, "policy.reward.0.ensemble=uwo")),
    "length_offset": Cure("length", ("rm.settings.length_debias=offset",)),
    "length_slope": Cure("length", ("rm.settings.length_debias=slope",)),
    "collapse_kl": Cure("collapse", ("policy.settings.beta=0.1",)),
    "entropy_bonus": Cure("collapse", ("policy.settings.entropy_coef=0.05",)),
    "temperature": Cure(
        "collapse", ("policy.rollout.temperature=1.3", "policy.rollout.final_temperature=1.0")
    ),
    "averaging": Cure("tax", ("policy.train.average_with_reference=0.5",)),
    "tax_kl": Cure("tax", ("policy.settings.beta=0.1",)),
    "varied_prompts": Cure(
        "tax", (f"policy.data.options.families=[{', '.join(ALL)}]",)
    ),
}  # fmt: skip
"""Every cure that is tried, by name."""


@dataclass(frozen=True)
class Trial:
    """A run: a sickness, perhaps with a cure, at a seed."""

    sickness: str
    cure: str | None
    seed: int

    @property
    def id(self) -> str:
        """Its name, and its folder's."""
        return f"{self.sickness}-{self.cure or 'sick'}-{self.seed}"

    @property
    def planned(self) -> Planned:
        """The sick run, which is the same for all cures of a seed."""
        sick = SICKNESSES[self.sickness]
        settings = tuple(sick.settings.items())
        return Planned(
            self.sickness, "test", self.seed, self.seed, sick.method, sick.reward, "",
            sick.families, (0.1, 0.5), settings,
        )  # fmt: skip

    def overrides(self, stage: str) -> list[str]:
        """The cure's overrides of a stage; none without a cure."""
        return [] if self.cure is None else CURES[self.cure].of(stage)

    @property
    def labels(self) -> str | None:
        """The name of the reward model's recipe: cures of the reward model have one of their own,
        which those with the same overrides share."""
        if self.planned.labels is None:
            return None
        changes = "".join(f"-{o.rsplit('.', 1)[-1].replace('=', '-')}" for o in self.overrides(RM))
        return f"world-{self.seed}-{self.planned.labels}{changes}"


def trials() -> list[Trial]:
    """Every run, sick ones before the cured ones of a seed."""
    made = []
    for sickness in SICKNESSES:
        cures = [None, *(name for name, cure in CURES.items() if cure.sickness == sickness)]
        made += [Trial(sickness, cure, seed) for seed in SEEDS for cure in cures]
    return made


def recipe_of(trial: Trial, out: Path) -> dict[str, Any]:
    """The recipe of a trial's policy, before the cure's overrides."""
    plain = run_recipe_of(trial.planned, out)
    plain["name"] = trial.id
    del plain["compare"]  # the truth is measured afterwards
    (stage,) = plain["stages"]
    stage["probes"] = 0
    stage["train"] |= {"eval_every": 0, "sample_every": 10}
    for reward in stage["reward"]:
        if reward["name"] == REWARD and "model" in reward:
            reward["model"] = str(labels_folder(trial, out) / "stages" / "02-rm" / "model")
    return plain


def labels_folder(trial: Trial, out: Path) -> Path:
    """The run that made the trial's reward model."""
    assert trial.labels is not None
    return out / "shared" / trial.labels


def labels_recipe_of(trial: Trial, out: Path) -> dict[str, Any]:
    """The recipe of the trial's reward model, before the cure's overrides."""
    name = trial.planned.labels
    assert name is not None
    return labels_recipe(trial.seed, name, out) | {"name": trial.labels}


def judge_folder(seed: int, out: Path) -> Path:
    """The held-out judge's model."""
    return reward_model(seed, JUDGE, out)
