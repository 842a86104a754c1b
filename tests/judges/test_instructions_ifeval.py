"""Our checkers of instructions against IFEval's own: every difference has one of the reasons here.

The same reasons stand in docs/rewards.md. Short answers of our own show each of them; where the
real answers beside the checkout are at hand, all of their differences must have one too.
"""

# ruff: noqa: E501  (answers read better unbroken)

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import ifeval  # noqa: E402
import instructions  # noqa: E402
from gnomon.judges.verifiers.instructions import reading  # noqa: E402
from gnomon.judges.verifiers.instructions.kinds import KINDS, obeys  # noqa: E402
from gnomon.judges.verifiers.instructions.reading import count_word, plain, words  # noqa: E402

Explains = Callable[[str, Mapping[str, Any]], bool]


def has(pattern: str) -> Explains:
    """A reason that holds where the pattern is found."""
    found = re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    return lambda text, params: found.search(text) is not None


def too_few_words(text: str, params: Mapping[str, Any]) -> bool:
    return len(set(words(plain(text).lower()))) < 5


def counted_apart(text: str, params: Mapping[str, Any]) -> bool:
    return len(words(text)) != len(re.findall(r"\w+", text))


def inside_words(text: str, params: Mapping[str, Any]) -> bool:
    asked = params.get("words") or [params["word"]]
    patterns = [p for w in asked for p in (w, rf"\b{w}\b")]
    counts = {len(re.findall(p, text, re.IGNORECASE)) for p in patterns}
    return counts != {sum(count_word(text, w) for w in asked)}


def lax_json(text: str) -> Any:
    """As Python reads it; None where that fails."""
    try:
        return json.loads(text.strip().removeprefix("```json").strip("`"))
    except ValueError:
        return None


def not_english(text: str, params: Mapping[str, Any]) -> bool:
    from langdetect import LangDetectException, detect

    try:
        return str(detect(text)) != "en"
    except LangDetectException:
        return True


SENTENCES: dict[str, Explains] = {
    "items of a list end a sentence, and their numbers do not": has(r"^\W*(\(?\w{1,3}[.)]|[-*•])"),
    "。！？ and their kin end sentences": has("[。！？；]"),
    "a line without an end mark ends one where a new paragraph begins": has(r"[^.!?\s]\s*\n"),
    "abbreviations and initials (No. 5, e.g., Mr. X, J. S.) do not end one, or not where punkt guesses": (
        has(r"\b(\w|no|mr|mrs|ms|dr|st|etc|e\.g|i\.e|pp|vs|p\.m|a\.m|u\.s|inc|jr|sr)\.")
    ),
    "what a quotation ends in does not, where the sentence continues": has(r"[.!?…][\"'”’)*]"),
}
WORDS: dict[str, Explains] = {
    "don't, well-known, 3.5 and U.S. are one word; a Chinese character is one": counted_apart
}
INSIDE: dict[str, Explains] = {
    "only whole words count (river, not driver), also next to _ or Chinese": inside_words
}
CASE: dict[str, Explains] = {"any language may be asked for, not English alone": not_english}
FIRST: dict[str, Explains] = {
    "markup around the first word is not part of it": has(r"\A\W*[^\w\s'\"]|\A\W+\s"),
    "the first word ends where a word ends (Here's, well-known, 2:30, item(s))": has(
        r"\A\W*\w+[^\w\s]"
    ),
}
REASONS: Mapping[str, Mapping[str, Explains]] = {
    "words_at_least": WORDS,
    "words_at_most": WORDS,
    "sentences_exactly": SENTENCES,
    "sentences_at_most": SENTENCES,
    "paragraphs_exactly": {"a line of blanks is an empty line": has(r"\n[ \t]+\n|\A\n|\n\n\n")},
    "parts_with_stars": {"***stars around a few words*** part nothing": has(r"\*\*\*\S")},
    "include_words": INSIDE,
    "word_count": INSIDE,
    "avoid_words": INSIDE,
    "avoid_letter": {},
    "letter_at_least": {},
    "lowercase": CASE,
    "uppercase": CASE,
    "capital_words": {
        "a single letter (I, A) is not a word in capitals": has(r"\b[A-Z]\b"),
        "hyphens and digits are part of a word (NASA-led, B2)": has(r"\w[-'’/.]\w|\d|_"),
    },
    "no_commas": {"，、 and ، are commas too": has("[，、،]")},
    "in_quotes": {"curly quotation marks are quotation marks": has("[“„]")},
    "bullets_exactly": {
        "rules, emphasis and what holds no word are not bullets": has(
            r"^\s*(-\W|-\d|-$|\*\S|\*\W*$)"
        )
    },
    "title": {"a title holds a word": has(r"<<\W+>>")},
    "highlights": {
        "stars that touch nothing (bullets, products) highlight nothing": has(r"\*\s|\s\*|\d\*"),
        "***three stars*** highlight once": has(r"\*\*\*\S"),
        "what is escaped or in **one *inside* another** is counted as it is written": has(
            r"\\\*|\*\*[^*\n]*\*[^*\n]"
        ),
    },
    "placeholders": {
        "numbers, links, ticked boxes and LaTeX are not placeholders": has(
            r"\[[^\]\w]*\]|\[[\d\W]*\]|\]\(|\\\[|\[x\]"
        ),
    },
    "sections": {
        "sections are headed on their own lines, in order, and as many as asked": has(
            r"section\s?\d"
        )
    },
    "postscript": {
        "a postscript begins a line or follows a sentence, says something, and is the end": has(
            r"p\.\s?s\."
        )
    },
    "json_object": {
        "it must be an object with the keys asked for": lambda t, p: (
            not isinstance(lax_json(t), dict) or not set(p["keys"]) <= set(lax_json(t))
        ),
        "NaN, Infinity and a name that appears twice are not JSON": lambda t, p: (
            lax_json(t) is not None and reading.json_object(t) is None
        ),
    },
    "ends_with": {
        "the answer says more than the phrase, and the phrase begins a word": lambda t, p: (
            not re.search(rf"(?s)\w\W+{re.escape(p['phrase'])}\W*$", t, re.I)
        ),
        "markup and quotation marks around it do not count": has(r"[*_\"'”“`]\s*\Z"),
    },
    "first_word": FIRST,
    "one_of": {"the answer is one of the choices, it does not hold one": lambda t, p: True},
}
GATE = "fewer than five different words obey nothing that asks for more"

