"""What the losses' variants are called; nothing here needs torch."""

from __future__ import annotations

from typing import Literal

Estimator = Literal["k1", "k2", "k3"]
"""Estimators of the KL; see ``gnomon.losses.kl``."""
Aggregation = Literal["token", "sequence", "constant"]
"""How token losses become one loss; see ``gnomon.losses.reduce``."""
Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
"""Divergences from the reference; see ``gnomon.losses.dpo``."""
BinaryDivergence = Literal["tv", "kl"]
"""Of the sampled token against all others; see ``gnomon.losses.policy_variants``."""
BaseMix = Literal["arithmetic", "geometric"]
"""Means of two models' probabilities; see ``gnomon.losses.kl``."""
