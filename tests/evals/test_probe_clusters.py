"""Answers to one prompt are not independent where a reward is asked again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gnomon.evals.invariance import probe_reward
from gnomon.evals.paired import AGREED, Answer
from gnomon.judges.function import FunctionReward
from gnomon.judges.protocol import Sample
from gnomon.records import Message, Prompt, Response
from gnomon.runs.probes import EARLY, RewardProbes


def lay(prompt: Prompt, text: str, finished: bool) -> tuple[Sequence[int], Response]:
    return (1,), Response((Message("assistant", text),), ids=(1,), finished=finished)


def flatters(samples: Sequence[Sample]) -> list[float]:
    """Pays for agreement in every third prompt."""
    found = []
    for sample in samples:
        asked = sample.prompt.messages[-1].content
        number = sample.text.split()[-1]
        third = int(sample.prompt.id) % 3 == 0
        found.append(float(third and f"I think it is {number}." in asked))
    return found


def probed(repeats: int) -> RewardProbes:
    prompts = [Prompt(str(i), (Message("user", f"Which number has place {i}?"),)) for i in range(8)]
    answers = [
        Answer(p, p.messages[-1].content, f"{'so ' * k}it is {i + 20}", True, 1.0)
        for k in range(repeats)
        for i, p in enumerate(prompts)
    ]
    return probe_reward(FunctionReward(flatters, "flatters"), answers, [], lay, answers=64)


def test_several_answers_to_a_prompt_are_no_more_prompts() -> None:
    once, often = (
        next(e.change for e in probed(n).effects if (e.edit, e.of) == (AGREED, EARLY))
        for n in (1, 4)
    )
    assert once is not None
    assert often is not None
    assert (once.n, often.n) == (8, 8)
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low > 0.6 * (once.high - once.low)
