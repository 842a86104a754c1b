"""Metrics and samples: one parquet file that is always whole, and resumes at any step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gnomon.errors import RunError
from gnomon.train.metrics import MetricsStore
from gnomon.train.rows import RowStore
from gnomon.train.samples import COLUMNS, SampleStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_columns_are_the_union_in_order_of_appearance(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "metrics.parquet")
    store.append({"step": 1, "loss": 2.0})
    store.append({"step": 2, "kl": 1, "loss": 1.5})
    store.flush()
    store.append({"step": 3, "kl": 0.25, "note": "late", "loss": None})
    store.flush()
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == ["step", "loss", "kl", "note"]
    expected = [
        {"step": 1, "loss": 2.0, "kl": None, "note": None},
        {"step": 2, "loss": 1.5, "kl": 1.0, "note": None},
        {"step": 3, "loss": None, "kl": 0.25, "note": "late"},
    ]
    assert table.to_pylist() == expected
    assert store.rows == expected
    assert os.listdir(tmp_path) == ["metrics.parquet"]


def test_scalars_of_torch_and_numpy_and_values_that_are_not_numbers(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "m.parquet")
    row = {"step": np.int64(1), "a": torch.tensor(0.5), "b": math.nan, "c": math.inf, "d": True}
    store.append(row)  # type: ignore[arg-type]
    store.flush()
    (read,) = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert math.isnan(read.pop("b"))  # NaN is a value, not "missing"
    assert read == {"step": 1, "a": 0.5, "c": math.inf, "d": True}
    with pytest.raises(TypeError, match="'x' is a list"):
        store.append({"step": 2, "x": [1]})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="needs a 'step'"):
        store.append({"loss": 1.0})


def test_a_column_that_changes_from_number_to_string_is_named(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "m.parquet")
    store.append({"step": 1, "x": 1.0})
    store.append({"step": 2, "x": "one"})
    with pytest.raises(TypeError, match="column 'x'"):
        store.flush()


@pytest.mark.parametrize("cls", [MetricsStore, SampleStore])
def test_resume_drops_what_came_after_the_checkpoint(tmp_path: Path, cls: type[RowStore]) -> None:
    path = tmp_path / "x.parquet"
    killed, whole = cls(path), cls(tmp_path / "whole.parquet")
    for step in range(1, 6):
        killed.append({"step": step, "reward": step / 2})
    killed.flush()  # flushed past the checkpoint of step 3, then killed
    (tmp_path / ".x.parquet.tmp-1-0-abc").write_text("half-written")

    resumed = cls(path)
    resumed.truncate_after(3)
    assert [row["step"] for row in resumed.rows] == [1, 2, 3]
    for step in range(4, 8):
        resumed.append({"step": step, "reward": step / 2})
    resumed.flush()
    for step in range(1, 8):
        whole.append({"step": step, "reward": step / 2})
    whole.flush()
    assert pq.read_table(path).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert sorted(os.listdir(tmp_path)) == ["whole.parquet", "x.parquet"]


def test_truncation_alone_reaches_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    store = MetricsStore(path)
    store.append({"step": 1})
    store.append({"step": 2})
    store.flush()
    resumed = MetricsStore(path)
    resumed.truncate_after(1)
    resumed.flush()
    assert pq.read_table(path)["step"].to_pylist() == [1]


def test_a_new_run_does_not_take_over_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    for step in (1, 2):
        store = MetricsStore(path)
        store.append({"step": step})
        store.flush()
    assert pq.read_table(path)["step"].to_pylist() == [2]


def test_resuming_without_a_file_and_with_a_broken_one(tmp_path: Path) -> None:
    MetricsStore(tmp_path / "none" / "m.parquet").truncate_after(5)
    path = tmp_path / "m.parquet"
    path.write_text("not parquet")
    with pytest.raises(RunError, match=r"m\.parquet cannot be read.*move it away"):
        MetricsStore(path).truncate_after(5)


def test_a_failed_flush_keeps_the_file_and_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.parquet"
    store = MetricsStore(path)
    store.append({"step": 1})
    store.flush()
    store.append({"step": 2})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="The disk is full"):
        store.flush()
    assert pq.read_table(path)["step"].to_pylist() == [1]
    monkeypatch.undo()
    store.flush()
    assert pq.read_table(path)["step"].to_pylist() == [1, 2]


def test_the_file_is_rewritten_more_rarely_as_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = MetricsStore(tmp_path / "m.parquet", flush_seconds=10, clock=clock)
    written: list[int] = []
    monkeypatch.setattr(pq, "write_table", lambda table, *a, **k: written.append(table.num_rows))
    for step in range(4000):
        clock.now += 1
        store.append({"step": step, "note": "x" * 10_000})
    store.flush()
    assert written[0] == 10  # the first ten seconds
    # 40 MB at the end: by then the gap has grown to 10 (1 + 40 / 16.8) = 34 rows
    assert 30 <= np.diff(written)[-2] <= 35
    assert len(written) < 250  # a fixed interval would have made 400 of them
    assert written[-1] == len(store) == 4000


def test_samples_have_their_columns_from_the_start(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s.parquet")
    store.append(
        {"step": 1, "reward": 1, "parts": {"taste": 0.5}, "response": "é\ud800", "extra": 1}
    )
    store.append({"step": 1, "reward": None, "error": "raised", "parts": "{}", "finished": False})
    store.flush()
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == [*COLUMNS, "extra"]
    assert [table.schema.field(c).type for c in COLUMNS] == list(COLUMNS.values())
    first, second = table.to_pylist()
    assert json.loads(first["parts"]) == {"taste": 0.5}
    assert first["response"] == "é?"  # a lone surrogate cannot be stored
    assert (first["reward"], second["reward"], second["error"]) == (1.0, None, "raised")
    assert first["category"] is None
    assert table.schema.field("category").type == pa.string()
    with pytest.raises(ValueError, match="needs a 'step'"):
        store.append({"reward": 1.0})
