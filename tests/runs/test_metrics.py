"""Metrics and samples: lines as they come, parquet at the end, and any checkpoint to resume at."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gnomon.errors import RunError
from gnomon.runs.rows import COLUMNS, Mark, MetricsStore, RowStore, SampleStore


def test_columns_are_the_union_in_order_of_appearance(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "metrics.parquet")
    store.append({"step": 1, "loss": 2.0})
    store.append({"step": 2, "kl": 1, "loss": 1.5})
    store.append({"step": 3, "kl": 0.25, "note": "late", "loss": None})
    assert os.listdir(tmp_path) == ["metrics.jsonl"]  # until the stage ends
    expected = [
        {"step": 1, "loss": 2.0, "kl": None, "note": None},
        {"step": 2, "loss": 1.5, "kl": 1.0, "note": None},
        {"step": 3, "loss": None, "kl": 0.25, "note": "late"},
    ]
    assert store.rows == expected
    store.finish()
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == ["step", "loss", "kl", "note"]
    assert table.to_pylist() == expected
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "metrics.parquet"]


def test_a_row_is_in_the_file_at_once_and_can_be_read_by_others(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "metrics.parquet")
    for step in (1, 2):
        store.append({"step": step, "loss": 1 / step})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # what a reader may see of a row that is being written
    columns, problems = MetricsStore.read(tmp_path / "metrics.parquet", done=False)
    assert (columns["step"].tolist(), problems) == ([1, 2], [])


def test_numbers_that_json_does_not_know_and_whole_ones_come_back(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "m.parquet")
    row = {"step": 2**53 + 1, "a": math.nan, "b": -math.inf, "c": 10**400, "d": 0.1, "e": 1e-300}
    store.append(row)
    (read,) = store.rows
    assert math.isnan(read.pop("a"))
    assert read == {"step": 2**53 + 1, "b": -math.inf, "c": math.inf, "d": 0.1, "e": 1e-300}
    assert isinstance(read["step"], int)


def test_scalars_of_torch_and_numpy_and_values_that_are_not_numbers(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "m.parquet")
    row = {"step": np.int64(1), "a": torch.tensor(0.5), "b": math.nan, "c": math.inf, "d": True}
    store.append(row)  # type: ignore[arg-type]
    store.finish()
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
    with pytest.raises(TypeError, match="column 'x'"):
        store.append({"step": 2, "x": "one"})
    assert store.rows == [{"step": 1, "x": 1.0}]


@pytest.mark.parametrize("cls", [MetricsStore, SampleStore])
def test_resume_drops_what_came_after_the_checkpoint(tmp_path: Path, cls: type[RowStore]) -> None:
    path = tmp_path / "x.parquet"
    killed, whole = cls(path), cls(tmp_path / "whole.parquet")
    mark = Mark()
    for step in range(1, 6):
        killed.append({"step": step, "reward": step / 2, "late": step if step > 3 else None})
        mark = killed.mark() if step == 3 else mark
    with path.with_suffix(".jsonl").open("a") as file:
        file.write('{"step": 6, "re')  # killed in the middle of a row

    resumed = cls(path)
    resumed.restore(Mark(**json.loads(json.dumps(mark.to_dict()))))
    assert [row["step"] for row in resumed.rows] == [1, 2, 3]
    for store, steps in ((resumed, range(4, 8)), (whole, range(1, 8))):
        for step in steps:
            store.append({"step": step, "reward": step / 2, "late": step if step > 3 else None})
        store.finish()
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    lines = [p.with_suffix(".jsonl").read_bytes() for p in (path, tmp_path / "whole.parquet")]
    assert lines[0] == lines[1]


def _delete(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_text("")


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    file.write_text(file.read_text().replace('"loss": 0.5', '"loss": 0.4'))


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_delete, _empty, _cut, _flip, _folder])
def test_rows_that_a_checkpoint_knows_of_must_be_there(tmp_path: Path, damage: Any) -> None:
    store = MetricsStore(tmp_path / "m.parquet")
    for step in (1, 2, 3):
        store.append({"step": step, "loss": 1 / step})
    mark = store.mark()
    damage(tmp_path / "m.jsonl")
    with pytest.raises(RunError, match=r"m\.jsonl .*Put the file back.*or remove the folder"):
        MetricsStore(tmp_path / "m.parquet").restore(mark)


def test_a_new_run_does_not_take_over_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    for step in (1, 2):
        store = MetricsStore(path)
        store.append({"step": step})
        store.finish()
    assert pq.read_table(path)["step"].to_pylist() == [2]
    MetricsStore(path).reset()
    assert os.listdir(tmp_path) == []


def test_without_rows_there_is_no_file(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s.parquet")
    store.restore(store.mark())
    store.finish()
    assert os.listdir(tmp_path) == []
    assert store.rows == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_row_that_the_disk_does_not_take_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "m.parquet"
    store = MetricsStore(path)
    store.append({"step": 1})
    before = (tmp_path / "m.jsonl").read_bytes()
    real = store._file.write  # half of the row gets through

    class Full:
        fileno = store._file.fileno

        def write(self, data: bytes) -> int:
            real(data[: len(data) // 2])
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "_file", Full())
    with pytest.raises(RunError, match=r"m\.jsonl.*Nothing saved before is lost"):
        store.append({"step": 2})
    assert (tmp_path / "m.jsonl").read_bytes() == before
    monkeypatch.undo()
    store.append({"step": 2})
    assert [row["step"] for row in store.rows] == [1, 2]


def test_a_folder_that_is_removed_while_the_run_goes_on_stops_it(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "stage" / "m.parquet")
    store.append({"step": 1})
    (tmp_path / "stage" / "m.jsonl").unlink()
    (tmp_path / "stage").rmdir()
    with pytest.raises(RunError, match="was removed while the run was writing it"):
        store.append({"step": 2})


def test_samples_have_their_columns_from_the_start(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s.parquet")
    store.append(
        {"step": 1, "reward": 1, "parts": {"taste": 0.5}, "response": "é\ud800", "extra": 1}
    )
    store.append({"step": 1, "reward": None, "error": "raised", "parts": "{}", "finished": False})
    store.finish()
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
