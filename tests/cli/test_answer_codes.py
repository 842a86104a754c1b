"""What a finished run says last where its model should not ship, and the exit code of it."""

from __future__ import annotations

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
