"""Sizes and SHA-256 of files: noted when they are written, compared before they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Prints = Mapping[str, Mapping[str, Any]]
"""``{file: {"size": bytes, "sha256": hexadecimal}}``, with paths from a folder on."""


def fingerprint(file: Path) -> dict[str, Any]:
    """``{"size", "sha256"}`` of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"size": file.stat().st_size, "sha256": digest}


def fingerprints(folder: Path, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Fingerprints of all files in ``parts`` (files or folders in ``folder``) that exist."""
    files: list[Path] = []
    for part in parts:
        path = folder / part
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {p.relative_to(folder).as_posix(): fingerprint(p) for p in files if p.is_file()}


def problem(folder: Path, expected: Prints) -> str | None:
    """What is first found wrong with the files in ``folder``, or None if all are as expected."""
    for name, wanted in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        size = file.stat().st_size
        if size != wanted.get("size"):
            return f"{name} has {size} bytes instead of {wanted.get('size')}"
        try:
            found = fingerprint(file)
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if found["sha256"] != wanted.get("sha256"):
            return f"{name} is not what was written (its SHA-256 differs)"
    return None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: it cannot be read, is no JSON, or holds something else; the message begins with
            the file and says which.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} cannot be read ({text})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds {_kind(value)} instead of a JSON object")
    return value


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
    return names.get(type(value), "a number")
