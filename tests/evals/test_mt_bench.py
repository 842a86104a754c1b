"""MT-Bench: two turns, MT-Bench's own prompts at an endpoint, and other judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.errors import ConfigError, DataError, RunError
from gnomon.evals.evaluate import evaluate
from gnomon.evals.mt_bench import filled
from gnomon.evals.table import make_suite
from gnomon.runs.evals import EvalResult
from judge_server import JudgeServer, Said, says

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["write", "again"]},
    {"question_id": 2, "category": "math", "turns": ["1+1?", "and 2+2?"]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "q.jsonl", QUESTIONS)
    prompts = [
        {
            "name": name,
            "system_prompt": "judge",
            "prompt_template": f"{name}: {{question}} {{question_2}} {{answer}} {{answer_2}}"
            + (" {ref_answer_1}" if "math" in name else ""),
        }
        for name in ("single-v1", "single-v1-multi-turn", "single-math-v1",
                     "single-math-v1-multi-turn")
    ]  # fmt: skip
    write(tmp_path / "prompts.jsonl", prompts)
    reference = {"question_id": 2, "choices": [{"turns": ["two {answer}", "four"]}]}
    write(tmp_path / "ref.jsonl", [reference])
    return tmp_path


def run(folder: Path, speaker: Any, **options: Any) -> EvalResult:
    suite = make_suite("mt_bench", {"data": "q.jsonl", **options}, folder)
    return evaluate(suite, speaker, folder)


def test_mt_benchs_own_prompts_are_asked_and_its_rating_is_read(folder: Path) -> None:
    def rule(text: str, body: dict[str, Any]) -> Said:
        rating = "[[4]]" if "multi-turn" in text else "[[8]]"
        return says(f"Fine. Rating: {rating}")(text, body)

    with JudgeServer(rule) as server:
        judge = {"builtin": "ai", "options": {"model": "m", "url": server.url, "mode": "score"}}
        result = run(
            folder,
            Speaker(lambda text: f"re: {text}"),
            judge=judge,
            judge_prompts="prompts.jsonl",
            references="ref.jsonl",
        )
        asked = [body["messages"][-1]["content"] for body in server.asked]
    assert result.scores["score"].value == 6.0
    assert (result.scores["turn_1"].value, result.scores["turn_2"].value) == (8.0, 4.0)
    assert result.by_category["math"]["score"].value == 6.0
    assert result.judge_version.startswith("m prompt=")
    assert set(result.data) == {"q.jsonl", "prompts.jsonl", "ref.jsonl"}
    math = next(text for text in asked if text.startswith("single-math-v1:"))
    assert math == "single-math-v1: 1+1? and 2+2? re: 1+1? re: and 2+2? two {answer}"
    assert len(asked) == 4
    assert not any("reference" in note for note in result.notes)


def test_maths_without_a_reference_is_said_to_be_graded_otherwise(folder: Path) -> None:
    with JudgeServer(says("Fine. Rating: [[8]]")) as server:
        judge = {"builtin": "ai", "options": {"model": "m", "url": server.url, "mode": "score"}}
        options = {"judge": judge, "judge_prompts": "prompts.jsonl"}
        result = run(folder, Speaker(lambda text: text), **options)
    assert any("1 of 2 questions are of maths" in note for note in result.notes)


def test_another_judge_grades_each_turn_by_itself(folder: Path) -> None:
    (folder / "j.py").write_text(
        "def grade(samples):\n    return [float(len(s.prompt.messages)) for s in samples]\n"
    )
    result = run(folder, Speaker(lambda text: "x"), judge="j.py:grade")
    assert result.scores["turn_1"].value == 1.0
    assert result.scores["turn_2"].value == 3.0  # the second turn is seen with the first


def test_an_answer_without_a_rating_is_an_error_not_a_zero(folder: Path) -> None:
    with JudgeServer(says("good")) as server:
        judge = {"builtin": "ai", "options": {"model": "m", "url": server.url, "mode": "score"}}
        with pytest.raises(RunError, match=r"all 2 items failed.*no \[\[rating\]\]: good"):
            run(folder, Speaker(lambda t: "x"), judge=judge, judge_prompts="prompts.jsonl")


def test_what_it_needs_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="suite mt_bench needs a judge"):
        make_suite("mt_bench", {"data": "q.jsonl"}, folder)
    (folder / "j.py").write_text("def grade(samples):\n    return [1.0 for s in samples]\n")
    with pytest.raises(ConfigError, match="are for an AI judge behind an endpoint"):
        run(folder, Speaker(lambda t: "x"), judge="j.py:grade", judge_prompts="prompts.jsonl")
    write(folder / "q.jsonl", [{"question_id": 1, "turns": "one"}])
    with pytest.raises(DataError, match=r"q.jsonl, row 1: 'turns' must be a list of texts"):
        run(folder, Speaker(lambda t: "x"), judge="j.py:grade")


def test_braces_in_an_answer_are_not_places() -> None:
    assert filled("{a} {b}", {"a": "{b}", "b": "x"}) == "{b} x"


def test_the_published_files_are_read(shared_data: Path, folder: Path) -> None:
    (folder / "j.py").write_text("def grade(samples):\n    return [1.0 for s in samples]\n")
    files = shared_data / "mt_bench"
    result = run(
        folder,
        Speaker(lambda text: "x"),
        data=str(files / "question.jsonl.gz"),
        references=str(files / "reference_gpt-4.jsonl.gz"),
        judge="j.py:grade",
    )
    assert result.n == 80
    assert len(result.by_category) == 8
