"""Single answers that users called good or bad, as a product's thumbs are: unpaired, one a prompt.

A user whose utility of the answer is u (see :class:`~gnomon.tasks.tunnel.labellers.Labeller`) gives
a thumb up with chance sigmoid((u - bar) / noise), and with chance ``careless`` any thumb.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gnomon.records import Group
from gnomon.tasks.tunnel.demonstrations import demonstrations
from gnomon.tasks.tunnel.labellers import Labeller
from gnomon.tasks.tunnel.world import BELIEF_RATE, seeded


def thumbs(
    n: int,
    seed: int = 0,
    families: Sequence[str] | None = None,
    belief_rate: float = BELIEF_RATE,
    correct: float | None = None,
    bar: float = 0.6,
    noise: float = 0.2,
    careless: float = 0.05,
) -> list[Group]:
    """``n`` prompts of the training split, each with one written answer whose ``meta`` has its
    ``label``: True for a thumb up.

    Args:
        correct: the share of right answers, as in :func:`demonstrations`.
        bar: the utility, in units of gold reward, at which up and down are equally likely.
        noise: by how much above it the odds of a thumb up are e to 1.
        careless: chance that the answer was not read.
    """
    if noise <= 0 or not 0 <= careless <= 1:
        raise ValueError("noise has to be above 0, and careless is a chance from 0 to 1")
    user = Labeller()
    out = []
    for group in demonstrations(n, seed, families=families, belief_rate=belief_rate,
                                correct=correct):  # fmt: skip
        answer = group.responses[0]
        above = (user.utility(group.prompt, answer.text) - bar) / noise
        chance = careless / 2 + (1 - careless) / (1 + math.exp(-max(-50.0, min(50.0, above))))
        up = seeded("thumb", seed, group.prompt.id).random() < chance
        judged = replace(answer, meta={**answer.meta, "label": up})
        out.append(replace(group, responses=(judged,)))
    return out
