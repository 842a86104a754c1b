"""Arena-Hard: grades in both orders, their weights, files of verdicts, judges that write none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.errors import ConfigError, DataError, RunError
from gnomon.evals.evaluate import evaluate
from gnomon.evals.subject import Stored
from gnomon.evals.table import make_suite
from gnomon.runs.evals import EvalResult
from judge_server import JudgeServer, Rule, Said, answers, words

PUBLISHED = """
judge_model: gpt-4
system_prompt: "Be impartial."
prompt_template: ["<|User Prompt|>\\n{question_1}\\n<|A|>{answer_1}<|B|>{answer_2}<|end|>"]
"""


run_asked: list[list[dict[str, Any]]] = []
"""The requests of each run."""


def longer(text: str, body: dict[str, Any]) -> Said:
    """Much better where it is longer by more than two characters."""
    a, b = (len(answer) for answer in answers(text))
    sign = "=" if a == b else ">" if abs(a - b) <= 2 else ">>"
    one, two = ("A", "B") if a >= b else ("B", "A")
    return words(f"Because. My verdict: [[{one}{sign}{two}]]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"uid": f"u{n}", "prompt": "q" * n, "output": "x" * 5, "category": "hard"}
            for n in range(1, 9)]  # fmt: skip
    write(tmp_path / "questions.jsonl", rows)
    return tmp_path


def run(folder: Path, rule: Rule, subject: Any = None, **options: Any) -> EvalResult:
    with JudgeServer(rule) as server:
        judge = {"builtin": "ai", "options": {"model": "m", "url": server.url}}
        suite = make_suite(
            "arena_hard", {"data": "questions.jsonl", "judge": judge, **options}, folder
        )
        result = evaluate(suite, subject or Speaker(lambda text: text), folder)
        run_asked.append(server.asked)
    return result


def test_strong_verdicts_count_three_times(folder: Path) -> None:
    """Answers of 1 to 8 characters against 5: two lose by much, two by a little, one ties, two win
    by a little, one by much. Both orders say the same."""
    result = run(folder, longer)
    assert result.scores["win_rate"].value == pytest.approx((0.5 + 2 + 3) / (3 * 2 + 2 + 1 + 2 + 3),
                                                            abs=1e-4)  # fmt: skip
    assert result.scores["win_rate_unweighted"].value == pytest.approx(3.5 / 8)
    assert (result.scores["much_better"].value, result.scores["much_worse"].value) == (1 / 8, 2 / 8)
    assert result.scores["ties"].value == 1 / 8
    assert (result.scores["flips"].value, result.main, result.n) == (0.0, "win_rate", 8)
    assert result.scores["win_rate"].low < 5.5 / 14 < result.scores["win_rate"].high
    assert result.judge_version.startswith("m prompt=")
    assert len(run_asked[-1]) == 16
    weight_one = run(folder, longer, strong=1, name="one")
    assert weight_one.scores["win_rate"].value == pytest.approx(3.5 / 8, abs=1e-4)


def test_a_judge_that_always_says_a_comes_out_even_and_is_called_that(folder: Path) -> None:
    result = run(folder, lambda text, body: words("[[A>>B]]"))
    assert result.scores["win_rate"].value == pytest.approx(0.5, abs=1e-4)
    assert "shown first is better in 100%" in " ".join(result.notes)


@pytest.mark.parametrize(
    ("said", "finish", "why"),
    [
        ("A is better.", "stop", r"no grade such as \[\[A>B\]\]: A is better\."),
        ("[[A>B]] or rather [[B>A]]", "stop", r"several grades \(A>B, B>A\)"),
        ("First, my own answer", "length", "cut off at max_tokens before its verdict"),
    ],
)
def test_an_answer_without_one_grade_is_an_error_not_a_tie(
    folder: Path, said: str, finish: str, why: str
) -> None:
    with pytest.raises(RunError, match=why):
        run(folder, lambda text, body: words(said, finish))


def test_the_published_settings_are_asked_as_they_are(folder: Path) -> None:
    (folder / "judge_config.yaml").write_text(PUBLISHED)
    result = run(folder, lambda text, body: words("[[A=B]] So: [[A=B]]."),
                 judge_prompt="judge_config.yaml", limit=1)  # fmt: skip
    first, second = (body["messages"] for body in run_asked[-1])
    assert first[0]["content"] == "Be impartial."
    texts = sorted([first[1]["content"], second[1]["content"]])
    assert texts == [f"<|User Prompt|>\nq\n<|A|>{a}<|B|>{b}<|end|>"
                     for a, b in (("q", "xxxxx"), ("xxxxx", "q"))]  # fmt: skip
    assert result.scores["win_rate"].value == pytest.approx(0.5)
    assert set(result.data) == {"questions.jsonl", "judge_config.yaml"}
    (folder / "judge_config.yaml").write_text("prompt_template: '{question_1} {answer_1}'")
    with pytest.raises(ConfigError, match=r"judge_config.yaml: prompt_template has no place"):
        run(folder, longer, judge_prompt="judge_config.yaml")


def games(model: str, first: str, second: str, **more: Any) -> list[dict[str, Any]]:
    """As Arena-Hard's files hold them: the baseline is A in the first game."""
    both = [{"score": first}, {"score": second}]
    return [{"uid": f"u{n}", "model": model, "games": both, **more} for n in range(1, 9)]


