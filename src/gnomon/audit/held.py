"""Whether a policy that optimises a learned reward is held near its start at all.

A reward model is right about answers like those it learned from. The farther a policy goes from
them, the less its rise says (Gao et al. 2022, "Scaling laws for reward model overoptimization",
arXiv:2210.10760), and how far it will go is known from the first iterations on: by what a nat of KL
costs it (:mod:`gnomon.audit.hold`), and by its pace. It is something to watch while nothing has
gone wrong yet, and an alarm where next to nothing holds it and it has gone already, or is on its
way. A verifier needs no such hold.
"""

from __future__ import annotations

import math

import numpy as np

from gnomon.audit.cures import stay_near
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.health import far_since, kl_per_token, stays_near
from gnomon.audit.hold import FEW, nothing_holds
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Finding
from gnomon.runs.rows import Column
from gnomon.stats.intervals import Interval, mean_interval

NAME, DETECTOR = "drift", "kl_price"
NEEDS = "the metric kl_price: of ppo without target_kl, of grpo and relatives whose reference stays"
GOES_ON = ("running", "paused")
"""What a stage is that has iterations yet to come; a stopped one may never be resumed."""
RECENT = 2
"""Iterations whose distance tells a policy's pace; it speeds up, so more would say too little."""


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
    far = _gone(evidence) or _heading(evidence)
    if not figure.high < LIMITS["kl_price.unheld"].value:
        far = ""
    watch = " and ".join(evidence.judges) or "a held-out judge (observe)"
    text = (
        f"{nothing_holds(evidence)}, and what it optimises is a learned reward, which knows only "
    )
    text += "answers like those it learned from"
    if far:
        text += f"; {far}"
    text += f": watch {watch}, or hold it nearer"
    first = float(steps[0])
    since = _since(evidence) if far else first
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            figure,
            above=False,
            only_if=bool(far) or not stayed,
            measure="standard deviations of the reward that a nat of KL costs, at the beginning",
            alarm=text,
            watch="" if far else text,
            curves=["kl", "reward"],
            since=since,
            watched=first if since != first else None,
            cures=stay_near(evidence),
        )
    ]


def _gone(evidence: Evidence) -> str:
    """That the policy is shown to be farther from its start than one that nothing holds may be, in
    words; empty where it is not."""
    figure = kl_per_token(evidence)
    if figure is None or not figure.low > LIMITS["kl_price.gone"].value:
        return ""
    return f"it is {figure.value:.2g} nats per token from its start already, and will go on"


def _heading(evidence: Evidence) -> str:
    """That the policy, which still trains, will be far from its start at this pace, in words; empty
    where it will not, or nothing says."""
    steps, ends = ahead(evidence)
    if evidence.info.status not in GOES_ON or not ends.size:
        return ""
    if not ends[-1] > LIMITS["kl_price.heading"].value:
        return ""
    planned = evidence.info.planned(evidence.spec)
    return (
        f"at its pace of step {steps[-1]:.0f} it will be {ends[-1]:.2g} nats per token from its "
        f"start after the {planned} iterations that are planned, and such policies speed up"
    )


def ahead(evidence: Evidence) -> tuple[Column, Column]:
    """(steps, nats per token) how far from its start a policy will be at the end of all its
    iterations, by what is known at each step: at the pace of the RECENT last, and steadily. Empty
    where nobody knows how many there will be."""
    planned = evidence.info.planned(evidence.spec)
    names = ("step", "iteration", "kl", "length")
    columns = [evidence.metrics.get(name) for name in names]
    if planned is None or any(column is None for column in columns):
        return np.empty(0), np.empty(0)
    rows = np.array(columns)
    steps, iterations, nats, tokens = rows[:, np.isfinite(rows).all(axis=0)]
    trained = iterations > 1  # the first iteration's answers are the start's
    steps, updates = steps[trained], iterations[trained] - 1
    paces = nats[trained] / np.maximum(tokens[trained], 1.0) / updates
    recent = [paces[max(0, i + 1 - RECENT) : i + 1].mean() for i in range(paces.size)]
    return steps, planned * np.array(recent)


def _since(evidence: Evidence) -> float | None:
    """The first step at which the policy had gone, or was on its way."""
    steps, ends = ahead(evidence)
    past = [float(step) for step in steps[ends > LIMITS["kl_price.heading"].value][:1]]
    gone = far_since(evidence, LIMITS["kl_price.gone"].value)
    return min([*past, *([] if gone is None else [gone])], default=None)
