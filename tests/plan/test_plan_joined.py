"""What the planner's joined parts say together: what would fit, this machine, no reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import plan_world as pw
import pytest
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.errors import ConfigError
from gnomon.plan.allocator import GIVE_BACK
from gnomon.plan.answers import make
from gnomon.plan.hardware import Hardware, parse_hardware
from gnomon.plan.shown import parts


def test_what_would_fit_does_fit_and_the_smallest_that_does_is_named(tmp_path: Path) -> None:
    data = [pw.write(tmp_path / "pairs.jsonl", pw.pairs(300, " , as far as I know" * 12))]
    with pytest.raises(ConfigError, match="does not fit on 1 x H100") as refused:
        make(data, "meta-llama/Llama-3.1-70B", hardware=parse_hardware("1xH100"))
    enough = next(
        n
        for n in (2, 4, 8, 16)
        if _fits(data, "meta-llama/Llama-3.1-70B", parse_hardware(f"{n}xH100"))
    )
    assert f"{enough}xH100, sharded" in str(refused.value)


def _fits(data: list[Path], model: str, on: Hardware) -> bool:
    try:
        make(data, model, hardware=on)
    except ConfigError:
        return False
    return True


def _processor() -> Hardware:
    """A machine as a probe describes it: no queue of kernels, and no price."""
    one = parse_hardware("1xA100")
    return Hardware(1, replace(one.gpu, name="processor", price=0.0, queued=False))


def test_this_machine_is_a_processor_whose_price_nobody_knows(tmp_path: Path) -> None:
    data = [pw.write(tmp_path / "pairs.jsonl", pw.pairs(300))]
    plan = make(data, "tunnel", hardware=_processor())
    assert {stage.job.device for stage in plan.fit.stages} == {"cpu"}
    assert not any("0.00 euros" in str(part) for part in parts(plan))
    with pytest.raises(ConfigError, match="--price"):
        make(data, "tunnel", hardware=_processor(), budget=5)


def test_a_processors_plan_says_that_freed_memory_is_kept_and_a_gpus_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [pw.write(tmp_path / "pairs.jsonl", pw.pairs(300))]
    here, gpu = (make(data, "tunnel", hardware=on) for on in (_processor(), parse_hardware("H100")))
    for keeps in (True, False):
        monkeypatch.setattr("gnomon.plan.shown.keeps_freed", lambda keeps=keeps: keeps)
        assert any(GIVE_BACK in str(part) for part in parts(here)) is keeps
        assert not any(GIVE_BACK in str(part) for part in parts(gpu))


def test_without_a_penalty_there_is_no_reference_to_pay_for(tmp_path: Path) -> None:
    data = [pw.write(tmp_path / "problems.jsonl", pw.checkable(300))]
    plan = make(data, "Qwen/Qwen3-0.6B", hardware=parse_hardware("1xH100"))
    (stage,) = plan.fit.stages
    assert plan.recipe["stages"][0]["settings"]["beta"] == 0
    assert "reference" not in stage.bill.seconds
    assert "reference" not in stage.memory.always


def test_calibrating_this_machine_for_other_hardware_is_refused(tmp_path: Path) -> None:
    data = pw.write(tmp_path / "pairs.jsonl", pw.pairs(300))
    words = ["plan", str(data), "--model", "tunnel", "--hardware", "1xH100", "--calibrate"]
    with pytest.raises(ConfigError, match="--calibrate measures this machine"):
        CliRunner().invoke(app, words, catch_exceptions=False)
