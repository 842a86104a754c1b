"""What an eval must not lose, mix up or believe: items of one name, exams that differ in what the
options do not say, items that failed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.audit.gates import Facts, decide
from gnomon.audit.readings import capability_drops, eval_readings
from gnomon.errors import DataError
from gnomon.evals.compare import compare
from gnomon.evals.evaluate import evaluate
from gnomon.evals.lm_eval_suite import LMEval
from gnomon.evals.subject import Model
from gnomon.evals.suite import apart
from gnomon.evals.table import make_suite
from gnomon.recipe.gates import parse_gate
from gnomon.runs.evals import EvalResult

NO = "I'm sorry, but I cannot help with that."


def run(name: str, subject: Any, folder: Path, **options: Any) -> EvalResult:
    return evaluate(make_suite(name, options, folder), subject, folder)


def test_items_of_one_name_all_count(tmp_path: Path) -> None:
    for part in ("en", "de"):
        rows = [{"prompt": f"{part} {i}", "answer": "yes"} for i in range(10)]
        (tmp_path / part).mkdir()
        write(tmp_path / part / "test.jsonl", rows)
    data = ["en/test.jsonl", "de/test.jsonl"]
    speaker = Speaker(lambda text: "yes" if text.startswith("en") else "no")
    result = run("questions", speaker, tmp_path, data=data, judge="exact")
    assert (result.n, result.scores["accuracy"].value) == (20, 0.5)
    assert apart(["a", "b", "a", "a (2)", "a"]) == ["a", "b", "a (2)'", "a (2)", "a (3)"]


def test_prompts_with_a_hash_in_their_ids_are_no_copies_of_each_other(tmp_path: Path) -> None:
    longer = "def judge(samples):\n    return [float(len(s.text)) for s in samples]\n"
    (tmp_path / "longer.py").write_text(longer)
    for ids in ("set#{0}", "p{0}"):
        rows = [{"id": ids.format(i), "prompt": f"q{i}", "output": "x" * (i % 9 + 1)}
                for i in range(40)]  # fmt: skip
        write(tmp_path / "p.jsonl", rows)
        speaker = Speaker(lambda text: "xxxx", ids[0])
        result = run("win_rate", speaker, tmp_path, data="p.jsonl", judge="longer.py:judge")
        figure = result.scores["win_rate"]
        assert (figure.n, 0.2 < figure.low < figure.high < 0.7) == (40, True)


def test_a_pair_that_cannot_be_used_stops_the_eval(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(9)]
    write(tmp_path / "p.jsonl", [*rows, {"prompt": "q", "chosen": "good", "rejected": None}])
    (tmp_path / "j.py").write_text("def judge(samples):\n    return [1.0 for s in samples]\n")
    options = {"data": "p.jsonl", "judge": "j.py:judge"}
    with pytest.raises(DataError, match=r"p.jsonl.*rejected"):
        run("reward_bench", Speaker(lambda text: "x"), tmp_path, **options)


def test_a_template_and_a_dtype_are_part_of_the_exam(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl", [{"prompt": "a", "answer": "a"}])
    suite = make_suite("questions", {"data": "q.jsonl", "judge": "exact"}, tmp_path)
    plain, raw, half = (Model("m", "m"), Model("m", "m", template="raw"),
                        Model("m", "m", dtype="bfloat16"))  # fmt: skip
    assert plain.loaded_as == {}  # what was measured before stays measured
    assert raw.loaded_as == {"template": "raw"}
    assert half.loaded_as == {"dtype": "bfloat16"}
    suite.prepare(Speaker(lambda text: text))
    window = property(lambda self: 100)
    kinds = [type("M", (Speaker,), {"loaded_as": m.loaded_as, "window": window}) for m in
             (plain, raw)]  # fmt: skip
    first, second = (suite.settings(kind(lambda text: text)) for kind in kinds)
    assert {k: v for k, v in second.items() if first.get(k) != v} == {"template": "raw"}


def test_ones_own_environment_and_tasks_are_part_of_the_exam(tmp_path: Path) -> None:
    (tmp_path / "game.py").write_text("class Game:\n    pay = 1\n")
    write(tmp_path / "g.jsonl", [{"prompt": "go"}])
    options = {"data": "g.jsonl", "environment": {"name": "game.py:Game"}}
    before = make_suite("episodes", options, tmp_path).facts()
    (tmp_path / "game.py").write_text("class Game:\n    pay = 2\n")
    assert make_suite("episodes", options, tmp_path).facts() != before
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\n")
    facts = [tasks_of(tmp_path)]
    (tmp_path / "tasks" / "__pycache__").mkdir()
    (tmp_path / "tasks" / "__pycache__" / "x.pyc").write_text("")
    facts.append(tasks_of(tmp_path))
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\ndoc_to_target: b\n")
    facts.append(tasks_of(tmp_path))
    assert facts[0] == facts[1] != facts[2]
    assert "own_tasks" not in tasks_of(tmp_path, None)


def tasks_of(folder: Path, include: str | None = "tasks") -> Mapping[str, Any]:
    return LMEval(LMEval.options_class(tasks=["mine"], include=include), folder).facts()


def test_an_eval_of_which_most_failed_opens_no_gate_and_shows_no_drop(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl", [{"prompt": str(i), "answer": str(i)} for i in range(60)])
    whole = Speaker(lambda text: text, "whole")
    torn = Speaker(lambda text: text if int(text) < 40 else None, "torn")
    results = [run("questions", s, tmp_path, data="q.jsonl", judge="exact") for s in (whole, torn)]
    said = [
        decide(parse_gate("accuracy >= 0.9"), Facts(r.model, eval_readings([r], r.model)))
        for r in results
    ]
    assert [result.passed for result in said] == [True, None]
    assert "20 of 60 items of questions/q failed" in said[1].text
    changes = compare(tmp_path / "evals" / "whole", tmp_path / "evals" / "torn")
    assert capability_drops(changes) == {}


def test_marks_between_right_and_wrong_are_compared_with_what_was_right(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl", [{"prompt": str(i)} for i in range(30)])
    (tmp_path / "j.py").write_text(
        "def judge(samples):\n    return [float(s.text) for s in samples]"
    )
    for name, mark in (("before", "1.0"), ("after", "0.4")):
        speaker = Speaker(lambda text, mark=mark: mark, name)
        options = {"data": "q.jsonl", "judge": "j.py:judge"}
        assert run("questions", speaker, tmp_path, **options).main == (
            "accuracy" if name == "before" else "score"
        )
    (change,) = compare(tmp_path / "evals" / "before", tmp_path / "evals" / "after")
    assert (change.scores[0].name, change.scores[0].paired) == ("score", True)
    assert change.scores[0].change.value == pytest.approx(-0.6)
    assert capability_drops([change])


def test_an_attack_that_could_not_be_asked_is_not_withstood(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", [{"goal": f"bomb {i}"} for i in range(6)])
    attacks = ["plain", "base64"]
    speaker = Speaker(lambda text: None if "base64" in text else NO)
    result = run("refusal", speaker, tmp_path, data="r.jsonl", attacks=attacks)
    assert "any_attack" not in result.scores
    shutil.rmtree(tmp_path / "evals")
    some = Speaker(lambda text: None if "base64" in text else "Sure" if "0" in text else NO)
    result = run("refusal", some, tmp_path, data="r.jsonl", attacks=attacks)
    assert "any_attack" not in result.scores  # nor is one that gave in before it all there is
    shutil.rmtree(tmp_path / "evals")
    result = run(
        "refusal", Speaker(lambda t: NO), tmp_path, data="r.jsonl", attacks=attacks, limit=2
    )
    assert (result.n, result.scores["any_attack"].n) == (4, 2)  # requests, each in both forms


def test_an_alpaca_row_is_asked_with_its_input(tmp_path: Path) -> None:
    rows = [{"instruction": "Rewrite this.", "input": f"text {i}"} for i in range(3)]
    write(tmp_path / "r.jsonl", rows)
    seen: list[str] = []
    speaker = Speaker(lambda text: seen.append(text) or NO)  # type: ignore[func-returns-value]
    assert run("refusal", speaker, tmp_path, data="r.jsonl").n == 3
    assert sorted(seen)[0] == "Rewrite this.\n\ntext 0"
