"""Cures as overrides of the recipe, as typed after ``gnomon run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnomon.audit.evidence import Evidence
from gnomon.audit.hold import kl_price

ON_POLICY = (
    *("ppo", "grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "gspo", "cispo", "gmpo"),
    *("reinforce", "dppo", "maxrl"),
)
"""Algorithms that sample and have ``entropy_coef``; their ``beta`` is a KL coefficient."""
TIED = (*ON_POLICY, "dpo", "online_dpo", "kto")
"""Algorithms whose ``beta``, the larger, keeps the policy the nearer to its start."""
USUAL_BETA = 0.05
HOLDS, MOST = 0.1, 20.0
"""The price of a nat of KL, in standard deviations of the reward, from which PPO's policies of the
tunnel were held near their start, and three of seven of GRPO's, whose KL is in the loss
(docs/detectors.md); the coefficient is raised at most so many times for it."""


def setting(evidence: Evidence, name: str) -> float | None:
    """A number among the stage's settings; None where it is not written or no number."""
    settings = evidence.spec.get("settings")
    value = settings.get(name) if isinstance(settings, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def stay_near(evidence: Evidence) -> list[str]:
    """A stronger pull towards the start model: twice the coefficient, or as much as holds it; the
    usual one where there is none."""
    settings = evidence.spec.get("settings")
    untied = isinstance(settings, Mapping) and settings.get("kl_in") == "none"
    if evidence.algorithm not in TIED or untied:
        return []
    usual = USUAL_BETA if evidence.algorithm in ON_POLICY else 0.1
    beta, price = _beta(evidence), kl_price(evidence)
    times = min(MOST, max(2.0, HOLDS / price)) if price else 2.0
    value = float(f"{times * beta:.2g}") if beta else usual
    return [override(evidence, "settings.beta", f"{value:g}")]


def _beta(evidence: Evidence) -> float | None:
    """The coefficient that the recipe writes, or else what the method says that it used."""
    written, (_, used) = setting(evidence, "beta"), evidence.series("beta")
    return float(used[0]) if written is None and used.size else written


def conservative(evidence: Evidence) -> list[str]:
    """An ensemble's mean less its spread, of the first reward model that is not conservative; of a
    reward model without members there is no spread."""
    if not evidence.series("disagreement")[1].size:
        return []
    for place, entry in enumerate(evidence.trained):
        if entry.get("model") and entry.get("ensemble", "mean") == "mean":
            return [override(evidence, f"reward.{place}.ensemble", "mean-std")]
    return []


def explore(evidence: Evidence) -> list[str]:
    """An entropy bonus, where the algorithm has one."""
    if evidence.algorithm not in ON_POLICY:
        return []
    known = setting(evidence, "entropy_coef")
    return [override(evidence, "settings.entropy_coef", f"{2 * known if known else 0.01:g}")]


def average(evidence: Evidence) -> list[str]:
    """The saved weights half-way back to the start, or further than the recipe goes."""
    train = evidence.spec.get("train")
    known = train.get("average_with_reference") if isinstance(train, Mapping) else None
    share = (1 + known) / 2 if isinstance(known, float) else 0.5
    return [override(evidence, "train.average_with_reference", f"{share:g}")]


def stop_at(evidence: Evidence, step: float | None) -> list[str]:
    """Fewer iterations: up to the step from which it went wrong, where that is known."""
    steps, iterations = evidence.series("iteration")
    if step is None or not steps.size:
        return []
    before = [int(i) for s, i in zip(steps, iterations, strict=True) if s <= step]
    sooner = before and 1 < before[-1] < max(iterations)
    return [override(evidence, "train.steps", before[-1])] if sooner else []


def slower(evidence: Evidence) -> list[str]:
    """Half the learning rate, where the recipe gives one."""
    train = evidence.spec.get("train")
    rate = train.get("lr") if isinstance(train, Mapping) else None
    return [override(evidence, "train.lr", f"{rate / 2:g}")] if isinstance(rate, float) else []


def override(evidence: Evidence, key: str, value: Any) -> str:
    """``STAGE.KEY=VALUE``."""
    return f"{evidence.stage}.{key}={value}"
