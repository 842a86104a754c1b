"""A judge whose probabilities are corrected by its calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.build import one_judge
from gnomon.judges.corrected import CorrectedJudge
from gnomon.judges.protocol import Judge, judged
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Comparison, Group, Judgement, Message, Prompt, Response, Score
from judge_server import JudgeServer, prefers

HALF = {"kind": "platt", "slope": 0.5}


class Says(Judge):
    name, version, groupwise = "says", "v1", True

    def __init__(self, found: Judgement) -> None:
        self.found = found

    def judge(self, groups: Any) -> list[Judgement]:
        return [self.found for _ in groups]


def group(*texts: str) -> Group:
    return Group(
        Prompt("p", (Message("user", "q"),)),
        tuple(Response((Message("assistant", text),)) for text in texts),
    )


def record(folder: Path, **more: Any) -> Path:
    (folder / "calibrations").mkdir(exist_ok=True)
    file = folder / "calibrations" / "x.json"
    file.write_text(
        json.dumps({"judge": "says", "version": "v1", "map": HALF, "labels": 50, **more})
    )
    return file


def test_probabilities_are_mapped_and_ties_stay(tmp_path: Path) -> None:
    record(tmp_path)
    compared = (
        Comparison(0, 1, probability=0.9),
        Comparison(2, 0, probability=0.6),
        Comparison(1, 2, tie=True),
    )
    inner = Says(Judgement("says", comparisons=compared))
    judge = CorrectedJudge(inner, True, tmp_path)
    (found,) = judged(judge, [group("x", "y", "z")])
    assert found.comparisons is not None
    sure, unsure, tie = found.comparisons
    assert sure.probability == pytest.approx(3 / 4)  # 9 : 1 becomes 3 : 1
    assert 0.5 < unsure.probability < 0.6
    assert tie == compared[2]
    assert found.scores[0].value == pytest.approx((0.75 + 1 - unsure.probability) / 2)
    assert found.version == judge.version
    assert judge.version.startswith("v1 corrected=")


def test_a_map_of_few_labels_is_refused(tmp_path: Path) -> None:
    record(tmp_path, labels=49)
    with pytest.raises(ConfigError, match=r"is of 49 people's labels.*believed from 50 on"):
        CorrectedJudge(Says(Judgement("says")), True, tmp_path)


def test_errors_and_scores_are_no_probabilities(tmp_path: Path) -> None:
    record(tmp_path)
    failed = CorrectedJudge(Says(Judgement("says", error="down")), True, tmp_path)
    (found,) = judged(failed, [group("x", "y")])
    assert "down" in str(found.error or found.scores[0].error)
    scores = CorrectedJudge(Says(Judgement("says", (Score(1.0), Score(2.0)))), True, tmp_path)
    (found,) = judged(scores, [group("x", "y")])
    assert "no probabilities to correct" in str(found.scores[0].error)


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        (True, {"version": "v2"}, "no calibration of the judge says"),
        ("calibrations/x.json", {"version": "v2"}, "this judge is 'says'"),
        ("calibrations/none.json", {}, "cannot be read"),
        (True, {"map": {}}, "no map of probabilities"),
        (True, {"map": {"kind": "platt", "slope": -3}}, "calibrate the judge again"),
        (True, {"drift": {"model_changed": True}}, "has changed since"),
        ("calibrations/x.json", {"drift": {"model_changed": True}}, "has changed since"),
    ],
)
def test_a_calibration_of_another_judge_or_without_a_map_is_refused(
    tmp_path: Path, given: Any, more: dict[str, Any], words: str
) -> None:
    record(tmp_path, **more)
    with pytest.raises(ConfigError, match=words):
        CorrectedJudge(Says(Judgement("says")), given, tmp_path)


def test_an_ai_judge_takes_it_as_an_option(tmp_path: Path) -> None:
    with JudgeServer(prefers(len, sharp=2.0)) as server:
        raw = {"builtin": "ai", "options": {"model": "m", "url": server.url}}

        def build(options: dict[str, Any]) -> Judge:
            spec = RewardSpec.model_validate(raw | {"options": {**raw["options"], **options}})
            return one_judge(spec, base=tmp_path, load=lambda name: None)  # type: ignore[arg-type, return-value]

        plain = build({})
        (before,) = judged(plain, [group("xx", "y")])
        record(tmp_path, judge="ai", version=plain.version)
        for given in (True, "calibrations/x.json"):
            judge = build({"corrected": given})
            assert (judge.name, judge.paid) == ("ai", True)
            (after,) = judged(judge, [group("xx", "y")])
            assert before.comparisons is not None
            assert after.comparisons is not None
            assert before.comparisons[0].probability > 0.85
            odds = [c.probability / (1 - c.probability)
                    for c in (*before.comparisons, *after.comparisons)]  # fmt: skip
            assert odds[1] ** 2 == pytest.approx(odds[0], rel=1e-3)


def test_of_several_records_the_last_is_taken(tmp_path: Path) -> None:
    record(tmp_path, made="2026-05-01", map={"kind": "platt", "slope": 0.25})
    (tmp_path / "calibrations" / "x.json").rename(tmp_path / "calibrations" / "y.json")
    record(tmp_path, made="2026-01-01")
    inner = Says(Judgement("says", comparisons=(Comparison(0, 1, probability=16 / 17),)))
    (found,) = judged(CorrectedJudge(inner, True, tmp_path), [group("x", "y")])
    assert found.comparisons is not None
    assert found.comparisons[0].probability == pytest.approx(2 / 3)  # 16 : 1 becomes 2 : 1


def test_a_panels_members_stay_in_its_corrected_scores(tmp_path: Path) -> None:
    record(tmp_path)
    scores = (Score(0.9, {"long": 0.9}), Score(0.1, {"long": 0.1}))
    inner = Says(Judgement("says", scores, (Comparison(0, 1, probability=0.9),)))
    (found,) = judged(CorrectedJudge(inner, True, tmp_path), [group("x", "y")])
    assert found.scores[0].value == pytest.approx(0.75)
    assert found.scores[0].parts == {"long": 0.9}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"mode": "score"}, "compares no answers"), ({"scores": "bradley_terry"}, "remove scores")],
)
def test_what_it_cannot_correct_is_refused_before_anything_is_asked(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    raw = {"model": "m", "url": "http://x/v1", "corrected": True, **options}
    spec = RewardSpec.model_validate({"builtin": "ai", "options": raw})
    with pytest.raises(ConfigError, match=words):
        one_judge(spec, base=tmp_path, load=lambda name: None)  # type: ignore[arg-type, return-value]
