"""The pairs of runs on which cures are tried: a sick recipe, and the same with a cure's overrides
or stages.

A sick run and its cures start from the same model, see the same prompts and learn from the same
labels; only the cure's settings, or the stages that it adds, differ. Each seed is a world of its
own: its own demonstrations, labellers, start model and held-out judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planted_plan import ALL, JUDGE, LABELS, Planned

SEEDS = (0, 1, 2)
FRESH = (8, 9, 10)
"""Seeds of the cures whose settings were chosen after the first ones' results had been seen."""
FRESHEST = (11, 12, 13)
"""Those of a third round, whose sicknesses and settings were tried out on the seeds before."""
FOURTH = (20, 21, 22)
"""Those of a fourth round, of what the rounds before suggest; some of it was tried at seed 12."""
FEEDBACK, RM, POLICY = "feedback", "rm", "policy"
"""The stages that a cure's overrides may name: the first two make the reward model."""

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
    """What goes wrong without a cure, and the figure that shows it.

    Attributes:
        method, reward, families: as in :class:`~planted_plan.Planned`; or the method is ``sft``.
        settings: of the policy's stage; ``prompts`` is how many different ones it has.
        data: of a stage of ``sft``, by tunnel source.
        beliefs: how many prompts state a belief, and how many of those a wrong one, shares; where
            no labeller's recipe says it.
        measured: the figure that a cure must raise, of :data:`~cures_measures.MEASURES`.
        beside: another figure, by which a cure may do harm.
        enough: what the figure should be: the sick run is sick where it is shown to be below; None:
            where it is shown to have fallen below its start's.
    """

    method: str
    reward: str
    settings: Mapping[str, Any]
    families: tuple[str, ...] = ALL
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    beliefs: tuple[float, float] = (0.1, 0.5)
    measured: str = "gold"
    beside: str = JUDGE
    enough: float | None = None


