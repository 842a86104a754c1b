"""Rows of parquet and Arrow files, of folders saved by `datasets`, and of the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.data.rows import Caps
from gnomon.errors import DataError
from gnomon.records import Source

# What a damaged file makes Arrow raise, here or there.
_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, KeyError, MemoryError)


def parquet_rows(path: Path, caps: Caps) -> Iterator[tuple[Source, Any]]:
    """Rows of a parquet file, its pages' checksums verified where it has them.

    Raises:
        DataError: it is damaged, or larger than ``caps.total`` unpacked.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable parquet file ({error}).") from error
    with file:
        yield from _batches(path, file.iter_batches(batch_size=256), caps)


def arrow_rows(path: Path, caps: Caps) -> Iterator[tuple[Source, Any]]:
    """Rows of an Arrow file (also .feather), in the file or the stream form.

    Raises:
        DataError: as for :func:`parquet_rows`.
    """
    try:
        with pa.memory_map(str(path)) as memory:
            try:
                whole = pa.ipc.open_file(memory)
                batches: Iterable[Any] = (
                    whole.get_batch(i) for i in range(whole.num_record_batches)
                )
            except pa.ArrowInvalid:
                memory.seek(0)
                batches = pa.ipc.open_stream(memory)
            yield from _batches(path, batches, caps)
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable Arrow file ({error}).") from error


def _batches(path: Path, batches: Iterable[Any], caps: Caps) -> Iterator[tuple[Source, Any]]:
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
            yield Source(str(path), number), row


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "reading a datasets folder or a hub id needs the `datasets` package: "
            "pip install 'gnomon-rlhf[hub]', or point to a .jsonl, .parquet or .csv file."
        ) from error
    return datasets


def saved_dataset_rows(path: Path, split: str | None) -> Iterator[tuple[Source, Any]]:
    """Rows of a folder that `datasets` saved.

    Raises:
        DataError: it is damaged, `datasets` is missing, or ``split`` does not name one of several.
    """
    package = _datasets()
    try:
        loaded = package.load_from_disk(str(path))
    except Exception as error:  # JSON, Arrow and file errors, and the package's own
        raise DataError(f"{path}: cannot be loaded as a datasets folder ({error}).") from error
    return _dataset_rows(loaded, str(path), split)


def hub_rows(name: str, split: str | None) -> Iterator[tuple[Source, Any]]:
    """Rows of a data set on the hub.

    Raises:
        DataError: it cannot be fetched; see also :func:`saved_dataset_rows`.
    """
    package = _datasets()
    try:
        loaded = package.load_dataset(name, split=split)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise DataError(
            f"{name}: no such file here, and it could not be loaded as a hub id ({error}). "
            "Check the spelling and the network, or point to a local file."
        ) from error
    return _dataset_rows(loaded, name, None)


def _dataset_rows(loaded: Any, name: str, split: str | None) -> Iterator[tuple[Source, Any]]:
    if hasattr(loaded, "keys"):  # a DatasetDict
        splits = list(loaded.keys())
        if split is None and len(splits) > 1:
            raise DataError(f"{name}: has the splits {', '.join(splits)}; say which (split: ...).")
        chosen = split or splits[0]
        if chosen not in splits:
            raise DataError(f"{name}: no split {chosen!r}; it has {', '.join(splits)}.")
        loaded = loaded[chosen]
    elif split is not None and str(loaded.split) != split:
        raise DataError(f"{name}: has no splits; leave `split` out.")
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
        yield Source(name, number), dict(row)
