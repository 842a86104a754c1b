"""What a stage trained after the weights that it kept says nothing of the policy that is there."""

import json

import pytest
from made import make, rollouts

from gnomon.api.run import Run
from gnomon.audit.detectors import audit_run
from gnomon.audit.evidence import evidence
from gnomon.audit.readings import stage_readings
from gnomon.report.card import run_card
from gnomon.report.html import write_report
from gnomon.report.samples import browser
from gnomon.report.verdict import verdicts
from gnomon.runs.peak import in_words, kept_stage
from gnomon.runs.read import read_run
from gnomon.runs.records import StageInfo

EVERY, END = 4, 40


def _write(rng, step, right):
    """Sound answers until iteration 20, one and the same for every question after."""
    words = ["so", "then", "well", "thus", "hence", "now", "as", "we", "see", "it"]
    said = f"{' '.join(rng.sample(words, 6))} {right}" if step <= 20 else "It is what it is always."
    return said, 0.2 if step <= 20 else 1.0, None


def _metrics(peak):
    rows = []
    for i in range(1, END + 1):
        row = {"step": i, "iteration": i, "reward": 0.2 if i <= 20 else 1.0, "kl": i / 2.0}
        row |= {"length": 7.0, "finished": 1.0, "final": None}
        row |= {"eval/judge": 1.0 - abs(i - 1 - peak) / 50} if i % EVERY == 1 else {}
        rows.append(row)
    rows.append({"step": END, "iteration": END, "eval/judge": 0.3})
    return [*rows, {"step": END, "iteration": END, "eval/judge": 1.0, "final": 1}]


def _run(folder, peak, end=END, noted=True):
    samples = rollouts(range(1, END + 1, 3), _write)
    for n, of in ((0, 0), (8, 8), (36, 36), (END, peak)):
        for row in rollouts([1], _write, seed=5)[:8]:
            text = {"response": f"held out at {of}"}
            samples.append(row | text | {"step": n, "policy_iteration": None, "evaluation": of})
    samples.sort(key=lambda row: row["step"])
    made = make(folder, samples, _metrics(peak))
    info = StageInfo.read(made / "stages/01-policy/stage.json")
    kept = {"judge": "judge", "value": 1.0, "iteration": peak, "trained_until": end}
    info.note(peak=kept if noted else {}, iterations=END, summary={"reward": 1.0, "kl": 20.0})
    info.write(made / "stages/01-policy/stage.json")
    return made


def _alarms(run):
    return {f.name for f in audit_run(run, write=False).findings if f.status == "alarm"}


def test_a_collapse_that_was_thrown_away_is_no_alarm(tmp_path):
    assert "mode_collapse" in _alarms(_run(tmp_path / "whole", 8, noted=False))
    assert "mode_collapse" in _alarms(_run(tmp_path / "at the end", END))
    assert "mode_collapse" not in _alarms(_run(tmp_path / "kept", 8))


@pytest.mark.parametrize("peak", [0, 8])
def test_samples_and_metrics_end_where_the_kept_weights_are(tmp_path, peak):
    run = read_run(_run(tmp_path / "run", peak))
    found, _ = evidence(run, run.stages[0])
    assert max(s.step for s in found.samples) <= peak + 1
    x, y = found.series("reward")
    assert (x[-1], y[-1]) == (peak + 1, 0.2)
    assert found.series("eval/judge")[1][-1] == 1.0
    readings = stage_readings(run.stages[0])
    assert readings["kl"].figure.value <= peak / 2 + 0.5
    assert readings["reward"].figure.value == pytest.approx(0.2)
    assert readings["eval/judge"].figure.value == 1.0
    kept = kept_stage(run.stages[0])
    assert kept.info.summary == {"reward": 0.2, "kl": (peak + 1) / 2}
    held_out = {r["response"] for r in kept.samples if r["evaluation"] is not None}
    assert held_out == {f"held out at {n}" for n in (0, 8) if n <= peak}


def test_a_stage_whose_end_is_its_peak_is_read_whole(tmp_path):
    stage = read_run(_run(tmp_path / "run", END)).stages[0]
    assert kept_stage(stage) is stage
    assert in_words(stage.info).startswith("the weights after 40 of 40 iterations are kept")
    assert "thrown away" not in in_words(stage.info)
    bare = read_run(_run(tmp_path / "bare", 8, noted=False)).stages[0]
    assert kept_stage(bare) is bare
    assert in_words(bare.info) == ""


def test_page_card_and_figures_say_where_the_peak_was(tmp_path):
    path = _run(tmp_path / "run", 8)
    run = read_run(path)
    told = "the weights after 8 of 40 iterations are kept: the best by judge (1 on average)"
    assert any(told in v.text for v in verdicts(run))
    assert not any("from 0.200 to 1" in v.text for v in verdicts(run))
    assert all("always" not in row.response for row in browser(run).rows)
    assert told in write_report(path).read_text()
    (path / "stages/01-policy/model").mkdir()
    (path / "stages/01-policy/model/gnomon.json").write_text(json.dumps({"kind": "policy"}))
    assert told in run_card(path).replace("\\", "")
    assert Run(path).figures["reward"] == 0.2


def test_a_peak_that_nobody_wrote_right_changes_nothing(tmp_path):
    path = _run(tmp_path / "run", 8)
    for peak in ({"iteration": None}, {"iteration": "8"}, {"iteration": True, "trained_until": 40}):
        info = StageInfo(name="policy", peak=peak)
        info.write(path / "stages/01-policy/stage.json")
        stage = read_run(path).stages[0]
        assert kept_stage(stage) is stage
        assert in_words(stage.info) == ""
