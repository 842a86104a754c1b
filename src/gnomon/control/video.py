"""Clips as videos: WebM (VP8), which browsers play without a plug-in or a licence."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gnomon.control.clips import Clip
from gnomon.control.episodes import make_env
from gnomon.errors import ConfigError
from gnomon.feedback.clips import clip_parts, video_name
from gnomon.feedback.store import Store
from gnomon.files import clean_temporaries, make_folder, write_file

WIDTH = 320
"""Pixels of a video's width."""
_SPEED = ["-deadline", "realtime", "-cpu-used", "8", "-b:v", "600k", "-f", "webm"]


def clip_texts(store: Store, campaign: str | None, most: int | None) -> list[str]:
    """The texts of the clips in a store, each once, of the first ``most`` items that have some."""
    found: dict[str, None] = {}
    items = 0
    for item in store.items(campaign):
        own = [r.text for r in item.responses if clip_parts(r.text) is not None]
        if own and (most is None or items < most):
            items += 1
            found.update(dict.fromkeys(own))
    return list(found)


def render_clips(texts: list[str], folder: Path, watch: Callable[[int, int], None]) -> int:
    """Render those that the folder does not have yet; how many that were.

    Args:
        watch: told how many are done, and of how many.

    Raises:
        ConfigError: an environment or a package is missing, or nothing can be rendered here.
        DataError: a text is no clip's.
    """
    make_folder(folder)
    clean_temporaries(folder)
    missing = [text for text in texts if not (folder / video_name(text)).is_file()]
    for done, text in enumerate(missing, start=1):
        write_video(Clip.parse(text), folder / video_name(text))
        watch(done, len(missing))
    return len(missing)


def write_video(clip: Clip, file: Path) -> None:
    """Play a clip and write it as a video, whole or not at all.

    Raises:
        ConfigError: see :func:`render_clips`.
    """
    try:
        writers: Any = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ConfigError(
            f"rendering clips needs a package that is not installed ({error}): "
            "pip install 'gnomon-rlhf[control]'"
        ) from error
    frames = _frames(clip)
    first = next(frames)
    height, width = first.shape[:2]
    scale = ["-vf", f"scale={WIDTH}:-2"]
    with write_file(file) as tmp:
        writer = writers.write_frames(
            str(tmp), (width, height), fps=_fps(clip), codec="libvpx", quality=None,
            macro_block_size=1, output_params=[*scale, *_SPEED], ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        try:
            writer.send(first.tobytes())
            for frame in frames:
                writer.send(frame.tobytes())
        finally:
            writer.close()


def _frames(clip: Clip) -> Iterator[Any]:
    """[H, W, 3] of each step.

    Raises:
        ConfigError: nothing can be rendered here.
    """
    _without_screen()
    try:
        for step in clip.play(render=True):
            yield step.frame
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise ConfigError(
            f"{clip.environment} cannot be rendered here ({type(error).__name__}: {error}). MuJoCo "
            "needs a screen, or EGL (MUJOCO_GL=egl) or OSMesa (MUJOCO_GL=osmesa)"
        ) from error


def _without_screen() -> None:
    """Have libraries draw off screen where there is none."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _fps(clip: Clip) -> float:
    """As its environment says; 30 where it does not."""
    env = make_env(clip.environment, clip.options)
    env.close()
    return float(env.metadata.get("render_fps") or 30)
