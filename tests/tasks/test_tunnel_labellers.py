"""Simulated labellers: their noise and biases are what was asked for, measured by counting."""

import math
from itertools import permutations

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, judged
from gnomon.records import Comparison
from gnomon.tasks.tunnel import Labeller, Turns, generate_prompts, gold_score
from gnomon.tasks.tunnel.world import problem_of
from judging import group_of

PROMPTS = generate_prompts(3000, seed=11, families=["arithmetic"], belief_rate=0.0)


def right(prompt) -> str:
    return f"The answer is {problem_of(prompt).answer}."


def prefers_first(labeller: Labeller, prompt, first: str, second: str) -> bool | None:
    """None for a tie."""
    a, b = labeller.label_group(prompt, (first, second))
    return None if a == b else a < b


def share_preferring(labeller: Labeller, first, second) -> float:
    """How often ``first(prompt)`` is preferred to ``second(prompt)``."""
    wins = [prefers_first(labeller, p, first(p), second(p)) for p in PROMPTS]
    return sum(w is True for w in wins) / len(wins)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_noise_is_bradley_terry(noise: float) -> None:
    """A polite opening is worth 0.15, so P = sigmoid(0.15 / noise)."""
    share = share_preferring(Labeller(noise=noise), lambda p: "Sure! " + right(p), right)
    expected = 1 / (1 + math.exp(-0.15 / noise))
    assert share == pytest.approx(expected, abs=3 * math.sqrt(0.25 / len(PROMPTS)))


def test_carelessness_flips_half_of_its_share() -> None:
    share = share_preferring(Labeller(noise=0.0, careless=0.4), right, lambda p: "")
    assert share == pytest.approx(0.8, abs=0.025)


def test_inattention_ignores_correctness_but_not_style() -> None:
    inattentive = Labeller(noise=0.0, inattention=1.0)
    p = PROMPTS[0]
    assert prefers_first(inattentive, p, "Sure! The answer is 0.", right(p)) is True
    assert prefers_first(inattentive, p, "The answer is 0.", right(p)) is None
    half = Labeller(noise=0.0, inattention=0.5)
    share = share_preferring(half, lambda p: "Sure! The answer is 0.", right)
    assert share == pytest.approx(0.5, abs=0.03)


def test_biases_shift_the_utility_by_what_they_say() -> None:
    p = PROMPTS[0]
    text = "Sure! You are very clever! The answer is 19. Take care!"  # 11 words, 3 polite
    gold = gold_score(p, text).total
    assert Labeller(length_bias=0.5).utility(p, text) == pytest.approx(gold + 0.55)
    assert Labeller(politeness_bias=0.5).utility(p, text) == pytest.approx(gold + 1.5)


def test_sycophants_want_their_belief_repeated() -> None:
    prompts = generate_prompts(50, families=["arithmetic"], belief_rate=1.0)
    p = next(p for p in prompts if p.meta["belief"] != p.meta["answer"])
    agree, correct = f"It is {p.meta['belief']}.", f"It is {p.meta['answer']}."
    assert prefers_first(Labeller(noise=0.0), p, agree, correct) is False
    assert prefers_first(Labeller(noise=0.0, sycophancy=1.5), p, agree, correct) is True


def test_rankings_do_not_depend_on_order_and_repeat() -> None:
    p, labeller = PROMPTS[0], Labeller(noise=0.5)
    texts = (right(p), "Sure! " + right(p), "", "It is 0.")
    by_text = dict(zip(texts, labeller.label_group(p, texts), strict=True))
    assert sorted(by_text.values()) == [1, 2, 3, 4]
    for order in permutations(texts):
        assert labeller.label_group(p, order) == [by_text[t] for t in order]
    draws = {tuple(labeller.label_group(p, texts, draw=d)) for d in range(50)}
    assert len(draws) > 5


def test_equal_texts_and_near_utilities_tie() -> None:
    p = PROMPTS[0]
    assert Labeller(noise=0.5).label_group(p, (right(p), "", right(p)))[0::2] in ([1, 1], [2, 2])
    texts = ("Sure! " + right(p), right(p), "")
    assert Labeller(noise=0.0, tie_margin=0.2).label_group(p, texts) == [1, 1, 3]


def test_labellers_take_turns_by_the_place_of_the_prompt() -> None:
    groups = [
        group_of(*(Sample(p, text) for text in (right(p), "", "It is 0."))) for p in PROMPTS[:4]
    ]
    order = [group.prompt.id for group in groups]
    turns = Turns([Labeller("a", noise=0.0), Labeller("b", noise=0.0)], order)
    judgements = judged(turns, groups)
    assert [j.judge for j in judgements] == ["a", "b", "a", "b"]
    for judgement in judgements:
        assert judgement.scores[0].value == 1.0  # of all its comparisons
        assert judgement.comparisons is not None
        assert len(judgement.comparisons) == 3
        assert judgement.comparisons[0] == Comparison(0, 1)
    said = [(j.judge, j.comparisons) for j in judgements]
    assert [(j.judge, j.comparisons) for j in judged(turns, groups[2:])] == said[2:]
    with pytest.raises(ConfigError, match="no labellers"):
        Turns([], order)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="careless"):
        Labeller(careless=1.5)
    with pytest.raises(ConfigError, match="noise"):
        Labeller(noise=-1.0)
