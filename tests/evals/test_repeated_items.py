"""Rows of one's own that ask the same: they count as one in the intervals of every suite that reads
them, and the figure is the mean over rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evals_world import Chooser, Speaker, write

from gnomon.evals.evaluate import evaluate
from gnomon.evals.suite import ItemSuite
from gnomon.evals.table import make_suite
from gnomon.records import Prompt
from gnomon.runs.evals import EvalResult
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import over_items, over_prompts, pass_curve

JUDGE = """
def good(samples):
    return [float("good" in s.text) for s in samples]
def length(samples):
    return [float(len(s.text)) for s in samples]
"""
TIMES = (1, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "j.py").write_text(JUDGE, encoding="utf-8")
    for k in TIMES:
        asked = [{"prompt": f"q{i}", "category": "abc"[i % 3]} for i in range(24) for _ in range(k)]
        write(tmp_path / f"q{k}.jsonl", asked)
        write(tmp_path / f"turns{k}.jsonl", [{"turns": [row["prompt"]]} for row in asked])
        choices = {"answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}
        lists = "?\n (A) yes\n (B) no\n"
        write(tmp_path / f"c{k}.jsonl", [{"question": f"{r['prompt']}{lists}", **choices}
                                         for r in asked])  # fmt: skip
    return tmp_path


def said(text: str) -> str:
    number = int(text.removeprefix("q"))
    return f"{'good' if number % 3 == 0 or number > 16 else 'bad'}{'!' * number}"


def liked(question: str, choice: str) -> float:
    number = int(question[1:].partition("?")[0])
    return number % 7 - 3.0 if choice.strip() == "(A)" else 0.0


@pytest.mark.parametrize(
    ("suite", "data", "options"),
    [
        ("questions", "q", {"judge": "j.py:good"}),
        ("questions", "q", {"judge": "j.py:length", "samples": 2}),
        ("best_of_n", "q", {"judge": "j.py:length", "samples": 2}),
        ("mt_bench", "turns", {"judge": "j.py:length"}),
        ("behaviour", "c", {}),
    ],
)
def test_rows_that_ask_the_same_are_one(
    folder: Path, suite: str, data: str, options: dict[str, Any]
) -> None:
    found: list[EvalResult] = []
    for k in TIMES:
        subject = Chooser(liked) if data == "c" else Speaker(said)
        made = make_suite(suite, {"data": f"{data}{k}.jsonl", **options}, folder)
        found.append(evaluate(made, subject, folder / f"{k}"))
    once, often = found
    assert often.n == 5 * once.n
    figures = [(once.scores, often.scores)]
    figures += [(once.by_category[name], often.by_category[name]) for name in once.by_category]
    for before, after in figures:
        assert before.keys() == after.keys()
        for name, one in before.items():
            same_figure(one, after[name])


def same_figure(one: Interval | None, many: Interval | None) -> None:
    assert one is not None
    assert many is not None
    assert many.value == pytest.approx(one.value)
    assert many.n == one.n
    assert one.known == many.known
    if one.known:
        alike = one.value in (0.0, 0.5, 1.0)  # of all rows: their agreement is assumed, not seen
        assert many.high - many.low > (0.35 if alike else 0.8) * (one.high - one.low)


def test_openings_that_differ_in_what_the_environment_reads_are_several(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "prompt": "go", "seed": 1},
        {"id": 2, "prompt": "go", "seed": 2},
        {"id": 3, "prompt": "go", "seed": 2},
    ]
    write(tmp_path / "openings.jsonl", rows)
    suite: Any = make_suite(
        "episodes", {"data": "openings.jsonl", "environment": "rooms"}, tmp_path
    )
    assert isinstance(suite, ItemSuite)
    first, second, third = (suite.request_of(item) for item in suite.items())
    assert first != second == third


def test_a_row_that_is_told_of_again_with_its_letters_exchanged_asks_the_same(
    tmp_path: Path,
) -> None:
    texts = ("yes", "no"), ("no", "yes")
    write(tmp_path / "c.jsonl", [
        {"question": f"q?\n (A) {a}\n (B) {b}\n", "answer_matching_behavior": " (A)",
         "answer_not_matching_behavior": " (B)"} for a, b in texts
    ])  # fmt: skip
    suite: Any = make_suite("sycophancy", {"data": "c.jsonl"}, tmp_path)
    first, second = (suite.request_of(item) for item in suite.items())
    assert first == second


def test_intervals_of_repeated_items_cover() -> None:
    """Requests of 1 to 12 items that are all right or all wrong; quantities alike."""
    rng, shares, quantities = np.random.default_rng(0), 0, 0
    for _ in range(200):
        sizes = rng.integers(1, 13, 40).tolist()
        asked = [str(i) for i, n in enumerate(sizes) for _ in range(n)]
        right = [[float(x)] for x, n in zip(rng.random(40) < 0.7, sizes, strict=True)
                 for _ in range(n)]  # fmt: skip
        found = over_items(right, asked, (0.0, 1.0))
        shares += found.low <= 0.7 <= found.high
        each = zip(rng.normal(1.0, 2.0, 40).tolist(), sizes, strict=True)
        mean = over_items([[x] for x, n in each for _ in range(n)], asked, None)
        quantities += mean.low <= 1.0 <= mean.high
    assert 0.91 <= shares / 200 <= 1.0
    assert 0.91 <= quantities / 200 <= 0.99


def test_items_that_ask_different_things_are_prompts() -> None:
    values = [[1.0, 0.0], [1.0, None], [0.0, 0.0]]
    assert over_items(values, ["a", "b", "c"]) == over_prompts(values)
    right = [[True, False], [True, True], [False, False]]
    assert pass_curve(right, [1, 2], ["a", "b", "c"]) == pass_curve(right, [1, 2])
    twice = pass_curve([*right, *right], [1, 2], [*"abc", *"abc"])
    assert [figure.n for figure in twice] == [3, 3]


def test_what_a_row_asks_is_beside_its_score(folder: Path) -> None:
    made = make_suite("questions", {"data": "q5.jsonl", "judge": "j.py:good"}, folder)
    evaluate(made, Speaker(said), folder / "out")
    (file,) = (folder / "out").rglob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({row["request"] for row in rows}) == 24
    assert isinstance(made, ItemSuite)
    assert isinstance(made.items()[0], Prompt)
