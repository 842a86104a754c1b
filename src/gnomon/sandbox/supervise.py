"""One sandboxed run from outside: feed it, read what it reports, and end it, whatever it does."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gnomon.sandbox.backends import SandboxError
from gnomon.sandbox.inside.wire import MAX_FRAME

START_S = 30.0
"""Seconds a sandbox may take to come up on a busy machine."""
_TICK_S = 0.1
_MAX_ENTRIES = 20_000
_STDERR = 4000
_MAX_DIGITS = 20

Ending = Literal["ran", "timeout", "output", "scratch", "died"]
Watch = Callable[[], bool]
Stop = Callable[[Any], bool]
Read = Callable[[bytes], Any]


@dataclass(frozen=True)
class Outcome:
    """What a sandboxed run reported.

    Attributes:
        frames: the runner's frames in order, without its greeting and farewell.
        complete: the runner said it was done: nothing was cut short.
        ending: ran; timeout (killed at the wall clock); output or scratch (killed for writing too
            much); died (the sandbox ended before it was done).
        seconds: wall time.
    """

    frames: Sequence[Any]
    complete: bool
    ending: Ending
    seconds: float


def parsed(data: bytes) -> Any:
    """The frame in ``data``, in time proportional to its size.

    Raises:
        ValueError, RecursionError: the runner did not write it.
    """
    message = json.loads(data, parse_int=_small)
    if not isinstance(message, dict):
        raise ValueError("no frame")
    return message


def _small(digits: str) -> int:
    """The codec writes large integers in hexadecimal; long decimal ones take quadratic time."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def supervise(
    command: Sequence[str],
    job: bytes,
    *,
    env: dict[str, str],
    seconds: float,
    max_bytes: int,
    overfull: Watch | None = None,
    enough: Stop | None = None,
    read: Read = parsed,
) -> Outcome:
    """Run ``command``, write ``job`` to it, collect its frames; then kill all that is left of it.

    Args:
        seconds: from the sandbox's greeting until everything is killed.
        max_bytes: of reports; more is cut off.
        overfull: asked now and then; True kills the run (too much written to the disk).
        enough: asked for every frame; True ends the run early (one test failed, say).
        read: makes a message of a frame's bytes, which may hold a program's own: outside the clock.

    Raises:
        SandboxError: the sandbox did not come up.
    """
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
            cwd="/",
        )
    except OSError as error:
        raise SandboxError(f"the sandbox cannot be started: {error}") from error
    try:
        reader = _Reader(process, job, max_bytes, enough, read)
        ending = reader.run(seconds, overfull)
    finally:
        _end(process)
    return _outcome(reader, ending, time.monotonic() - began)


def _outcome(reader: _Reader, ending: Ending, seconds: float) -> Outcome:
    frames = reader.frames
    refused = [f["refused"] for f in frames if isinstance(f, dict) and "refused" in f]
    ready = bool(frames) and frames[0] == {"ready": True}
    if refused or (not ready and ending == "died"):
        reason = refused[0] if refused else reader.stderr.decode("utf-8", "replace").strip()
        raise SandboxError(f"the sandbox did not come up: {reason or 'it ended without an answer'}")
    if not ready:
        raise SandboxError(f"the sandbox did not come up within {START_S:g} s: is it overloaded?")
    complete = frames[-1] == {"done": True}
    return Outcome(frames[1 : -1 if complete else None], complete, ending, seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole process group before its leader is reaped (so its number is still ours)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


class _Reader:
    """Writes the job and reads frames, never blocking and never reading without bound."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        job: bytes,
        max_bytes: int,
        enough: Stop | None,
        read: Read,
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin, self.stdout, self.errors = process.stdin, process.stdout, process.stderr
        self.left = memoryview(job)
        self.buffer = bytearray()
        self.total = 0
        self.max_bytes = max_bytes
        self.enough = enough
        self.read = read
        self.frames: list[Any] = []
        self.stderr = b""

    def run(self, seconds: float, overfull: Watch | None) -> Ending:
        deadline = time.monotonic() + START_S
        greeted = False
        os.set_blocking(self.stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdin, selectors.EVENT_WRITE, self._write)
            selector.register(self.stdout, selectors.EVENT_READ, self._read)
            selector.register(self.errors, selectors.EVENT_READ, self._read_errors)
            while self._open(selector):
                if self.frames and not greeted:  # a slow start is not the program's time
                    greeted, deadline = True, time.monotonic() + seconds
                left = deadline - time.monotonic()
                if left <= 0:
                    return "timeout"
                ready = selector.select(min(left, _TICK_S if overfull else left))
                for key, _ in ready:
                    ending = key.data(selector)
                    if ending is not None:
                        return ending  # type: ignore[no-any-return]
                if overfull is not None and overfull():
                    return "scratch"
        return "died"

    def _open(self, selector: selectors.BaseSelector) -> bool:
        return any(key.fileobj is self.stdout for key in selector.get_map().values())

    def _write(self, selector: selectors.BaseSelector) -> Ending | None:
        try:
            self.left = self.left[os.write(self.stdin.fileno(), self.left[:65536]) :]
        except BlockingIOError:
            return None
        except OSError:  # it ended without reading its job; stdout and stderr will say more
            self.left = self.left[:0]
        if not self.left:
            selector.unregister(self.stdin)
        return None

    def _read_errors(self, selector: selectors.BaseSelector) -> Ending | None:
        part = os.read(self.errors.fileno(), 65536)
        if not part:
            selector.unregister(self.errors)
        self.stderr = (self.stderr + part)[-_STDERR:]
        return None

    def _read(self, selector: selectors.BaseSelector) -> Ending | None:
        part = os.read(self.stdout.fileno(), 65536)
        if not part:
            selector.unregister(self.stdout)
            return None
        self.buffer += part
        self.total += len(part)
        if self.total > self.max_bytes:
            return "output"
        return self._take_frames()

    def _take_frames(self) -> Ending | None:
        while len(self.buffer) >= 4:
            size = int.from_bytes(self.buffer[:4], "little")
            if size > 8 * MAX_FRAME:
                return "died"
            if len(self.buffer) < 4 + size:
                return None
            try:
                message = self.read(bytes(self.buffer[4 : 4 + size]))
            except (ValueError, RecursionError):
                return "died"
            del self.buffer[: 4 + size]
            self.frames.append(message)
            if message == {"done": True} or (self.enough is not None and self.enough(message)):
                return "ran"
        return None


def folder_bytes(folder: Path, limit: int) -> bool:
    """True if the files below ``folder`` hold more than ``limit`` bytes, or are too many.

    Links are neither followed nor trusted.
    """
    total, entries, stack = 0, 0, [str(folder)]
    while stack:
        try:
            with os.scandir(stack.pop()) as found:
                for entry in found:
                    entries += 1
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
                    if total > limit or entries > _MAX_ENTRIES:
                        return True
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # nested so deep that it cannot be counted
                return True
    return False


def remove_folder(folder: Path) -> None:
    """Remove a scratch folder however deep and closed a program left it; links are not followed."""
    try:
        folder.rmdir()  # most programs write nothing
        return
    except OSError:
        pass
    with contextlib.suppress(RecursionError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # deeper than Python recurses, or folders without rights
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", str(folder)], capture_output=True, check=False)
