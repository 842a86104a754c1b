"""GRPO and its relatives: each is a name and its paper's settings of the one class.

To add one, write the same few lines and put it in ``registry.py``.
"""

from __future__ import annotations

from typing import ClassVar

from gnomon.algorithms.base import Settings
from gnomon.algorithms.policy_gradient import PolicyGradient
from gnomon.algorithms.policy_gradient_settings import PolicyGradientSettings, preset


class GRPO(PolicyGradient):
    """Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, eq. 3: the family's defaults."""

    name: ClassVar[str] = "grpo"
    summary: ClassVar[str] = "group-relative policy optimisation"
    Settings: ClassVar[type[Settings]] = PolicyGradientSettings
    min_samples: ClassVar[int] = 2


class DrGRPO(PolicyGradient):
    """Liu et al. 2025, "Understanding R1-Zero-like training", arXiv:2503.20783: no division by
    length or std, which favoured long wrong answers and questions of extreme difficulty."""

    name: ClassVar[str] = "dr_grpo"
    summary: ClassVar[str] = "GRPO without its biases of length and difficulty"
    Settings: ClassVar[type[Settings]] = preset(
        "DrGRPOSettings",
        "Settings of Dr. GRPO.",
        advantage_scale="none",
        aggregation="constant",
        beta=0.0,
    )
    min_samples: ClassVar[int] = 2


class DAPO(PolicyGradient):
    """Yu et al. 2025, arXiv:2503.14476: clip-higher, dynamic sampling, every token the same, soft
    overlong punishment."""

    name: ClassVar[str] = "dapo"
    summary: ClassVar[str] = "GRPO with clip-higher, dynamic sampling and token-level loss"
    Settings: ClassVar[type[Settings]] = preset(
        "DAPOSettings",
        "Settings of DAPO.",
        aggregation="token",
        clip_high=0.28,
        beta=0.0,
        zero_spread="resample",
        overlong_buffer=0.2,
        minibatches=4,
    )
    min_samples: ClassVar[int] = 2


class RLOO(PolicyGradient):
    """Ahmadian et al. 2024, "Back to basics", arXiv:2402.14740: REINFORCE with the mean of the
    other samples as baseline and the whole response's KL in its reward."""

    name: ClassVar[str] = "rloo"
    summary: ClassVar[str] = "REINFORCE with a leave-one-out baseline"
    Settings: ClassVar[type[Settings]] = preset(
        "RLOOSettings",
        "Settings of RLOO.",
        baseline="leave_one_out",
        advantage_scale="none",
        aggregation="constant",
        beta=0.05,
        kl_in="reward",
        kl_estimator="k1",
    )
    min_samples: ClassVar[int] = 2


class ReinforcePP(PolicyGradient):
    """Hu 2025, "REINFORCE++", arXiv:2501.03262: advantages normalised over the whole batch's
    tokens, KL of the rest of the response in each token's return; any number of samples."""

    name: ClassVar[str] = "reinforce_pp"
    summary: ClassVar[str] = "REINFORCE++: advantages normalised over the batch"
    Settings: ClassVar[type[Settings]] = preset(
        "ReinforcePPSettings",
        "Settings of REINFORCE++.",
        baseline="batch",
        advantage_scale="batch",
        aggregation="token",
        beta=0.01,
        kl_in="reward_to_go",
        kl_estimator="k1",
    )


class GSPO(PolicyGradient):
    """Zheng et al. 2025, arXiv:2507.18071: the ratio is a whole response's, per token."""

    name: ClassVar[str] = "gspo"
    summary: ClassVar[str] = "group sequence policy optimisation"
    Settings: ClassVar[type[Settings]] = preset(
        "GSPOSettings",
        "Settings of GSPO.",
        ratio="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        beta=0.0,
        minibatches=4,
    )
    min_samples: ClassVar[int] = 2


class CISPO(PolicyGradient):
    """MiniMax 2025, "MiniMax-M1", arXiv:2506.13585: the weight is clipped, never the gradient.

    The paper does not give its upper clip; weights up to 5 are those of Khatri et al. 2025 ("The
    art of scaling reinforcement learning compute for LLMs").
    """

    name: ClassVar[str] = "cispo"
    summary: ClassVar[str] = "clipped importance weights, gradient for every token"
    Settings: ClassVar[type[Settings]] = preset(
        "CISPOSettings",
        "Settings of CISPO.",
        ratio="cispo",
        aggregation="token",
        clip_low=1.0,
        clip_high=4.0,
        beta=0.0,
        minibatches=4,
    )
    min_samples: ClassVar[int] = 2


class GMPO(PolicyGradient):
    """Zhao et al. 2025, arXiv:2507.20673: the geometric mean of clipped token ratios."""

    name: ClassVar[str] = "gmpo"
    summary: ClassVar[str] = "geometric-mean policy optimisation"
    Settings: ClassVar[type[Settings]] = preset(
        "GMPOSettings",
        "Settings of GMPO.",
        ratio="gmpo",
        clip_low=0.4,
        clip_high=0.4,
        beta=0.0,
        minibatches=4,
    )
    min_samples: ClassVar[int] = 2


class Reinforce(PolicyGradient):
    """Williams 1992 with the mean reward of earlier iterations as baseline; one step at a time."""

    name: ClassVar[str] = "reinforce"
    summary: ClassVar[str] = "plain REINFORCE with a moving-average baseline"
    Settings: ClassVar[type[Settings]] = preset(
        "ReinforceSettings",
        "Settings of REINFORCE.",
        baseline="ema",
        advantage_scale="none",
        ratio="none",
        aggregation="constant",
        beta=0.0,
    )


FAMILY = (GRPO, DrGRPO, DAPO, RLOO, ReinforcePP, GSPO, CISPO, GMPO, Reinforce)
"""Every member, for the registry."""
