"""Figures of texts against counting by hand and drawing at random."""

import gzip
import itertools
import json
import math
import random
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.stats import texts as t

SOME = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=12).map(" ".join)
TEXTS = st.lists(SOME, min_size=1, max_size=8)


def rows(file):
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, it's 39!", ["don't", "stop", ",", "it's", "39", "!"]),
        ("snake_case  \n x", ["snake", "_", "case", "x"]),
        ("我爱你 ok", ["我", "爱", "你", "ok"]),
        ("'quoted'", ["'quoted", "'"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert list(t.words(text)) == expected


@given(st.text(max_size=60))
def test_words_leave_out_nothing_but_space(text):
    kept = "".join(t.words(text))
    assert Counter(kept) == Counter("".join(text.lower().split()))


def test_ngrams_are_all_runs_in_order():
    assert t.ngrams("abcd", 2) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert t.ngrams("ab", 3) == []
    with pytest.raises(ValueError, match="at least 1"):
        t.ngrams("ab", 0)


# -- variety --------------------------------------------------------------------------------------


@given(TEXTS, st.integers(1, 3))
def test_distinct_is_the_share_of_different_ngrams(texts, n):
    grams = []
    for text in texts:
        parts = text.split()
        grams += [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
    found = t.distinct(texts, n)
    if not grams:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(len(set(grams)) / len(grams))


def test_drawn_distinct_is_the_mean_over_all_draws():
    text = "a b a b a c"
    grams = t.ngrams(text.split(), 2)
    draws = [len(set(d)) / 3 for d in itertools.combinations(grams, 3)]
    assert t.distinct([text], 2, drawn=3) == pytest.approx(statistics.fmean(draws))
    assert t.distinct([text], 2, drawn=99) == t.distinct([text], 2)


def test_drawn_distinct_compares_texts_of_any_length_and_plain_distinct_does_not():
    draw = random.Random(0)
    vocabulary = [f"w{i}" for i in range(40)]
    short, long = (" ".join(draw.choices(vocabulary, k=k)) for k in (300, 6000))
    assert t.distinct([short]) > 1.5 * t.distinct([long])
    assert t.distinct([short], drawn=100) == pytest.approx(t.distinct([long], drawn=100), abs=0.03)


@given(SOME, SOME, st.integers(1, 3))
def test_overlap_is_symmetric_between_0_and_1_and_1_only_for_the_same_ngrams(a, b, n):
    found = t.overlap(a, b, n)
    assert 0 <= found <= 1
    assert found == t.overlap(b, a, n)
    assert t.overlap(a, a, n) == 1
    if min(len(a.split()), len(b.split())) >= n:
        same = Counter(t.ngrams(a.split(), n)) == Counter(t.ngrams(b.split(), n))
        assert (found == 1) is same


def test_overlap_counts_an_ngram_as_often_as_both_have_it():
    # a b, b a, a b against a b, b c: one "a b" shared of 3 and 2
    assert t.overlap("a b a b", "a b c") == pytest.approx(2 * 1 / 5)
    assert t.overlap("x", "x") == 1
    assert t.overlap("x", "y") == 0


@given(st.lists(SOME, min_size=2, max_size=6))
def test_self_similarity_is_the_mean_over_all_pairs(texts):
    pairs = [t.overlap(a, b) for a, b in itertools.combinations(texts, 2)]
    assert t.self_similarity(texts) == pytest.approx(statistics.fmean(pairs))


def test_sampled_self_similarity_is_near_that_of_all_pairs_and_the_same_every_time():
    draw = random.Random(1)
    texts = [" ".join(draw.choices("abcdef", k=12)) for _ in range(60)]
    every, some = t.self_similarity(texts, pairs=10**6), t.self_similarity(texts)
    assert some == t.self_similarity(texts)
    assert some == pytest.approx(every, abs=0.02)
    assert some != t.self_similarity(texts, seed=1)
    assert math.isnan(t.self_similarity(["one"]))


@given(SOME, st.integers(2, 6))
@settings(max_examples=30)
def test_copies_are_as_alike_as_can_be(text, copies):
    assert t.self_similarity([text] * copies) == 1
    assert t.opening_share([text] * copies) == 1


def test_common_openings():
    texts = ["I think so, yes", "I think so, no", "Well", "i THINK so , maybe"]
    assert t.common_openings(texts) == [("i think so ,", 0.75), ("well", 0.25)]
    assert t.opening_share(texts) == 0.75
    assert t.opening_share(texts, first=5) == 0.25
    assert math.isnan(t.opening_share([]))


# -- repetition -----------------------------------------------------------------------------------


@given(SOME, st.integers(1, 4))
def test_repetition_is_the_share_of_ngrams_met_before(text, n):
    seen, again, grams = set(), 0, t.ngrams(text.split(), n)
    for gram in grams:
        again += gram in seen
        seen.add(gram)
    assert t.repetition(text, n) == pytest.approx(again / len(grams) if grams else 0.0)


def test_the_answers_of_a_collapsed_policy_repeat_themselves_and_prose_does_not():
    collapsed = "It is 39 is 37 is 37 is 39 is 37 is 37 is 39!"
    prose = "The bridge was built in 1890, and it carries two railway lines across the wide river."
    assert t.repetition(collapsed) > 0.3
    assert t.repetition(prose) == 0


def test_repeated_sentences():
    assert t.repeated_sentences("Yes. No! yes. Yes.\nNo!") == pytest.approx(3 / 5)
    assert t.repeated_sentences("好。好。坏。") == pytest.approx(1 / 3)
    assert t.repeated_sentences("") == 0


# -- script ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there, 42!", "LATIN"),
        ("Grüße aus Köln", "LATIN"),
        ("Привет, мир (hi)", "CYRILLIC"),
        ("你好，世界", "HAN"),
        ("これは日本語の文章です", "JAPANESE"),
        ("한국어 문장", "HANGUL"),
        ("مرحبا", "ARABIC"),
        ("ＡＢＣ", "LATIN"),
        ("42 + 1 = 43!", None),
        ("", None),
    ],
)
def test_script(text, expected):
    assert t.script(text) == expected


def test_commonest_share_counts_texts_that_have_one():
    assert t.commonest_share(["hi", "yes", "да", "42"]) == ("LATIN", pytest.approx(2 / 3))
    name, share = t.commonest_share(["42"])
    assert name is None
    assert math.isnan(share)


def test_language_by_langdetect():
    pytest.importorskip("langdetect")
    english = "The weather was fine, so that we walked along the river for an hour or two."
    german = "Das Wetter war schön, deshalb sind wir eine Stunde lang am Fluss entlang gegangen."
    share = t.commonest_share([english, german, german], of=t.langdetect_language)
    assert share == ("de", pytest.approx(2 / 3))
    assert t.langdetect_language("42") is None


# -- against other texts --------------------------------------------------------------------------


def test_mean_known():
    assert t.mean_known([1.0, math.nan, 3.0]) == 2
    assert math.isnan(t.mean_known([math.nan]))


# -- real texts -----------------------------------------------------------------------------------


def test_real_answers_against_one_answer_to_everything(shared_data):
    answers = [r["output"] for r in rows(shared_data / "alpaca_farm" / "outputs_rlhf.jsonl.gz")]
    assert statistics.fmean(map(t.repetition, answers)) < 0.12
    assert statistics.fmean(map(t.repeated_sentences, answers)) < 0.03
    assert t.self_similarity(answers) < 0.03
    assert t.opening_share(answers) < 0.03
    assert t.distinct(answers, drawn=1000) > 0.85
    assert t.commonest_share(answers) == ("LATIN", 1.0)
    null = [r["output_2"] for r in rows(shared_data / "alpaca_eval" / "NullModel.jsonl.gz")]
    assert t.self_similarity(null) > 0.99
    assert t.opening_share(null) == 1
    assert t.distinct(null, drawn=1000) < 0.2
