"""GRPO's relatives: each is a preset of the family's settings, with its paper's numbers.

Every setting can still be changed alone; ``gnomon.algorithms.grpo`` is the one class of them all.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, create_model

from gnomon.algorithms.policy_gradient_settings import PolicyGradientSettings


def preset(name: str, about: str, **defaults: Any) -> type[PolicyGradientSettings]:
    """The family's settings with other defaults; every one of them can still be set."""
    fields: dict[str, Any] = {}
    for key, value in defaults.items():
        field = PolicyGradientSettings.model_fields[key]
        annotation: Any = field.annotation
        if field.metadata:
            annotation = Annotated[(annotation, *field.metadata)]
        fields[key] = (annotation, Field(value, description=field.description))
    return create_model(
        name, __base__=PolicyGradientSettings, __doc__=about, __module__=__name__, **fields
    )


# Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training", arXiv:2503.20783): no
# division by length or std, which favoured long wrong answers and questions of extreme difficulty.
DrGRPOSettings = preset(
    "DrGRPOSettings",
    "Settings of Dr. GRPO.",
    advantage_scale="none",
    aggregation="constant",
    beta=0.0,
)
# DAPO (Yu et al. 2025, arXiv:2503.14476): clip-higher, dynamic sampling, every token the same, soft
# overlong punishment.
DAPOSettings = preset(
    "DAPOSettings",
    "Settings of DAPO.",
    aggregation="token",
    clip_high=0.28,
    beta=0.0,
    zero_spread="resample",
    overlong_buffer=0.2,
    minibatches=4,
)
# RLOO (Ahmadian et al. 2024, "Back to basics", arXiv:2402.14740): REINFORCE with the mean of the
# other samples as baseline and the whole response's KL in its reward.
RLOOSettings = preset(
    "RLOOSettings",
    "Settings of RLOO.",
    baseline="leave_one_out",
    advantage_scale="none",
    aggregation="constant",
    beta=0.05,
    kl_in="reward",
    kl_estimator="k1",
)
# REINFORCE++ (Hu 2025, arXiv:2501.03262): advantages normalised over the whole batch's tokens, KL
# of the rest of the response in each token's return; any number of samples.
ReinforcePPSettings = preset(
    "ReinforcePPSettings",
    "Settings of REINFORCE++.",
    baseline="batch",
    advantage_scale="batch",
    aggregation="token",
    beta=0.01,
    kl_in="reward_to_go",
    kl_estimator="k1",
)
# GSPO (Zheng et al. 2025, arXiv:2507.18071): the ratio is a whole response's, per token.
GSPOSettings = preset(
    "GSPOSettings",
    "Settings of GSPO.",
    ratio="sequence",
    clip_low=3e-4,
    clip_high=4e-4,
    beta=0.0,
    minibatches=4,
)
# CISPO (MiniMax 2025, "MiniMax-M1", arXiv:2506.13585): the weight is clipped, never the gradient.
# The paper does not give its upper clip; weights up to 5 are those of Khatri et al. 2025 ("The art
# of scaling reinforcement learning compute for LLMs").
CISPOSettings = preset(
    "CISPOSettings",
    "Settings of CISPO.",
    ratio="cispo",
    aggregation="token",
    clip_low=1.0,
    clip_high=4.0,
    beta=0.0,
    minibatches=4,
)
# GMPO (Zhao et al. 2025, arXiv:2507.20673): the geometric mean of clipped token ratios.
GMPOSettings = preset(
    "GMPOSettings",
    "Settings of GMPO.",
    ratio="gmpo",
    clip_low=0.4,
    clip_high=0.4,
    beta=0.0,
    minibatches=4,
)
# REINFORCE (Williams 1992) with the mean reward of earlier iterations as baseline, one step each.
ReinforceSettings = preset(
    "ReinforceSettings",
    "Settings of REINFORCE.",
    baseline="ema",
    advantage_scale="none",
    ratio="none",
    aggregation="constant",
    beta=0.0,
)
# DPPO (Qi et al. 2026, arXiv:2602.04879): a token is left out where the policy's total variation
# from the sampler, estimated from that token, is too large; 0.2 is what prime-rl takes by default.
DPPOSettings = preset(
    "DPPOSettings",
    "Settings of DPPO.",
    ratio="dppo_tv",
    aggregation="token",
    importance_correction="off",
    beta=0.0,
    minibatches=4,
)
# MaxRL (Tajwar et al. 2026, arXiv:2602.02710): the group's mean reward in place of its std.
MaxRLSettings = preset(
    "MaxRLSettings",
    "Settings of MaxRL.",
    advantage_scale="group_mean",
    aggregation="token",
    beta=0.0,
)
