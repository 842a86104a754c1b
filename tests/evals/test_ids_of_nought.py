"""An id or a category of 0 is one; null and blanks are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.data.readers import read_groups
from gnomon.errors import DataError
from gnomon.evals.calibration_answers import labelled_answers
from gnomon.evals.calibration_pairs import labelled_pairs
from gnomon.evals.evaluate import evaluate
from gnomon.evals.mt_bench import TwoTurns
from gnomon.evals.table import make_suite
from gnomon.feedback.queue_files import queue_judged

LENGTH = "def judge(samples):\n    return [float(len(s.text)) for s in samples]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "j.py").write_text(LENGTH, encoding="utf-8")
    return tmp_path


def items(suite: str, folder: Path, **options: Any) -> list[Any]:
    made: Any = make_suite(suite, options, folder)
    return list(made.items())


def test_a_question_of_id_nought_has_its_reference(folder: Path) -> None:
    rows = [{"question_id": i, "category": "math", "turns": ["1+1?"]} for i in (0, 1)]
    write(folder / "q.jsonl", [*rows, {"question_id": "", "category": 0, "turns": ["a"]}])
    write(folder / "r.jsonl", [{"question_id": i, "choices": [{"turns": [f"{i}"]}]}
                               for i in (0, 1)])  # fmt: skip
    found: list[TwoTurns] = items(
        "mt_bench", folder, data="q.jsonl", references="r.jsonl", judge="j.py:judge"
    )
    assert [(item.id, item.reference) for item in found] == [
        ("0", ("0",)), ("1", ("1",)), ("row 3", ()),
    ]  # fmt: skip
    assert found[2].category == "0"


def test_more_turns_than_the_prompts_grade_are_refused_and_other_judges_grade_all(
    folder: Path,
) -> None:
    write(folder / "q.jsonl", [{"turns": ["a", "b", "c"]}])
    options = {"data": "q.jsonl", "judge": "j.py:judge"}
    result = evaluate(make_suite("mt_bench", options, folder), Speaker(lambda t: t), folder / "out")
    assert "turn_3" in result.scores
    write(folder / "prompts.jsonl", [{"name": "single-v1"}])
    with pytest.raises(DataError, match=r"q\.jsonl, row 1: 3 turns, and judge_prompts grade 2"):
        make_suite("mt_bench", options | {"judge_prompts": "prompts.jsonl"}, folder)


@pytest.mark.parametrize(
    ("row", "id", "category"),
    [
        ({"id": 0, "category": 0}, "0", "0"),
        ({"id": None, "uid": 0, "category": False}, "0", "False"),
        ({"id": "", "category": " "}, "q.jsonl:1", None),
        ({"id": " ", "uid": "x"}, "x", None),
    ],
)
def test_ids_and_categories_of_questions(
    folder: Path, row: dict[str, Any], id: str, category: str | None
) -> None:
    write(folder / "q.jsonl", [{"prompt": "hello", **row}])
    (item,) = items("questions", folder, data="q.jsonl", judge="j.py:judge")
    assert (item.id, item.category) == (id, category)


def test_a_column_that_is_null_does_not_hide_the_next(folder: Path) -> None:
    write(folder / "q.jsonl", [{"prompt": None, "question": "hello", "uid": None, "id": 0}])
    (item,) = items("questions", folder, data="q.jsonl", judge="j.py:judge")
    assert item.messages[0].content == "hello"
    assert item.id == "0"


def test_training_rows_read_blanks_as_nothing(tmp_path: Path) -> None:
    rows = [{"id": id, "category": c, "prompt": f"q{id}", "chosen": "a", "rejected": "b"}
            for id, c in ((0, 0), ("", ""))]  # fmt: skip
    write(tmp_path / "p.jsonl", rows)
    first, second = read_groups(tmp_path / "p.jsonl", kind="preferences").groups
    assert (first.prompt.id, first.prompt.category) == ("0", "0")
    assert second.prompt.id not in ("", "0")
    assert second.prompt.category is None


def test_verdicts_on_questions_whose_first_id_is_null(folder: Path) -> None:
    games = [{"score": grade} for grade in ("A>B", "A=B")]
    rows = [{"uid": None, "question_id": i, "category": 0, "games": games} for i in (0, 1)]
    write(folder / "m.jsonl", rows)
    made: Any = make_suite("arena_hard", {}, folder)
    assert [item.id for item in made.read_judged(folder / "m.jsonl")] == ["0", "1"]
    write(folder / "m.jsonl", [{"uid": None, "games": games}])
    with pytest.raises(DataError, match=r"row 1: the question has no id: fill uid or question_id"):
        made.read_judged(folder / "m.jsonl")


# -- labellers -------------------------------------------------------------------------------------


def people(folder: Path, rows: list[dict[str, Any]], **beside: Any) -> dict[Any, float]:
    pair = {"prompt": "q", "response_a": "x", "response_b": "y", **beside}
    write(folder / "l.jsonl", [{**pair, **row} for row in rows])
    (found,) = labelled_pairs(read_groups(folder / "l.jsonl", kind="rankings").groups)
    return dict(found.people)


def test_labels_without_a_name_are_each_counted(folder: Path) -> None:
    """Rows that differ in anything are different labels; a row that is there twice is one."""
    a, b = {"preference": "a"}, {"preference": "b"}
    rows = [{**a, "worker": 1}, {**a, "worker": 2}, {**b, "worker": 3}]
    assert sorted(people(folder, rows).values()) == [0.0, 1.0, 1.0]
    assert sorted(people(folder, [*rows, *rows]).values()) == [0.0, 1.0, 1.0]
    blank = [{**row, "labeller": ""} for row in rows]
    assert sorted(people(folder, blank).values()) == [0.0, 1.0, 1.0]
    assert sorted(people(folder, [a, a, b]).values()) == [0.0, 1.0]


@pytest.mark.parametrize("who", [None, "", " "])
def test_labels_of_one_row_without_a_name_are_several_peoples(
    folder: Path, who: str | None
) -> None:
    said = [("a", "b"), ("a", "b"), ("b", "a")]
    comparisons = [{"better": x, "worse": y, "labeller": who} for x, y in said]
    responses = [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]
    row = {"prompt": "q", "responses": responses, "comparisons": comparisons}
    write(folder / "l.jsonl", [row, row])
    (found,) = labelled_pairs(read_groups(folder / "l.jsonl", kind="rankings").groups)
    assert list(found.people.values()) == [1.0, 1.0, 0.0]


def test_of_several_labels_of_one_labeller_the_last_counts(folder: Path) -> None:
    rows = [{"preference": p, "labeller": 0} for p in "aab"]
    assert people(folder, rows) == {"0": 0.0}


def test_the_labeller_of_chosen_and_rejected_is_known(folder: Path) -> None:
    row = {"prompt": "q", "chosen": "x", "rejected": "y"}
    rows = [{**row, "annotator": name} for name in ("kim", "lee", "kim")]
    write(folder / "l.jsonl", rows)
    (found,) = labelled_pairs(read_groups(folder / "l.jsonl", kind="rankings").groups)
    assert found.people == {"kim": 1.0, "lee": 1.0}


def test_labels_of_single_answers(folder: Path) -> None:
    row = {"prompt": "q", "completion": "x"}
    rows = [{**row, "label": label, "annotator": who} for label, who in
            ((True, "kim"), (True, 0), (False, "kim"))]  # fmt: skip
    unnamed = [{**row, "completion": "y", "label": True, "worker": w} for w in (1, 2, 2)]
    write(folder / "l.jsonl", [*rows, *unnamed])
    x, y = labelled_answers(read_groups(folder / "l.jsonl", kind="unpaired").groups)
    assert x.people == {"kim": 0.0, "0": 1.0}
    assert list(y.people.values()) == [1.0, 1.0]


def test_a_labeller_called_nought_in_a_runs_queue(folder: Path) -> None:
    asked = {"id": "001-0001", "prompt_id": "p", "prompt": "q",
             "responses": [{"id": "r1", "text": "x"}, {"id": "r2", "text": "y"}]}  # fmt: skip
    write(folder / "001.jsonl", [asked])
    answer = {"id": "001-0001", "better": "r1", "worse": "r2", "labeller": 0}
    (folder / "001.labels.jsonl").write_text(json.dumps(answer) + "\n")
    judged, skipped = queue_judged(folder / "001.labels.jsonl", campaign="", nameless="me")
    assert skipped == []
    assert [label.labeller for one in judged for label in one.labels] == ["0"]
