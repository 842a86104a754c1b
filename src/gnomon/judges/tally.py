"""What judges took and how often they failed, added up over a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gnomon.records import Judgement

Totals = dict[str, dict[str, Any]]
"""By judge: its ``version``, responses ``judged`` and ``errors`` among them, and what it took
(``seconds``, ``tokens``, ``money``)."""
SUMS = ("judged", "errors", "seconds", "tokens", "money")


class Tally:
    """Totals by judge, which count every iteration once: one that is drawn again, as after a stop,
    replaces what it was."""

    def __init__(self) -> None:
        self._kept: Totals = {}
        self._last: Totals = {}
        self._iteration: int | None = None

    def add(self, judgements: Iterable[Judgement], iteration: int | None = None) -> None:
        """Count judgements: of an iteration, or (None) of an evaluation or a chunk."""
        if iteration is None:
            self._kept = added(self._kept, totals(judgements))
            return
        if iteration != self._iteration:
            self._kept = added(self._kept, self._last)
        self._iteration, self._last = iteration, totals(judgements)

    def totals(self) -> Totals:
        """All of it."""
        return added(self._kept, self._last)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept, "last": self._last, "iteration": self._iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept, self._last = state["kept"], state["last"]
        self._iteration = state["iteration"]


def totals(judgements: Iterable[Judgement]) -> Totals:
    """The totals of some judgements."""
    found: Totals = {}
    for judgement in judgements:
        one = {
            "version": judgement.version,
            "judged": len(judgement.scores),
            "errors": sum(score.error is not None for score in judgement.scores),
            "seconds": judgement.cost.seconds,
            "tokens": judgement.cost.tokens,
            "money": judgement.cost.money,
        }
        found = added(found, {judgement.judge: one})
    return found


def added(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]) -> Totals:
    """Two totals together."""
    out = {name: dict(one) for name, one in a.items()}
    for name, one in b.items():
        known = out.setdefault(name, {"version": "", **dict.fromkeys(SUMS, 0)})
        known |= {key: known[key] + one[key] for key in SUMS}
        known["version"] = one["version"] or known["version"]
    return out
