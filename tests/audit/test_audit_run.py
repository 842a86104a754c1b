"""The audit of a run as a whole: the command, what it prints, and records that are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import make, rollouts
from test_detectors import STEPS, curve, garbled, leaky, verifier
from typer.testing import CliRunner

from gnomon.audit.detectors import audit_run, load_detectors
from gnomon.cli.main import app
from gnomon.errors import ConfigError, DataError
from gnomon.report.findings import audit_lines, audit_summary
from gnomon.runs.audit import AUDIT, Audit, Finding
from gnomon.runs.records import STAGE

runner = CliRunner()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return make(tmp_path / "sound", rollouts(STEPS, verifier))


@pytest.fixture
def hacked(tmp_path: Path) -> Path:
    return make(tmp_path / "hacked", rollouts(STEPS, leaky))


def test_a_run_with_an_alarm(hacked: Path) -> None:
    result = runner.invoke(app, ["audit", str(hacked)])
    assert result.exit_code == 1
    first = result.output.splitlines()[0]
    assert first.startswith("ALARM reward_hacking: stage policy: ")
    assert ".." not in first
    assert " n=" in first
    assert "[" in first
    assert "Try: policy." in " ".join(result.output.splitlines())
    kept = Audit.read(hacked / AUDIT)
    assert kept.alarms
    assert kept.version
    assert kept.alarms[0].exhibits


def test_a_run_without_one_does_not_say_the_word(sound: Path) -> None:
    result = runner.invoke(app, ["audit", str(sound)])
    assert result.exit_code == 0
    assert "alarm" not in result.output.lower()
    assert "would have been seen" in result.output
    assert "needs" in result.output


def test_the_end_of_a_run_names_its_alarms_and_counts_the_rest(sound: Path, hacked: Path) -> None:
    quiet, loud = (audit_summary(audit_run(run), run) for run in (sound, hacked))
    assert len(quiet) == 1
    assert "alarm" not in quiet[0].lower()
    assert [line.startswith("ALARM ") for line in loud] == [True] * (len(loud) - 1) + [False]
    assert len(loud) > 1
    assert audit_summary(Audit(), sound) == []


def test_several_runs_at_once_and_one_that_is_none(sound: Path, hacked: Path) -> None:
    result = runner.invoke(app, ["audit", str(sound), str(hacked)])
    assert result.exit_code == 1
    assert result.output.index(f"{sound}:") < result.output.index(f"{hacked}:")
    result = runner.invoke(app, ["audit", str(sound), str(sound / "nothing")])
    assert result.exit_code == 2
    assert "is not a folder" in result.output


def test_json(hacked: Path) -> None:
    result = runner.invoke(app, ["audit", str(hacked), "--json"])
    assert result.exit_code == 1
    read = json.loads(result.output)[str(hacked)]
    assert read["findings"][0]["status"] == "alarm"
    assert read["findings"][0]["figure"]["low"] is not None


def test_one_stage_leaves_the_kept_audit_alone(sound: Path) -> None:
    audit_run(sound)
    before = (sound / AUDIT).read_bytes()
    result = runner.invoke(app, ["audit", str(sound), "--stage", "policy"])
    assert result.exit_code == 0
    assert (sound / AUDIT).read_bytes() == before
    with pytest.raises(DataError, match="did you mean 'policy'"):
        audit_run(sound, stages=["polici"])


OWN = """
from gnomon.runs.audit import Finding

def looks(evidence):
    assert not hasattr(evidence, "path")
    return [evidence.finding("own", "looks", status="alarm", text=f"{len(evidence.samples)} seen")]

def breaks(evidence):
    return evidence.nothing

def answers_wrongly(evidence):
    return ["bad"]
