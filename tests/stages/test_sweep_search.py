"""Optuna's search: what it draws, what it is told, and that a killed one goes on the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.recipe.sweep import Axis, axis_of
from gnomon.stages.search import OptunaSearch, Setting, grid

pytest.importorskip("optuna", reason="Optuna is not installed")

AXES = [axis_of("s.lr", "log(1e-5,1e-3)"), axis_of("s.n", "lin(1,9)").whole(),
        axis_of("s.betas", [[0.9, 0.95], [0.9, 0.999]])]  # fmt: skip


def searching(folder: Path, trials: int, axes: list[Axis] = AXES, **changes: Any) -> OptunaSearch:
    options = {"seed": 3, "objective": "eval/x", "sign": 1, **changes}
    return OptunaSearch(axes, folder / "study" / "optuna.db", trials=trials, **options)


def value(setting: Setting) -> float:
    """Highest at n = 7, whatever else."""
    return -float((dict(setting)["s.n"] - 7) ** 2)


def search(folder: Path, trials: int, **changes: Any) -> list[Setting]:
    found, seen = searching(folder, trials, **changes), []
    while (setting := found.next()) is not None:
        seen.append(setting)
        found.tell(value(setting), held=False)
    return seen


def test_settings_are_of_the_space_and_typed_as_their_keys_are(tmp_path: Path) -> None:
    for setting in search(tmp_path, 8):
        drawn = dict(setting)
        assert list(drawn) == ["s.lr", "s.n", "s.betas"]
        assert 1e-5 <= drawn["s.lr"] <= 1e-3
        assert float(f"{drawn['s.lr']:.4g}") == drawn["s.lr"]
        assert type(drawn["s.n"]) is int
        assert drawn["s.betas"] in ([0.9, 0.95], [0.9, 0.999])


def test_a_search_in_two_calls_is_the_search_in_one(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 14)
    parts = [*search(tmp_path / "parts", 5), *search(tmp_path / "parts", 14)]
    assert parts == whole
    assert len({dict(s)["s.lr"] for s in whole}) > 10
    assert search(tmp_path / "parts", 14) == []


def test_a_trial_that_was_cut_off_is_tried_again_first(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 4)
    cut = searching(tmp_path / "cut", 4)
    assert cut.next() == whole[0]  # and killed here
    assert search(tmp_path / "cut", 4) == whole


def test_a_setting_with_an_alarm_counts_as_the_worst(tmp_path: Path) -> None:
    """High values of n are hacked: told as held, the search keeps away from them."""

    def draws(hide: bool) -> list[int]:
        found, seen = searching(tmp_path / str(hide), 40, AXES[1:2]), []
        while (setting := found.next()) is not None:
            n = dict(setting)["s.n"]
            seen.append(n)
            found.tell(float(n), held=hide and n > 5)
        return seen[10:]

    open_eyes, fooled = draws(True), draws(False)
    assert sum(n > 5 for n in open_eyes) < sum(n > 5 for n in fooled) / 2


def test_a_failed_setting_does_not_end_the_search(tmp_path: Path) -> None:
    found = searching(tmp_path, 3)
    seen = 0
    while found.next() is not None:
        found.tell(None, held=False)
        seen += 1
    assert seen == 3


def test_a_study_keeps_to_its_keys_and_its_objective(tmp_path: Path) -> None:
    search(tmp_path, 1)
    with pytest.raises(ConfigError, match="a study of other objective"):
        searching(tmp_path, 2, objective="eval/y")
    with pytest.raises(ConfigError, match="a study of other keys"):
        searching(tmp_path, 2, axes=AXES[:2])


def test_a_grid_needs_numbers_of_values_and_an_end() -> None:
    with pytest.raises(ConfigError, match="does not say how many"):
        grid(AXES)
    many = [Axis(f"k{i}", tuple(range(100))) for i in range(3)]
    with pytest.raises(ConfigError, match="1,000,000 settings"):
        grid(many)
    assert grid([Axis("a", (1, 2)), Axis("b", (3, 4))])[1] == (("a", 1), ("b", 4))


def test_without_optuna_the_command_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'gnomon-rlhf\[sweep\]'"):
        searching(Path("nowhere"), 1)
