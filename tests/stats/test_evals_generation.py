"""Text figures by hand, and on samples with a planted fault."""

import json
import math

import pytest

from gnomon.stats.generation import (
    distinct_n,
    evaluate_generations,
    repetition_rate,
    self_bleu,
)


def test_distinct_by_hand():
    texts = [["a", "b", "a"], ["b", "c"]]
    assert distinct_n(texts, 1) == pytest.approx(3 / 5)
    assert distinct_n(texts, 2) == pytest.approx(3 / 3)
    assert math.isnan(distinct_n([["a"]], 2))


def test_repetition_by_hand():
    # 4-grams of "a b c d a b c d": abcd bcda cdab dabc abcd: one of five repeats.
    assert repetition_rate(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(1 / 5)
    assert repetition_rate(["a", "b", "c"]) == 0.0
    assert repetition_rate(["x"] * 103) == pytest.approx(0.99)


def test_self_bleu_by_hand():
    # "a b" against "a c": unigrams 1/2, bigrams smoothed (0 + 1) / (1 + 1), no brevity penalty.
    assert self_bleu([["a", "b"], ["a", "c"]]) == pytest.approx(0.5)
    assert self_bleu([["a", "b", "c", "d"]] * 3) == pytest.approx(1.0)
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0.0
    # "a" against "a b": precision 1, brevity exp(1 - 2); "a b" against "a": 1/2, (0+1)/(1+1).
    assert self_bleu([["a"], ["a", "b"]]) == pytest.approx((math.exp(-1) + 0.5) / 2)


def test_collapse_shows():
    healthy = evaluate_generations(
        [["one two three", "four five six"], ["seven eight", "nine ten"]]
    )
    collapsed = evaluate_generations([["sure sure sure sure sure sure"] * 2] * 2)
    assert collapsed.self_bleu.value == 1.0 > healthy.self_bleu.value == 0.0
    assert collapsed.unique.value == 0.5 < healthy.unique.value == 1.0
    assert collapsed.distinct[1] == pytest.approx(1 / 24)
    assert collapsed.repetition.value == pytest.approx(2 / 3)
    assert healthy.repetition.value == 0.0


def test_lengths_and_ends():
    report = evaluate_generations(
        [["a", "b c"], ["", "d"]],
        finished=[[True, True], [False, True]],
        lengths=[[10, 20], [30, 40]],
    )
    assert report.eos.value == 0.75
    assert report.empty == 1
    assert (report.length.mean.value, report.length.maximum, report.length_unit) == (
        25,
        40,
        "tokens",
    )
    flat = report.to_dict()
    json.dumps(flat, allow_nan=False)
    assert flat["length_tokens"]["median"] == 25
    with pytest.raises(ValueError, match="finished must hold one entry"):
        evaluate_generations([["a"]], finished=[[True, False]])


def test_one_sample_per_prompt_has_no_self_bleu():
    report = evaluate_generations([["a b"], ["c d"]])
    assert report.self_bleu is None
    assert "self_bleu" not in report.to_dict()
    assert report.length_unit == "words"
