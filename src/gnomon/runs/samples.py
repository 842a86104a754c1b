"""Sampled responses of a stage with their rewards: ``samples.jsonl``, at the end also parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gnomon.runs.rows import RowStore

COLUMNS = {
    "step": pa.int64(),
    "prompt_id": pa.string(),
    "category": pa.string(),
    "prompt": pa.string(),
    "response": pa.string(),
    "reward": pa.float64(),
    "parts": pa.string(),
    "error": pa.string(),
    "length": pa.int64(),
    "finished": pa.bool_(),
}


class SampleStore(RowStore):
    """A :class:`~gnomon.runs.rows.RowStore` whose first columns are always there, and typed.

    ``step``, ``prompt_id``, ``category``, ``prompt``, ``response``, ``reward`` (null when ``error``
    is set), ``parts`` (the reward's named parts, as JSON), ``error``, ``length`` (tokens, EOS
    included) and ``finished`` (False when cut off). A row may hold more.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, schema=COLUMNS)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a sample; ``parts`` may be a mapping or its JSON.

        Raises:
            ValueError: it has no ``step``, so a resumed run could not tell whether to keep it.
        """
        if row.get("step") is None:
            raise ValueError("a sample needs a 'step'")
        parts = row.get("parts")
        if isinstance(parts, Mapping):
            row = {**row, "parts": json.dumps(dict(parts), ensure_ascii=False)}
        super().append(row)
