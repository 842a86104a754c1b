"""Whether the KL penalty holds a policy near its start, as far as that is known while it trains."""

from __future__ import annotations

import numpy as np

from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS

FEW = 5
"""Iterations at the beginning whose price counts; it changes little as long as the rewards do."""


def kl_price(evidence: Evidence) -> float | None:
    """Standard deviations of the reward that a nat of KL costs the policy, at the beginning; None
    where nothing says."""
    _, prices = evidence.series("kl_price")
    return float(np.median(prices[:FEW])) if prices.size else None


def nothing_holds(evidence: Evidence) -> str:
    """That nothing holds the policy at its start, in words; empty where something does, or nobody
    knows.

    A policy that maximises its reward less beta times its KL goes as far as that pays (Korbak et
    al. 2022, arXiv:2205.11275): the fewer of the reward's standard deviations a nat costs, the
    farther, whatever the reward pays for. That is known from the first iteration on.
    """
    price = kl_price(evidence)
    if price is None or price >= LIMITS["kl_price"].value:
        return ""
    if price == 0:
        return "No KL penalty holds the policy where it started"
    return (
        "Little holds the policy where it started: a nat of KL costs it "
        f"{price:.2g} standard deviations of the reward"
    )
