"""Where the field's settings lie: one table, and what a stage has outside of it.

A setting outside is no mistake: the built-in world's recipes train a model of a million numbers
with two answers to a prompt. Whoever means it lists the key in the stage's ``on_purpose``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean

GROUPED = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "gmpo", "dppo", "maxrl")
"""Policy gradients whose baseline is the mean of a prompt's own answers."""
REINFORCED = (*GROUPED, "rloo", "reinforce_pp", "reinforce", "ppo")
"""Policy gradients, all of them."""
LARGE = 7e9
"""Parameters from which on the field's rates and batches hold; below, larger rates are usual."""
LORA_LR = 10.0
"""LoRA's learning rates are so many times those of full fine-tuning."""


@dataclass(frozen=True)
class Range:
    """Where the field sets a key.

    Attributes:
        key: of a stage, with dots; ``methods`` that it is meant for.
        low, high: both are inside.
        because: what goes wrong outside; ``reference``: who says or does so.
        least: parameters of the models that it is known for.
        off: 0 switches it off, which is usual where no learned model judges.
        lora: with LoRA, both ends are so many times as large.
    """

    key: str
    methods: tuple[str, ...]
    low: float
    high: float
    because: str
    reference: str
    least: float = 0.0
    off: bool = False
    lora: float = 1.0

    def scaled(self, lora: bool) -> tuple[float, float]:
        """Both ends."""
        factor = self.lora if lora else 1.0
        return round(self.low * factor, 12), round(self.high * factor, 12)  # 1e-05 is inside

    def holds(self, value: float, lora: bool, learned: bool) -> bool:
        """Whether a value is inside.

        Args:
            learned: a reward model or an AI judge gives the reward.
        """
        low, high = self.scaled(lora)
        return low <= value <= high or (self.off and value == 0 and not learned)


RANGES: tuple[Range, ...] = (
    Range(
        "settings.beta",
        ("dpo", "kto", "online_dpo"),
        0.001,
        0.3,
        "below, nothing ties the policy to its reference, and it forgets what the pairs do not "
        "show; above, it hardly moves",
        "Rafailov et al. 2023 (0.1 to 0.5); Tunstall et al. 2023, Zephyr (0.01 to 0.1)",
    ),
    Range(
        "settings.beta",
        REINFORCED,
        0.001,
        0.3,
        "below, a learned reward is over-optimised; above, the penalty outweighs the reward. 0 is "
        "right where a program checks the answers",
        "Gao et al. 2022; Ouyang et al. 2022 (0.02); Shao et al. 2024 (0.04); Yu et al. 2025, DAPO "
        "(0)",
        off=True,
    ),
    Range(
        "settings.beta",
        ("simpo",),
        2.0,
        10.0,
        "SimPO's beta scales log-probs per token, which are smaller than a whole answer's",
        "Meng et al. 2024, SimPO",
    ),
    Range(
        "rollout.samples",
        GROUPED,
        8,
        64,
        "the baseline is the mean of a prompt's own answers: of few it is noise, and on hard "
        "prompts none is right; beyond, more prompts teach more than more answers",
        "DeepSeek-AI 2025, R1 (16); Yu et al. 2025, DAPO (16); Shao et al. 2024 (64)",
    ),
    Range(
        "rollout.samples",
        ("ppo",),
        4,
        8,
        "of one answer to a prompt, luck and skill look the same to the value model; with more "
        "than 8 their mean is a baseline, and GRPO needs no value model",
        "Ahmadian et al. 2024, Back to basics; Ouyang et al. 2022 took one, of 512 prompts",
    ),
    Range(
        "train.batch_size",
        (*REINFORCED, "online_dpo"),
        256,
        1024,
        "a policy gradient of fewer prompts is mostly noise at this size; more wait for older "
        "weights' samples",
        "Ouyang et al. 2022 (512); Yu et al. 2025, DAPO (512); DeepSeek-AI 2025, R1 (512 answers)",
        least=LARGE,
    ),
    Range(
        "train.lr",
        (*REINFORCED, "dpo", "online_dpo"),
        1e-7,
        1e-6,
        "a faster policy leaves what its reward or its pairs were judged on; a slower one does "
        "not move. With LoRA ten times as much",
        "Tunstall et al. 2023, Zephyr (5e-7); Lambert et al. 2024, Tulu 3 (2e-7 to 5e-7); Yu et "
        "al. 2025, DAPO (1e-6); Schulman et al. 2025, LoRA without regret",
        least=LARGE,
        lora=LORA_LR,
    ),
)
"""Every range; a method has at most one of a key."""
KEYS = tuple(dict.fromkeys(one.key for one in RANGES))


@dataclass(frozen=True)
class Outside:
    """A setting outside its range."""

    range: Range
    value: float
    lora: bool

    def __str__(self) -> str:
        low, high = self.range.scaled(self.lora)
        size = f" at {self.range.least:.0e} parameters and more" if self.range.least else ""
        return (
            f"{self.range.key} is {self.value:g}, and the field's range{size} is {low:g} to "
            f"{high:g}: {self.range.because} ({self.range.reference}). Where it is meant, say "
            f"on_purpose: [{self.range.key}]"
        )


@dataclass(frozen=True)
class Checked:
    """What a stage has outside the ranges without declaring it, and what it declares needlessly."""

    outside: Sequence[Outside]
    needless: Sequence[str]

    @property
    def lines(self) -> list[str]:
        return [*map(str, self.outside), *self.needless]


def check_ranges(
    method: str,
    values: Mapping[str, float],
    *,
    parameters: float,
    lora: bool = False,
    learned: bool = False,
    on_purpose: Sequence[str] = (),
) -> Checked:
    """Compare a stage's settings with the field's.

    Args:
        values: by key with dots, those that the stage has.
        parameters: of the model.
        learned: a reward model or an AI judge gives the reward.
        on_purpose: keys that are meant to be outside.
    """
    ours = {one.key: one for one in RANGES if method in one.methods and one.key in values}
    outside = [
        Outside(one, values[key], lora)
        for key, one in ours.items()
        if parameters >= one.least and not one.holds(values[key], lora, learned)
    ]
    found = {one.range.key for one in outside}
    needless = [
        f"on_purpose names {key}, {_inside(ours.get(key), method, values, lora)}: take it out"
        for key in on_purpose
        if key not in found
    ]
    return Checked([one for one in outside if one.range.key not in on_purpose], needless)


def _inside(known: Range | None, method: str, values: Mapping[str, float], lora: bool) -> str:
    """Why a key need not be declared."""
    if known is None:
        return f"of which no range is known for {method}"
    low, high = known.scaled(lora)
    size = f" at {known.least:.0e} parameters and more" if known.least else ""
    return (
        f"which is {values[known.key]:g} and not outside the field's range ({low:g} to "
        f"{high:g}{size})"
    )


def check_declared(on_purpose: Sequence[str]) -> None:
    """Check that every declared key is one that has a range.

    Raises:
        ConfigError: one is not, with the nearest.
    """
    for key in on_purpose:
        if key not in KEYS:
            raise ConfigError(
                f"on_purpose: {key!r} is no setting that the dry run warns of; "
                f"{did_you_mean(key, KEYS, 'those are')}"
            )
