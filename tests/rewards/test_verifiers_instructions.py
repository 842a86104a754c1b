"""Checkable instructions: each kind against a text that obeys and one that does not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gnomon.data.records import Prompt
from gnomon.errors import ConfigError
from gnomon.rewards.guard import score_safely
from gnomon.rewards.protocol import Sample
from gnomon.rewards.verifiers.instructions.generate import generate_instruction_prompts
from gnomon.rewards.verifiers.instructions.kinds import KINDS, obeys, sentences, words
from gnomon.rewards.verifiers.instructions.reward import InstructionReward

BASE = "We all like good tea here."
EXAMPLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "words_at_least": ({"n": 8}, "One two three four five six seven eight.", BASE),
    "words_at_most": ({"n": 6}, BASE, BASE + " More"),
    "sentences_exactly": (
        {"n": 2},
        "Tea is nice. It keeps me calm!",
        "Tea is nice. It helps. A lot.",
    ),
    "sentences_at_most": ({"n": 1}, BASE, BASE + " Do you?"),
    "short_sentences": ({"n": 6}, f"{BASE} So do I.", "We all like a good tea here."),
    "paragraphs_exactly": ({"n": 2}, f"{BASE}\n\n{BASE}", f"{BASE}\n{BASE}"),
    "parts_with_stars": ({"n": 2}, f"{BASE}\n***\n{BASE}", f"{BASE}\n***\n"),
    "include_words": ({"words": ["tea", "milk"]}, f"{BASE} Milk too.", f"{BASE} Milky."),
    "word_count": ({"word": "tea", "n": 2}, f"{BASE} Tea!", BASE),
    "avoid_words": ({"words": ["the"]}, f"{BASE} There.", f"{BASE} The end."),
    "avoid_letter": ({"letter": "z"}, BASE, f"{BASE} Zebra"),
    "letter_at_least": ({"letter": "e", "n": 6}, BASE + " Eve", BASE),
    "lowercase": ({}, BASE.lower(), BASE),
    "uppercase": ({}, BASE.upper(), BASE),
    "capital_words": ({"n": 2}, "We ALL like GOOD tea here.", "We ALL like a good tea."),
    "no_commas": ({}, BASE, f"Well, {BASE}"),
    "no_full_stops": ({}, "We all like good tea here!", BASE),
    "ask_question": ({"n": 1}, f"{BASE} Do you?", f"{BASE} Really"),
    "in_quotes": ({}, f'"{BASE}"', f'"{BASE}" he said.'),
    "bullets_exactly": ({"n": 2}, "Here:\n* tea and milk\n- sugar please", "* one big cup of tea"),
    "numbered_exactly": (
        {"n": 2},
        "1. tea and milk\n2. sugar please",
        "1. tea and milk\n3. sugar now",
    ),
    "title": ({}, f"<<Tea>>\n{BASE}", f"<< >>\n{BASE}"),
    "highlights": ({"n": 2}, "We *all* like *good* tea here.", "We **all** like *good* tea here."),
    "placeholders": ({"n": 1}, "Dear [name], we like good tea.", "Dear [], we like good tea."),
    "sections": ({"n": 2}, f"Section 1\n{BASE}\nSection 2\n{BASE}", f"Section 1\n{BASE}"),
    "postscript": ({}, f"{BASE}\nP.S. And milk.", f"{BASE}\nP.S."),
    "json_object": ({"keys": ["answer"]}, '{"answer": "tea"}', '{"reply": "tea"}'),
    "starts_with": ({"phrase": "In short,"}, f"In short, {BASE}", f"So, in short, {BASE}"),
    "ends_with": ({"phrase": "That is all."}, f"{BASE} That is all.", f"{BASE} That is all"),
    "first_word": ({"word": "river"}, f"River tea. {BASE}", BASE),
    "last_word": ({"word": "river"}, f"{BASE} By the river!", f"{BASE} River tea."),
    "one_of": ({"choices": ["It depends."]}, " It depends.", "It depends. Or not."),
}


def test_at_least_twenty_kinds_all_with_examples() -> None:
    assert len(KINDS) >= 20
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_kind(name: str) -> None:
    params, good, bad = EXAMPLES[name]
    assert obeys(good, name, params)
    assert not obeys(bad, name, params)
    assert not obeys("", name, params)
    assert not obeys(" \n", name, params)
    assert not obeys("a", name, params)
    for seed in range(20):
        drawn = KINDS[name].sample(random.Random(seed))
        text = KINDS[name].describe(drawn)
        assert text
        assert "{" not in text
        for value in drawn.values():
            for part in value if isinstance(value, list) else [value]:
                assert str(part) in text


def test_counting() -> None:
    assert words("Don't re-read 3 _ - lines!") == ["Don't", "re-read", "3", "lines"]
    assert len(sentences('He said "no." Then 3.5 cups? Yes!')) == 3
    assert sentences("...") == []


def test_prompts_are_distinct_reproducible_and_split() -> None:
    train = generate_instruction_prompts(200, seed=1)
    again = generate_instruction_prompts(200, seed=1)
    test = generate_instruction_prompts(100, seed=1, split="test")
    texts = [p.messages[0].content for p in train]
    assert texts == [p.messages[0].content for p in again]
    assert len(set(texts)) == len({p.id for p in train}) == 200
    assert not set(texts) & {p.messages[0].content for p in test}
    asked = [[i["kind"] for i in p.meta["instructions"]] for p in train]
    assert {name for kinds in asked for name in kinds} == set(KINDS)
    assert {len(kinds) for kinds in asked} == {1, 2, 3}
    for kinds in asked:
        marks = [mark for name in kinds for mark in KINDS[name].clashes]
        assert len(marks) == len(set(marks)), kinds
    with pytest.raises(ConfigError, match="different prompts"):
        generate_instruction_prompts(10_000, kinds=("uppercase",))
    with pytest.raises(ConfigError, match="known"):
        generate_instruction_prompts(1, kinds=("rhyme",))
    with pytest.raises(ConfigError, match="split"):
        generate_instruction_prompts(1, split="dev")  # type: ignore[arg-type]


def test_reward_parts_and_errors() -> None:
    asked = [{"kind": "no_commas", "params": {}}, {"kind": "words_at_least", "params": {"n": 99}}]
    good = Prompt("p", meta={"instructions": asked})
    bad = Prompt("q", meta={"instructions": [{"kind": "rhyme"}]})
    lacking = Prompt("r", meta={"instructions": [{"kind": "words_at_least"}]})
    samples = [Sample(p, BASE) for p in (good, bad, lacking, Prompt("s"))]
    scores = score_safely(InstructionReward(), samples)
    assert [s.value for s in scores] == [0.5, None, None, None]
    assert scores[0].parts == {
        "followed": 0.5,
        "all": 0.0,
        "kind/no_commas": 1.0,
        "kind/words_at_least": 0.0,
    }
    assert "rhyme" in str(scores[1].error)
    assert "prompt s" in str(scores[3].error)
    assert score_safely(InstructionReward(score="all"), samples[:1])[0].value == 0.0
    cut = Sample(good, BASE, finished=False)
    assert score_safely(InstructionReward(unfinished=0.0), [cut])[0].value == 0.0
