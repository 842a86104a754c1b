"""Several seeds side by side: means, spreads, and on how many seeds a gain is beyond noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnomon.errors import RunError
from gnomon.report.seeds import read_seeds, seeds_markdown, seeds_table


def measured(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def make_run(folder: Path, gold: float, gain: tuple[float, float, float], peak: float) -> Path:
    stage = folder / "stages" / "01-dpo"
    stage.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: x")
    about = {
        "name": "dpo",
        "algorithm": "dpo",
        "status": "done",
        "seconds": 10 * peak,
        "cpu_seconds": 5 * peak,
    }
    (stage / "stage.json").write_text(json.dumps({**about, "summary": {"peak_rss_gb": peak}}))
    zero = measured(0, 0, 0)
    rows = [
        {"model": "base", "values": [measured(0.1, 0, 0.2), 3], "gains": [zero]},
        {"model": "dpo", "values": [measured(gold, 0, 1), 5], "gains": [measured(*gain)]},
    ]
    comparison = {"columns": ["gold", "length"], "reference": "base", "rows": rows}
    (folder / "comparison.json").write_text(json.dumps(comparison))
    return folder


def test_means_spreads_and_counts_by_hand(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "s0", 0.4, (0.3, 0.1, 0.5), 1.0),  # beyond noise
        make_run(tmp_path / "s1", 0.2, (0.1, -0.1, 0.3), 2.0),  # not
        make_run(tmp_path / "s2", 0.6, (0.5, 0.4, 0.6), 3.0),  # beyond noise
    ]
    seeds = read_seeds(folders)
    base, dpo = seeds.rows
    assert dpo.values == ((0.4, 0.2, 0.6), (5.0, 5.0, 5.0))
    (gain,) = dpo.gains
    assert (gain.up, gain.down, gain.seeds) == (2, 0, 3)
    assert gain.mean == pytest.approx(0.3)
    assert (dpo.seconds, dpo.cpu_seconds, dpo.peak_gb) == (20.0, 10.0, 3.0)
    assert (base.seconds, base.peak_gb) == (None, None)
    header, _, first, second = seeds_markdown(seeds).splitlines()
    assert header == (
        "| model | gold | gain in gold | length | seconds | processor seconds | peak memory, GB |"
    )
    assert first.split(" | ")[2] == ""  # the reference gains nothing on itself
    assert second == (
        "| dpo | 0.400 (0.200 to 0.600) | +0.300, 2/3 up | 5 (5 to 5) | 20 | 10 | 3 |"
    )
    assert len(seeds_table(seeds).rows) == 2


def test_the_number_of_prompts_stands_beside_the_figures(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"s{i}", 0.4, (0.3, 0.1, 0.5), 1.0) for i in range(2)]
    for folder, n in zip(folders, (20, 18), strict=True):
        file = folder / "comparison.json"
        said = json.loads(file.read_text())
        for row in said["rows"]:
            row["values"][0]["n"] = row["gains"][0]["n"] = n
        file.write_text(json.dumps(said))
    last = seeds_markdown(read_seeds(folders)).splitlines()[-1]
    assert "| 0.400 (0.400 to 0.400) n=18 | +0.300, 2/2 up, n=18 | 5 (5 to 5) |" in last


def test_a_loss_is_not_counted_as_a_gain(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"s{i}", 0.1, (-0.3, -0.5, -0.1), 1.0) for i in range(2)]
    assert "-0.300, 2/2 down" in seeds_markdown(read_seeds(folders))


def test_runs_of_different_recipes_are_refused(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / n, 0.1, (0.0, -1.0, 1.0), 1.0) for n in ("a", "b"))
    other = json.loads((two / "comparison.json").read_text())
    other["rows"][1]["model"] = "ppo"
    (two / "comparison.json").write_text(json.dumps(other))
    with pytest.raises(RunError, match="not the same recipe"):
        read_seeds([one, two])
    (two / "comparison.json").unlink()
    with pytest.raises(RunError, match=r"no comparison\.json"):
        read_seeds([one, two])
