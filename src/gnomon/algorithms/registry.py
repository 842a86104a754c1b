"""The methods that come with gnomon, by name. One is imported when it is asked for, so that names,
summaries and settings are known without torch.

Your own method needs no entry: a recipe names it as ``file.py:Class``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gnomon.algorithms import offline_settings as offline
from gnomon.algorithms import on_policy_settings as on_policy
from gnomon.algorithms import policy_gradient_presets as presets
from gnomon.algorithms.policy_gradient_settings import PolicyGradientSettings
from gnomon.errors import ConfigError
from gnomon.plugins import (
    check_known,
    did_you_mean,
    handed_over,
    is_own,
    load_builtin,
    load_own,
)
from gnomon.recipe.schema import Kind

if TYPE_CHECKING:
    from gnomon.algorithms.base import Algorithm


@dataclass(frozen=True)
class Method:
    """A method as a recipe names it.

    Attributes:
        name: as written in a recipe.
        where: its import path, ``module:Class``. A member of a family is a preset of the settings
            on the family's one class.
        settings: its own settings.
        summary: one line for lists and help.
    """

    name: str
    where: str
    settings: type[offline.Settings]
    summary: str

    @property
    def algorithm(self) -> type[Algorithm]:
        """The class, imported now."""
        found: type[Algorithm] = load_builtin(self.where)
        return found


_LISTED: tuple[tuple[str, str, type[offline.Settings], str], ...] = (
    ("sft", "sft:SFT", offline.SFTSettings, "supervised fine-tuning on demonstrations"),
    (
        "reward_model",
        "reward_model:RewardModel",
        offline.RewardModelSettings,
        "a scalar reward from pairs or rankings",
    ),
    (
        "ppo",
        "ppo:PPO",
        on_policy.PPOSettings,
        "PPO with a critic, under a KL penalty to the reference",
    ),
    ("dpo", "dpo:DPO", offline.DPOSettings, "direct preference optimisation, and its variants"),
    ("kto", "kto:KTO", offline.KTOSettings, "preferences from single good/bad labels"),
    (
        "simpo",
        "reference_free:SimPO",
        offline.SimPOSettings,
        "preferences on average log-probs, without a reference",
    ),
    (
        "orpo",
        "reference_free:ORPO",
        offline.ORPOSettings,
        "SFT and preferences in one, without a reference",
    ),
    (
        "cpo",
        "reference_free:CPO",
        offline.CPOSettings,
        "DPO with a uniform reference, plus SFT on the chosen",
    ),
    (
        "online_dpo",
        "dpo:OnlineDPO",
        on_policy.OnlineDPOSettings,
        "DPO in rounds on the policy's own responses (on-line, iterative)",
    ),
    (
        "raft",
        "raft:RAFT",
        on_policy.RAFTSettings,
        "rejection sampling: SFT on the best of K own responses (RAFT)",
    ),
    (
        "distill",
        "distill:Distill",
        on_policy.DistillSettings,
        "on-policy distillation: a teacher's log-probs of the student's own samples",
    ),
    ("grpo", "grpo:PolicyGradient", PolicyGradientSettings, "group-relative policy optimisation"),
    (
        "dr_grpo",
        "grpo:PolicyGradient",
        presets.DrGRPOSettings,
        "GRPO without its biases of length and difficulty",
    ),
    (
        "dapo",
        "grpo:PolicyGradient",
        presets.DAPOSettings,
        "GRPO with clip-higher, dynamic sampling and token-level loss",
    ),
    (
        "rloo",
        "grpo:PolicyGradient",
        presets.RLOOSettings,
        "REINFORCE with a leave-one-out baseline",
    ),
    (
        "reinforce_pp",
        "grpo:PolicyGradient",
        presets.ReinforcePPSettings,
        "REINFORCE++: advantages normalised over the batch",
    ),
    ("gspo", "grpo:PolicyGradient", presets.GSPOSettings, "group sequence policy optimisation"),
    (
        "cispo",
        "grpo:PolicyGradient",
        presets.CISPOSettings,
        "clipped importance weights, gradient for every token",
    ),
    ("gmpo", "grpo:PolicyGradient", presets.GMPOSettings, "geometric-mean policy optimisation"),
    (
        "dppo",
        "grpo:PolicyGradient",
        presets.DPPOSettings,
        "GRPO within a bound on the divergence, in place of a clipped ratio",
    ),
    (
        "maxrl",
        "grpo:PolicyGradient",
        presets.MaxRLSettings,
        "maximum-likelihood RL: advantages over the group's mean reward",
    ),
    (
        "reinforce",
        "grpo:PolicyGradient",
        presets.ReinforceSettings,
        "plain REINFORCE with a moving-average baseline",
    ),
)
METHODS = {
    name: Method(name, f"gnomon.algorithms.{where}", settings, summary)
    for name, where, settings, summary in _LISTED
}


@dataclass(frozen=True)
class _UserMethod(Method):
    """The user's own method, whose class is already imported."""

    found: type[Algorithm] | None = None

    @property
    def algorithm(self) -> type[Algorithm]:
        assert self.found is not None
        return self.found


def find_method(name: str, base: Path | None = None) -> Method:
    """The method called ``name``, one of gnomon's or the user's own (``file.py:Class``).

    Args:
        base: the folder that a user's file is looked up in (the recipe's own).

    Raises:
        ConfigError: no such method, with the nearest known one; a class that is not a method.
    """
    check_known(name, METHODS, "algorithm")
    if not is_own(name):
        return METHODS[name]
    where = base or Path()
    file = where / name.rpartition(":")[0]
    changed: Any = file.stat().st_mtime_ns if file.is_file() else None
    return _own_method(name, where.absolute(), handed_over(name) or changed)


@lru_cache(maxsize=64)
def _own_method(name: str, base: Path, changed: Any) -> _UserMethod:
    """A user's method; its file runs once, however often the method is asked for.

    Args:
        changed: when the file was, or the class itself where it was handed over; another makes it
            another method.
    """
    from gnomon.algorithms.base import Algorithm

    found = load_own(name, base, "algorithm")
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(
            f"algorithm {name!r}: {found!r} is not a method; derive a class from "
            "gnomon.algorithms.base.Algorithm"
        )
    problem = _lacking(found)
    if problem is not None:
        raise ConfigError(f"algorithm {name!r}: the class {problem}")
    summary = found.summary or (found.__doc__ or "").strip().partition("\n")[0]
    return _UserMethod(name, name, found.Settings, summary, found)


def _lacking(found: type[Algorithm]) -> str | None:
    """What a user's class does not say, or does not say rightly; None where all is there."""
    from gnomon.algorithms.base import Algorithm

    data, kinds = getattr(found, "data", None), get_args(Kind)
    if data is None:
        return "does not say what its data is (data)"
    if data not in kinds:
        return f"says that its data is {data!r}; {did_you_mean(str(data), kinds, 'it is one of')}"
    if not (isinstance(found.Settings, type) and issubclass(found.Settings, offline.Settings)):
        return "has Settings that do not derive from gnomon.algorithms.base.Settings"
    if found.loss is Algorithm.loss:
        return "has no loss(batch, step)"
    if data == "prompts" and found.credit is Algorithm.credit:
        return (
            "samples responses and has no credit(groups, step), which makes groups of tokens of "
            "what was sampled (gnomon.algorithms.rollouts.token_groups)"
        )
    if found.produces not in ("policy", "reward_model"):
        return f"produces {found.produces!r}; it is policy or reward_model"
    if found.produces == "reward_model" and found.result is Algorithm.result:
        return "produces a reward model and has no result(), which gives its roles and normaliser"
    return None
