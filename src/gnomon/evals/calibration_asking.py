"""Ask a judge about pairs, in both orders where the order can matter to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gnomon.evals.calibration_probes import as_group
from gnomon.judges.ai import AIJudge, Compared, Pair, Verdict
from gnomon.judges.protocol import Judge, judged, total_cost
from gnomon.judges.recorded import RecordedJudge
from gnomon.records import Cost, Group, Judgement

CHUNK = 32
"""Pairs asked about between two steps of the progress."""
Watch = Callable[[int, int], None]
"""Called with (pairs done, all pairs)."""


class Asking:
    """Asks about pairs, some at a time, and keeps count of what is done and what it took."""

    def __init__(self, total: int, watch: Watch | None) -> None:
        self.total, self.done, self.watch = total, 0, watch
        self.costs: list[Cost] = []

    def __call__(self, judge: Judge, pairs: Sequence[Pair | Group]) -> list[Compared]:
        """What a judge says of every pair, in both orders where the order can matter to it."""
        out: list[Compared] = []
        for first in range(0, len(pairs), CHUNK):
            some = pairs[first : first + CHUNK]
            if isinstance(judge, AIJudge) and judge.options.mode == "pairs":
                out += judge.compare([_texts(pair) for pair in some])
            else:
                out += _from_groups(judge, [_group(pair) for pair in some])
            self.done += len(some)
            if self.watch is not None:
                self.watch(self.done, self.total)
        self.costs += [compared.cost for compared in out]
        return out


def _texts(pair: Pair | Group) -> Pair:
    if isinstance(pair, Pair):
        return pair
    a, b = pair.responses
    return Pair(pair.prompt, a.text, b.text)


def _group(pair: Pair | Group) -> Group:
    return as_group(pair) if isinstance(pair, Pair) else pair


def _from_groups(judge: Judge, groups: Sequence[Group]) -> list[Compared]:
    """A judge of groups, asked in both orders unless it scores answers one by one, wrote its
    verdicts down before, or is people."""
    found = [_as_compared(j) for j in judged(judge, groups)]
    if not judge.groupwise or judge.in_rounds or isinstance(judge, RecordedJudge):
        return found
    turned = [replace(g, responses=g.responses[::-1], comparisons=()) for g in groups]
    behind = [_as_compared(j) for j in judged(judge, turned)]
    return [
        Compared(
            a.forward,
            b.forward,
            a.reason,
            a.error or b.error,
            total_cost([a.cost, b.cost]),
        )
        for a, b in zip(found, behind, strict=True)
    ]


def _as_compared(judgement: Judgement) -> Compared:
    """A judgement of a group of two."""
    cost, reason = judgement.cost, judgement.reason
    error = next((s.error for s in judgement.scores if s.error is not None), None)
    if error is not None:
        return Compared(error=error, cost=cost)
    if judgement.comparisons:
        c = judgement.comparisons[0]
        p = c.probability if c.better == 0 else 1.0 - c.probability
        verdict = Verdict(0.0, 0.0, 1.0) if c.tie else Verdict(p, 1.0 - p)
        return Compared(forward=verdict, reason=reason, cost=cost)
    a, b = (score.value or 0.0 for score in judgement.scores)
    verdict = Verdict(0.0, 0.0, 1.0) if a == b else Verdict(float(a > b), float(a < b))
    return Compared(forward=verdict, reason=reason, cost=cost)
