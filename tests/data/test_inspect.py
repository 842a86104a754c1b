"""Inspection: hand-counted files, and what it warns of."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gnomon.data.inspect import Inspection, inspect


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def shown(found: Inspection) -> str:
    """The rendered inspection in one line."""
    out = io.StringIO()
    Console(file=out, width=100, force_terminal=False).print(found.render())
    return " ".join(out.getvalue().split())


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_counts_by_hand(tmp_path) -> None:
    rows = [
        pair("first question", "one two three", "one", category="x"),
        pair("First  question", "one two three", "one"),  # a duplicate but case and spacing
        pair("first question", "one", "one two three"),  # contradicts both
        pair("second", "a b", "c d"),
        pair("third", "same", "same"),
        pair("fourth", "", "b"),
    ]
    found = inspect(write(tmp_path / "a.jsonl", rows))
    assert (found.rows, found.groups, found.prompts) == (6, 4, 2)
    assert len(found.skipped) == 2
    assert found.identical == 1
    assert found.duplicates == 1
    assert found.contradictions == 1
    assert found.gaps == (2, 2, -2, 0)
    assert found.longer == pytest.approx(2 / 3)
    assert found.lengths["prompt"].values == (2, 2, 2, 1)
    assert found.lengths["chosen"].values == (3, 3, 1, 2)
    assert found.lengths["rejected"].mean == pytest.approx(7 / 4)
    assert found.categories == {"x": 1}
    text = shown(found)
    for part in (
        "chosen-rejected (preferences)",
        "6 (2 skipped)",
        "1 exact duplicates",
        "1 pairs are judged both ways",
        "chosen and rejected are the same (row 5)",
        "empty response (chosen) (row 6)",
    ):
        assert part in text, part


def test_length_bias_is_named_and_balance_is_not(tmp_path) -> None:
    long = [pair(f"q{i}", "w " * 9, "w") for i in range(50)]
    short = [pair(f"r{i}", "w", "w " * 9) for i in range(50)]
    biased = inspect(write(tmp_path / "long.jsonl", long))
    assert any("longer one in 100%" in w for w in biased.warnings)
    other_way = inspect(write(tmp_path / "short.jsonl", short))
    assert any("shorter one in 100%" in w for w in other_way.warnings)
    assert inspect(write(tmp_path / "both.jsonl", long + short)).warnings == []


def test_ties_labels_and_one_sided_kto(tmp_path) -> None:
    tied = {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "tie"}
    found = inspect(write(tmp_path / "t.jsonl", [tied]))
    assert (found.comparisons, found.ties, found.gaps, found.longer) == (1, 1, (), None)
    rows = [{"prompt": f"q{i}", "completion": "x", "label": True} for i in range(3)]
    one_sided = inspect(write(tmp_path / "k.jsonl", rows))
    assert one_sided.labels == {True: 3}
    assert any("all labels are good" in w for w in one_sided.warnings)
    both = [*rows, {"prompt": "q0", "completion": "x", "label": False}]
    mixed = inspect(write(tmp_path / "m.jsonl", both))
    assert mixed.labels == {True: 3, False: 1}
    assert mixed.contradictions == 1


def test_leakage_between_files(tmp_path) -> None:
    train = write(tmp_path / "train.jsonl", [pair(f"q{i}", "a", "b") for i in range(5)])
    test = write(tmp_path / "test.jsonl", [pair("Q3", "c", "d"), pair("new", "c", "d")])
    found = inspect(train, other=test)
    assert found.leaked == 1
    assert any("also in" in w and "test.jsonl" in w for w in found.warnings)
    assert inspect(train).leaked is None


def test_chinese_is_counted_by_character(tmp_path) -> None:
    found = inspect(write(tmp_path / "z.jsonl", [{"prompt": "你好 world", "completion": "再见"}]))
    assert found.lengths["prompt"].values == (3,)
    assert found.lengths["response"].values == (2,)


def test_tokens_and_plot(tmp_path) -> None:
    class Letters:
        def __call__(self, texts, **_options):
            return type("E", (), {"input_ids": [list(t) for t in texts]})

    rows = [pair(f"q{i}", "w" * (i + 1), "w" * 20) for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    found = inspect(path, tokenizer=Letters())
    assert found.unit == "tokens"
    assert found.lengths["rejected"].values == (20,) * 9
    found.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    prompts = inspect(write(tmp_path / "p.jsonl", [{"prompt": "hello"}]))
    prompts.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_real_data(shared_data) -> None:
    found = inspect(shared_data / "tulu_human_eval" / "eval_annotations_tulu_1.jsonl.gz")
    assert found.contradictions > 0  # sixteen labellers who do not always agree
    assert found.ties > 100
    gsm = shared_data / "gsm8k"
    leak = inspect(gsm / "test.jsonl.gz", other=gsm / "example_model_solutions.jsonl.gz")
    assert leak.leaked == leak.groups == 1056


def test_rows_that_differ_in_anything_said_are_no_duplicates(tmp_path) -> None:
    prompt = {"prompt": "q", "answer_key": 1}
    prompts = [prompt, {**prompt, "answer_key": 2}, prompt]
    assert inspect(write(tmp_path / "p.jsonl", prompts)).duplicates == 1
    judged = {"prompt": "q", "response1": "x", "response2": "y", "annotator1": 1, "annotator2": 2}
    rows = [judged, {**judged, "response2": "z"}, {**judged, "annotator2": 1}, judged]
    found = inspect(write(tmp_path / "j.jsonl", rows))
    assert (found.kind, found.duplicates) == ("preferences", 1)
    verdict = {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "a"}
    by = [{**verdict, "evaluator": name} for name in ("kim", "lee", "kim")]
    assert inspect(write(tmp_path / "v.jsonl", by)).duplicates == 1


def test_sides_of_several_labellers_go_by_the_majority(tmp_path) -> None:
    row = {"prompt": "q", "response1": "one", "response2": "one two three"}
    votes = {"annotator1": 2, "annotator2": 1, "annotator3": 2}
    found = inspect(write(tmp_path / "j.jsonl", [{**row, **votes}]))
    assert found.lengths["chosen"].values == (3,)
    assert (found.comparisons, found.contradictions) == (3, 1)


def test_what_the_model_never_sees_is_named(tmp_path) -> None:
    rows = [
        {"prompt": "q", "completion": "a", "system": "s", "note": 1, "gone": None, "weight": 0},
        {"prompt": "r", "completion": "a", "tools": [{"name": "f"}]},
    ]
    found = inspect(write(tmp_path / "a.jsonl", rows))
    assert found.unseen == ("note",)
    assert found.empty == ("gone",)
    assert found.switched_off == 1
    text = shown(found)
    for part in ("note (kept for rewards)", "empty columns gone", "1 groups have weight 0"):
        assert part in text, part


def test_rows_of_several_files_are_counted_apart(tmp_path) -> None:
    for name in ("a-1.jsonl", "a-2.jsonl"):
        write(tmp_path / name, [pair("q", "a", "b"), pair("q", "a", "a")])
    found = inspect(tmp_path)
    assert (found.rows, len(found.skipped)) == (4, 2)
    assert "a-1.jsonl 2, a-2.jsonl 2" in shown(found)


def test_words_for_missing_values_and_broken_text_are_pointed_out(tmp_path) -> None:
    rows = [
        {"instruction": "Name a colour", "input": "nan", "output": "Blue"},
        {"instruction": "Name a bird", "output": "NaN"},
        {"instruction": "What is nan?", "output": "Caf\ufffd nan"},
    ]
    found = inspect(write(tmp_path / "a.jsonl", rows))
    assert (found.missing_words, found.broken_texts) == (2, 1)
    assert sum("'nan'" in w or "wrong encoding" in w for w in found.warnings) == 2
