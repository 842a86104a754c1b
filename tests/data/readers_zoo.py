"""What the readers' tests share: rows to write, and what came out of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gnomon.data.readers import ReadResult
from gnomon.records import Group

Read = Callable[..., ReadResult]
"""What the `read` fixture is: rows and options of read_groups in, what was read out."""


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def turns(group: Group) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in group.prompt.messages]


def texts(group: Group) -> list[str]:
    return [r.text for r in group.responses]


U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
B = {"role": "assistant", "content": "Go away"}
S = {"role": "system", "content": "Be kind"}
GOOD_PAIR = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
