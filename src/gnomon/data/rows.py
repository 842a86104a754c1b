"""Raw rows from files and `datasets` folders: one mapping per row, with where it stood.

Nothing here knows what a row means. A line that cannot be decoded comes out as a
:class:`BadRow`, so the caller counts it with the other skipped rows instead of losing the file.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gnomon.data.records import Source
from gnomon.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file."""

    source: Source
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not even be decoded."""

    source: Source
    reason: str
    cure: str


def stem(path_or_id: str | Path, split: str | None = None) -> str:
    """The name that identifiers start with: the file's name without its endings."""
    name = Path(path_or_id).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return f"{name}-{split}" if split else name


def iter_rows(path_or_id: str | Path, *, split: str | None = None) -> Iterator[RawRow | BadRow]:
    """Rows of a .jsonl, .json, .parquet or .csv file, a `datasets` folder, or a hub id.

    Raises:
        DataError: nothing is there, the ending is unknown, or `datasets` is needed and missing.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return _from_datasets_folder(path, split)
    if path.is_file():
        if split is not None:
            raise DataError(
                f"{path}: `split` is for datasets folders and hub ids, but this is a single file. "
                "Leave `split` out, or name the file of that split."
            )
        return _from_file(path)
    if _looks_like_hub_id(str(path_or_id)):
        return _from_hub(str(path_or_id), split)
    raise DataError(f"{path}: no such file or folder.{_nearby(path)}")


def _looks_like_hub_id(name: str) -> bool:
    known_ending = name.lower().endswith(SUFFIXES)
    return not known_ending and name.count("/") <= 1 and not name.startswith((".", "/", "~"))


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder {path.parent} is not there either."
    names = [p.name for p in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f" Did you mean {path.parent / close[0]}?" if close else ""


def _from_file(path: Path) -> Iterator[RawRow | BadRow]:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return _jsonl(path)
    if name.endswith((".json", ".json.gz")):
        return _json(path)
    if name.endswith((".csv", ".csv.gz")):
        return _csv(path)
    if name.endswith(".parquet"):
        return _parquet(path)
    raise DataError(f"{path}: unknown ending. gnomon reads {', '.join(SUFFIXES)}.")


def _open(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _as_row(value: Any, source: Source) -> RawRow | BadRow:
    if isinstance(value, dict):
        return RawRow(source, value)
    return BadRow(
        source,
        f"the row is {_article(value)}, not an object",
        'write each row as an object of named fields: {"prompt": ...}',
    )


def _article(value: Any) -> str:
    names = {list: "a list", str: "a string", type(None): "null", bool: "true/false"}
    return names.get(type(value), "a number")


def _jsonl(path: Path) -> Iterator[RawRow | BadRow]:
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                source = Source(str(path), number)
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    where = f"invalid JSON at column {error.colno} ({error.msg})"
                    yield BadRow(source, where, "write one complete JSON object on each line")
                    continue
                yield _as_row(value, source)
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(
            f"{path}: broken gzip after row {number} ({error}). Fetch or compress the file again."
        ) from error


def _json(path: Path) -> Iterator[RawRow | BadRow]:
    with _open(path) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the wrong ending
            yield from _jsonl(path)
            return
        raise DataError(
            f"{path}: invalid JSON at line {error.lineno}, column {error.colno} ({error.msg}). "
            "Expected a list of objects."
        ) from error
    if isinstance(value, dict):
        lists = [
            k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)
        ]
        if len(lists) > 1:
            raise DataError(
                f"{path}: an object with several lists of rows ({', '.join(lists)}). "
                "Save the one you want as a list of its own."
            )
        value = value[lists[0]] if lists and "role" not in value[lists[0]][0] else [value]
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects, found {_article(value)}.")
    for number, item in enumerate(value, start=1):
        yield _as_row(item, Source(str(path), number))


def _csv(path: Path) -> Iterator[RawRow | BadRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with _open(path) as file:
        reader = csv.DictReader(file)
        for number, row in enumerate(reader, start=1):
            source = Source(str(path), number)
            if None in row:
                cure = "quote fields that hold commas or line breaks"
                yield BadRow(source, "more fields than the header has", cure)
                continue
            cells = {k: _cell(v) for k, v in row.items() if v is not None and v != ""}
            yield RawRow(source, cells)


def _cell(text: str) -> Any:
    """CSV holds text only: messages are written in it as JSON lists, booleans as words."""
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return {"true": True, "false": False}.get(text.strip().lower(), text)


def _parquet(path: Path) -> Iterator[RawRow | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a readable parquet file ({error}).") from error
    number = 0
    for batch in file.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield _as_row(row, Source(str(path), number))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "reading a datasets folder or a hub id needs the `datasets` package: "
            "pip install 'gnomon-rlhf[hub]', or point to a .jsonl, .parquet or .csv file."
        ) from error
    return datasets


def _from_datasets_folder(path: Path, split: str | None) -> Iterator[RawRow | BadRow]:
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    if not saved:
        files = sorted(p.name for p in path.iterdir() if p.name.lower().endswith(SUFFIXES))
        hint = f"Name one of its files: {', '.join(files[:8])}." if files else "It holds no data."
        raise DataError(f"{path}: a folder, but not one saved by `datasets`. {hint}")
    loaded = _datasets().load_from_disk(str(path))
    return _from_dataset(loaded, str(path), split)


def _from_hub(name: str, split: str | None) -> Iterator[RawRow | BadRow]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise DataError(
            f"{name}: no such file here, and it could not be loaded as a hub id ({error}). "
            "Check the spelling and the network, or point to a local file."
        ) from error
    return _from_dataset(loaded, name, None if split else split)


def _from_dataset(loaded: Any, name: str, split: str | None) -> Iterator[RawRow | BadRow]:
    if hasattr(loaded, "keys"):  # a DatasetDict
        splits = list(loaded.keys())
        if split is None and len(splits) > 1:
            raise DataError(f"{name}: has the splits {', '.join(splits)}; say which (split: ...).")
        chosen = split or splits[0]
        if chosen not in splits:
            raise DataError(f"{name}: no split {chosen!r}; it has {', '.join(splits)}.")
        loaded = loaded[chosen]
    for number, row in enumerate(loaded, start=1):
        yield _as_row(dict(row), Source(name, number))
