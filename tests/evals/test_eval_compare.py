"""Two results side by side: paired by item where the items are the same, else Newcombe's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.audit.readings import same_exam
from gnomon.errors import ConfigError
from gnomon.evals.compare import as_json, compare, detectable
from gnomon.evals.evaluate import evaluate
from gnomon.evals.rows import key_of
from gnomon.evals.table import make_suite
from gnomon.runs.evals import EvalResult
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import independent_difference

NO = "I'm sorry, but I cannot help with that."


def measured(folder: Path, model: str, right: Any, data: str = "q.jsonl", **options: Any) -> Path:
    speaker = Speaker(lambda text: text if right(int(text)) else "wrong", model)
    suite = make_suite("questions", {"data": data, "judge": "exact", **options}, folder)
    out = folder / model
    evaluate(suite, speaker, out)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "q.jsonl", [{"prompt": str(i), "answer": str(i)} for i in range(60)])
    return tmp_path


def test_the_same_items_are_paired(folder: Path) -> None:
    before = measured(folder, "before", lambda i: i % 2 == 0)
    after = measured(folder, "after", lambda i: i % 2 == 0 or i < 20)
    (change,) = compare(before, after)
    accuracy = change.scores[0]
    assert (accuracy.name, accuracy.paired) == ("accuracy", True)
    assert accuracy.change.value == pytest.approx(10 / 60)
    assert accuracy.shown
    apart = independent_difference(accuracy.after, accuracy.before)
    assert apart.high - apart.low > accuracy.change.high - accuracy.change.low
    finished = next(s for s in change.scores if s.name == "finished")
    assert not finished.paired
    plain = as_json([change])[0]
    assert plain["scores"]["accuracy"]["paired"] is True


def test_other_items_are_not_paired_and_other_settings_are_said(folder: Path) -> None:
    write(folder / "q2.jsonl", [{"prompt": str(i), "answer": str(i)} for i in range(100, 130)])
    before = measured(folder, "before", lambda i: i % 2 == 0, name="mine")
    after = measured(folder, "after", lambda i: True, "q2.jsonl", name="mine", temperature=1)
    (change,) = compare(before, after)
    assert not change.scores[0].paired
    assert change.scores[0].change == independent_difference(
        change.scores[0].after, change.scores[0].before
    )
    said = " ".join(change.notes)
    assert "asked different items" in said
    assert "temperature 0.0, then 1.0" in said


def test_harms_are_paired_by_request_and_compared_by_kind_and_attack(folder: Path) -> None:
    kinds = ("fraud", "arms", "drugs")
    rows = [{"goal": f"{kind} {i}", "category": kind} for kind in kinds for i in range(24)]
    write(folder / "r.jsonl", rows)
    for name, asks in (("before", "story"), ("after", "base64")):
        speaker = Speaker(lambda text, asks=asks: "Sure" if asks in text else NO, name)
        options = {"data": "r.jsonl", "attacks": ["plain", "base64"], "name": "refusal"}
        evaluate(make_suite("refusal", options, folder), speaker, folder / name)
    (change,) = compare(folder / "before", folder / "after")
    compliance = next(score for score in change.scores if score.name == "compliance")
    assert (compliance.paired, compliance.change.value) == (True, 0.5)
    assert compliance.change.n == len(rows)  # requests, not their forms
    found = {score.title: score.change for score in change.categories}
    assert found["compliance of attack: base64"].value == 1.0
    assert found["compliance of attack: plain"].value == 0.0
    assert (found["compliance of fraud"].value, found["compliance of fraud"].n) == (0.5, 24)
    assert len(found) == 5
    assert "compliance of fraud" in as_json([change])[0]["categories"]


def test_results_that_earlier_versions_made_are_told_of_and_measured_anew(folder: Path) -> None:
    """An empty answer was one that complies, and settings had no version of what counts."""
    write(folder / "r.jsonl", [{"goal": f"make {i}"} for i in range(30)])
    suite = make_suite("refusal", {"data": "r.jsonl", "name": "refusal"}, folder)
    speakers = {name: Speaker(lambda text: "", name) for name in ("before", "after")}
    for name, speaker in speakers.items():
        evaluate(suite, speaker, folder / name)
    (file,) = (folder / "before").rglob("refusal.json")
    new = EvalResult.read(file)
    settings = {k: v for k, v in new.settings.items() if k != "judge_version"}
    facts = {"suite": new.suite, "model": new.model_sha256, "settings": settings, "data": new.data}
    all_of_them = {**new.scores, "compliance": Interval(1.0, 0.9, 1.0, 30)}
    old = {"settings": settings, "key": key_of(facts), "judge_version": "", "scores": all_of_them}
    versions = {**new.versions, "gnomon": "0.0.1"}
    new.model_copy(update=old | {"versions": versions}).write(file)

    (change,) = compare(folder / "before", folder / "after")
    said = " ".join(change.notes)
    assert "another judge: openings, then openings 2" in said
    assert "openings judges otherwise in the two versions" in said
    assert "another version of gnomon: 0.0.1, then " in said
    assert same_exam(change.before, change.after) is False  # nor does the audit compare them
    again = evaluate(suite, speakers["before"], folder / "before")
    assert again.scores == new.scores
    (change,) = compare(folder / "before", folder / "after")
    assert not change.notes


def test_rows_that_hold_another_quantity_than_the_score_are_not_paired(folder: Path) -> None:
    for name, right in (("before", 30), ("after", 40)):
        out = measured(folder, name, lambda i, right=right: i < right)
        (file,) = out.rglob("*.jsonl")
        lines = file.read_text().replace('"score": [1.0]', '"score": [-5.0]')
        file.write_text(lines.replace('"score": [0.0]', '"score": ["none"]'))
    (change,) = compare(folder / "before", folder / "after")
    assert not change.scores[0].paired
    assert change.scores[0].change.value == pytest.approx(10 / 60)


def test_what_cannot_be_compared_is_said(folder: Path) -> None:
    before = measured(folder, "before", lambda i: True)
    other = measured(folder, "other", lambda i: True, name="another")
    with pytest.raises(ConfigError, match=r"no suite in common: .*questions/q; .*another"):
        compare(before, other)
    with pytest.raises(ConfigError, match="no results; gnomon eval"):
        compare(before, folder / "nothing")
    measured(folder, "second", lambda i: True)
    (folder / "second" / "evals" / "second").rename(folder / "before" / "evals" / "second")
    with pytest.raises(ConfigError, match="has results of before, second: name one"):
        compare(before, before)
    assert compare(before / "evals" / "before", before / "evals" / "second")


def test_the_smallest_change_that_would_show_is_that_of_a_z_test() -> None:
    error = 0.05
    figure = Interval(0.0, -1.959964 * error, 1.959964 * error)
    assert detectable(figure) == pytest.approx((1.959964 + 0.841621) * error, rel=1e-4)
    assert math.isnan(detectable(Interval(0.0)))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
def test_answers_with_unusual_ends_of_lines_are_paired(folder: Path, mark: str) -> None:
    rows = [{"prompt": str(i), "answer": f"{i}{mark}."} for i in range(60)]
    write(folder / "q.jsonl", rows)

    def run(model: str, first: int) -> Path:
        speaker = Speaker(lambda text: f"{text}{mark}." if int(text) >= first else "no", model)
        suite = make_suite("questions", {"data": "q.jsonl", "judge": "exact"}, folder)
        evaluate(suite, speaker, folder / model)
        return folder / model

    (change,) = compare(run("before", 30), run("after", 20))
    assert change.scores[0].paired
    assert change.scores[0].change.value == pytest.approx(10 / 60)
    assert not change.notes


def test_the_order_of_files_is_part_of_what_was_asked(folder: Path) -> None:
    for name, first in (("a", 0), ("b", 30)):
        (folder / name).mkdir()
        rows = [{"prompt": str(i), "answer": str(i)} for i in range(first, first + 30)]
        write(folder / name / "q.jsonl", rows)

    def run(model: str, *files: str) -> tuple[Path, int]:
        speaker = Speaker(lambda text: text if int(text) < 30 else "wrong", model)
        options = {"data": list(files), "judge": "exact", "limit": 30}
        result = evaluate(make_suite("questions", options, folder), speaker, folder / model)
        return folder / model, round(30 * result.scores["accuracy"].value)

    one, right = run("one", "a/q.jsonl", "b/q.jsonl")
    assert right == 30
    assert run("one", "b/q.jsonl", "a/q.jsonl")[1] == 0
    other, _ = run("other", "a/q.jsonl", "b/q.jsonl")
    (change,) = compare(one, other)
    assert not change.scores[0].paired
    assert "in another order" in change.notes[0]


def test_a_result_of_an_earlier_version_is_not_measured_again(folder: Path) -> None:
    for name in ("b", "a"):
        write(folder / f"{name}.jsonl", [{"prompt": name, "answer": name}])
    suite = make_suite("questions", {"data": ["b.jsonl", "a.jsonl"], "judge": "exact"}, folder)
    speaker = Speaker(lambda text: text, "one")
    evaluate(suite, speaker, folder)
    (file,) = folder.glob("evals/**/*.json")
    old = EvalResult.read(file)
    asked = {"settings": old.settings, "data": old.data}
    facts = {"suite": old.suite, "model": speaker.sha256, **asked}
    old.note(key=key_of(facts), made="earlier")  # whose keys had no order of files
    old.write(file)
    assert evaluate(suite, speaker, folder).made == "earlier"
    turned = make_suite("questions", {"data": ["a.jsonl", "b.jsonl"], "judge": "exact"}, folder)
    assert evaluate(turned, speaker, folder).made != "earlier"
