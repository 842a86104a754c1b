"""What an eval says beside its figures: what it cost, answers that were cut off, requests that the
files contradict each other about; and the names of what it can measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evals_world import Chooser, Speaker, write

from gnomon.errors import ConfigError, DataError
from gnomon.evals.asking import Answered
from gnomon.evals.evaluate import evaluate
from gnomon.evals.subject import Stored
from gnomon.evals.suite import ItemSuite, Measured, Options
from gnomon.evals.table import make_suite, suite_class
from gnomon.records import Prompt
from gnomon.runs.evals import EvalResult
from gnomon.stats.intervals import mean_interval
from judge_server import JudgeServer, Said, says, words

QUESTIONS = [{"prompt": f"q{i}", "output": "other"} for i in range(4)]
TURNS = [{"question_id": i, "category": "writing", "turns": [f"q{i}", "more"]} for i in range(4)]
LENGTH = "def judge(samples):\n    return [float(len(s.text)) for s in samples]\n"


def run(name: str, subject: Any, folder: Path, **options: Any) -> EvalResult:
    return evaluate(make_suite(name, options, folder), subject, folder)


class CutOff(Speaker):
    """None of whose answers ends."""

    def _one(self, prompt: Any, samples: int) -> Answered:
        group: Any = super()._one(prompt, samples)
        return replace(group, responses=tuple(replace(r, finished=False) for r in group.responses))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "long.py").write_text(LENGTH)
    write(tmp_path / "q.jsonl", QUESTIONS)
    write(tmp_path / "turns.jsonl", TURNS)
    return tmp_path


# -- what it cost ----------------------------------------------------------------------------------


def endpoint(server: JudgeServer) -> dict[str, Any]:
    options = {"model": "m", "url": server.url, "mode": "pairs", "price_input": 1e6}
    return {"builtin": "ai", "options": options | {"price_output": 1e6}}


def test_what_a_judge_took_for_items_that_failed_is_counted(folder: Path) -> None:
    """Of four pairs one can be read: the other three were paid for as well."""

    def rule(text: str, body: Mapping[str, Any]) -> Said:
        return says("A")(text, dict(body)) if "q0" in text else words("I would rather not say.")

    with JudgeServer(rule) as server:
        result = run("win_rate", Speaker(lambda t: t), folder, data="q.jsonl",
                     judge=endpoint(server))  # fmt: skip
    rows = (folder / "evals/speaker/win_rate/q.jsonl").read_text().splitlines()
    assert (len(rows), result.errors) == (4, 3)
    with JudgeServer(says("A")) as server:
        whole = run("win_rate", Speaker(lambda t: t, "whole"), folder, data="q.jsonl",
                    judge=endpoint(server))  # fmt: skip
    assert result.tokens > 0.6 * whole.tokens > 0
    assert result.money > 0.6 * whole.money > 0


def test_what_the_choosing_reward_took_is_counted(folder: Path) -> None:
    options = {"data": "q.jsonl", "judge": "long.py:judge", "samples": 2, "temperature": 1.0}
    with JudgeServer(says("7")) as server:
        select = {"builtin": "ai", "options": {"model": "m", "url": server.url, "mode": "score"}}
        chosen = run("best_of_n", Speaker(lambda t: t), folder, **options, select=select)
    assert chosen.tokens > 0
    assert run("best_of_n", Speaker(lambda t: t), folder, **options).tokens == 0


def test_a_suite_of_ones_own_that_adds_up_itself_is_not_counted_twice(folder: Path) -> None:
    class Own(ItemSuite[Prompt]):
        title = "own"

        def items(self) -> list[Prompt]:
            return [Prompt(str(i), text="q") for i in range(3)]

        def ask(self, subject: Any, items: Any, work: Any) -> list[dict[str, Any]]:
            return [{"score": 1.0, "tokens": 5, "money": None, "cut": "no"} for _ in items]

        def measure(self, items: Any, rows: Any) -> Measured:
            one = mean_interval([row["score"] for row in rows], method="t")
            return Measured.of({"score": one}, main="score", tokens=15)

    result = evaluate(Own(Options(), folder), Speaker(lambda t: t), folder)
    assert (result.tokens, result.money) == (15, 0.0)


# -- answers that were cut off ---------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["win_rate", "mt_bench", "refusal"])
def test_answers_that_were_cut_off_are_said(folder: Path, suite: str) -> None:
    data = "turns.jsonl" if suite == "mt_bench" else "q.jsonl"
    options = {"data": data, "judge": "long.py:judge"}
    cut = run(suite, CutOff(lambda t: t, "cut"), folder, **options)
    whole = run(suite, Speaker(lambda t: t, "whole"), folder, **options)
    count = 8 if suite == "mt_bench" else 4
    said = f"{count} answers were cut off before their end"
    assert any(said in note and "max_new_tokens" in note for note in cut.notes)
    assert not any("cut off" in note for note in whole.notes)


def test_how_an_answer_opens_is_seen_where_it_is_cut_off(folder: Path) -> None:
    result = run("refusal", CutOff(lambda t: t), folder, data="q.jsonl")
    assert not any("cut off" in note for note in result.notes)


# -- requests --------------------------------------------------------------------------------------


def test_two_rows_that_say_the_opposite_of_one_request_stop_the_eval(folder: Path) -> None:
    rows = [{"prompt": "How do I kill a process?", "label": kind} for kind in ("safe", "unsafe")]
    write(folder / "r.jsonl", rows)
    with pytest.raises(DataError) as error:
        run("refusal", Speaker(lambda t: t), folder, data="r.jsonl")
    assert "r.jsonl, row 2" in str(error.value)
    assert "r.jsonl, row 1" in str(error.value)
    write(folder / "r.jsonl", rows[:1] * 2)  # the same request twice is one
    assert run("refusal", Speaker(lambda t: t), folder, data="r.jsonl").n == 1


def test_stored_answers_are_found_by_the_request_with_or_without_its_context(folder: Path) -> None:
    write(folder / "h.jsonl", [{"Behavior": "Do it", "ContextString": "A story"}])
    whole = "A story\n\n---\n\nDo it"
    for i, asked in enumerate(("Do it", whole)):
        write(folder / f"a{i}.jsonl", [{"prompt": asked, "response": "Sure, first"}])
        stored = Stored(folder / f"a{i}.jsonl")
        result = run("refusal", stored, folder, data="h.jsonl")
        assert (result.n, result.errors) == (1, 0)
        assert result.scores["compliance"] is not None
    speaker = Speaker(lambda t: t)
    run("refusal", speaker, folder, data="h.jsonl")
    assert whole in (folder / "evals/speaker/refusal/h.jsonl").read_text().encode().decode(
        "unicode_escape"
    )


def test_a_judge_that_is_no_yaml_is_named(folder: Path) -> None:
    for suite, options in (
        ("win_rate", {"data": "q.jsonl", "judge": "{builtin: ai, options: {model: m}"}),
        ("episodes", {"data": "q.jsonl", "environment": "{name: rooms"}),
    ):
        with pytest.raises(ConfigError, match="is no YAML"):
            make_suite(suite, options, folder)


# -- names -----------------------------------------------------------------------------------------


def test_every_score_that_a_suite_gives_is_among_those_it_names(folder: Path) -> None:
    """Else a gate on it is refused before the run."""
    pairs = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "subset": "xy"[i % 2]}
             for i in range(6)]  # fmt: skip
    write(folder / "pairs.jsonl", pairs)
    write(folder / "r.jsonl", [{"prompt": f"r{i}", "label": ("safe", "unsafe")[i % 2]}
                               for i in range(6)])  # fmt: skip
    choice = {"answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}
    write(folder / "c.jsonl", [{"question": "One?\n (A) a\n (B) b", **choice}])
    long = {"judge": "long.py:judge"}
    many = {"samples": 4, "temperature": 1.0}
    speaker = Speaker(lambda t: t)
    results = [
        run("win_rate", speaker, folder, data="q.jsonl", **long),
        run("mt_bench", speaker, folder, data="turns.jsonl", **long),
        run("refusal", speaker, folder, data="r.jsonl", attacks="all"),
        run("questions", speaker, folder, data="q.jsonl", judge="long.py:judge", **many),
        run("best_of_n", speaker, folder, data="q.jsonl", **long, **many),
        run("reward_bench", speaker, folder, data="pairs.jsonl", **long),
        run("behaviour", Chooser(lambda q, c: float("A" in c)), folder, data="c.jsonl"),
    ]
    for result in results:
        named = suite_class(result.suite, folder).scores
        open_ = tuple(name for name in named if name.endswith(("/", "@", "_")))
        assert named
        assert [s for s in result.scores if s not in named and not s.startswith(open_)] == []
