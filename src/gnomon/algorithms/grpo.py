"""GRPO and its relatives: each is a name and its paper's settings of the one class.

To add one, write the same few lines, its settings beside the others' in
``policy_gradient_settings.py``, and a line in ``registry.py``.
"""

from __future__ import annotations

from typing import ClassVar

from gnomon.algorithms import policy_gradient_settings as presets
from gnomon.algorithms.base import Settings
from gnomon.algorithms.policy_gradient import PolicyGradient


class GRPO(PolicyGradient):
    """Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, eq. 3: the family's defaults."""

    name: ClassVar[str] = "grpo"
    Settings: ClassVar[type[Settings]] = presets.PolicyGradientSettings
    min_samples: ClassVar[int] = 2


class DrGRPO(PolicyGradient):
    """Liu et al. 2025, "Understanding R1-Zero-like training", arXiv:2503.20783: no division by
    length or std, which favoured long wrong answers and questions of extreme difficulty."""

    name: ClassVar[str] = "dr_grpo"
    Settings: ClassVar[type[Settings]] = presets.DrGRPOSettings
    min_samples: ClassVar[int] = 2


class DAPO(PolicyGradient):
    """Yu et al. 2025, arXiv:2503.14476: clip-higher, dynamic sampling, every token the same, soft
    overlong punishment."""

    name: ClassVar[str] = "dapo"
    Settings: ClassVar[type[Settings]] = presets.DAPOSettings
    min_samples: ClassVar[int] = 2


class RLOO(PolicyGradient):
    """Ahmadian et al. 2024, "Back to basics", arXiv:2402.14740: REINFORCE with the mean of the
    other samples as baseline and the whole response's KL in its reward."""

    name: ClassVar[str] = "rloo"
    Settings: ClassVar[type[Settings]] = presets.RLOOSettings
    min_samples: ClassVar[int] = 2


class ReinforcePP(PolicyGradient):
    """Hu 2025, "REINFORCE++", arXiv:2501.03262: advantages normalised over the whole batch's
    tokens, KL of the rest of the response in each token's return; any number of samples."""

    name: ClassVar[str] = "reinforce_pp"
    Settings: ClassVar[type[Settings]] = presets.ReinforcePPSettings


class GSPO(PolicyGradient):
    """Zheng et al. 2025, arXiv:2507.18071: the ratio is a whole response's, per token."""

    name: ClassVar[str] = "gspo"
    Settings: ClassVar[type[Settings]] = presets.GSPOSettings
    min_samples: ClassVar[int] = 2


class CISPO(PolicyGradient):
    """MiniMax 2025, "MiniMax-M1", arXiv:2506.13585: the weight is clipped, never the gradient.

    The paper does not give its upper clip; weights up to 5 are those of Khatri et al. 2025 ("The
    art of scaling reinforcement learning compute for LLMs").
    """

    name: ClassVar[str] = "cispo"
    Settings: ClassVar[type[Settings]] = presets.CISPOSettings
    min_samples: ClassVar[int] = 2


class GMPO(PolicyGradient):
    """Zhao et al. 2025, arXiv:2507.20673: the geometric mean of clipped token ratios."""

    name: ClassVar[str] = "gmpo"
    Settings: ClassVar[type[Settings]] = presets.GMPOSettings
    min_samples: ClassVar[int] = 2


class Reinforce(PolicyGradient):
    """Williams 1992 with the mean reward of earlier iterations as baseline; one step at a time."""

    name: ClassVar[str] = "reinforce"
    Settings: ClassVar[type[Settings]] = presets.ReinforceSettings
