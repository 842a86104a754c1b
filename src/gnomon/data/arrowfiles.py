"""Rows of parquet and Arrow files, of folders saved by `datasets`, and of the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.data.rows import PARQUET, Caps, as_row
from gnomon.data.values import RawRow, Skipped, without_missing
from gnomon.errors import DataError
from gnomon.records import Source

# What Arrow raises on a damaged file, while opening or reading it.
_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, KeyError, MemoryError)


def arrow_rows(path: Path, caps: Caps) -> Iterator[RawRow | Skipped]:
    """Rows of a parquet file, whose pages' checksums are verified where it has them, or of an Arrow
    file (also .feather) in the file or the stream form.

    Raises:
        DataError: it is damaged, or larger than ``caps.total`` unpacked.
    """
    kind = "parquet" if path.name.lower().endswith(PARQUET) else "Arrow"
    try:
        if kind == "parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                yield from _rows(path, file.iter_batches(batch_size=256), caps)
        else:
            with pa.memory_map(str(path)) as memory:
                yield from _rows(path, _batches(memory), caps)
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable {kind} file ({error}).") from error


def _batches(memory: Any) -> Iterable[Any]:
    try:
        whole = pa.ipc.open_file(memory)
    except pa.ArrowInvalid:
        memory.seek(0)
        return pa.ipc.open_stream(memory)  # type: ignore[no-any-return]
    return (whole.get_batch(i) for i in range(whole.num_record_batches))


def _rows(path: Path, batches: Iterable[Any], caps: Caps) -> Iterator[RawRow | Skipped]:
    number = size = 0
    waiting = iter(batches)
    while True:
        try:
            batch = next(waiting, None)
            if batch is None:
                return
            size += batch.nbytes
            if size > caps.total:
                raise caps.refuse(path)
            rows = batch.to_pylist()
        except _BROKEN as error:
            raise DataError(
                f"{path}: damaged after row {number} ({error}). Fetch or write the file again."
            ) from error
        for row in rows:
            number += 1
            yield as_row(without_missing(row), Source(str(path), number))


def dataset_rows(path_or_id: Path | str, split: str | None) -> Iterator[RawRow | Skipped]:
    """Rows of a folder that `datasets` saved, or of a data set on the hub.

    Raises:
        DataError: it is damaged or cannot be fetched, `datasets` is missing, or ``split`` does not
            name one of several.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "reading a datasets folder or a hub id needs the `datasets` package: "
            "pip install 'gnomon-rlhf[hub]', or point to a .jsonl, .parquet or .csv file."
        ) from error
    name, saved = str(path_or_id), Path(path_or_id).is_dir()
    try:
        if saved:
            loaded = _split(datasets.load_from_disk(name), name, split)
        else:
            loaded = _split(datasets.load_dataset(name, split=split), name, None)
    except DataError:
        raise
    except Exception as error:  # JSON, Arrow and file errors, and a dozen types of the hub client
        raise DataError(
            f"{name}: cannot be loaded as a datasets folder ({error})."
            if saved
            else f"{name}: no such file here, and it could not be loaded as a hub id ({error}). "
            "Check the spelling and the network, or point to a local file."
        ) from error
    return _dataset_rows(loaded, name)


def _split(loaded: Any, name: str, split: str | None) -> Any:
    if hasattr(loaded, "keys"):  # a DatasetDict
        splits = list(loaded.keys())
        if split is None and len(splits) > 1:
            raise DataError(f"{name}: has the splits {', '.join(splits)}; say which (split: ...).")
        chosen = split or splits[0]
        if chosen not in splits:
            raise DataError(f"{name}: no split {chosen!r}; it has {', '.join(splits)}.")
        return loaded[chosen]
    if split is not None and str(loaded.split) != split:
        raise DataError(f"{name}: has no splits; leave `split` out.")
    return loaded


def _dataset_rows(loaded: Any, name: str) -> Iterator[RawRow | Skipped]:
    number = 0
    rows = iter(loaded)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # Arrow's, and whatever decodes images and audio
            raise DataError(f"{name}: damaged after row {number} ({error}).") from error
        if row is None:
            return
        number += 1
        yield as_row(without_missing(dict(row)), Source(name, number))
