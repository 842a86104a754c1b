"""Fixtures of the readers' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from readers_zoo import Read, write

from gnomon.data.readers import ReadResult, read_groups


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads rows given as objects, as a .jsonl file named rows."""

    def _read(*rows: Any, **options: Any) -> ReadResult:
        return read_groups(write(tmp_path / "rows.jsonl", rows), **options)

    return _read
