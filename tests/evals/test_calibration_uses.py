"""What evals make of a judge's calibration: corrected scores, notes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.errors import ConfigError
from gnomon.evals.calibration import write_calibration
from gnomon.evals.evaluate import evaluate
from gnomon.evals.table import make_suite
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.stats.intervals import Interval

JUDGE = "def judge(samples):\n    return [float(len(s.text)) for s in samples]\n"
AGREES = {"agreement": Interval(0.8, 0.7, 0.88, 80)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "longer.py").write_text(JUDGE)
    write(tmp_path / "prompts.jsonl", [{"prompt": f"q{i}", "output": "x" * i} for i in range(1, 9)])
    (tmp_path / "calibrations").mkdir()
    return tmp_path


def measure(folder: Path, **options: Any) -> EvalResult:
    given = {"data": "prompts.jsonl", "judge": "longer.py:judge", **options}
    suite = make_suite("win_rate", given, folder)
    return evaluate(suite, Speaker(lambda text: "x" * 6), folder, again=True)


def calibrated(folder: Path, version: str, **figures: Any) -> None:
    record = Calibration(judge="judge", version=version, **{"labels": 80, **AGREES, **figures})
    record.write(folder / "calibrations" / "judge.json")


def test_a_calibrated_judges_win_rate_is_corrected(folder: Path) -> None:
    raw = measure(folder)
    assert raw.main == "length_controlled"
    assert "win_rate_corrected" not in raw.scores
    calibrated(folder, raw.judge_version, attenuation=Interval(0.8, 0.7, 0.9, 80))
    found = measure(folder, corrected=True)
    assert found.main == "win_rate_corrected"
    seen, figure = found.scores["win_rate"], found.scores["win_rate_corrected"]
    assert figure.value == pytest.approx(0.5 + (seen.value - 0.5) / 0.8)
    assert figure.high - figure.low > seen.high - seen.low
    again = EvalResult.read(folder / "evals/speaker/win_rate/prompts.json")
    assert again.scores["win_rate_corrected"] == figure
    assert measure(folder).main == "length_controlled"  # beside the others, unless asked for


def test_what_a_calibration_warns_of_is_in_the_notes(folder: Path) -> None:
    version = measure(folder).judge_version
    keeps = Interval(0.8, 0.7, 0.9, 49)
    calibrated(
        folder, version, warnings=["it prefers longer answers"], labels=49, attenuation=keeps
    )
    found = measure(folder)
    assert "win_rate_corrected" not in found.scores
    notes = found.notes
    assert "the judge judge: it prefers longer answers" in notes
    assert "the judge judge: its calibration is of 49 people's labels" in notes


def test_a_record_that_says_the_same_keeps_its_date(tmp_path: Path) -> None:
    first = Calibration(judge="j", version="1", labels=60, made="2026-01-01", tokens=700)
    file = write_calibration(tmp_path, first, [])
    later = first.model_copy(update={"made": "2026-03-03", "tokens": 0})
    assert write_calibration(tmp_path, later, []) == file
    assert Calibration.read(file).made == "2026-01-01"
    write_calibration(tmp_path, later.model_copy(update={"made": "2026-03-03", "labels": 61}), [])
    assert Calibration.read(file).made == "2026-03-03"


def test_nothing_is_corrected_without_a_calibration_that_can_be_believed(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no calibration of the judge judge"):
        measure(folder, corrected=True)
    version = measure(folder).judge_version
    calibrated(folder, "another")
    with pytest.raises(ConfigError, match=r"there is one of another version: another"):
        measure(folder, corrected=True)
    assert any("one of another version: another" in note for note in measure(folder).notes)
    calibrated(folder, version, agreement=Interval(0.5, 0.4, 0.6, 80))
    with pytest.raises(ConfigError, match="more than a coin does"):
        measure(folder, corrected=True)
    calibrated(folder, version)
    with pytest.raises(ConfigError, match="how much of a difference"):
        measure(folder, corrected=True)


def test_a_calibration_from_before_the_model_changed_is_not_taken(folder: Path) -> None:
    version = measure(folder).judge_version
    calibrated(folder, version, labels=500, made="2026-01-01")
    (folder / "calibrations" / "judge.json").rename(folder / "calibrations" / "before.json")
    assert measure(folder).calibration == "calibrations/before.json"
    calibrated(folder, version, made="2026-05-01", drift={"model_changed": True})
    found = measure(folder)
    assert found.calibration == "calibrations/judge.json"
    assert any("has changed" in note for note in found.notes)


def test_shares_of_refusals_are_corrected(tmp_path: Path) -> None:
    (tmp_path / "j.py").write_text(
        "def no(samples):\n    return [float('no' in s.text) for s in samples]\n"
    )
    rows = [{"prompt": f"{i}", "label": "safe" if i % 2 else "unsafe"} for i in range(100)]
    write(tmp_path / "a.jsonl", rows)
    speaker = Speaker(lambda text: "no" if int(text) % 10 < 5 else "yes")

    def run(**options: Any) -> EvalResult:
        suite = make_suite("refusal", {"data": "a.jsonl", "judge": "j.py:no", **options}, tmp_path)
        return evaluate(suite, speaker, tmp_path, again=True)

    version = run().judge_version
    (tmp_path / "calibrations").mkdir()
    Calibration(
        judge="no",
        version=version,
        labels=200,
        good_from=0.5,
        sensitivity=Interval(0.8, n=100),
        specificity=Interval(0.9, n=100),
    ).write(tmp_path / "calibrations/no.json")
    scores = run().scores
    refused = (scores["over_refusal"].value + 0.9 - 1) / (0.8 + 0.9 - 1)
    assert scores["over_refusal_corrected"].value == pytest.approx(refused)
    answered = 1 - ((1 - scores["compliance"].value) + 0.9 - 1) / (0.8 + 0.9 - 1)
    assert scores["compliance_corrected"].value == pytest.approx(answered)
    figure = scores["compliance_corrected"]
    assert figure.low < figure.value < figure.high
    other = run(refuses_from=0.7)
    assert "over_refusal_corrected" not in other.scores
    assert any("nothing is corrected" in note for note in other.notes)


@pytest.mark.parametrize(
    ("version", "what"),
    [
        ("m prompt=1 settings=2", ""),
        ("n prompt=1 settings=2", "model"),
        ("m prompt=9 settings=2", "prompt"),
        ("n prompt=1 settings=9", "model and settings"),
        ("other", "version"),
    ],
)
def test_what_changed_about_a_judge_is_named(version: str, what: str) -> None:
    known = Calibration(judge="ai", version="m prompt=1 settings=2", labels=60)
    assert known.is_of("ai", version) == (what == "")
    if what:
        assert known.differs(version) == what
    assert known.is_of("ai", "m prompt=1 settings=2 corrected=1a2b3c4d")


def test_a_calibration_that_comes_later_is_taken_up_without_asking_again(folder: Path) -> None:
    speaker = Speaker(lambda text: "x" * 6)

    def measured() -> EvalResult:
        suite = make_suite(
            "win_rate", {"data": "prompts.jsonl", "judge": "longer.py:judge"}, folder
        )
        return evaluate(suite, speaker, folder)

    first = measured()
    assert any("no calibration of the judge judge" in note for note in first.notes)
    assert measured().made == first.made
    calibrated(folder, first.judge_version, attenuation=Interval(0.8, 0.7, 0.9, 80))
    asked = list(speaker.asked)
    second = measured()
    assert second.calibration == "calibrations/judge.json"
    assert "win_rate_corrected" in second.scores
    assert not any("no calibration" in note for note in second.notes)
    keeps = Interval(0.8, 0.7, 0.9, 80)
    calibrated(folder, first.judge_version, attenuation=keeps, warnings=["it likes lists"])
    assert "the judge judge: it likes lists" in measured().notes
    (folder / "calibrations" / "judge.json").unlink()
    third = measured()
    assert third.calibration == ""
    assert third.notes == first.notes
    assert speaker.asked == asked