"""


def test_a_detector_of_ones_own(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = load_detectors(["own.py:looks", "own.py:breaks", "own.py:answers_wrongly"], tmp_path)
    audit = audit_run(sound, detectors=own)
    assert [f.text for f in audit.findings] == ["768 seen"]
    assert len(audit.problems) == 2
    assert "own.py:breaks failed: AttributeError" in audit.problems[0]
    assert "own.py:" in audit.problems[0].split("failed", 1)[1]
    assert "returned a str, not a Finding" in audit.problems[1]
    with pytest.raises(ConfigError, match="did you mean 'repetition'"):
        load_detectors(["repetitions"])


def test_the_detector_of_the_documentation(sound: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "shouting.py").write_text(code)
    own = load_detectors(["shouting.py:shouting"], tmp_path)
    (quiet,) = audit_run(sound, detectors=own).findings
    rows = rollouts(STEPS, verifier)
    for row in rows[len(rows) // 2 :]:
        row["response"] = row["response"].upper()
    (loud,) = audit_run(make(tmp_path / "loud", rows), detectors=own).findings
    assert (quiet.status, loud.status) == ("clear", "alarm")


def test_what_samples_say_cannot_drive_the_terminal() -> None:
    text = "begin with '\x1b[31m red \u202e'\nALARM fake"
    finding = Finding(name="x", detector="d", stage="s", status="alarm", text=text)
    lines = audit_lines(Audit(findings=[finding], problems=[]))
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert "\u202e" not in lines[0]


# -- records that are damaged ---------------------------------------------------------------------


def stage(run: Path) -> Path:
    return run / "stages" / "01-policy"


def test_a_run_cut_off_while_it_was_writing(hacked: Path) -> None:
    folder = stage(hacked)
    (folder / "samples.parquet").unlink()
    lines = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").write_bytes(lines[:-40])  # the last line is half there
    (folder / STAGE).write_text('{"name": "policy", "algorithm": "grpo", "status": "run')
    audit = audit_run(hacked)
    assert audit.alarms
    assert any(STAGE in problem for problem in audit.problems)


def test_a_parquet_file_that_is_damaged(hacked: Path) -> None:
    file = stage(hacked) / "samples.parquet"
    file.write_bytes(file.read_bytes()[:200])
    audit = audit_run(hacked)
    assert audit.alarms  # the lines are whole
    assert any("samples.parquet cannot be read" in problem for problem in audit.problems)


def test_without_samples(sound: Path) -> None:
    for name in ("samples.parquet", "samples.jsonl"):
        (stage(sound) / name).unlink()
    audit = audit_run(sound)
    assert audit.alarms == []
    assert all(f.status == "not_looked" and f.needs for f in audit.findings)


def test_an_empty_stage(sound: Path) -> None:
    for file in stage(sound).iterdir():
        file.unlink()
    audit = audit_run(sound)
    assert audit.alarms == []
    assert any("stage.json is missing" in problem for problem in audit.problems)


def test_samples_of_another_version(tmp_path: Path) -> None:
    rows = rollouts(STEPS, garbled)
    for row in rows:
        row["parts"] = "not JSON"
        row["prompt_id"] = None
        del row["policy_iteration"], row["finished"]
    for row in rows[-3:]:
        row["response"] = None
    audit = audit_run(make(tmp_path / "old", rows))
    assert {f.detector for f in audit.alarms} >= {"unseen_phrases"}
    (problem,) = audit.problems
    assert (
        "3 of 768 rows have no step, prompt or response as text (the first is row 766)" in problem
    )


def test_metrics_of_text_and_of_nothing(tmp_path: Path) -> None:
    rows = curve([0.5] * 20, "entropy", kl=float("nan"))
    for row in rows:
        row["length"] = "many"
    run = make(tmp_path / "run", metrics=rows)
    audit = audit_run(run)
    assert any("length holds no numbers; left out" in p for p in audit.problems)
    assert next(f for f in audit.findings if f.detector == "kl").status == "not_looked"


def test_metrics_of_a_shape_unknown_here_and_a_row_cut_off_are_named(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, verifier), curve([0.5] * 20, "entropy"))
    (stage,) = (run / "stages").iterdir()
    (stage / "metrics.parquet").unlink(missing_ok=True)
    (stage / "samples.parquet").unlink(missing_ok=True)
    rows = (stage / "metrics.jsonl").read_text().splitlines()
    nested = [json.dumps({**json.loads(row), "entropy": {"mean": 1.0}}) for row in rows]
    (stage / "metrics.jsonl").write_text("\n".join(nested) + "\n")
    samples = (stage / "samples.jsonl").read_bytes()
    (stage / "samples.jsonl").write_bytes(samples[:-20])
    problems = audit_run(run).problems
    assert any("entropy holds no numbers; left out" in p for p in problems)
    assert any("samples.jsonl: its last row is cut off; left out" in p for p in problems)


def test_samples_that_are_not_there_are_said_to_be_missing(hacked: Path) -> None:
    (stage,) = (hacked / "stages").iterdir()
    for file in stage.glob("samples.*"):
        file.unlink()
    audit = audit_run(hacked)
    assert any("has no samples, which most checks read" in p for p in audit.problems)


def test_a_recipe_that_is_none(hacked: Path) -> None:
    (hacked / "recipe.yaml").write_text("stages: {a: [}")
    audit = audit_run(hacked)
    assert audit.alarms
    assert any("recipe.yaml" in problem for problem in audit.problems)
    (hacked / "recipe.yaml").write_text("name: 3\nstages: words\ncompare: 7\n")
    assert audit_run(hacked).alarms


def test_answers_that_are_none(sound: Path) -> None:
    (sound / "answers.jsonl").write_text('{"model": "base"}\nnonsense\n')
    (problem,) = audit_run(sound).problems
    assert problem == "answers.jsonl, line 1 and 1 more: not an answer; left out"


def test_an_alarm_of_several_sentences_ends_once() -> None:
    finding = Finding(name="drift", stage="rm", status="alarm", text="One thing. Another.", since=4)
    (line,) = audit_lines(Audit(findings=[finding]))
    assert line == "ALARM drift: stage rm: One thing. Another. First seen at step 4."


ALONE = "to see the rest takes people, an eval or a judge of its own"


def test_an_audit_that_asked_nobody_else_says_what_that_hides(
    sound: Path, hacked: Path, tmp_path: Path
) -> None:
    assert ALONE in " ".join(audit_lines(audit_run(sound)))
    assert ALONE not in " ".join(audit_lines(audit_run(hacked)))
    judged = make(
        tmp_path / "judged",
        rollouts(STEPS, lambda *args: (*verifier(*args)[:2], {"judge": verifier(*args)[1]})),
        stage={"observe": [{"model": "other", "name": "judge"}]},
    )
    assert "held_out_judge" in {f.detector for f in audit_run(judged).findings if f.figure}
    assert ALONE not in " ".join(audit_lines(audit_run(judged)))
