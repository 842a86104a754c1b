"""What a finished run says last where its model should not ship, and the exit code of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Run, runs
from gnomon.runs.audit import AUDIT, Audit, Finding, GateResult, Gates
from gnomon.runs.records import STAGE, StageInfo


@pytest.fixture
def gnomon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    return runs(tmp_path, monkeypatch, capsys)


def finished(folder: Path, *alarms: str, failed: tuple[str, ...] = ()) -> str:
    """A run of one policy with these alarms, and gates that failed."""
    stage = folder / "stages" / "01-rl"
    stage.mkdir(parents=True)
    StageInfo(name="rl", algorithm="grpo", status="done").write(stage / STAGE)
    (folder / "recipe.yaml").write_text("stages: [{name: rl, algorithm: grpo}]\n")
    found = [
        Finding(name=name, detector="d", stage="rl", status="alarm", text=f"It does {name}.")
        for name in alarms
    ]
    Audit(findings=found).write(folder / AUDIT)
    gates = [GateResult(condition=c, stage="rl", passed=False, text="it is 0.1") for c in failed]
    Gates({"rl": gates}).write(folder / "gates.json")
    return str(folder)


def test_a_hold_is_said_last_with_what_decides_and_has_an_exit_code_for_scripts(
    gnomon: Run, tmp_path: Path
) -> None:
    held = finished(tmp_path / "held", "reward_hacking", "length_bias", failed=("rm >= 0.5",))
    code, said = gnomon("report", held)
    assert code == 0  # as documented: the answer is no error
    last = said.rpartition("HOLD, decided by: ")[2]
    assert last.startswith("alarm reward_hacking in rl, alarm length_bias in rl, gate rm >= 0.5")
    assert last.endswith(f"; for scripts, gnomon report {held} --fail-on hold exits with 6")
    for value in ("hold", "not-shown"):
        code, said = gnomon("report", held, "--fail-on", value)
        assert code == 6
        assert said.endswith("held: exit code 6, since the answer is HOLD (--fail-on)")


def test_what_is_not_shown_fails_only_where_that_is_asked_for(gnomon: Run, tmp_path: Path) -> None:
    open_ = finished(tmp_path / "open")
    assert "HOLD" not in gnomon("report", open_)[1]
    assert gnomon("report", open_, "--fail-on", "hold")[0] == 0
    code, said = gnomon("report", open_, "--fail-on", "not-shown")
    assert (code, "the answer is NOT SHOWN" in said) == (6, True)


def test_fail_on_is_one_of_two_and_of_one_run(gnomon: Run, tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a"), finished(tmp_path / "b")
    code, said = gnomon("report", one, "--fail-on", "alarm")
    assert (code, "--fail-on is hold or not-shown, not alarm" in said) == (1, True)
    code, said = gnomon("report", one, other, "--fail-on", "hold")
    assert (code, "give one run's folder" in said) == (1, True)


def test_under_torchrun_the_line_says_whose_exit_code_a_script_sees(
    gnomon: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = finished(tmp_path / "held", "reward_hacking")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    code, said = gnomon("report", held, "--fail-on", "hold")
    assert code == 6
    assert said.endswith("torchrun itself exits with 1, whatever its processes exit with")


def swept(folder: Path, alarms: dict[float, str]) -> str:
    """A sweep over a temperature, each value with a run that has this alarm or none."""
    runs_of = []
    for value, alarm in alarms.items():
        name = f"temperature{value}"
        finished(folder / name, *([alarm] if alarm else []))
        figure = {"value": value, "low": value, "high": value, "n": 9}
        compared = {"columns": ["helpful"], "rows": [{"model": "rl", "values": [figure]}]}
        (folder / name / "comparison.json").write_text(json.dumps(compared))
        runs_of.append({"name": name, "settings": {"rl.temperature": value}, "seed": 0})
    record = {"recipe": "x", "keys": ["rl.temperature"], "seeds": [0], "objective": "helpful"}
    (folder / "sweep.json").write_text(json.dumps(record | {"sign": 1, "runs": runs_of}))
    return str(folder)


def test_a_sweeps_answer_is_that_of_the_setting_that_comes_first(
    gnomon: Run, tmp_path: Path
) -> None:
    one = swept(tmp_path / "one", {0.5: "", 1.0: "reward_hacking"})
    assert gnomon("report", one)[0] == 0
    assert gnomon("report", one, "--fail-on", "hold")[0] == 0
    code, said = gnomon("report", one, "--fail-on", "not-shown")
    assert (code, "the answer for the first setting is NOT SHOWN" in said) == (6, True)
    none = swept(tmp_path / "none", {0.5: "collapse", 1.0: "reward_hacking"})
    assert gnomon("report", none)[0] == 0
    code, said = gnomon("report", none, "--fail-on", "hold")
    assert (code, "the answer, no setting coming first, is HOLD" in said) == (6, True)
