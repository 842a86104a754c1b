"""Whether a policy that optimises a learned reward is held near its start at all.

A reward model is right about answers like those it learned from. The farther a policy goes from
them, the less its rise says (Gao et al. 2022, "Scaling laws for reward model overoptimization",
arXiv:2210.10760), and how far it will go is known from the first iteration on
(:mod:`gnomon.audit.hold`). It is something to watch and no alarm: nothing has gone wrong yet. A
verifier needs no such hold.
"""

from __future__ import annotations

import math

from gnomon.audit.cures import stay_near
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.health import stays_near
from gnomon.audit.hold import FEW, nothing_holds
from gnomon.runs.audit import Finding
from gnomon.stats.intervals import Interval, mean_interval

NAME, DETECTOR = "drift", "kl_price"
NEEDS = "the metric kl_price: of ppo without target_kl, of grpo and relatives whose reference stays"


@of_policies
def held(evidence: Evidence) -> list[Finding]:
    """What a nat of KL costs at the beginning, in standard deviations of a learned reward."""
    if not any(entry.get("model") for entry in evidence.trained):
        return []
    steps, prices = evidence.series("kl_price")
    if not prices.size:
        return not_looked(evidence, NAME, DETECTOR, NEEDS)
    figure = mean_interval(prices[:FEW], method="t")
    if math.isnan(figure.low):  # of one iteration, or the same in all
        figure = Interval(figure.value, figure.value, figure.value, figure.n)
    stayed = evidence.info.status == "done" and stays_near(evidence)
    watch = " and ".join(evidence.judges) or "a held-out judge (observe)"
    text = (
        f"{nothing_holds(evidence)}, and what it optimises is a learned reward, which knows only "
        f"answers like those it learned from: watch {watch}, or hold it nearer"
    )
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            figure,
            above=False,
            only_if=not stayed,
            measure="standard deviations of the reward that a nat of KL costs, at the beginning",
            alarm=text,
            watch=text,
            curves=["kl", "reward"],
            since=float(steps[0]),
            cures=stay_near(evidence),
        )
    ]
