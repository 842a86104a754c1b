"""Clips: answers that are no text but steps of a control task, shown as videos.

A clip's text says how to play it again (environment, seed, actions; see
:mod:`gnomon.control.clips`), and what it says names its video. Only such names are ever looked up,
so that nobody can ask for another file.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

OPENING = '{"clip":'
"""What the text of a clip begins with."""
SUFFIX, MEDIA_TYPE = ".webm", "video/webm"
_FILE = re.compile(rf"[0-9a-f]{{32}}{re.escape(SUFFIX)}")


def is_clip(text: str) -> bool:
    """Whether a text is a clip's."""
    return text.startswith(OPENING)


def video_name(text: str) -> str:
    """The name of the file that shows a clip."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32] + SUFFIX


def videos_beside(store: str) -> Path | None:
    """Where the videos of a store in a file are; None for a database at a URL."""
    return None if "://" in store else Path(f"{store}.clips")


def find_video(folder: Path | None, name: str) -> Path | None:
    """A video by its file's name; None where there is none, or the name is no video's."""
    if folder is None or not _FILE.fullmatch(name):
        return None
    file = folder / name
    return file if file.is_file() and not file.is_symlink() else None
