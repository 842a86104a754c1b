"""Items that ask the same count as one: in a suite's figures, in the change between two results,
and where two files call different prompts by one id."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from evals_world import Speaker, write

from gnomon.evals.compare import compare
from gnomon.evals.evaluate import evaluate
from gnomon.evals.table import make_suite
from gnomon.runs.evals import EvalResult
from gnomon.stats.prompts import gain_over_prompts

GOOD = "def judge(samples):\n    return [float('good' in s.text) for s in samples]\n"


def win_rate(folder: Path, model: str, good: set[str], **options: object) -> EvalResult:
    speaker = Speaker(lambda text: "good" if text in good else "bad", model)
    asked = {"data": "prompts.jsonl", "judge": "good.py:judge", **options}
    return evaluate(make_suite("win_rate", asked, folder), speaker, folder / model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD, encoding="utf-8")
    rows = [{"prompt": f"q{i}", "output": "medium"} for i in range(30)]
    write(tmp_path / "prompts.jsonl", rows)
    return tmp_path


def test_several_samples_of_a_prompt_are_no_more_prompts(folder: Path) -> None:
    """Six samples that all say the same show what one does."""
    before, after = ({f"q{i}" for i in range(n)} for n in (12, 17))
    for samples in (1, 6):
        for name, good in (("before", before), ("after", after)):
            win_rate(folder, f"{name}{samples}", good, samples=samples, temperature=1.0)
    one, six = (compare(folder / f"before{k}", folder / f"after{k}")[0].scores for k in (1, 6))
    found = [next(s for s in scores if s.name == "win_rate") for scores in (one, six)]
    assert all(score.paired for score in found)
    assert [score.change.n for score in found] == [30, 30]
    assert found[1].change.value == pytest.approx(found[0].change.value)
    widths = [score.change.high - score.change.low for score in found]
    assert widths[1] > 0.6 * widths[0]


def test_an_older_result_without_requests_is_compared_all_the_same(folder: Path) -> None:
    for name, good in (("before", {"q1"}), ("after", {"q1", "q2", "q3"})):
        win_rate(folder, name, good, samples=2, temperature=1.0)
    (rows,) = (folder / "before").rglob("*.jsonl")
    old = [json.loads(line) for line in rows.read_text().splitlines()]
    for row in old:
        del row["request"]
    write(rows, old)
    (change,) = compare(folder / "before", folder / "after")
    score = next(s for s in change.scores if s.name == "win_rate")
    assert (score.paired, score.change.n) == (True, 30)
    assert score.change.value == pytest.approx(score.after.value - score.before.value)


def test_requests_of_unequal_numbers_of_items_weigh_by_them(folder: Path) -> None:
    """The change is the mean over items, whatever they ask."""
    rows = [{"prompt": f"q{i}", "output": "medium"} for i in range(30) for _ in range(1 + i % 4)]
    write(folder / "prompts.jsonl", rows)
    win_rate(folder, "before", {f"q{i}" for i in range(0, 30, 3)})
    win_rate(folder, "after", {f"q{i}" for i in range(0, 30, 2)})
    (change,) = compare(folder / "before", folder / "after")
    score = next(s for s in change.scores if s.name == "win_rate")
    assert (score.paired, score.change.n) == (True, 30)
    assert score.change.value == pytest.approx(score.after.value - score.before.value)


def test_a_weighted_gain_covers() -> None:
    """Differences that all items of a request share, requests of 1 to 12 items."""
    rng, inside, quantities = np.random.default_rng(0), 0, 0
    for _ in range(300):
        sizes = rng.integers(1, 13, 40).tolist()
        own, other = (rng.random(40) < p for p in (0.7, 0.5))
        a, b = ([[float(x)] * n for x, n in zip(side, sizes, strict=True)] for side in (own, other))
        found = gain_over_prompts(a, b, (0.0, 1.0), weights=sizes)
        inside += found.low <= 0.2 <= found.high
        y = rng.normal(1.0, 2.0, 40)
        gain = gain_over_prompts([[x] for x in y], [[0.0]] * 40, None, weights=sizes)
        quantities += gain.low <= 1.0 <= gain.high
    assert 0.91 <= inside / 300 <= 0.99
    assert 0.91 <= quantities / 300 <= 0.99


def test_equal_weights_change_nothing() -> None:
    a, b = [[1.0], [0.0], [1.0], [1.0]], [[0.0], [0.0], [1.0], [0.0]]
    plain, weighted = gain_over_prompts(a, b), gain_over_prompts(a, b, weights=[3.0] * 4)
    assert (plain.low, plain.high) == pytest.approx((weighted.low, weighted.high))


def test_pairs_of_one_prompt_in_several_rows_are_not_independent(folder: Path) -> None:
    """A judge is asked about the answers to a prompt three times; the rows have no ids."""
    rng = random.Random(0)
    right = [rng.random() < 0.7 for _ in range(40)]
    for name, repeats in (("once", 1), ("thrice", 3)):
        rows = [
            {"prompt": f"p{i}", "chosen": f"{'good' if ok else 'bad'} a{k}", "rejected": f"b{k}"}
            for i, ok in enumerate(right)
            for k in range(repeats)
        ]
        write(folder / f"{name}.jsonl", rows)
    found = []
    for name in ("once", "thrice"):
        suite = make_suite(
            "reward_bench", {"data": f"{name}.jsonl", "judge": "good.py:judge"}, folder
        )
        result = evaluate(suite, Speaker(lambda text: ""), folder / name)
        figure = result.scores["accuracy"]
        assert figure is not None
        found.append(figure)
    assert [figure.n for figure in found] == [40, 40]
    assert found[1].high - found[1].low > 0.8 * (found[0].high - found[0].low)


def test_two_files_that_number_their_prompts_alike_are_not_mixed_up(folder: Path) -> None:
    for name in ("a", "b"):
        write(folder / f"{name}.jsonl", [{"id": i, "prompt": f"{name}{i}"} for i in range(1, 9)])
    answers = [{"prompt": f"{n}{i}", "response": f"of {n}{i}"} for n in "ab" for i in range(1, 9)]
    write(folder / "theirs.jsonl", answers)
    options = {"data": ["a.jsonl", "b.jsonl"], "judge": "good.py:judge", "against": "theirs.jsonl"}
    evaluate(make_suite("win_rate", options, folder), Speaker(lambda text: "good"), folder / "out")
    (rows,) = (folder / "out").rglob("*.jsonl")
    told = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["other"] for row in told] == [f"of {row['prompt']}" for row in told]
