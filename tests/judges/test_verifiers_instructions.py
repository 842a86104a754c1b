"""Checkable instructions: each kind against a text that obeys and one that does not."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample
from gnomon.judges.verifiers.instructions.kinds import KINDS, obeys
from gnomon.judges.verifiers.instructions.reading import (
    count_word,
    paragraphs,
    plain,
    sentences,
    words,
)
from gnomon.judges.verifiers.instructions.reward import InstructionReward
from gnomon.records import Prompt
from gnomon.tasks.instructions import generate_instruction_prompts
from judging import score_safely

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
    "highlights": ({"n": 2}, "We *all* like *good* tea here.", "We * all * like *good* tea here."),
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't re-read 3 _ - lines!", ["Don't", "re-read", "3", "lines"]),
        ("The U.S. has 3.5 or 1,000 e.g. cafés", ["The", "U.S.", "has", "3.5", "or", "1,000"]),
        ("我喜欢tea。", ["我", "喜", "欢", "tea"]),
        ("ねこです", ["ね", "こ", "で", "す"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301 au lait", ["caf\u00e9", "au", "lait"]),
        ("_emphasis_ **bold**", ["emphasis", "bold"]),
        ("สวัสดีครับผม", ["สวัส", "ดีคร", "ับผม"]),
        ("...", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(plain(text))[: len(found)] == found


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (3, 'He said "no." Then 3.5 cups? Yes!'),
        (0, "..."),
        (1, "Mr. Smith met Mrs. Jones and Dr. No at St. Mary's."),
        (1, "Symphony No. 5 by J. S. Bach, e.g. its end, i.e. pp. 3-4, is loud"),
        (3, "We met at 5 p.m. It rained in the U.S. It stopped."),
        (2, "Apples, pears, etc. are fruit. So is the U.S. Senate's peach."),
        (2, "They left at 5 p.m. The rest stayed."),
        (2, "No. It is not."),
        (2, "The answer is: 12. That is all."),
        (2, "She ate a fig. The tree was full."),
        (2, "It is 5 ft. We measured."),
        (1, "Well... that was that"),
        (2, "Well... That was that."),
        (3, "What?! Really!!! Oh."),
        (1, '"Stop!" he cried to them.'),
        (2, '"Stop!" She ran.'),
        (2, "(It rained.) We stayed in."),
        (3, "我们喜欢茶。你呢？好极了！"),
        (1, "他说：“你好。”然后走了。"),
        (2, "「走吧。」「好。」"),
        (2, "क्या आप आएंगे। हाँ।"),
        (2, "1. Boil the water.\n2. Pour it."),
        (2, "First: 1. boil the water. 2. Pour it."),
        (3, "- tea\n- milk\n- sugar"),
        (3, "Take:\n\n* **tea** of any kind\n* milk\n* sugar"),
        (1, "# Tea\n\nWe like it."),
        (1, "**Tea**\n\nWe like it."),
        (1, "Dear Tom,\n\nwe like tea."),
        (2, "one line of text\n\nAnother line of text"),
        (1, "a line that\ngoes on"),
        (2, "version 2.0 came out. it was good."),
        (1, "See example.com/a?b=c for more."),
        (2, "We like it.\r\n\r\nThey do too."),
    ],
)
def test_sentences(count: int, text: str) -> None:
    assert len(sentences(plain(text))) == count, sentences(plain(text))


def test_words_are_counted_whole_in_every_script() -> None:
    assert count_word("Tea, TEA and _tea_; not steam or teas", "tea") == 3
    assert count_word("我喜欢tea和茶，茶好", "tea") == 1
    assert count_word("我喜欢tea和茶，茶好", "茶") == 2
    assert count_word("in New\nYork and new york", "New York") == 2
    assert count_word("e.g. C++ and C", "C++") == 1
    assert paragraphs("a\n \t\nb\n\n\nc") == ["a", "b", "c"]


LIST = "Here is what we need for tea:\n\n"
CASES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("numbered_exactly", {"n": 2}, LIST + "1. **Water:** boiling\n2. **Leaves**", True),
    ("numbered_exactly", {"n": 2}, LIST + "**1. Water**\nBoil it.\n\n**2. Leaves**\nAdd.", True),
    ("numbered_exactly", {"n": 2}, LIST + "## 1. Water\n## 2. Leaves", True),
    ("numbered_exactly", {"n": 2}, LIST + '1. "Water"\n2. `leaves`', True),
    ("numbered_exactly", {"n": 2}, LIST + "1) Water\n2) Leaves", True),
    ("numbered_exactly", {"n": 2}, "我们需要：\n1、热水\n2、茶叶", True),
    ("numbered_exactly", {"n": 2}, LIST + "1. Water\n   1. hot\n   2. clean\n2. Leaves", True),
    ("numbered_exactly", {"n": 2}, LIST + "1. Water\n1. Leaves", False),
    ("numbered_exactly", {"n": 2}, LIST + "1. Water\n2. Leaves\n3. Milk", False),
    ("numbered_exactly", {"n": 2}, LIST + "1. Water\n2.5 cups of leaves", False),
    ("numbered_exactly", {"n": 2}, LIST + "1. Water\n2. **", False),
    ("bullets_exactly", {"n": 2}, LIST + "- **Water**\n---\n* *hot*", True),
    ("bullets_exactly", {"n": 1}, "*Tea time* for us all here\n* Water", True),
    ("bullets_exactly", {"n": 2}, LIST + "-Water\n-Leaves", True),
    ("bullets_exactly", {"n": 1}, LIST + "-5 degrees outside\n- Water", True),
    ("bullets_exactly", {"n": 2}, "我们需要：\n- 热水\n- 茶叶", True),
    ("highlights", {"n": 2}, "We **all** like ***good*** tea here.", True),
    ("highlights", {"n": 2}, "We like *tea* and again *tea* here.", True),
    ("highlights", {"n": 1}, "* tea and milk\n* sugar and lemon", False),
    ("highlights", {"n": 1}, "So 2*3*4 is twenty four, not 2 * 3 * 4.", False),
    ("highlights", {"n": 1}, "We say \\*tea\\* to all of it.", False),
    ("highlights", {"n": 1}, "我们都*喜欢*好茶。", True),
    ("highlights", {"n": 3}, "**We** like *all* of *it\nand* more tea", False),
    ("placeholders", {"n": 2}, "Dear [name], we miss you, [name].", True),
    ("placeholders", {"n": 1}, "See [tea](http://tea.org) and [1] and \\[x^2\\] too.", False),
    ("placeholders", {"n": 1}, "- [x] boil some good water today", False),
    ("placeholders", {"n": 1}, "尊敬的[姓名]，我们都好。", True),
    ("postscript", {}, f"{BASE}\n\n**P.S.** And milk.", True),
    ("postscript", {}, f"{BASE} P.S. And milk.", True),
    ("postscript", {}, f"{BASE}\nP. S. And milk.\n\nP.P.S. And sugar.", True),
    ("postscript", {}, f"{BASE}\n\nP.S. And milk.\n\nYours, Tom", False),
    ("postscript", {}, f"P.S. And milk.\n\n{BASE}", False),
    ("postscript", {}, f"{BASE} You may add a P.S. at the end.", False),
    ("postscript", {}, f"P.S. {BASE}", False),
    ("json_object", {"keys": ["a"]}, '```json\n{"a": 1}\n```', True),
    ("json_object", {"keys": ["a"]}, '```\n{"a": 1}```', True),
    ("json_object", {"keys": ["a"]}, '{"a": NaN}', False),
    ("json_object", {"keys": ["a"]}, '{"a": [-Infinity]}', False),
    ("json_object", {"keys": ["a"]}, '{"a": 1, "a": 2}', False),
    ("json_object", {"keys": ["a"]}, '{"a": {"b": 1, "b": 1}}', False),
    ("json_object", {"keys": []}, '["a"]', False),
    ("json_object", {"keys": []}, "{}", True),
    ("json_object", {"keys": []}, "[" * 100_000, False),
    ("words_at_least", {"n": 10}, "我们都喜欢在花园里喝茶。", True),
    ("no_commas", {}, "我们喜欢茶，也喜欢咖啡。", False),
    ("no_commas", {}, "我们都喜欢在花园里喝茶。", True),
    ("no_full_stops", {}, "我们都喜欢在花园里喝茶。", False),
    ("ask_question", {"n": 2}, "你喜欢茶吗？他喜欢咖啡吗？", True),
    ("ask_question", {"n": 1}, 'She asked us all, "Do you like **tea**?"', True),
    ("in_quotes", {}, f"“{BASE}”", True),
    ("in_quotes", {}, f"“{BASE}", False),
    ("title", {}, f"<<Tea: 5 < 6>>\n{BASE}", True),
    ("title", {}, f"<<???>>\n{BASE}", False),
    ("sections", {"n": 2}, f"**Section 1:**\n{BASE}\n\n### Section 2\n{BASE}", True),
    ("parts_with_stars", {"n": 2}, f"***Tea time*** is here.\n***\n{BASE}", True),
    ("parts_with_stars", {"n": 2}, f"{BASE} *** {BASE}\n***", True),
    ("parts_with_stars", {"n": 2}, f"{BASE}\n***\n***\n{BASE}", False),
    ("capital_words", {"n": 1}, "The U.S. likes a good tea.", True),
    ("capital_words", {"n": 1}, "I think A is a good tea.", False),
    ("lowercase", {}, "我们都喜欢在花园里喝茶。", False),
    ("uppercase", {}, "12345 67890 1 2 3 4 5", False),
    ("starts_with", {"phrase": "In short,"}, f"**In short,** {BASE}", True),
    ("starts_with", {"phrase": "In short,"}, "in short, we all like good tea.", True),
    ("starts_with", {"phrase": "In short,"}, "In short,", False),
    ("ends_with", {"phrase": "That is all."}, f'"{BASE} That is all."', True),
    ("ends_with", {"phrase": "is all."}, f"{BASE} This all.", False),
    ("one_of", {"choices": ["It depends."]}, "**It depends.**", True),
    ("one_of", {"choices": ["It depends."]}, "It depends. Or not.", False),
    ("include_words", {"words": ["tea"]}, "我们都喜欢tea。", True),
    ("short_sentences", {"n": 6}, f"{BASE}\n\n- {BASE}\n- {BASE}", True),
    ("paragraphs_exactly", {"n": 2}, f"{BASE}\r\n\r\n{BASE}", True),
]


@pytest.mark.parametrize(("name", "params", "text", "good"), CASES)
def test_what_a_careful_reader_says(
    name: str, params: dict[str, Any], text: str, good: bool
) -> None:
    assert obeys(text, name, params) is good


@pytest.mark.parametrize(
    "part",
    ["a", "*", "**a", "***a", "[a", "<<", ". ", "Mr. ", "1.", "P. S. ", "\n", "- ", "a\n\n", "```"],
)  # fmt: skip
def test_no_answer_takes_long_to_check(part: str) -> None:
    text = "one two three four five six " + part * (20_000 // len(part)) + "x"
    began = time.process_time()
    for name, (params, _, _) in EXAMPLES.items():
        obeys(text, name, params)
    assert time.process_time() - began < 20  # a second where nothing is quadratic


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
