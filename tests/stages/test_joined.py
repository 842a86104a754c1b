"""A stage says when the answers that it reads stand beside other rows' prompts, and keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gnomon.audit.evidence import Evidence
from gnomon.audit.joins import joins as detector
from gnomon.recipe.schema import StageSpec
from gnomon.runs.joins import JOINS, Joins
from gnomon.stages.sources import StageData

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def pairs(shift: int) -> list[dict[str, Any]]:
    rng = Random(0)
    names = [" ".join("".join(rng.choices(LETTERS, k=7)) for _ in range(4)) for _ in range(60)]
    return [
        {
            "prompt": f"What do you know of {named}?",
            "chosen": f"A good deal of {names[i - shift]}.",
            "rejected": f"Nothing of {named}.",
        }
        for i, named in enumerate(names)
    ]


@pytest.mark.parametrize("shift", [0, 1])
def test_what_a_stage_reads_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shift: int
) -> None:
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs(shift))))
    spec = StageSpec(name="dpo", algorithm="dpo", data="pairs.jsonl")  # type: ignore[arg-type]
    data = StageData(spec, tmp_path, Path, seed=0)
    data.groups("preferences")
    said = capsys.readouterr().out
    assert ("pairs.jsonl: chosen answers stand beside the wrong prompts" in said) == bool(shift)
    assert "rejected answers stand" not in said
    data.write_joins(tmp_path / JOINS)
    record = Joins.read(tmp_path / JOINS)
    (finding,) = detector(Evidence("run", "dpo", joins=record))
    assert finding.status == ("alarm" if shift else "clear")


def test_prompts_alone_and_what_is_made_leave_no_record(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs(1))))
    sources: list[tuple[Any, str]] = [
        ("pairs.jsonl", "prompts"),
        ([{"path": "tunnel:demonstrations", "options": {"n": 40}}], "demonstrations"),
    ]
    for source, kind in sources:
        spec = StageSpec(name="s", algorithm="sft", data=source)
        data = StageData(spec, tmp_path, Path, seed=0)
        data.groups(kind)
        data.write_joins(tmp_path / JOINS)
        assert not (tmp_path / JOINS).exists()
