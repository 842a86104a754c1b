"""A sweep's table: means and intervals over seeds, and an alarmed setting is never first."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import DataError
from gnomon.report.sweep_files import write_sweep
from gnomon.report.sweeps import PLOT, ROWS, TABLE, read_sweep, sweep_table

KEY = "dpo.settings.beta"
T2 = 4.302652729911275  # Student's t, two degrees of freedom, 97.5%: from a printed table


def make_run(folder: Path, value: float, alarm: str = "", status: str = "done") -> None:
    stage = folder / "stages" / "01-dpo"
    stage.mkdir(parents=True)
    recipe = {"name": folder.name, "stages": [{"name": "dpo", "algorithm": "dpo"}]}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "manifest.json").write_text("{}")
    about = {"name": "dpo", "algorithm": "dpo", "status": status, "seconds": 2.0}
    (stage / "stage.json").write_text(json.dumps(about))
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20}
    rows = [{"model": "dpo", "values": [figure]}]
    (folder / "comparison.json").write_text(json.dumps({"columns": ["helpful"], "rows": rows}))
    found = [{"name": alarm, "stage": "dpo", "status": "alarm", "text": "It is."}] if alarm else []
    (folder / "audit.json").write_text(json.dumps({"findings": found}))


def make_sweep(
    folder: Path,
    values: dict[float, list[float]],
    alarms: dict[float, str] | None = None,
    **entries: Any,
) -> Path:
    folder.mkdir()
    runs = []
    for beta, seeds in values.items():
        for seed, value in enumerate(seeds):
            name = f"beta{beta}-seed{seed}"
            runs.append({"name": name, "settings": {KEY: beta}, "seed": seed})
            make_run(folder / name, value, (alarms or {}).get(beta, ""))
    record = {"recipe": "x", "keys": [KEY], "seeds": list(range(len(next(iter(values.values()))))),
              "objective": "helpful", "sign": 1, "runs": runs, **entries}  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder


def test_means_and_intervals_over_seeds_by_hand(tmp_path: Path) -> None:
    view = read_sweep(make_sweep(tmp_path / "s", {0.1: [0.2, 0.3, 0.4], 0.5: [0.5, 0.6, 0.9]}))
    first, second = view.rows
    assert first.settings == {KEY: 0.5}
    assert first.objective is not None
    assert second.objective is not None
    assert first.objective.value == pytest.approx(2 / 3)
    assert second.objective.value == pytest.approx(0.3)
    assert second.objective.high - 0.3 == pytest.approx(T2 * 0.1 / math.sqrt(3))
    # the gaps by seed are 0.3, 0.3, 0.5: mean 0.3667, std 0.1155
    half = T2 * 0.11547005 / math.sqrt(3)
    assert f"by 0.367 [{0.36667 - half:.3f}, {0.36667 + half:.3f}]" in " ".join(view.notes)
    assert "paired by 3 seeds: beyond its interval." in " ".join(view.notes)
    assert "0.500 to 0.900" in _text(view)


def _text(view: Any) -> str:
    return str(write_sweep(view.path) and (view.path / TABLE).read_text())


def test_an_alarmed_setting_is_not_first_and_says_where_it_would_be(tmp_path: Path) -> None:
    values = {0.0: [0.9, 0.95, 0.99], 0.1: [0.5, 0.6, 0.4], 0.2: [0.4, 0.4, 0.5]}
    hacked = {0.0: "reward_hacking"}
    view = read_sweep(make_sweep(tmp_path / "s", values, hacked))
    assert [row.settings[KEY] for row in view.rows] == [0.1, 0.2, 0.0]
    assert view.best is view.rows[0]
    said = " ".join(view.notes)
    assert "beta=0 has 0.947, more than the first (alarms: reward_hacking)" in said
    text = _text(view)
    assert text.index("0.500") < text.index("reward\\_hacking" if "\\_" in text else "reward_")
    rows = [json.loads(line) for line in (view.path / ROWS).read_text().splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, None]
    assert rows[2]["alarms"] == ["reward_hacking"]
    assert rows[2]["answer"] == "hold"
    # without its alarm it is first: the rule is what keeps it down
    plain = read_sweep(make_sweep(tmp_path / "t", values))
    assert [row.settings[KEY] for row in plain.rows] == [0.0, 0.1, 0.2]


def test_one_alarmed_seed_is_enough(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", {0.1: [0.9, 0.9], 0.2: [0.1, 0.2]})
    finding = {"name": "length_bias", "stage": "dpo", "status": "alarm"}
    (folder / "beta0.1-seed1" / "audit.json").write_text(json.dumps({"findings": [finding]}))
    view = read_sweep(folder)
    assert view.rows[0].settings == {KEY: 0.2}
    assert view.rows[1].answer == "hold (1 of 2), not shown (1 of 2)"


def test_where_all_are_alarmed_none_is_best(tmp_path: Path) -> None:
    view = read_sweep(make_sweep(tmp_path / "s", {0.1: [0.9], 0.2: [0.1]}, {0.1: "a", 0.2: "b"}))
    assert view.best is None
    assert "none is best" in " ".join(view.notes)
    assert all(row["rank"] is None for row in map(json.loads, _rows(view)))


def test_a_run_that_was_never_audited_is_not_called_free_of_alarms(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", {0.1: [0.9], 0.2: [0.1], 0.3: [0.3]}, {0.3: "drift"})
    record = json.loads((folder / "sweep.json").read_text())
    record["runs"][0]["problem"] = "RunError: the comparison failed \x1b[2J"
    (folder / "sweep.json").write_text(json.dumps(record))
    (folder / "beta0.1-seed0" / "audit.json").unlink()
    view = read_sweep(folder)
    assert [row.settings[KEY] for row in view.rows] == [0.2, 0.3, 0.1]
    assert view.best is view.rows[0]
    cells = [cell for column in sweep_table(view).columns for cell in column.cells]
    assert not any("\x1b" in str(cell) for cell in cells)
    assert "not looked for" in _text(view).split("| 0.1 ")[1].splitlines()[0]
    assert "beta=0.1 has 0.900, more than the first (nobody has looked" in " ".join(view.notes)
    assert [json.loads(line)["rank"] for line in _rows(view)] == [1, None, None]


def _rows(view: Any) -> list[str]:
    write_sweep(view.path)
    return list((view.path / ROWS).read_text().splitlines())


def test_lower_is_better_where_the_objective_is_a_loss(tmp_path: Path) -> None:
    view = read_sweep(make_sweep(tmp_path / "s", {0.1: [0.9], 0.2: [0.1]}, sign=-1))
    assert [row.settings[KEY] for row in view.rows] == [0.2, 0.1]
    assert "better than the second by 0.800" in " ".join(view.notes)


def test_failed_runs_are_rows_that_say_so(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", {0.1: [0.9, 0.8], 0.2: [0.1, 0.3]})
    record = json.loads((folder / "sweep.json").read_text())
    record["runs"][1]["problem"] = "RunError: the loss is not finite"
    (folder / "beta0.1-seed1" / "comparison.json").unlink()
    lost = {"name": "beta7-seed0", "settings": {KEY: 7}, "seed": 0, "problem": "ConfigError: no"}
    record["runs"].append(lost)
    record["stopped"] = "the budget of time was spent; --resume goes on"
    (folder / "sweep.json").write_text(json.dumps(record))
    view = read_sweep(folder)
    assert [row.settings[KEY] for row in view.rows] == [0.2, 0.1, 7]  # one seed less comes later
    text = _text(view)
    assert "1 of 2 seeds; RunError: the loss is not finite" in text
    assert "beta7-seed0: ConfigError: no" in text
    assert "Not all was tried: the budget" in text
    assert len(sweep_table(view).rows) == 3


@pytest.mark.parametrize("problem", ["RunError: the loss is not finite", "gate closed: kl < 1"])
def test_a_setting_with_a_run_that_failed_is_never_best(tmp_path: Path, problem: str) -> None:
    folder = make_sweep(tmp_path / "s", {0.1: [0.9, 0.8], 0.2: [0.1, 0.3]})
    plain = read_sweep(folder)
    assert plain.best is plain.rows[0]
    assert plain.rows[0].settings == {KEY: 0.1}
    record = json.loads((folder / "sweep.json").read_text())
    record["runs"][0]["problem"] = problem  # it is measured and audited all the same
    (folder / "sweep.json").write_text(json.dumps(record))
    view = read_sweep(folder)
    assert [row.settings[KEY] for row in view.rows] == [0.2, 0.1]
    assert "beta=0.1 has 0.850, more than the first (not all of its runs" in " ".join(view.notes)
    assert [json.loads(line)["rank"] for line in _rows(view)] == [1, None]
    for run in record["runs"]:
        run["problem"] = problem
    (folder / "sweep.json").write_text(json.dumps(record))
    assert read_sweep(folder).best is None
    assert "none is best" in " ".join(read_sweep(folder).notes)


def test_the_plot_is_a_picture_and_needs_something_measured(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", {0.001: [0.9], 0.1: [0.1]}, {0.1: "x"}, log=[KEY])
    write_sweep(folder)
    assert (folder / PLOT).read_bytes().startswith(b"\x89PNG")
    none = make_sweep(tmp_path / "t", {0.1: [0.9]}, objective="other")
    write_sweep(none)
    assert not (none / PLOT).exists()
    assert "No run has measured it." in (none / TABLE).read_text()


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no sweep"):
        read_sweep(tmp_path)
