"""``gnomon.sweep``: the command's sweep from Python, drawn by Optuna here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gnomon
from gnomon.errors import ConfigError
from gnomon.stages.sweep_plan import parse_duration
from tiny_world import save_tiny

STAGE = {
    "name": "sft",
    "algorithm": "sft",
    "data": {"path": "tunnel:demonstrations", "options": {"n": 12, "seed": 1}},
    "holdout": 0.25,
    "train": {"steps": 1, "batch_size": 2, "lr": 1e-3},
}


def recipe(model: Path) -> dict[str, Any]:
    return {"name": "p", "model": str(model), "max_length": 120, "device": "cpu", "stages": [STAGE]}


def test_a_search_from_python_is_ranked_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed")
    monkeypatch.chdir(tmp_path)
    raw, lines = recipe(save_tiny(tmp_path / "tiny")), list[str]()
    values = {"sft.train.lr": "log(1e-4,1e-2)"}
    found = gnomon.sweep(raw, values, trials=2, announce=lines.append)
    assert len(found.rows) == 2
    assert found.best is found.rows[0]
    assert found.sweep.objective == "eval/loss"
    first = [row.settings for row in found.rows]
    more = gnomon.sweep(raw, values, trials=3, resume=True, announce=lines.append)
    assert len(more.rows) == 3
    assert all(settings in [row.settings for row in more.rows] for settings in first)
    assert sum(line.startswith("run ") for line in lines) == 3  # finished runs are not run again
    assert (found.path / "sweep.png").is_file()


@pytest.mark.parametrize(
    ("values", "overrides", "said"),
    [
        ({}, (), "a sweep with no runs"),
        ({"sft.train.lr": 1e-3}, (), "as a list, or as text"),
        ({"sft.train.lrr": [1, 2]}, (), "did you mean 'lr'"),
        ({"seed": [1, 2]}, (), "--seeds"),
        ({"sft.train.lr": [1]}, ("seed",), "key=value"),
        (["sft.train.lr=[1,2]"], (), "values is a list; it is a dict"),
    ],
)
def test_bad_input_is_answered_in_words(
    values: dict[str, Any], overrides: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        gnomon.sweep(recipe(tmp_path), values, *overrides)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": 3}, "seeds=3: it is a list"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"budget": "soon"}, "budget 'soon': write it as 2h"),
        ({"budget": []}, "it is seconds, or text"),
        ({"trials": "many"}, "trials='many': it is a whole number"),
        ({"recipe": [1]}, "not a list"),
    ],
)
def test_what_is_no_setting_is_answered_in_words(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    keys = {"recipe": recipe(tmp_path), "values": {"sft.train.lr": [1e-3]}, **given}
    with pytest.raises(ConfigError, match=said) as caught:
        gnomon.sweep(**keys)
    assert caught.value.__cause__ is None


def test_a_budget_is_read_as_the_command_reads_it() -> None:
    assert [parse_duration(text) for text in ("2h", "90m", "1h30m", "5s")] == [7200, 5400, 5400, 5]
