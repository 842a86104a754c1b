"""Reading whole, damaged and half-finished run directories."""

import json
import math

import numpy as np
import pytest

from gnomon.errors import DataError
from gnomon.runs.read import read_comparison, read_run
from gnomon.runs.records import Evals
from gnomon.stats.intervals import Interval


def test_a_whole_run_is_read(run_dir):
    run = read_run(run_dir)
    assert run.problems == ()
    assert [s.name for s in run.stages] == ["sft", "reward_model", "ppo"]
    assert run.recipe["seed"] == run.manifest.seed == 7
    sft = run.stages[0]
    info = sft.info
    assert (info.status, info.seconds, info.iterations) == ("done", 46.5, 150)
    assert info.skipped.count == 3
    x, y = sft.series("eval/loss")
    assert x.tolist() == list(range(1, 151, 15))
    assert y.size == 10
    assert np.isfinite(y).all()
    assert sft.series("no such metric")[1].size == 0
    assert len(run.stages[2].samples) == 3 * 64


def test_stages_are_in_the_order_of_their_numbers(run_dir):
    (run_dir / "stages" / "01-sft").rename(run_dir / "stages" / "10-sft")
    assert [s.name for s in read_run(run_dir).stages] == ["reward_model", "ppo", "sft"]


def test_a_half_finished_run_is_read_and_what_is_missing_named(run_dir):
    ppo = run_dir / "stages" / "03-ppo"
    (ppo / "stage.json").unlink()
    (ppo / "samples.parquet").write_bytes(b"PAR1 cut off")
    (run_dir / "comparison.json").write_text('{"columns": [')
    (run_dir / "stages" / "02-reward_model" / "evals.json").write_text("[1, 2]")
    (run_dir / "recipe.yaml").unlink()
    run = read_run(run_dir)
    assert run.stages[2].info.status == "unknown"
    assert run.stages[2].name == "ppo"
    assert run.stages[2].samples == []
    assert run.stages[2].series("reward")[1].size == 120
    assert run.comparison.rows == []
    text = "\n".join(run.problems)
    for name in ("stages/03-ppo/stage.json", "samples.parquet", "comparison.json", "evals.json",
                 "recipe.yaml"):  # fmt: skip
        assert name in text
    assert str(run_dir) not in text


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a run directory"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("raw", "value"),
    [(1, 1.0), ({"value": 2.5}, 2.5), (True, None), ("3", None), (math.nan, None), (None, None),
     ({"value": None, "low": 1}, None), ([1], None)],
)  # fmt: skip
def test_only_numbers_are_measured(raw, value):
    got = Interval.parse(raw)
    assert (got.value if got else None) == value


def test_comparison_rows_of_the_wrong_length(tmp_path):
    said = {
        "columns": ["a_score", "b"],
        "rows": [{"model": "x", "values": [1]}, {"values": [1, 2, 3], "gains": 4}, 5],
        "reference": ["x"],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(said))
    view, problem = read_comparison(tmp_path)
    assert problem is None
    assert view.models == ["x", "model 2"]
    assert {m: v.value for m, v in view.column(0).items()} == {"x": 1.0, "model 2": 1.0}
    assert {m: v.value for m, v in view.column(1).items()} == {"model 2": 2.0}
    assert view.columns == ["a score", "b"]
    assert view.reference == ""


def test_a_field_of_the_wrong_type_is_as_if_it_were_missing(run_dir):
    file = run_dir / "stages" / "01-sft" / "stage.json"
    said = json.loads(file.read_text())
    said |= {"seconds": "long", "iterations": True, "skipped": 3, "summary": [1], "status": None}
    file.write_text(json.dumps({**said, "later": {"versions": "keys"}}))
    info = read_run(run_dir).stages[0].info
    assert (info.name, info.status, info.seconds, info.iterations) == ("sft", "unknown", None, None)
    assert (info.skipped.count, info.figures) == (0, {})
    info.write(file)
    assert json.loads(file.read_text())["later"] == {"versions": "keys"}


def test_nested_evals_are_flattened():
    evals = {
        "a": {"b": {"value": 1, "low": 0, "high": 2}, "c": {"d": 4}},
        "t": {"bins": [1]},
        "e": 5,
    }
    flat = {name: m.value for name, m in Evals(evals).figures().items()}
    assert flat == {"a.b": 1, "a.c.d": 4, "e": 5}
    assert list(Evals(evals).tables("bins")) == [("t", {"bins": [1]})]
