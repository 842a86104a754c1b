"""A small run with a stage of each kind, and ways in which its files get damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRAIN = {"steps": 2, "batch_size": 4, "lr": 1e-2, "checkpoint_every": 1, "sample_every": 1}


def tunnel(what: str, n: int, seed: int) -> dict[str, Any]:
    return {"path": f"tunnel:{what}", "options": {"n": n, "seed": seed}}


def raw_recipe(model: Path, output: Path) -> dict[str, Any]:
    """SFT, collecting, DPO on what was collected, GRPO, and the comparison of all."""
    return {
        "name": "run",
        "model": str(model),
        "output": str(output),
        "max_length": 120,
        "stages": [
            {
                "name": "sft",
                "algorithm": "sft",
                "data": tunnel("demonstrations", 12, 1),
                "holdout": 0.2,
                "train": TRAIN,
            },
            {
                "name": "feedback",
                "algorithm": "collect",
                "data": tunnel("prompts", 6, 2),
                "rollout": {"samples": 3, "max_new_tokens": 5},
                "settings": {"labellers": [{"name": "a"}], "chunk": 3},
            },
            {
                "name": "dpo",
                "algorithm": "dpo",
                "data": "stage:feedback",
                "train": TRAIN,
            },
            {
                "name": "grpo",
                "algorithm": "grpo",
                "data": tunnel("prompts", 8, 4),
                "reward": "gold",
                "lora": {"rank": 2, "alpha": 4},
                "rollout": {"samples": 2, "max_new_tokens": 5},
                "train": TRAIN,
            },
        ],
        "compare": {
            "prompts": tunnel("prompts", 3, 7),
            "rewards": [{"builtin": "gold"}],
            "rollout": {"max_new_tokens": 5},
        },
    }


def results(run: Path) -> dict[str, str]:
    """What a run is for, by file: weights, groups, the comparison."""
    files = [*run.rglob("model/*.safetensors"), *run.rglob("groups.jsonl")]
    files += [run / "comparison.json"]
    return {
        str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f.is_file()
    }


def _remove(file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()


def _write(text: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(text)

    return write


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _flip(file: Path) -> None:
    """One bit of the last byte that is part of the content."""
    data = bytearray(file.read_bytes())
    data[-4] ^= 1
    file.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": _remove,
    "emptied": _write(b""),
    "cut": _cut,
    "flipped": _flip,
    "garbage": _write(b"\x00\xff\xfe{]garbage"),
    "list": _write(b"[1, 2]"),
    "null": _write(b"null"),
    "number": _write(b"17"),
    "object": _write(b'{"a": 1}'),
    "folder": _folder,
}
