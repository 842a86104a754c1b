"""Files: every ending, and every way that one can be damaged, mislabelled or too large."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


# --- encodings ----------------------------------------------------------------------------------

PROSE = {
    "gb18030": ("GBK", "今天天气怎么样？我想去公园散步。"),
    "big5": ("Big5", "今天天氣怎麼樣？我想去公園散步。"),
    "cp932": ("Shift-JIS", "今日はいい天気ですね。散歩に行きましょう。"),
    "cp949": ("EUC-KR", "오늘 날씨가 어때요? 산책하러 가고 싶어요."),
    "cp1251": ("Windows-1251", "Какая сегодня погода? Я хочу погулять в парке."),
    "latin-1": ("Latin-1", "Quel temps fait-il aujourd'hui ? Où est la forêt, s'il vous plaît ?"),
    "cp1252": ("Latin-1", "Dites é à ç. Voilà ! Déjà été."),  # too little for statistics
    "utf-16": ("UTF-16", "Plain words."),
    "utf-16-le": ("UTF-16LE", "Plain words."),
    "utf-16-be": ("UTF-16BE", "Plain words."),
}


def file_text(ending: str, text: str) -> str:
    rows = [{"prompt": text, "completion": text}] * 3
    if "json" not in ending:
        tab = "\t" if "tsv" in ending else ","
        return f"prompt{tab}completion\n" + f'"{text}"{tab}"{text}"\n' * 3
    if ending.startswith("jsonl"):
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    return json.dumps(rows, ensure_ascii=False)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


ENDINGS = ("jsonl", "json", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz")


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_encodings_are_named_and_never_read(tmp_path: Path, ending: str) -> None:
    for encoding, (name, text) in PROSE.items():
        path = put(tmp_path / f"a.{ending}", file_text(ending, text).encode(encoding))
        with pytest.raises(DataError, match=r"line \d: not UTF-8") as caught:
            read_groups(path)
        said = str(caught.value)
        assert f"looks like {name}" in said, (encoding, said)
        assert "iconv -f " in said
        assert ("zcat" in said) == ending.endswith(".gz")


@pytest.mark.parametrize("ending", ENDINGS)
def test_utf8_is_read_with_and_without_a_mark(tmp_path: Path, ending: str) -> None:
    for text in ("今天天气怎么样？", "naïve café", "\u2028 and \ufffd"):
        for encoding in ("utf-8", "utf-8-sig"):
            path = put(tmp_path / f"a.{ending}", file_text(ending, text).encode(encoding))
            assert [texts(g) for g in read_groups(path).groups] == [[text]] * 3


def test_one_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    line = json.dumps(GOOD_PAIR | {"chosen": "é"}, ensure_ascii=False) + "\n"
    data = line.encode() * 4 + line.encode("latin-1") + line.encode()
    with pytest.raises(DataError, match=r"line 5: not UTF-8.*lines before it are"):
        read_groups(put(tmp_path / "a.jsonl", data))


MISLABELLED = {
    b"PAR1...": "is parquet",
    gzip.compress(b"{}"): "is gzip",
    b"PK\x03\x04...": "zip archive",
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    b"<!DOCTYPE html><html>": "a web page",
}


@pytest.mark.parametrize("data", MISLABELLED, ids=MISLABELLED.values())
def test_files_of_another_kind_are_named(tmp_path: Path, data: bytes) -> None:
    for ending in ("jsonl", "json", "csv"):
        (tmp_path / f"a.{ending}").write_bytes(data)
        with pytest.raises(DataError, match=MISLABELLED[data]):
            read_groups(tmp_path / f"a.{ending}")


# --- damage and size ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl.gz", "json.gz", "csv.gz"])
def test_broken_gzip_is_an_error_in_every_format(tmp_path: Path, ending: str) -> None:
    text = file_text(ending, "".join(chr(97 + i * i % 26) for i in range(90000))).encode()
    whole = gzip.compress(text)
    path = tmp_path / f"a.{ending}"
    damaged = {
        "half": whole[: len(whole) // 2],
        "flipped": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
        "plain": text,
    }
    for data in damaged.values():
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\..*broken gzip"):
            read_groups(path)


def test_damaged_parquet_and_arrow_are_errors(tmp_path: Path) -> None:
    rows = [{**GOOD_PAIR, "prompt": f"q{i} " + "words " * 50} for i in range(4000)]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True)
    whole = path.read_bytes()
    for place in range(len(whole) // 3, len(whole) - 2000, len(whole) // 7):
        path.write_bytes(whole[:place] + b"\xff" * 40 + whole[place + 40 :])
        with pytest.raises(DataError, match=r"a\.parquet: damaged after row \d+"):
            read_groups(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable parquet"):
        read_groups(path)
    arrow = tmp_path / "a.arrow"
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    assert len(read_groups(arrow).groups) == 4000
    arrow.write_bytes(arrow.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"a\.arrow: (not a readable|damaged)"):
        read_groups(arrow)


def test_text_that_is_no_text_in_parquet_is_an_error(tmp_path: Path) -> None:
    array = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00"), pa.py_buffer(b"\xff\xfe")
    )
    pq.write_table(pa.table({"prompt": array}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="damaged after row 0"):
        read_groups(tmp_path / "a.parquet")


SMALL = 32 * 4096 / 2**30  # GB: 128 KiB for a file, 4 KiB for a row


def test_long_rows_are_bad_rows_until_allowed(tmp_path: Path) -> None:
    rows = [GOOD_PAIR, {**GOOD_PAIR, "chosen": "a" * 5000}, GOOD_PAIR]
    jsonl = write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for path in (jsonl, tmp_path / "a.json"):
        result = read_groups(path, max_gb=SMALL)
        assert len(result.groups) == 2
        assert [s.source and s.source.row for s in result.skipped] == [2]
        assert "longer than 0.00390625 MB" in str(result.skipped[0])
        assert "raise max_gb" in str(result.skipped[0])
        assert len(read_groups(path, max_gb=SMALL * 2).groups) == 3
    csv_file = tmp_path / "a.csv"
    csv_file.write_text("prompt,completion\nHi," + "a" * 5000 + "\n")
    with pytest.raises(DataError, match="max_gb"):
        read_groups(csv_file, max_gb=SMALL)


@pytest.mark.parametrize("ending", ENDINGS)
def test_large_files_are_refused_until_allowed(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path / f"a.{ending}", file_text(ending, "ab").encode() + b"\n" * 200_000)
    with pytest.raises(DataError, match=r"holds more than .* GB once unpacked.*raise"):
        read_groups(path, max_gb=SMALL)
    assert read_groups(path, max_gb=2 * SMALL).groups


def test_large_parquet_is_refused_until_allowed(tmp_path: Path) -> None:
    rows = [{**GOOD_PAIR, "chosen": "a" * 1000}] * 400  # 400 KB, a few hundred bytes on disk
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="raise max_gb"):
        read_groups(tmp_path / "a.parquet", max_gb=SMALL)
    assert len(read_groups(tmp_path / "a.parquet").groups) == 400


def test_unreadable_files_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD_PAIR])

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
        read_groups(path)


def test_a_path_that_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be looked at"):
        read_groups(tmp_path / ("x" * 5000 + ".jsonl"))


# --- JSON ---------------------------------------------------------------------------------------


def one_bad_row(tmp_path: Path, line: str) -> str:
    """What is said of this line between good ones, in .jsonl and in .json alike."""
    good = json.dumps(GOOD_PAIR)
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    (tmp_path / "a.json").write_text(f"[{good}, {line}, {good}]")
    said = []
    for name in ("a.jsonl", "a.json"):
        result = read_groups(tmp_path / name)
        assert len(result.groups) == 2
        (skipped,) = result.skipped
        assert skipped.source is not None
        assert skipped.source.row == 2
        said.append(f"{skipped.reason}: {skipped.cure}")
    assert said[0] == said[1]
    return said[0]


def test_json_that_cannot_be_meant_is_a_bad_row(tmp_path: Path) -> None:
    pair = json.dumps(GOOD_PAIR)
    twice = pair[:-1] + ', "chosen": "z"}'
    assert "the key 'chosen' appears twice" in one_bad_row(tmp_path, twice)
    inner = pair[:-1] + ', "meta": {"k": 1, "k": 2}}'
    assert "the key 'k' appears twice" in one_bad_row(tmp_path, inner)
    half = '{"prompt": "Hi \\ud83d", "chosen": "a", "rejected": "b"}'
    assert "lone surrogate" in one_bad_row(tmp_path, half)
    key = '{"\\udc00": 1, "prompt": "Hi", "chosen": "a", "rejected": "b"}'
    assert "lone surrogate" in one_bad_row(tmp_path, key)
    deep = pair[:-1] + ', "x": ' + "[" * 200 + "]" * 200 + "}"
    assert "nested more than 100 levels" in one_bad_row(tmp_path, deep)
    whole = pair.replace('"Hi"', '"\\ud83d\\ude00"')
    (tmp_path / "b.jsonl").write_text(whole + "\n")
    assert turns(read_groups(tmp_path / "b.jsonl").groups[0]) == [("user", "😀")]


def test_thousands_of_brackets_are_no_crash(tmp_path: Path) -> None:
    good = json.dumps(GOOD_PAIR)
    line = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    (skipped,) = read_groups(tmp_path / "a.jsonl").skipped
    assert "nested more than" in skipped.reason
    (tmp_path / "a.json").write_text(f"[{good}, {line}]")
    with pytest.raises(DataError, match=r"a\.json, row 2: nested more than"):
        read_groups(tmp_path / "a.json")


def test_two_objects_on_a_line_are_a_bad_row(tmp_path: Path) -> None:
    good = json.dumps(GOOD_PAIR)
    (tmp_path / "a.jsonl").write_text(f"{good}\n{good}{good}\n{good}\n")
    assert "more than one JSON value" in read_groups(tmp_path / "a.jsonl").skipped[0].reason
    (tmp_path / "a.jsonl").write_text(f"{good}\n{good},\n{good}\n")
    assert "',' after the value" in read_groups(tmp_path / "a.jsonl").skipped[0].reason


ONE_LIST = json.dumps([GOOD_PAIR, GOOD_PAIR])
COLUMNS = {"prompt": ["Hi", "Ho"], "chosen": ["a", "b"], "rejected": ["c", "d"]}
LAYOUTS = {
    "one line": (ONE_LIST, "one JSON list of rows.*Rename it to a.json"),
    "many lines": (json.dumps([GOOD_PAIR], indent=1), "one JSON list over several lines"),
    "a row a line": (ONE_LIST.replace("}, ", "},\n"), "one JSON list over several lines"),
    "spread objects": (json.dumps(GOOD_PAIR, indent=1), "spread over several lines"),
    "columns": (json.dumps(COLUMNS), r"columns \(prompt, chosen, rejected\).*orient='records'"),
    "pandas": (
        json.dumps({k: dict(enumerate(v)) for k, v in COLUMNS.items()}),
        r"objects under names \(prompt, chosen, rejected\)",
    ),
    "split": (
        json.dumps({"columns": list(COLUMNS), "index": [0], "data": [["Hi", "a", "b"]]}),
        "column names and cells apart",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_of_jsonl_are_named(tmp_path: Path, layout: str) -> None:
    text, said = LAYOUTS[layout]
    (tmp_path / "a.jsonl").write_text(text + "\n")
    with pytest.raises(DataError, match=said):
        read_groups(tmp_path / "a.jsonl")


@pytest.mark.parametrize("layout", ["columns", "pandas", "split"])
def test_other_layouts_of_json_are_named(tmp_path: Path, layout: str) -> None:
    text, said = LAYOUTS[layout]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_groups(tmp_path / "a.json")


def test_a_row_of_lists_or_objects_is_no_table(tmp_path: Path) -> None:
    a, b = ({"role": "assistant", "content": c} for c in "ab")
    for row in (
        {"chosen": [U, a], "rejected": [U, b]},
        {"prompt": U, "chosen": a, "rejected": b},
        {"prompt": "Hi", "responses": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]},
    ):
        write(tmp_path / "a.jsonl", [row])
        (tmp_path / "a.json").write_text(json.dumps(row))
        for name in ("a.jsonl", "a.json"):
            assert [texts(g) for g in read_groups(tmp_path / name).groups] == [["a", "b"]]


def test_rows_under_a_name_and_unfinished_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": "1.1", "data": [GOOD_PAIR, GOOD_PAIR]}))
    assert len(read_groups(path).groups) == 2
    path.write_text(json.dumps({"train": [GOOD_PAIR], "test": [GOOD_PAIR]}))
    with pytest.raises(DataError, match="several lists of rows"):
        read_groups(path)
    for broken in (ONE_LIST[:-1], ONE_LIST[:-4], ONE_LIST[:-1] + ",]", ONE_LIST + "x", "3", ""):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"a\.json"):
            read_groups(path)


# --- CSV ----------------------------------------------------------------------------------------


def csv_rows(path: Path, *rows: Sequence[str], delimiter: str = ",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


LOOKALIKES = [
    *("True", "false", "3", "3.50", "007", "1e5", "nan", "null", "None", "[1, 2]", '["2", "3"]'),
    *('{"name": "Kim"}', "[", "{", '[{"a": 1}]', "2024-01-01", '"quoted"', "[]", "{}"),
]


@pytest.mark.parametrize("cell", LOOKALIKES)
def test_csv_cells_that_look_like_something_else_stay_text(tmp_path: Path, cell: str) -> None:
    path = csv_rows(tmp_path / "a.csv", ["prompt", "completion"], [cell, cell], ["Hi", cell])
    first, second = read_groups(path).groups
    assert (turns(first), texts(first)) == ([("user", cell)], [cell])
    assert texts(second) == [cell]
    pair = ["prompt", "chosen", "rejected"]
    path = csv_rows(tmp_path / "b.csv", pair, ["Hi", cell, "no"], ["Hi", "yes", cell])
    assert [texts(g) for g in read_groups(path).groups] == [[cell, "no"], ["yes", cell]]


def test_a_message_among_texts_stays_text(tmp_path: Path) -> None:
    message = json.dumps([U])
    path = csv_rows(tmp_path / "a.csv", ["prompt", "completion"], ["Hi", message], ["Ho", "b"])
    assert [texts(g) for g in read_groups(path).groups] == [[message], ["b"]]


def test_csv_cells_of_messages_and_lists_are_read(tmp_path: Path) -> None:
    answer = json.dumps([{"role": "assistant", "content": "Hello"}])
    path = csv_rows(tmp_path / "a.csv", ["prompt", "completion"], [json.dumps([U]), answer])
    (group,) = read_groups(path).groups
    assert (turns(group), texts(group)) == ([("user", "Hi")], ["Hello"])
    path = csv_rows(
        tmp_path / "b.csv", ["prompt", "responses", "scores"], ["Hi", '["a","b"]', "[1,2]"]
    )
    assert [r.rank for r in read_groups(path).groups[0].responses] == [2, 1]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_other_separators_are_found(tmp_path: Path, delimiter: str) -> None:
    rows = [["prompt", "completion"], ["Hi, you; there", "a,b;c"], ["x\ny", 'say "it"']]
    for name in ("a.csv", "a.tsv") if delimiter == "\t" else ("a.csv",):
        first, second = read_groups(csv_rows(tmp_path / name, *rows, delimiter=delimiter)).groups
        assert (turns(first), texts(first)) == ([("user", "Hi, you; there")], ["a,b;c"])
        assert (turns(second), texts(second)) == ([("user", "x\ny")], ['say "it"'])


def test_excels_first_line_and_spaces_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\nprompt; completion\r\nHi;a\r\n")
    (group,) = read_groups(tmp_path / "a.csv").groups
    assert (turns(group), texts(group)) == ([("user", "Hi")], ["a"])


def test_csv_that_loses_rows_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\nHi,"a\nHo,b\nHa,c\n')
    with pytest.raises(DataError, match="quote that is not closed"):
        read_groups(path)
    path.write_text('prompt,completion\nHi,"say "it" now"\n')
    with pytest.raises(DataError, match="not doubled"):
        read_groups(path)
    path.write_text("prompt,completion,prompt\nHi,a,b\n")
    with pytest.raises(DataError, match="the column 'prompt' appears twice"):
        read_groups(path)
    path.write_text("prompt,completion\nHi,a\nHo,b,c\nHa,d\n")
    assert "more fields than the header" in read_groups(path).skipped[0].reason


# --- shards -------------------------------------------------------------------------------------


def shards(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        rows = [{**GOOD_PAIR, "prompt": f"{i}.{j}"} for j in range(2)]
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        elif name.endswith(".arrow"):
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_stream(folder / name, table.schema) as writer:
                writer.write_table(table)
        else:
            write(folder / name, rows)


def prompts(path: Path, **options: Any) -> list[str]:
    return [turns(g)[0][1] for g in read_groups(path, **options).groups]


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"],
        ["part-9.jsonl", "part-10.jsonl"],
        ["0000.parquet", "0001.parquet"],
        ["train.jsonl"],
    ],
    ids=lambda names: names[0],
)
def test_a_folder_of_shards_is_read_in_order(tmp_path: Path, names: list[str]) -> None:
    shards(tmp_path / "set", names)
    (tmp_path / "set" / "README.md").write_text("about")
    expected = [f"{i}.{j}" for i in range(len(names)) for j in range(2)]
    assert prompts(tmp_path / "set") == expected
    assert prompts(tmp_path / "set", limit=1) == ["0.0"]
    groups = read_groups(tmp_path / "set").groups
    assert len({g.prompt.id for g in groups}) == len(groups)
    source = groups[-1].prompt.source
    assert source is not None
    assert (Path(source.file).name, source.row) == (names[-1], 2)


def test_patterns_name_files(tmp_path: Path) -> None:
    shards(tmp_path / "set", ["a-1.jsonl", "a-2.jsonl", "b-1.jsonl"])
    assert prompts(tmp_path / "set" / "a-*.jsonl") == ["0.0", "0.1", "1.0", "1.1"]
    assert len(prompts(tmp_path / "*" / "?-1.jsonl")) == 4
    with pytest.raises(DataError, match="no file fits this pattern"):
        read_groups(tmp_path / "set" / "c-*.jsonl")
    with pytest.raises(DataError, match="`split` is for"):
        read_groups(tmp_path / "set" / "a-*.jsonl", split="a")
    shards(tmp_path, ["odd [1].jsonl"])
    assert prompts(tmp_path / "odd [1].jsonl") == ["0.0", "0.1"]


def test_splits_of_a_folder_are_not_mixed(tmp_path: Path) -> None:
    names = [f"{s}-0000{i}-of-00002.parquet" for s in ("test", "train") for i in range(2)]
    shards(tmp_path / "set", names)
    with pytest.raises(DataError, match=r"test: 2 files, train: 2 files.*split"):
        read_groups(tmp_path / "set")
    assert prompts(tmp_path / "set", split="train") == ["2.0", "2.1", "3.0", "3.1"]
    with pytest.raises(DataError, match="no files of a split 'dev'"):
        read_groups(tmp_path / "set", split="dev")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path / "set", ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"])
    for path in (tmp_path / "set", tmp_path / "set" / "*.parquet"):
        with pytest.raises(DataError, match="shard 1 of 3 of train is missing"):
            read_groups(path)
    assert prompts(tmp_path / "set" / "train-00002-of-00003.parquet") == ["1.0", "1.1"]


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="It holds no data"):
        read_groups(tmp_path)
    shards(tmp_path / "data", ["a.jsonl"])
    with pytest.raises(DataError, match=r"Its data is in .*data"):
        read_groups(tmp_path)
    shards(tmp_path / "mixed", ["a-1.jsonl", "a-2.parquet"])
    with pytest.raises(DataError, match="end differently"):
        read_groups(tmp_path / "mixed")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{broken")
    with pytest.raises(DataError, match="cannot be loaded as a datasets folder"):
        read_groups(tmp_path / "saved")
