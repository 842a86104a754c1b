"""What the losses' variants are called; nothing here needs torch."""

from __future__ import annotations

from typing import Literal

Estimator = Literal["k1", "k2", "k3"]
"""Of the KL; see ``gnomon.losses.kl``."""
Aggregation = Literal["token", "sequence", "constant"]
"""Of tokens to a loss; see ``gnomon.losses.reduce``."""
Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
"""What holds to the reference; see ``gnomon.losses.dpo``."""
