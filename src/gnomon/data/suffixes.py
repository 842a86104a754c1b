"""The endings of data files."""

from __future__ import annotations

from pathlib import Path

JSONL = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
JSON = (".json", ".json.gz")
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PARQUET = (".parquet",)
ARROW = (".arrow", ".feather")
SUFFIXES = (*JSONL, *JSON, *PARQUET, *ARROW, *CSV)


def stem(path_or_id: str | Path, split: str | None = None) -> str:
    """The name that identifiers start with: the file's name without its endings."""
    name = Path(path_or_id).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return f"{name}-{split}" if split else name