TEA = "We all like a good cup of tea in the garden."
OWN: Mapping[str, list[tuple[str, dict[str, Any]]]] = {
    "words_at_least": [(f"{TEA} Don't you?", {"n": 13}), (TEA, {"n": 11}), (TEA, {"n": 12}),
                       ("我们都喜欢在花园里喝一杯好茶。", {"n": 10})],
    "words_at_most": [(f"{TEA} It's well-known.", {"n": 13}), (TEA, {"n": 10}), (TEA, {"n": 11})],
    "sentences_exactly": [
        ("Mr. Smith met Dr. Jones at 3.5 p.m. yesterday. They had tea!", {"n": 2}),
        ("Symphony No. 5 is loud. We like it, e.g. the end.", {"n": 2}),
        ("1. Boil some water.\n2. Pour it over the leaves.", {"n": 2}),
        ("我们喜欢茶。你呢？好极了！", {"n": 3}),
        ("\"Stop!\" he cried to us all. Nobody did.", {"n": 2}),
        ("So we left in the rain\n\nThen it stopped at last.", {"n": 2}),
        (f"{TEA} {TEA} {TEA}", {"n": 3}), (f"{TEA} {TEA}", {"n": 3}),
    ],
    "sentences_at_most": [(f"{TEA} {TEA}", {"n": 2}), (f"{TEA} {TEA}", {"n": 1}),
                          ("- tea and milk\n- sugar and lemon", {"n": 1})],
    "paragraphs_exactly": [(f"{TEA}\n\n{TEA}", {"n": 2}), (f"{TEA}\n \n{TEA}", {"n": 2}),
                           (f"{TEA}\n{TEA}", {"n": 2})],
    "parts_with_stars": [(f"{TEA}\n***\n{TEA}", {"n": 2}), (f"***Tea time*** {TEA}", {"n": 1}),
                         (f"{TEA}\n***\n***\n{TEA}", {"n": 2}), (f"***\n{TEA}\n***", {"n": 1})],
    "include_words": [(TEA, {"words": ["tea"]}), (TEA, {"words": ["te"]}),
                      ("我们都喜欢喝tea。", {"words": ["tea"]})],
    "word_count": [(TEA, {"word": "tea", "n": 1}), (TEA, {"word": "tea", "n": 2}), (f"{TEA} We eat a steak.", {"word": "tea", "n": 1})],
    "avoid_words": [(TEA, {"words": ["the"]}), (TEA, {"words": ["very"]}),
                    ("We say _very_ little about it.", {"words": ["very"]})],
    "avoid_letter": [(TEA, {"letter": "z"}), (TEA, {"letter": "k"})],
    "letter_at_least": [(TEA, {"letter": "o", "n": 3}), (TEA, {"letter": "o", "n": 5})],
    "lowercase": [(TEA.lower(), {}), (TEA, {}), ("über den wolken muss die freiheit wohl grenzenlos sein", {})],
    "uppercase": [(TEA.upper(), {}), (TEA, {}), ("ÜBER DEN WOLKEN MUSS DIE FREIHEIT WOHL GRENZENLOS SEIN", {})],
    "capital_words": [("WE ALL like a GOOD cup.", {"n": 3}), ("I think I like A good cup.", {"n": 2}),
                      ("We like the NASA-led B-52 group.", {"n": 1})],
    "no_commas": [(TEA, {}), (f"Well, {TEA}", {}), ("我们喜欢茶，也喜欢咖啡。", {})],
    "in_quotes": [(f'"{TEA}"', {}), (TEA, {}), (f"“{TEA}”", {})],
    "bullets_exactly": [("* tea and milk\n- sugar and lemon too", {"n": 2}),
                        ("- tea and milk\n---\n- sugar and lemon", {"n": 2}),
                        ("*Well now*, here it is:\n* tea and milk", {"n": 1}),
                        ("* one large cup of tea", {"n": 2})],
    "title": [(f"<<Tea>>\n{TEA}", {}), (f"<<...>>\n{TEA}", {}), (TEA, {})],
    "highlights": [("We **all** like *good* tea here.", {"n": 2}), (f"{TEA} 2 * 3 * 4 is 24", {"n": 1}),
                   ("We all like ***good*** tea here.", {"n": 2}), ("*Tea* and *tea* and more tea again.", {"n": 2}),
                   ("We **all like *good* tea** in here.", {"n": 2})],
    "placeholders": [("Dear [name], we like good tea.", {"n": 1}), ("See [1] for how we like tea.", {"n": 1}),
                     ("Dear [name], we miss you, [name].", {"n": 2}),
                     ("See [our page](http://x.y) for more on tea.", {"n": 1})],
    "sections": [(f"Section 1\n{TEA}\nSection 2\n{TEA}", {"n": 2}), (f"Section 1\n{TEA}\nSection 2\n{TEA}", {"n": 1})],
    "postscript": [(f"{TEA}\n\nP.S. And milk.", {}), (f"{TEA} P.S. And milk.", {}), (TEA, {}),
                   (f"P.S. And milk.\n\n{TEA}", {}), (f"You can add a P.S. to it. {TEA}", {})],
    "json_object": [('{"answer": "tea"}', {"keys": ["answer"]}), ('["tea"]', {"keys": []}),
                    ('```json\n{"answer": 1}\n```', {"keys": ["answer"]}), (TEA, {"keys": []}),
                    ('{"answer": NaN}', {"keys": ["answer"]}), ('{"answer": 1, "answer": 2}', {"keys": ["answer"]})],
    "ends_with": [(f"{TEA} That is all.", {"phrase": "That is all."}), (TEA, {"phrase": "That is all."}),
                  (f"{TEA} **That is all.**", {"phrase": "That is all."}),
                  ("That is all of what I say", {"phrase": "That is all of what I say"})],
    "first_word": [(TEA, {"word": "we"}), (TEA, {"word": "tea"}), (f"**Tea** time. {TEA}", {"word": "tea"}),
                   (f"We're here. {TEA}", {"word": "we"})],
    "one_of": [("It depends.", {"choices": ["It depends."]}), ("It depends. Or not.", {"choices": ["It depends."]}),
               ("No", {"choices": ["It depends."]})],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    ifeval.seeded()


def reasons(kind: str, text: str, params: Mapping[str, Any]) -> list[str]:
    """Why the two differ on this answer; empty where they agree."""
    ours, theirs = obeys(text, kind, params), ifeval.ORACLE[kind](text, params)
    if ours == theirs:
        return []
    found = [said for said, explains in REASONS[kind].items() if explains(text, params)]
    if theirs and not KINDS[kind].short and too_few_words(text, params):
        found.append(GATE)
    return found or [f"NO REASON: {kind} {params} ours {ours}: {text!r}"]


def test_every_kind_of_ifevals_is_compared() -> None:
    assert set(ifeval.ORACLE) == set(REASONS) == set(OWN)
    assert len(ifeval.ORACLE) == 26


@pytest.mark.parametrize("kind", sorted(REASONS))
def test_differences_have_a_reason(kind: str) -> None:
    assert {obeys(text, kind, params) for text, params in OWN[kind]} == {True, False}
    seen = {said for text, params in OWN[kind] for said in reasons(kind, text, params)}
    assert not [said for said in seen if said.startswith("NO REASON")]


def test_own_answers_show_every_reason() -> None:
    shown = {said for kind, own in OWN.items() for case in own for said in reasons(kind, *case)}
    assert shown == {said for own in REASONS.values() for said in own} | {GATE}


def test_the_documentation_lists_every_reason() -> None:
    text = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8").replace("\\*", "*")
    for kind, own in REASONS.items():
        for said in own:
            assert said in text, kind
    assert GATE in text


def test_every_difference_on_real_answers_has_a_reason(shared_data: Path) -> None:
    files = {
        "alpaca_eval/gemma-7b-it": "output_2",
        "alpaca_eval/claude-2.1": "output_1",
        "alpaca_farm/eval_gpt-3.5-turbo-0301": "output",
        "tulu_human_eval/eval_annotations_tulu_1": "completion_a",
        "llamafactory_demos/alpaca_zh_demo": "output",
    }
    rng = random.Random(0)
    unexplained: list[str] = []
    pairs = agreed = 0
    for name, field in files.items():
        with gzip.open(shared_data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts = [row[field] for row in map(json.loads, lines) if row[field].strip()]
        for text in rng.sample(texts, 12):
            for kind in ifeval.ORACLE:
                found = reasons(kind, text, instructions.fitting(kind, text, rng))
                pairs, agreed = pairs + 1, agreed + (not found)
                unexplained += [said for said in found if said.startswith("NO REASON")]
    assert not unexplained, "\n".join(unexplained)
    assert agreed / pairs > 0.88
