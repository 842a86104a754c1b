"""Win rates: both orders, judges that look at the place, stored verdicts, files that are off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evals_world import Orderly, Speaker, write

from gnomon.errors import ConfigError, DataError, RunError
from gnomon.evals.evaluate import evaluate, result_file
from gnomon.evals.items import rows_of
from gnomon.evals.pairs import orders, text_pair, verdicts
from gnomon.evals.pairwise import Pairwise
from gnomon.evals.subject import Stored
from gnomon.evals.table import make_suite
from gnomon.evals.verdict_files import prompt_id
from gnomon.records import Group, Message, Prompt, Response
from gnomon.runs.evals import Calibration, EvalResult
from judge_server import JudgeServer, Said, answers, letter, prefers, words

PROMPT = Prompt("p", (Message("user", "q"),))
LONGER = "def judge(samples):\n    return [float(len(s.text)) for s in samples]\n"
FIRST = """
from gnomon.records import Comparison, Judgement

class Judge:
    def judge(self, groups):
        return [Judgement("first", comparisons=(Comparison(0, 1),)) for _ in groups]
"""


def test_both_orders_are_asked_and_averaged() -> None:
    pairs = [text_pair(PROMPT, own, other) for own, other in (("aa", "b"), ("a", "bb"), ("x", "y"))]
    honest = Orderly(lambda one, two: 0.5 if len(one) == len(two) else float(len(one) > len(two)))
    assert [v.win for v in verdicts(honest, pairs)] == [1.0, 0.0, 0.5]
    always_a = verdicts(Orderly(lambda one, two: 1.0), pairs)
    assert [(v.own_first, v.own_second, v.win) for v in always_a] == [(1.0, 0.0, 0.5)] * 3


def test_a_judge_that_looks_at_the_place_is_called_that() -> None:
    seen = orders([(1.0, 0.0)] * 10, list(range(10)))
    assert seen is not None
    assert (seen.flips.value, seen.first.value) == (1.0, 1.0)
    assert "shown first is better in 100%" in str(seen.warning())
    fair = orders([(1.0, 1.0), (0.0, 0.0)] * 5, list(range(10)))
    assert fair is not None
    assert fair.warning() is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "longer.py").write_text(LONGER)
    (tmp_path / "first.py").write_text(FIRST)
    rows = [{"prompt": f"q{i}", "output": "x" * (i + 1), "category": "ab"[i % 2]} for i in range(8)]
    write(tmp_path / "prompts.jsonl", rows)
    return tmp_path


def measure(folder: Path, subject: Any, **options: Any) -> EvalResult:
    return evaluate(make_suite("win_rate", options, folder), subject, folder)


def test_fresh_answers_against_those_of_the_file(folder: Path) -> None:
    result = measure(
        folder, Speaker(lambda text: "x" * 4), data="prompts.jsonl", judge="longer.py:judge"
    )
    assert result.scores["win_rate"].value == pytest.approx((3 + 0.5) / 8)
    assert result.scores["ties"].value == pytest.approx(1 / 8)
    assert result.by_category["a"]["win_rate"].n == 4
    assert (result.judge, result.against) == ("judge", "the file's own answers")
    assert any("no calibration" in note for note in result.notes)
    assert "flips" not in result.scores  # a judge of single answers has no order
    rows = [json.loads(line) for line in
            result_file(folder, "speaker", result.suite).with_suffix(".jsonl").open()]  # fmt: skip
    assert rows[0]["own"] == "xxxx"
    assert rows[0]["other"] == "x"


def test_a_judge_that_always_says_a_comes_out_at_a_half_with_a_warning(folder: Path) -> None:
    result = measure(
        folder, Speaker(lambda text: "x" * 4), data="prompts.jsonl", judge="first.py:Judge"
    )
    assert result.scores["win_rate"].value == 0.5
    assert result.scores["flips"].value == 1.0
    assert any("the answer shown first is better in 100%" in note for note in result.notes)


@pytest.mark.parametrize(("liking", "flips"), [(0.0, 0.0), (400.0, 1.0)])
def test_an_ai_judge_is_asked_once_in_each_order(folder: Path, liking: float, flips: float) -> None:
    rule = prefers(lambda text: float(len(text)), first=liking, sharp=10.0)
    with JudgeServer(rule) as server:
        judge = {"builtin": "ai", "options": {"model": "m", "url": server.url}}
        result = measure(
            folder, Speaker(lambda text: "x" * 20), data="prompts.jsonl", judge=judge, limit=2
        )
        assert len(server.asked) == 4
    assert result.scores["flips"].value == flips
    assert result.scores["win_rate"].value == pytest.approx(0.5 if flips else 1.0, abs=1e-3)
    assert result.judge_version.startswith("m prompt=")
    assert result.tokens > 0


def test_verdicts_that_cannot_be_read_are_counted_and_never_guessed(folder: Path) -> None:
    said = {"x": "A was wrong less often", "xx": "A was wrong more often", "xxx": "A loses"}

    def rule(text: str, body: dict[str, Any]) -> Said:
        first, _ = answers(text)
        return words(said[first]) if first in said else letter({"A": 0.0, "B": 1.0})

    with JudgeServer(rule) as server:
        judge = {"builtin": "ai", "options": {"model": "m", "url": server.url}}
        result = measure(
            folder, Speaker(lambda text: "y"), data="prompts.jsonl", judge=judge, limit=3
        )
    assert (result.n, result.errors, round(result.scores["win_rate"].value)) == (1, 2, 0)
    assert any(note.startswith("of 2 items the judge's verdict") for note in result.notes)


def test_the_calibration_of_this_very_judge_is_named(folder: Path) -> None:
    speaker, options = Speaker(lambda text: "x"), {"data": "prompts.jsonl"}
    first = measure(folder, speaker, judge="longer.py:judge", **options)
    for version, name in ((first.judge_version, "right"), ("another", "wrong")):
        Calibration(judge=first.judge, version=version, labels=80).write(
            _made(folder / "calibrations") / f"{name}.json"
        )
    suite = make_suite("win_rate", {**options, "judge": "longer.py:judge"}, folder)
    again = evaluate(suite, speaker, folder, again=True)
    assert again.calibration == "calibrations/right.json"
    assert not any("no calibration" in note for note in again.notes)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_answers_of_another_model_from_a_file(folder: Path) -> None:
    rows = [{"instruction": f"q{i}", "output": "x" * 3, "generator": "rival"} for i in range(8)]
    write(folder / "rival.jsonl", rows[:6])
    result = measure(
        folder,
        Speaker(lambda text: "x" * 4),
        data="prompts.jsonl",
        judge="longer.py:judge",
        against="rival.jsonl",
    )
    assert (result.against, result.n, result.errors) == ("rival", 6, 2)
    assert result.scores["win_rate"].value == 1.0
    assert "holds no answer to prompt" in result.notes[-1] or "holds no answer" in str(result.notes)
    write(folder / "stranger.jsonl", [{"instruction": "other", "output": "x"}])
    with pytest.raises(RunError, match=r"stranger.jsonl holds no answer to prompt"):
        measure(
            folder,
            Speaker(lambda text: "x"),
            data="prompts.jsonl",
            judge="longer.py:judge",
            against="stranger.jsonl",
        )


def judged_rows(model: str, n: int = 40, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"do {i}",
            "output_1": "b" * (50 + i),
            "output_2": model[0] * (40 + 2 * i),
            "generator_1": "base",
            "generator_2": model,
            "preference": 1.0 + (i % 3 == 0) * 0.9,
            **more,
        }
        for i in range(n)
    ]


def test_conversations_that_end_alike_are_not_one_prompt(folder: Path) -> None:
    """So that none is compared with an answer to another."""
    asked = {"prompt": "And then?", "output": "x"}
    rows = [{**asked, "history": [[about, about]]} for about in ("cats", "war")]
    write(folder / "talks.jsonl", [*rows, asked])
    options = {"data": "talks.jsonl", "judge": "longer.py:judge"}
    suite = make_suite("win_rate", options, folder)
    assert isinstance(suite, Pairwise)
    prompts = [item.prompt for item in suite.items()]
    assert len({prompt.id for prompt in prompts}) == 3
    assert prompts[2].id == prompt_id("And then?")


def test_stored_verdicts_need_no_judge(folder: Path) -> None:
    write(folder / "one.jsonl", judged_rows("one"))
    write(folder / "two.jsonl", judged_rows("two"))
    result = measure(folder, Stored(folder / "one.jsonl"), others=["two.jsonl"])
    assert (result.model, result.against, result.n) == ("one", "base", 40)
    assert result.scores["win_rate"].value == pytest.approx(0.9 * 14 / 40)
    assert any("estimated from 2 models" in note for note in result.notes)
    alone = measure(folder, Stored(folder / "one.jsonl"))
    assert any("without a term for the instructions' difficulty" in n for n in alone.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preference": 3}, r"bad.jsonl, row 1: 'preference' must be from 1"),
        ({"preference": "x"}, r"row 1: 'preference' must be from 1"),
        ({"output_2": 5}, r"row 1: 'output_2' must be a text, not 5"),
        ({"instruction": ""}, r"row 1: 'instruction' must be a text that is not empty"),
    ],
)
def test_verdicts_that_are_off_name_file_and_row(folder: Path, change: Any, said: str) -> None:
    rows = judged_rows("one")
    rows[0] |= change
    write(folder / "bad.jsonl", rows)
    with pytest.raises(DataError, match=said):
        measure(folder, Stored(folder / "bad.jsonl", "one"))


def test_verdicts_of_two_models_or_other_items_are_refused(folder: Path) -> None:
    write(folder / "mixed.jsonl", judged_rows("one") + judged_rows("two"))
    with pytest.raises(DataError, match="generator_2 has 2 names"):
        measure(folder, Stored(folder / "mixed.jsonl", "one"))
    write(folder / "one.jsonl", judged_rows("one"))
    other = [{**row, "instruction": f"else {i}"} for i, row in enumerate(judged_rows("two"))]
    write(folder / "two.jsonl", other)
    with pytest.raises(DataError, match="none of its 40 instructions is among the 40"):
        measure(folder, Stored(folder / "one.jsonl"), others=["two.jsonl"])
    write(folder / "two.jsonl", judged_rows("two", output_1="another"))
    with pytest.raises(DataError, match="its baseline answers differ"):
        measure(folder, Stored(folder / "one.jsonl"), others=["two.jsonl"])


def test_verdicts_and_answers_are_never_taken_for_another_models(folder: Path) -> None:
    write(folder / "one.jsonl", judged_rows("one"))
    with pytest.raises(ConfigError, match=r"holds verdicts on a model's answers: give it in place"):
        make_suite("win_rate", {"data": "one.jsonl", "judge": "longer.py:judge"}, folder)
    rows = [{"prompt": f"q{i}", "output": "x"} for i in range(4)]
    write(folder / "answers.jsonl", rows)
    with pytest.raises(ConfigError, match="nothing to compare them with"):
        measure(folder, Stored(folder / "answers.jsonl"), judge="longer.py:judge")
    rival = Stored(folder / "answers.jsonl", "rival")
    result = measure(folder, rival, judge="longer.py:judge", data="prompts.jsonl")
    assert (result.n, result.errors, result.model) == (4, 4, "rival")


def test_another_models_answers_are_asked_for_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = Speaker(lambda text: "xx", "rival")
    monkeypatch.setattr("gnomon.evals.subject.open_subject", lambda source, base: rival)
    suite = make_suite(
        "win_rate",
        {"data": "prompts.jsonl", "judge": "longer.py:judge", "against": "rival"},
        folder,
    )
    for name, text in (("first", "x"), ("second", "xxx")):
        evaluate(suite, Speaker(lambda _, text=text: text, name), folder)  # type: ignore[misc]
    assert len(rival.asked) == 8


def test_a_file_of_prompts_needs_a_judge_and_answers(folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs a judge"):
        make_suite("win_rate", {"data": "prompts.jsonl"}, folder)
    write(folder / "bare.jsonl", [{"prompt": "q"}])
    with pytest.raises(DataError, match=r"bare.jsonl, row 1: it needs 'output' or 'reference'"):
        measure(folder, Speaker(lambda t: "x"), data="bare.jsonl", judge="longer.py:judge")
    with pytest.raises(ConfigError, match="needs a file of prompts"):
        measure(folder, Speaker(lambda t: "x"), judge="longer.py:judge")


def test_arena_hards_questions_are_compared_with_a_baselines_answers(
    shared_data: Path, folder: Path
) -> None:
    file = shared_data / "arena_hard" / "question_v0.1.jsonl.gz"
    rows = [row for _, row in rows_of(file)][:20]
    baseline = [{"prompt": row["prompt"], "output": "x", "model": "gpt-4-0314"} for row in rows]
    write(folder / "baseline.jsonl", baseline)
    result = measure(
        folder,
        Speaker(lambda text: "xx"),
        data=str(file),
        against="baseline.jsonl",
        judge="first.py:Judge",
        limit=20,
    )
    assert (result.n, result.against) == (20, "gpt-4-0314")
    ids = [
        json.loads(line)["id"]
        for line in result_file(folder, "speaker", result.suite).with_suffix(".jsonl").open()
    ]
    assert ids == [row["uid"] for row in rows]


def test_alpaca_evals_files_give_its_win_rate(shared_data: Path, tmp_path: Path) -> None:
    files = shared_data / "alpaca_eval"
    others = [str(files / f"{m}.jsonl.gz") for m in ("claude-2.1", "vicuna-7b-v1.5", "NullModel")]
    suite = make_suite("win_rate", {"others": others}, tmp_path)
    result = evaluate(suite, Stored(files / "gemma-7b-it.jsonl.gz"), tmp_path)
    assert (result.model, result.against, result.n) == ("gemma-7b-it", "gpt4_1106_preview", 805)
    assert 100 * result.scores["win_rate"].value == pytest.approx(6.94, abs=0.1)
    assert 100 * result.scores["length_controlled"].value == pytest.approx(10.43, abs=2.0)


def test_each_prompt_is_asked_as_often_as_samples_say(folder: Path) -> None:
    """A model whose second answer is the good one: one sample sees none of it, two see half."""
    subject = Speaker(lambda text: "x" * 4)
    first = subject._one
    subject._one = lambda prompt, n: (  # type: ignore[method-assign]
        first(replace(prompt, messages=(Message("user", "?"),)), n)
        if "#" not in prompt.id
        else Group(prompt, (Response((Message("assistant", "x" * 99),)),))
    )
    asked = {"data": "prompts.jsonl", "judge": "longer.py:judge", "temperature": 1.0}
    one = measure(folder, subject, **asked)
    two = measure(folder, subject, **asked, samples=2, name="two")
    assert one.scores["win_rate"].value == pytest.approx(3.5 / 8)
    assert two.scores["win_rate"].value == pytest.approx((3.5 + 8) / 16)
    assert two.scores["win_rate"].n == 8  # instructions, not answers
    assert two.by_category["a"]["win_rate"].n == 4
    few = measure(folder, subject, **asked, samples=2, limit=3, name="few")
    assert few.n == 6  # three prompts, twice


def test_samples_that_would_all_be_the_same_are_refused(folder: Path) -> None:
    asked = {"data": "prompts.jsonl", "judge": "longer.py:judge", "samples": 2}
    with pytest.raises(ConfigError, match="2 samples at temperature 0"):
        make_suite("win_rate", asked, folder).check()
    write(folder / "own.jsonl", [{"prompt": f"q{i}", "output": "x"} for i in range(8)])
    with pytest.raises(ConfigError, match="one answer to a prompt: remove samples"):
        measure(folder, Stored(folder / "own.jsonl"), **asked, temperature=1.0)
