"""Clips: answers that are no text but steps of a control task, shown as videos.

A clip's text says how to play it again (environment, seed, actions; see
:mod:`gnomon.control.clips`), and what it says names its video. Only such names are ever looked up,
so that nobody can ask for another file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEDIA_TYPE = "video/webm"
PARTS = ("clip", "options", "seed", "first", "steps", "actions")
"""The keys of a clip's text, a JSON object, in this order; ``clip`` is the environment."""
_OPENING = '{"clip":'
_FILE = re.compile(r"[0-9a-f]{32}\.webm")


def clip_parts(text: str) -> Mapping[str, Any] | None:
    """What a clip's text says; None where a text is no clip's."""
    if not text.startswith(_OPENING):
        return None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return raw if tuple(raw) == PARTS else None


def video_name(text: str) -> str:
    """The name of the file that shows a clip."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32] + ".webm"


def videos_beside(store: str) -> Path | None:
    """Where the videos of a store in a file are; None for a database at a URL."""
    return None if "://" in store else Path(f"{store}.clips")


def find_video(folder: Path | None, name: str) -> Path | None:
    """A video by its file's name; None where there is none, or the name is no video's."""
    if folder is None or not _FILE.fullmatch(name):
        return None
    file = folder / name
    return file if file.is_file() and not file.is_symlink() else None
