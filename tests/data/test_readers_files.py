"""Files: every ending, and every way that one can be damaged, mislabelled or too large."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_zoo import GOOD_PAIR, U, texts, turns, write

from gnomon.data.readers import read_groups
from gnomon.errors import DataError


def test_all_file_types_read_the_same(tmp_path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b, c"} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.json").write_text(json.dumps({"data": rows}))
    write(tmp_path / "c.jsonl", rows)
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    with open(tmp_path / "f.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "g.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    seen = []
    for path in sorted(tmp_path.iterdir()):
        groups = read_groups(path).groups
        seen.append([(turns(g), texts(g)) for g in groups])
        assert [g.prompt.id for g in groups] == [f"{path.name[0]}-{i}" for i in (1, 2, 3)]
    assert len(seen) == 7
    assert all(s == seen[0] for s in seen)


def test_csv_holds_messages_and_booleans(tmp_path) -> None:
    with open(tmp_path / "f.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "label"])
        writer.writeheader()
        writer.writerow({"prompt": json.dumps([U]), "completion": "Hello", "label": "False"})
    result = read_groups(tmp_path / "f.csv")
    assert result.kind == "unpaired"
    assert turns(result.groups[0]) == [("user", "Hi")]
    assert result.groups[0].responses[0].meta["label"] is False


def test_datasets_folder(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([GOOD_PAIR, {**GOOD_PAIR, "prompt": "Ho"}])
    rows.save_to_disk(str(tmp_path / "one"))
    assert [turns(g)[0][1] for g in read_groups(tmp_path / "one").groups] == ["Hi", "Ho"]
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(str(tmp_path / "two"))
    (group,) = read_groups(tmp_path / "two", split="test").groups
    assert group.prompt.id == "two-test-1"
    with pytest.raises(DataError, match="splits train, test"):
        read_groups(tmp_path / "two")
    with pytest.raises(DataError, match="no split 'dev'"):
        read_groups(tmp_path / "two", split="dev")


def test_missing_datasets_package_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"gnomon-rlhf\[hub\]"):
        read_groups("some-org/some-set")


def test_files_that_are_not_there_or_not_readable(tmp_path) -> None:
    write(tmp_path / "pairs.jsonl", [GOOD_PAIR])
    with pytest.raises(DataError, match=r"Did you mean .*pairs\.jsonl"):
        read_groups(tmp_path / "pair.jsonl")
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(DataError, match="unknown ending"):
        read_groups(tmp_path / "x.bin")
    with pytest.raises(DataError, match="no rows"):
        read_groups(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(DataError, match=r"Name one of its files: .*pairs\.jsonl"):
        read_groups(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable parquet"):
        read_groups(tmp_path / "bad.parquet")
    whole = gzip.compress((json.dumps(GOOD_PAIR) + "\n").encode() * 2000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="broken gzip"):
        read_groups(tmp_path / "cut.jsonl.gz")
    with pytest.raises(DataError, match="`split` is for"):
        read_groups(tmp_path / "pairs.jsonl", split="train")
