"""Whether a policy that optimises a learned reward is held near its start at all.

A reward model is right about answers like those it learned from. The farther a policy goes from
them, the less its rise says (Gao et al. 2022, "Scaling laws for reward model overoptimization",
arXiv:2210.10760), and how far it will go is known from the first iteration on
(:mod:`gnomon.audit.hold`). It is something to watch while nothing has gone wrong yet, and an alarm
where next to nothing holds it and it has gone already. A verifier needs no such hold.
"""

from __future__ import annotations

import math

from gnomon.audit.cures import stay_near
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.health import far_since, kl_per_token, stays_near
from gnomon.audit.hold import FEW, nothing_holds
from gnomon.audit.limits import LIMITS
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
    far = _gone(evidence) if figure.high < LIMITS["kl_price.unheld"].value else None
    watch = " and ".join(evidence.judges) or "a held-out judge (observe)"
    text = (
        f"{nothing_holds(evidence)}, and what it optimises is a learned reward, which knows only "
    )
    text += "answers like those it learned from"
    if far is not None:
        text += f"; it is {far:.2g} nats per token from its start already, and will go on"
    text += f": watch {watch}, or hold it nearer"
    first = float(steps[0])
    since = first if far is None else far_since(evidence, LIMITS["kl_price.gone"].value)
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            figure,
            above=False,
            only_if=far is not None or not stayed,
            measure="standard deviations of the reward that a nat of KL costs, at the beginning",
            alarm=text,
            watch="" if far is not None else text,
            curves=["kl", "reward"],
            since=since,
            watched=first if since != first else None,
            cures=stay_near(evidence),
        )
    ]


def _gone(evidence: Evidence) -> float | None:
    """How many nats per token the policy is from its start, where that is shown to be more than
    one that nothing holds may be; else None."""
    figure = kl_per_token(evidence)
    if figure is None or not figure.low > LIMITS["kl_price.gone"].value:
        return None
    return figure.value
