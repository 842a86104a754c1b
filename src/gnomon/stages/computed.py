"""What a stage computed, for stage.json: tokens by role, and the sizes of the roles' models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gnomon.judges.learned import LearnedReward, size_of
from gnomon.judges.protocol import Judge
from gnomon.judges.workers import WorkerJudge
from gnomon.models.counting import TokenCounts
from gnomon.models.roles import Role
from gnomon.runs.records import Compute
from gnomon.training.learner import Source
from gnomon.training.loop import Loop
from gnomon.training.sampled import SAMPLER, SampledSource

REFERENCE = "reference"


def computed(
    tokens: TokenCounts,
    roles: Mapping[str, Role],
    judge: Judge | None = None,
    judged: int = 0,
) -> Compute:
    """Tokens and sizes together.

    Args:
        tokens: by role.
        roles: those of the stage.
        judge: what gave the reward; a reward model's tokens count as a role's, under its name.
        judged: the tokens that it computed.
    """
    sizes = {name: size_of(role) for name, role in roles.items()}
    if "policy" in sizes:
        sizes[SAMPLER] = sizes["policy"]
        sizes.setdefault(REFERENCE, sizes["policy"])  # a cached one has no role: it is the start
    if isinstance(judge, LearnedReward | WorkerJudge) and judge.parameters:
        sizes[judge.name] = judge.parameters
        tokens.forward[judge.name] += judged
    counted = tokens.to_dict()
    return Compute(
        parameters={name: sizes[name] for name in counted["forward"] if name in sizes},
        trained={n: _trained(role) for n, role in roles.items() if role.trainable},
        forward=counted["forward"],
        backward=counted["backward"],
        recomputed=any(r.trunk.gradient_checkpointing and r.trainable for r in roles.values()),
    )


def _trained(role: Role) -> int:
    parameters: Sequence[int] = [p.numel() for p in role.parameters()]
    return sum(parameters)


def came_of(
    loop: Loop, source: Source, last: Mapping[str, float], roles: Mapping[str, Role]
) -> dict[str, Any]:
    """What stage.json says of the training."""
    info: dict[str, Any] = {
        "iterations": loop.end,
        "idle_iterations": loop.idle.count,
        "idle_reason": loop.idle.reason,
        "summary": {k: v for k, v in last.items() if not k.startswith("eval/")},
        "held_out": {k[5:]: v for k, v in last.items() if k.startswith("eval/")},
    }
    judge, judged = None, 0
    if isinstance(source, SampledSource):
        judges, judge = source.tally.totals(), source.played.judge
        judged = judges.get(judge.name, {}).get("tokens", 0) if judge else 0
        info["judges"] = judges
    if loop.state.peak is not None:
        info["peak"] = loop.state.peak.summary(loop.end)
    info["compute"] = computed(loop.state.tokens, roles, judge, judged)
    return info