PLEASED = "pleased"
"""A rater who likes to be agreed with, of ``cures_measures.py``."""
SFT = {"steps": 60, "lr": 1e-3, "tokens": 40}
FEW_PROMPTS = {**SAMPLED, "samples": 6, "lr": 1e-3, "beta": 0.0, "steps": 45, "prompts": 4}
SICKNESSES: Mapping[str, Sickness] = {
    "overoptimised": Sickness("ppo", "few-0", {**SAMPLED, "samples": 2, "lr": 4e-4, "beta": 0.0}),
    "far": Sickness(
        "ppo", "few-0", {**SAMPLED, "samples": 2, "lr": 6e-4, "beta": 0.0, "steps": 60}
    ),
    "length": Sickness("grpo", "length-1", {**SAMPLED, "samples": 6, "lr": 4e-4, "beta": 0.01}),
    "collapse": Sickness(
        "grpo", "consensus", {**SAMPLED, "samples": 6, "lr": 7e-4, "beta": 0.0},
        measured="varied", beside="gold",
    ),
    "tax": Sickness(
        "ppo", "correct", {**SAMPLED, "samples": 4, "lr": 1.5e-3, "beta": 0.0}, ("arithmetic",),
        measured="others", beside="gold",
    ),
    "taxed": Sickness(
        "ppo", "correct", {**SAMPLED, "samples": 4, "lr": 2e-3, "beta": 0.0, "steps": 45},
        ("arithmetic",), measured="others", beside="gold",
    ),
    "few_prompts": Sickness("grpo", "correct", FEW_PROMPTS),
    "by_heart": Sickness("grpo", "correct", FEW_PROMPTS, measured="right", beside="gold"),
    "forgetting": Sickness(
        "sft", "", SFT, ("arithmetic",),
        {"demonstrations": {"n": 2000, "seed": 11, "families": ["arithmetic"], "correct": 0.95}},
        measured="others", beside="gold",
    ),
    "sycophancy": Sickness(
        "grpo", PLEASED,
        {**SAMPLED, "samples": 6, "rows": 48, "tokens": 32, "lr": 6e-4, "beta": 0.0},
        ("arithmetic", "lists"), beliefs=(0.8, 0.8), measured="kept", beside="gold",
    ),
    "making_up": Sickness(
        "sft", "", SFT, ALL, {"demonstrations": {"n": 2000, "seed": 12, "correct": 0.95}},
        measured="honest", beside="right", enough=0.5,
    ),
    "jailbreaks": Sickness(
        "sft", "", {**SFT, "steps": 100}, ALL,
        {
            "demonstrations": {"n": 1500, "seed": 13, "correct": 0.95},
            "request-demonstrations": {"n": 1500, "seed": 13},
        },
        measured="refused", beside="answered", enough=0.9,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cure:
    """A cure of a sickness.

    Attributes:
        overrides: of the sick recipe; those of ``feedback`` and ``rm`` are for the reward model's.
            ``$rm`` is the folder of the reward model.
        stages: the name of what is done in more stages (:data:`cures_recipes.STAGES`).
        words: what those stages are.
        seeds: whose worlds it is judged in.
    """

    sickness: str
    overrides: tuple[str, ...] = ()
    stages: str = ""
    words: str = ""
    seeds: tuple[int, ...] = SEEDS

    def of(self, *stages: str) -> list[str]:
        """The overrides of some stages."""
        return [o for o in self.overrides if o.partition(".")[0] in stages]


MEMBERS = "rm.settings.members=4"
APART = (MEMBERS, "rm.settings.share_trunk=false", "rm.settings.member_fraction=0.5")
STOP = (f"policy.train.stop_at_peak={{judge: {JUDGE}}}", "policy.train.eval_every=3")
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
    "stop_at_peak": Cure("overoptimised", STOP),
    "stop_and_kl": Cure("overoptimised", ("policy.settings.beta=0.02", *STOP)),
    "ensemble_mean_std": Cure("overoptimised", (MEMBERS, "policy.reward.0.ensemble=mean-std")),
    "ensemble_wco": Cure("overoptimised", (MEMBERS, "policy.reward.0.ensemble=wco")),
    "ensemble_uwo": Cure("overoptimised", (MEMBERS, "policy.reward.0.ensemble=uwo")),
    "ensemble_apart": Cure(
        "overoptimised",
        (*APART, "policy.reward.0.ensemble=mean-std", "policy.reward.0.std_coef=2"),
    ),
    "wco_apart": Cure("overoptimised", (*APART, "policy.reward.0.ensemble=wco"), seeds=FRESH),
    "uwo_apart": Cure(
        "overoptimised",
        (*APART, "policy.reward.0.ensemble=uwo", "policy.reward.0.std_coef=2"),
        seeds=FRESH,
    ),
    "mean_std_again": Cure(
        "overoptimised",
        (*APART, "policy.reward.0.ensemble=mean-std", "policy.reward.0.std_coef=2"),
        seeds=FRESHEST,
    ),
    "wco_again": Cure("overoptimised", (*APART, "policy.reward.0.ensemble=wco"), seeds=FRESHEST),
    "uwo_again": Cure(
        "overoptimised",
        (*APART, "policy.reward.0.ensemble=uwo", "policy.reward.0.std_coef=2"),
        seeds=FRESHEST,
    ),
    "stop_by_verifier": Cure(
        "overoptimised",
        (
            "policy.observe=[{builtin: correct, name: verifier}]",
            "policy.train.stop_at_peak={judge: verifier}",
            "policy.train.eval_every=3",
        ),
        seeds=FRESHEST,
    ),
    "more_labels": Cure("overoptimised", ("feedback.data.options.n=144",)),
    "rounds": Cure(
        "overoptimised",
        stages="rounds",
        words="three rounds of 10 iterations; after each, `collect` 48 prompts from the policy and "
        "`reward_model` on all labels",
    ),
    "far_mean_std": Cure(
        "far",
        (*APART, "policy.reward.0.ensemble=mean-std", "policy.reward.0.std_coef=2"),
        seeds=FOURTH,
    ),
    "far_wco": Cure("far", (*APART, "policy.reward.0.ensemble=wco"), seeds=FOURTH),
    "far_uwo": Cure(
        "far",
        (*APART, "policy.reward.0.ensemble=uwo", "policy.reward.0.std_coef=2"),
        seeds=FOURTH,
    ),
    "far_kl": Cure("far", ("policy.settings.beta=0.1",), seeds=FOURTH),
    "far_mixture": Cure(
        "far",
        (
            "policy.settings.beta=0.1",
            "policy.settings.base_share=0.3",
            "policy.settings.base_model=tunnel",
        ),
        seeds=FOURTH,
    ),
    "length_offset": Cure("length", ("rm.settings.length_debias=offset",)),
    "length_slope": Cure("length", ("rm.settings.length_debias=slope",)),
    "length_penalty": Cure(
        "length",
        (
            "policy.reward=[{model: $rm, name: trained}, {builtin: length, weight: 4, "
            "options: {unit: words, high: 12, ramp: 12}}]",
        ),
    ),
    "collapse_kl": Cure("collapse", ("policy.settings.beta=0.1",)),
    "entropy_bonus": Cure("collapse", ("policy.settings.entropy_coef=0.05",)),
    "temperature": Cure(
        "collapse", ("policy.rollout.temperature=1.3", "policy.rollout.final_temperature=1.0")
    ),
    "temperature_high": Cure("collapse", ("policy.rollout.temperature=1.5",), seeds=FRESHEST),
    "temperature_low": Cure("collapse", ("policy.rollout.temperature=0.7",), seeds=FOURTH),
    "temperature_rising": Cure(
        "collapse",
        ("policy.rollout.temperature=0.7", "policy.rollout.final_temperature=1.0"),
        seeds=FOURTH,
    ),
    "averaging": Cure("tax", ("policy.train.average_with_reference=0.5",)),
    "tax_kl": Cure("tax", ("policy.settings.beta=0.1",)),
    "varied_prompts": Cure("tax", (f"policy.data.options.families=[{', '.join(ALL)}]",)),
    "ptx": Cure(
        "tax",
        (
            'policy.pretraining={path: "tunnel:text", options: {n: 3000, seed: 14}}',
            "policy.settings.pretraining_coef=1",
        ),
    ),
    "tax_kl_strong": Cure("tax", ("policy.settings.beta=0.3",), seeds=FRESH),
    "tax_mixture": Cure(
        "tax",
        (
            "policy.settings.beta=0.3",
            "policy.settings.base_share=0.3",
            "policy.settings.base_model=tunnel",
        ),
        seeds=FRESH,
    ),
    "ptx_strong": Cure(
        "tax",
        (
            'policy.pretraining={path: "tunnel:text", options: {n: 3000, seed: 14}}',
            "policy.settings.pretraining_coef=10",
        ),
        seeds=FRESH,
    ),
    "taxed_kl": Cure("taxed", ("policy.settings.beta=0.1",), seeds=FRESHEST),
    "taxed_mixture": Cure(
        "taxed",
        (
            "policy.settings.beta=0.1",
            "policy.settings.kl_in=loss",
            "policy.settings.base_share=0.3",
            "policy.settings.base_model=tunnel",
        ),
        seeds=FRESHEST,
    ),
    "taxed_prompts": Cure(
        "taxed", (f"policy.data.options.families=[{', '.join(ALL)}]",), seeds=FRESHEST
    ),
    "taxed_ptx": Cure(
        "taxed",
        (
            'policy.pretraining={path: "tunnel:text", options: {n: 3000, seed: 14}}',
            "policy.settings.pretraining_coef=1",
            "policy.settings.pretraining_batch=32",
        ),
        seeds=FRESHEST,
    ),
    "taxed_own_answers": Cure(
        "taxed",
        stages="own_answers",
        words="`collect` the start's best answers to 800 prompts of the other families; they are "
        "`pretraining`, with `pretraining_coef=1` and `pretraining_batch=32`",
        seeds=FRESHEST,
    ),
    "many_prompts": Cure("few_prompts", ("policy.data.options.n=3000",), seeds=FRESHEST),
    "prompts_by_heart": Cure("by_heart", ("policy.data.options.n=3000",), seeds=FOURTH),
    "own_answers": Cure(
        "forgetting",
        stages="own_answers",
        words="`collect` the start's best answers to 800 prompts of the other families; they are "
        "among the `data`",
        seeds=FRESHEST,
    ),
    "sft_mixing": Cure(
        "forgetting",
        (
            'policy.data=[{path: "tunnel:demonstrations", options: {n: 2000, seed: 11, families: '
            '[arithmetic], correct: 0.95}}, {path: "tunnel:demonstrations", options: {n: 500, '
            "seed: 15, correct: 0.95}}]",
        ),
    ),
    "sft_mixing_even": Cure(
        "forgetting",
        (
            'policy.data=[{path: "tunnel:demonstrations", options: {n: 2000, seed: 11, families: '
            '[arithmetic], correct: 0.95}}, {path: "tunnel:demonstrations", options: {n: 2000, '
            "seed: 15, correct: 0.95}}]",
        ),
        seeds=FRESH,
    ),
    "replay": Cure(
        "forgetting",
        (
            'policy.pretraining={path: "tunnel:text", options: {n: 3000, seed: 14}}',
            "policy.settings.pretraining_coef=1",
        ),
    ),
    "sft_averaging": Cure("forgetting", ("policy.train.average_with_reference=0.5",)),
    "opinions": Cure(
        "sycophancy",
        stages="opinions",
        words="then `grpo` on `tunnel:prompts` with a wrong belief in each and `reward: correct`, "
        "10 iterations",
    ),
    "honesty_data": Cure(
        "making_up",
        (
            'policy.data=[{path: "tunnel:demonstrations", options: {n: 2000, seed: 12, correct: '
            '0.95}}, {path: "tunnel:honesty-demonstrations", options: {n: 1000, seed: 16}}]',
        ),
    ),
    "red_team": Cure(
        "jailbreaks",
        stages="red_team",
        words="then a red-team round: `collect` answers to attacks, `dpo` to the safe ones",
    ),
}
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
    def sick(self) -> Sickness:
        return SICKNESSES[self.sickness]

    @property
    def without_cure(self) -> Trial:
        """The sick run that it is compared with."""
        return Trial(self.sickness, None, self.seed)

    @property
    def planned(self) -> Planned:
        """The sick run, which is the same for all cures of a seed."""
        sick = self.sick
        beliefs = LABELS[sick.reward].beliefs if sick.reward in LABELS else sick.beliefs
        return Planned(
            self.sickness, "test", self.seed, self.seed, sick.method, sick.reward, "",
            sick.families, beliefs, tuple(sick.settings.items()),
        )  # fmt: skip

    @property
    def stages(self) -> str:
        """What is done in stages of its own; empty without any."""
        return CURES[self.cure].stages if self.cure else ""

    def overrides(self, *stages: str) -> list[str]:
        """The cure's overrides of some stages; none without a cure."""
        return [] if self.cure is None else CURES[self.cure].of(*stages)

    @property
    def labels(self) -> str | None:
        """The name of the reward model's recipe: cures of the reward model have one of their own,
        which those with the same overrides share."""
        if self.planned.labels is None:
            return None
        name = f"world-{self.seed}-{self.planned.labels}"
        for override in self.overrides(FEEDBACK, RM):
            key, _, value = override.partition("=")
            name += f"-{key.rpartition('.')[2]}-{value}"
        return name


def trials() -> list[Trial]:
    """Every run, sick ones before the cured ones of a seed."""
    made = []
    for sickness in SICKNESSES:
        own = {name: cure for name, cure in CURES.items() if cure.sickness == sickness}
        for seed in sorted({seed for cure in own.values() for seed in cure.seeds}):
            tried = [name for name, cure in own.items() if seed in cure.seeds]
            made += [Trial(sickness, cure, seed) for cure in (None, *tried)]
    return made
