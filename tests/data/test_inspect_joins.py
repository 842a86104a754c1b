"""What ``gnomon data inspect`` says of answers that stand beside other rows' prompts."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from gnomon.data.inspect import Inspection, inspect

LETTERS = Random(5)
THINGS = ["".join(LETTERS.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(200)]


def pairs() -> list[dict[str, Any]]:
    rng = Random(0)
    rows = []
    for i in range(80):
        about = rng.sample(THINGS, 4)
        named = f"{about[0]}, {about[1]}, {about[2]} and {about[3]}"
        rows.append(
            {
                "prompt": f"Tell me what you know of {named}, please.",
                "chosen": f"Of {named} this is known: number {i}.",
                "rejected": f"Nobody knows {named}.",
            }
        )
    return rows


def seen(folder: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Inspection, str]:
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = inspect(file, **options)
    console = Console(width=400, record=True, file=(folder / "out").open("w"))
    console.print(found.render())
    return found, console.export_text()


def test_sound_pairs_say_what_would_have_been_told(tmp_path: Path) -> None:
    found, text = seen(tmp_path, pairs())
    assert not any("prompts" in warning for warning in found.warnings)
    assert [side.part for side in found.joins] == ["chosen", "rejected"]
    assert text.count("would have been told") == 2


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_one_side_that_is_joined_wrongly_is_named(tmp_path: Path, side: str) -> None:
    rows = pairs()
    answers = [row[side] for row in rows]
    order = Random(2).sample(range(80), 80)
    mixed = [row | {side: answers[o]} for row, o in zip(rows, order, strict=True)]
    found, text = seen(tmp_path, mixed)
    (warning,) = [w for w in found.warnings if "beside the wrong prompts" in w]
    assert warning.startswith(f"{side} answers")
    assert "make the file again" in warning
    assert text.count("is answered") == 3


def test_a_shift_names_its_rows_and_cure(tmp_path: Path) -> None:
    rows = pairs()
    shifted = [row | {"chosen": rows[i - 1]["chosen"]} if i else row for i, row in enumerate(rows)]
    found, _ = seen(tmp_path, shifted)
    (warning,) = [w for w in found.warnings if "beside the wrong prompts" in w]
    assert "the first in row 2" in warning
    assert "Move it up by 1 row" in warning


def test_demonstrations_and_labelled_answers_are_looked_at_too(tmp_path: Path) -> None:
    rows = pairs()
    demos = [
        {"prompt": row["prompt"], "completion": rows[i - 1]["chosen"]} for i, row in enumerate(rows)
    ]
    found, _ = seen(tmp_path, demos)
    assert any(warning.startswith("answers stand beside") for warning in found.warnings)
    labelled = [
        {"prompt": r["prompt"], "completion": rows[i - (i % 2)]["chosen"], "label": i % 2 == 0}
        for i, r in enumerate(rows)
    ]
    found, _ = seen(tmp_path, labelled)
    (warning,) = [w for w in found.warnings if "beside the wrong prompts" in w]
    assert warning.startswith("bad answers")


def test_of_several_answers_the_one_that_strays_is_shown(tmp_path: Path) -> None:
    rows = pairs()
    ranked = [
        {
            "prompt": row["prompt"],
            "responses": [row["chosen"], row["rejected"], rows[i - 1]["chosen"]],
            "scores": [3, 2, 1],
        }
        for i, row in enumerate(rows)
    ]
    found, _ = seen(tmp_path, ranked)
    (side,) = found.joins
    assert side.joined.told
    assert all(f"number {(row.row - 2) % 80}." in row.answer for row in side.rows)


def test_short_answers_are_said_not_to_be_judged(tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": str(i)} for i, row in enumerate(pairs())]
    found, text = seen(tmp_path, rows)
    assert not found.warnings
    assert "not looked at: 0 of 80 answers" in text
    prompts = [{"prompt": row["prompt"]} for row in rows]
    assert seen(tmp_path, prompts, kind="prompts")[0].joins == ()