def test_other_models_are_placed_beside_it(folder: Path) -> None:
    write(folder / "strong.jsonl", games("strong", "B>>A", "A>B"))
    write(folder / "rival.jsonl", games("rival", "A>B", "A>B", baseline="strong"))  # even: always A
    result = run(folder, longer, others=["strong.jsonl", "rival.jsonl"])
    assert result.scores["win_rate/strong"].value == pytest.approx(1.0)
    assert result.scores["win_rate/rival"].value == pytest.approx(1.0, abs=1e-3)  # = strong
    write(folder / "lone.jsonl", games("lone", "A>B", "A>B", baseline="nobody"))
    with pytest.raises(DataError, match="no verdicts join lone, nobody to the baseline"):
        run(folder, longer, others=["lone.jsonl"], name="lone")


def test_the_rows_of_one_model_are_verdicts_for_another(folder: Path) -> None:
    run(folder, longer)
    rows = folder / "evals" / "speaker" / "arena_hard" / "questions.jsonl"
    kept = folder / "speaker.jsonl"
    kept.write_text(rows.read_text() + json.dumps({"id": "u9", "error": "gone"}) + "\n")
    result = run(folder, longer, Speaker(lambda text: "y" * 9, name="nine"), others=[kept.name])
    assert result.scores["win_rate"].value == 1.0
    assert result.scores["win_rate/speaker"].value == pytest.approx(5.5 / 14, abs=1e-3)
    with pytest.raises(DataError, match="verdicts on speaker, the model that is measured"):
        run(folder, longer, others=[kept.name], name="twice")


def test_recorded_verdicts_take_the_place_of_model_and_judge(folder: Path) -> None:
    lost = {"uid": "lost", "model": "m", "baseline": "gpt-4", "games": [{"score": None}, None]}
    rows = [*games("m", "B>>A", "B>A", baseline="gpt-4"), lost]
    file = folder / write(folder / "m.jsonl", rows)
    result = evaluate(make_suite("arena_hard", {}, folder), Stored(file), folder)
    assert result.scores["win_rate"].value == pytest.approx(3 / 4, abs=1e-4)
    assert (result.against, result.judge, result.errors) == ("gpt-4", "recorded verdicts", 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"games": [{"score": "A>B"}]}, "m.jsonl, row 1: 'games' must be two verdicts"),
        ({"games": [{"score": "A>B"}, {"score": "A"}]}, "row 1: a score must be one of A>>B.*'A'"),
        ({"uid": None, "model": "x", "games": 3}, "'games' must be two verdicts"),
    ],
)
def test_files_of_verdicts_that_are_off_are_named(
    folder: Path, row: dict[str, Any], why: str
) -> None:
    file = folder / write(folder / "m.jsonl", [{"uid": "u1", "model": "m", **row}])
    with pytest.raises(DataError, match=why):
        evaluate(make_suite("arena_hard", {}, folder), Stored(file), folder)


def test_the_first_row_may_be_a_failed_one(folder: Path) -> None:
    rows = [{"id": "u0", "error": "gone"}, *games("m", "B>>A", "B>A", baseline="gpt-4")]
    file = folder / write(folder / "m.jsonl", rows)
    result = evaluate(make_suite("arena_hard", {}, folder), Stored(file), folder)
    assert result.scores["win_rate"].value == pytest.approx(3 / 4, abs=1e-4)
    with pytest.raises(ConfigError, match="holds verdicts on a model's answers"):
        run(folder, longer, data=file.name)


def test_a_baseline_of_the_models_own_name_is_refused_before_anything_is_asked(
    folder: Path,
) -> None:
    for place in ("old", "new"):
        (folder / place).mkdir()
        write(folder / place / "model.jsonl", [{"prompt": "q" * n, "output": "y" * n}
                                               for n in range(1, 9)])  # fmt: skip
    run_asked.clear()
    with pytest.raises(ConfigError, match=r"new/model.jsonl.*old/model.jsonl.*'model': rename"):
        run(folder, longer, Stored(folder / "new" / "model.jsonl"), against="old/model.jsonl")
    assert not run_asked
    file = folder / write(folder / "m.jsonl", games("m", "A>B", "A>B", baseline="m"))
    with pytest.raises(DataError, match="model and baseline have one name"):
        evaluate(make_suite("arena_hard", {}, folder), Stored(file), folder)


def test_what_it_needs_is_said(folder: Path) -> None:
    (folder / "j.py").write_text("def grade(samples):\n    return [1.0 for s in samples]\n")
    suite = make_suite("arena_hard", {"data": "questions.jsonl", "judge": "j.py:grade"}, folder)
    with pytest.raises(ConfigError, match="must be an AI judge behind an endpoint"):
        evaluate(suite, Speaker(lambda text: text), folder)
    with pytest.raises(ConfigError, match="suite arena_hard needs a judge"):
        make_suite("arena_hard", {"data": "questions.jsonl"}, folder)


def test_the_published_questions_are_read(shared_data: Path, folder: Path) -> None:
    file = shared_data / "arena_hard" / "question_v0.1.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    write(folder / "base.jsonl", [{"prompt": p, "output": "x"} for p in dict.fromkeys(prompts)])
    result = run(folder, longer, Speaker(lambda text: "longer"), data=str(file),
                 against="base.jsonl", limit=20)  # fmt: skip
    assert (result.n, result.errors, result.against) == (20, 0, "base")
    assert result.scores["much_better"].value == 1.0
