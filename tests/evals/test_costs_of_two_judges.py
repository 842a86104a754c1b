"""What failed attempts cost where two judges are asked, of whom one tells its costs again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from evals_world import Speaker, write

from gnomon.evals.best_of_n import BestOfN, BestOfOptions
from gnomon.evals.evaluate import evaluate
from gnomon.judges.protocol import Judge
from gnomon.records import Cost, Group, Judgement, Score


class Dear(Judge):
    """Takes ``price`` for each prompt; one that remembers tells it whenever it is asked. It fails
    on the prompts that hold one of ``fails``."""

    def __init__(self, name: str, price: float, remembers: bool, fails: str = "") -> None:
        self.name, self.price, self.remembers, self.fails = name, price, remembers, fails

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [self._one(group) for group in groups]

    def _one(self, group: Group) -> Judgement:
        bad = group.prompt.messages[-1].content in list(self.fails)
        scores = [Score(None, error="no")] if bad else [Score(1.0)]
        cost = Cost(0.0, 1, self.price)
        return Judgement(self.name, tuple(scores * len(group.responses)), cost=cost)


@pytest.mark.parametrize(
    ("judge_remembers", "select_remembers", "expected"),
    [
        (False, False, [4.4, 6.6, 7.7]),  # of four prompts, then two, then one: 1.1 each
        (True, True, [4.4, 4.4, 4.4]),
        (True, False, [4.4, 4.6, 4.7]),
        (False, True, [4.4, 6.4, 7.4]),
    ],
)
def test_only_what_is_told_again_is_counted_once(
    tmp_path: Path, judge_remembers: bool, select_remembers: bool, expected: list[float]
) -> None:
    write(tmp_path / "q.jsonl", [{"prompt": str(i), "answer": ""} for i in range(4)])
    found = []
    for fails in ("23", "3", ""):
        options = BestOfOptions(data=["q.jsonl"], judge="exact", select="exact", samples=2)
        suite = BestOfN(options, tmp_path)
        suite._judge = Dear("judge", 1.0, judge_remembers, fails)
        suite._select = Dear("select", 0.1, select_remembers)
        found.append(evaluate(suite, Speaker(lambda text: "yes"), tmp_path))
    assert [result.errors for result in found] == [2, 1, 0]
    assert [round(result.money, 6) for result in found] == expected
