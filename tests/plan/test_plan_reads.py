"""What a plan bills, gates and promises is what its recipe reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plan_world as pw
import pytest

from gnomon.errors import ConfigError
from gnomon.plan.answers import Plan, make


def made(folder: Path, tiny_folder: Path, *files: Path, **asked: Any) -> Plan:
    return make(list(files), str(tiny_folder), out=folder / "made.yaml", **asked)


def test_few_demonstrations_have_no_gate_that_nothing_could_open(
    tmp_path: Path, tiny_folder: Path
) -> None:
    few, many = (
        made(tmp_path, tiny_folder, pw.write(tmp_path / f"{n}.jsonl", pw.demonstrations(n)))
        for n in (50, 300)
    )
    (stage,), (other,) = few.recipe["stages"], many.recipe["stages"]
    assert "holdout" not in stage
    assert "gates" not in stage
    assert other["gates"] == ["eval/loss <= 2.5 (value)"]
    assert not any("hold out a share" in warning for warning in few.warnings)
    assert any("hold out a share" in warning for warning in many.warnings)


def test_people_are_paid_for_the_prompts_that_they_judge(tmp_path: Path, tiny_folder: Path) -> None:
    shown = pw.write(tmp_path / "d.jsonl", pw.demonstrations(600))
    asked = pw.write(tmp_path / "p.jsonl", pw.prompts(300))
    both = made(tmp_path, tiny_folder, shown, asked, judge="people")
    alone = made(tmp_path, tiny_folder, asked, judge="people")

    def judged(plan: Plan) -> float:
        return sum(stage.labels.human for stage in plan.fit.stages)

    assert judged(both) == judged(alone) > 0
    few = pw.write(tmp_path / "few.jsonl", pw.prompts(10))
    names = [s["name"] for s in made(tmp_path, tiny_folder, shown, few, judge="people").recipe[
        "stages"]]  # fmt: skip
    assert names == ["sft"]  # ten prompts are too few to sample for


def test_what_no_stage_reads_is_said(tmp_path: Path, tiny_folder: Path) -> None:
    paired = pw.write(tmp_path / "pairs.jsonl", pw.pairs(300))
    asked = pw.write(tmp_path / "p.jsonl", pw.prompts(300))
    plan = made(tmp_path, tiny_folder, paired, asked, judge="people")
    assert any("p.jsonl: no stage reads it" in warning for warning in plan.warnings)
    assert any(warning.startswith("--judge: no stage asks it") for warning in plan.warnings)
    (tmp_path / "old").mkdir()
    alike = pw.write(tmp_path / "old" / "pairs.jsonl", pw.prompts(300))  # of the same name
    plan = made(tmp_path, tiny_folder, paired, alike, judge="people")
    unread = [w for w in plan.warnings if "no stage reads it" in w]
    assert [w.partition(": ")[0] for w in unread] == [str(alike)]
    with pytest.raises(ConfigError, match="named twice"):
        made(tmp_path, tiny_folder, paired, tmp_path / "old" / ".." / "pairs.jsonl")
    whole = made(tmp_path, tiny_folder, paired)
    assert not any("no stage" in warning for warning in whole.warnings)
