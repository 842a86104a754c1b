"""What is known of the cures that the audit names: which are shown to help, and which are not.

Measured by ``benchmarks/cures.py`` (docs/cures.md) on three seeds each; a test compares this table
with the measurement's rows.
"""

from __future__ import annotations

from collections.abc import Mapping

SHOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "settings.beta": {"ppo": ("reward_hacking",), "grpo": ("mode_collapse",)},
    "settings.entropy_coef": {"grpo": ("mode_collapse",)},
    "train.average_with_reference": {"ppo": ("alignment_tax",), "sft": ("alignment_tax",)},
}
"""By the end of an override's key and the algorithm that it was measured with, the alarms that it
is shown to help against. One key is another thing in another algorithm: ``beta`` is PPO's KL
penalty in the reward, and DPO's temperature."""
NOT_SHOWN: Mapping[str, str] = {
    "ensemble": "shown of whole models (share_trunk: false) in severe cases only; of heads on one "
    "trunk it did harm at a seed",
}
"""Of those that were tried and are not shown to help wherever they are named, what was found."""
UNMEASURED = "not measured"


def remark(alarm: str, cure: str, algorithm: str) -> str:
    """What is to be said of an override that is named as a cure of an alarm of a stage of that
    algorithm; empty where it is shown to help."""
    key = cure.partition("=")[0]
    for end, measured in SHOWN.items():
        if key.endswith(f".{end}"):
            alarms = measured.get(algorithm)
            if alarms is None:
                return f"{UNMEASURED} for {algorithm or 'this method'}, only for " + ", ".join(
                    measured
                )
            return "" if alarm in alarms else f"shown against {', '.join(alarms)} only"
    found = (said for end, said in NOT_SHOWN.items() if key.endswith(f".{end}"))
    return next(found, UNMEASURED)
