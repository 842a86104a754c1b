"""The audit's word on data whose answers stand beside other rows' prompts."""

from __future__ import annotations

from pathlib import Path

from made import found, make, one

from gnomon.runs.audit import Exhibit
from gnomon.runs.joins import JOINS, JoinedAnswers, Joins
from gnomon.stats.intervals import Interval


def side(
    share: float, low: float, high: float, judged: int = 100, told: bool = False
) -> JoinedAnswers:
    return JoinedAnswers(
        answers=120,
        judged=100,
        share=Interval(share, low, high, 100),
        detectable=0.2,
        told=told,
        line="as measured",
        text="chosen answers stand beside the wrong prompts" if told else "",
        exhibits=[Exhibit(prompt="what?", response="that", shows="row 3; the answer fits row 9")],
    )


def run(folder: Path, **sides: JoinedAnswers) -> Path:
    made = make(folder)
    stage = next((made / "stages").iterdir())
    if sides:
        Joins({"pairs.jsonl": sides}).write(stage / JOINS)
    return made


def test_the_side_that_strays_is_an_alarm(tmp_path: Path) -> None:
    strays = {"rejected": side(0.0, 0.0, 0.04), "chosen": side(0.6, 0.5, 0.7, told=True)}
    finding = one(run(tmp_path / "run", **strays), "joins")
    assert finding.status == "alarm"
    assert finding.name == "misjoined_answers"
    assert finding.text.startswith("In pairs.jsonl, chosen answers stand beside")
    assert "pairs.jsonl" in finding.first
    assert finding.exhibits[0].shows.startswith("row 3")


def test_sound_data_says_what_would_have_been_seen(tmp_path: Path) -> None:
    finding = one(run(tmp_path / "run", response=side(0.0, 0.0, 0.04)), "joins")
    assert finding.status == "clear"
    assert finding.detectable == 0.2
    assert not finding.text
    wide = one(run(tmp_path / "wide", response=side(0.05, 0.01, 0.2)), "joins")
    assert wide.status == "unclear"
    assert not wide.is_to_watch


def test_answers_that_cannot_be_judged_are_not_looked_at(tmp_path: Path) -> None:
    short = JoinedAnswers(answers=100, judged=3, line="not looked at")
    assert one(run(tmp_path / "run", response=short), "joins").status == "not_looked"
    assert found(run(tmp_path / "older"), "joins") == []
