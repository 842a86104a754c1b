"""A killed eval continues with what is missing; rows of other models or settings never mix in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from evals_world import Orderly, Speaker

from gnomon.errors import RunError
from gnomon.evals.asking import Ask
from gnomon.evals.evaluate import evaluate, result_file
from gnomon.evals.rows import Rows
from gnomon.evals.subject import Subject
from gnomon.evals.suite import ItemSuite, Measured, Options, Row, Work
from gnomon.judges.protocol import Judge
from gnomon.records import Message, Prompt
from gnomon.runs.evals import EvalResult, read_evals
from gnomon.stats.intervals import weighted_proportion


class Count(ItemSuite[Prompt]):
    title: ClassVar[str] = "count"
    chunk: ClassVar[int] = 2

    def items(self) -> list[Prompt]:
        return [Prompt(str(i), (Message("user", str(i)),)) for i in range(6)]

    def ask(self, subject: Subject, items: Sequence[Prompt], work: Work) -> list[Row]:
        found = subject.answer(items, Ask())
        return [
            {"error": a.reason} if not hasattr(a, "responses")
            else {"score": float(a.responses[0].text == "yes")} for a in found
        ]  # fmt: skip

    def measure(self, items: Sequence[Prompt], rows: Sequence[Row]) -> Measured:
        values = [row["score"] for row in rows]
        return Measured.of({"yes": weighted_proportion(values)}, main="yes", item_score="yes")


def suite(**options: Any) -> Count:
    return Count(Options(**options), Path())


class StoppedError(Exception):
    pass


def test_a_killed_eval_asks_only_what_is_missing(tmp_path: Path) -> None:
    speaker = Speaker(lambda text: "yes")

    def watch(done: int, total: int) -> None:
        if done >= 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        evaluate(suite(), speaker, tmp_path, watch=watch)
    rows = result_file(tmp_path, "speaker", "count").with_suffix(".jsonl")
    assert len(rows.read_text().splitlines()) == 4
    with rows.open("a") as file:  # what a kill in the middle of a write leaves
        file.write('{"id": "4", "of"')
    again, said = Speaker(lambda text: "yes"), []
    result = evaluate(suite(), again, tmp_path, tell=said.append)
    assert again.asked == ["4", "5"]
    assert (result.n, result.errors, result.scores["yes"].value) == (6, 0, 1.0)
    assert "continues after the 4 rows" in said[0]
    assert [json.loads(line)["id"] for line in rows.read_text().splitlines()] == list("012345")


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    first = evaluate(suite(), Speaker(lambda text: "yes"), tmp_path)
    idle = Speaker(lambda text: "no")
    assert evaluate(suite(), idle, tmp_path) == EvalResult.read(
        result_file(tmp_path, "speaker", "count")
    )
    assert not idle.asked
    anew = evaluate(suite(), idle, tmp_path, again=True)
    assert anew.scores["yes"].value == 0.0
    assert first.scores["yes"].value == 1.0


def test_another_model_or_setting_starts_anew_and_keeps_the_old_rows_aside(tmp_path: Path) -> None:
    evaluate(suite(), Speaker(lambda text: "yes"), tmp_path)
    said: list[str] = []
    evaluate(suite(seed=3), Speaker(lambda text: "no"), tmp_path, tell=said.append)
    assert "6 rows" in said[0]
    assert "starts anew" in said[0]
    file = result_file(tmp_path, "speaker", "count")
    assert EvalResult.read(file).scores["yes"].value == 0.0
    assert len(file.with_name("count.jsonl.old").read_text().splitlines()) == 6
    assert [result.settings["seed"] for _, result in read_evals(tmp_path)] == [3]
    other = Speaker(lambda text: "yes")
    other.sha256 = "retrained"
    assert evaluate(suite(seed=3), other, tmp_path).scores["yes"].value == 1.0


def test_failed_items_are_in_no_score_and_are_asked_again(tmp_path: Path) -> None:
    flaky = Speaker(lambda text: None if text in "34" else "yes")
    result = evaluate(suite(), flaky, tmp_path)
    assert (result.n, result.errors) == (4, 2)
    assert result.scores["yes"].n == 4
    assert "2 of 6 items failed" in result.notes[0]
    well = Speaker(lambda text: "yes")
    assert evaluate(suite(), well, tmp_path).errors == 0
    assert well.asked == ["3", "4"]


class Dear(Count):
    """Every asking costs three tokens and half a euro, whether it succeeds or not."""

    title: ClassVar[str] = "dear"
    remembering: ClassVar[bool] = False

    def judges(self) -> list[Judge]:
        judge = Orderly(lambda one, two: 0.5)
        judge.remembers = self.remembering
        return [judge]

    def ask(self, subject: Subject, items: Sequence[Prompt], work: Work) -> list[Row]:
        return [{**row, "tokens": 3, "money": 0.5} for row in super().ask(subject, items, work)]


class Remembering(Dear):
    remembering: ClassVar[bool] = True


def dear(kind: type[Dear] = Dear) -> Dear:
    return kind(Options(), Path())


def test_what_failed_attempts_cost_stays_counted(tmp_path: Path) -> None:
    def failing(some: str) -> Speaker:
        return Speaker(lambda text: None if text in some else "yes")

    first = evaluate(dear(), failing("34"), tmp_path)
    assert (first.tokens, first.money) == (18, 3.0)
    file = result_file(tmp_path, "speaker", "dear")
    first.note(seconds=100.0)
    first.write(file)
    again = evaluate(dear(), failing("4"), tmp_path)
    assert (again.errors, again.tokens, again.money) == (1, 24, 4.0)
    assert 100.0 < again.seconds < 150.0
    last = evaluate(dear(), failing(""), tmp_path)
    assert (last.errors, last.tokens, last.money) == (0, 27, 4.5)
    assert last.seconds > again.seconds
    rows = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
    assert {row["id"]: row["tokens"] for row in rows} == {
        **dict.fromkeys("0125", 3), "3": 6, "4": 9,
    }  # fmt: skip
    assert len(rows) == 6


def test_a_rerun_that_is_killed_forgets_no_cost_either(tmp_path: Path) -> None:
    flaky = Speaker(lambda text: None if text in "1345" else "yes")
    evaluate(dear(), flaky, tmp_path)

    def watch(done: int, total: int) -> None:
        if done >= 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        evaluate(dear(), Speaker(lambda text: "yes"), tmp_path, watch=watch)
    assert evaluate(dear(), Speaker(lambda text: "yes"), tmp_path).tokens == 18 + 12


def test_measured_anew_is_without_the_cost_before(tmp_path: Path) -> None:
    evaluate(dear(), Speaker(lambda text: None if text in "3" else "yes"), tmp_path)
    anew = evaluate(dear(), Speaker(lambda text: "yes"), tmp_path, again=True)
    assert anew.tokens == 18


def test_a_judge_that_tells_its_earlier_costs_is_not_counted_twice(tmp_path: Path) -> None:
    evaluate(dear(Remembering), Speaker(lambda text: None if text in "3" else "yes"), tmp_path)
    again = evaluate(dear(Remembering), Speaker(lambda text: "yes"), tmp_path)
    assert again.tokens == 18


def test_an_eval_all_of_whose_items_fail_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"all 6 items failed.*prompt 0 does not fit"):
        evaluate(suite(), Speaker(lambda text: None), tmp_path)
    assert not list(read_evals(tmp_path))


def test_surrogates_and_foreign_lines_are_survived(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    rows = Rows(file, "k")
    rows.add([{"id": "a", "text": "half \ud83d"}])
    with file.open("ab") as stream:
        stream.write(b"[1]\nnot json\n\xff\n")
    kept = Rows(file, "k")
    assert [row["id"] for row in kept.all()] == ["a"]
    assert len(file.read_bytes().splitlines()) == 1
