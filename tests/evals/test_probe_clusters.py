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


def pays_length(samples: Sequence[Sample]) -> list[float]:
    """What the right answer is worth differs by prompt; a long answer gets as much everywhere."""
    found = []
    for sample in samples:
        number = int(sample.prompt.id)
        right = str(number + 20) in sample.text
        found.append((0.5 + number) * right + 6.0 * (sample.text.count("is") > 2))
    return found


def test_what_an_answer_keeps_is_no_surer_than_what_it_is_worth() -> None:
    prompts = [Prompt(str(i), (Message("user", f"Which number has place {i}?"),)) for i in range(8)]
    answers = [
        Answer(p, p.messages[-1].content, f"it is {i + 20}.", True, 1.0)
        for i, p in enumerate(prompts)
    ]
    found = probe_reward(FunctionReward(pays_length, "pays_length"), answers, [], lay, answers=64)
    repeated = next(e for e in found.effects if (e.edit, e.of) == ("repeat", EARLY))
    assert repeated.change is not None
    assert repeated.change.low == repeated.change.high == pytest.approx(6.0)
    assert repeated.kept is not None
    assert repeated.kept.value == pytest.approx(2.5)
    assert repeated.kept.low == pytest.approx(1 + 6 / 6.047, abs=0.02)
    assert repeated.kept.high == pytest.approx(1 + 6 / 1.953, abs=0.02)
