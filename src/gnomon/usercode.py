"""What a user's code raised, in words that say where; and its coroutines, run to their end."""

from __future__ import annotations

import asyncio
import inspect
import os
import sysconfig
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import gnomon

_MAX_TEXT = 2000


class FailedError(Exception):
    """A user's code failed; the text says how and where."""


# -- in words --------------------------------------------------------------------------------------


def explain(error: BaseException) -> str:
    """The error's type and text, and the file and line of the user's code that it came from."""
    try:
        text = str(error)[:_MAX_TEXT]
    except Exception:
        text = "an error that cannot be printed"
    name = type(error).__name__
    where = place(error)
    return (f"{name}: {text}" if text else name) + (f" ({where})" if where else "")


def place(error: BaseException) -> str:
    """``file:line, in function`` of the innermost frame of the user's code; empty if none is.

    Code that is neither gnomon's nor a library's is the user's; without such a frame the innermost
    one of a library is taken.
    """
    found: dict[bool, str] = {}
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if not _is_ours(step.tb_frame):
            name = code.co_name
            within = "" if name == "<module>" else f", in {name}"
            found[_is_library(code.co_filename)] = f"{code.co_filename}:{step.tb_lineno}{within}"
        step = step.tb_next
    return found.get(False, found.get(True, ""))


def _is_ours(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith((_ours(), "<frozen"))


@lru_cache(maxsize=1)
def _ours() -> str:
    return str(Path(gnomon.__file__).resolve().parent) + os.sep


@lru_cache(maxsize=512)
def _is_library(file: str) -> bool:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return file.startswith(tuple(paths[name] + os.sep for name in names))


def is_interrupt(error: BaseException) -> bool:
    """Whether somebody wants to stop the program; whatever else code raises belongs to it."""
    return isinstance(error, KeyboardInterrupt)


# -- coroutines ------------------------------------------------------------------------------------


def settled(value: Any) -> Any:
    """``value``; if it is a coroutine (or anything that can be awaited), its result.

    It runs on an event loop of our own, in a thread of its own that lives as long as the program:
    the caller may have a loop running, and clients and locks that a coroutine keeps between calls
    stay on their loop. An asynchronous generator becomes a list.
    """
    if hasattr(value, "__aiter__"):
        value = _listed(value)
    if not inspect.isawaitable(value):
        return value
    result, error = _run(_kept(value))
    if error is not None:
        raise error
    return result


def all_settled(values: Sequence[Any]) -> list[Any]:
    """Each value, or its result where it can be awaited (all at once); a failure becomes a
    :class:`FailedError` in its place.

    Raises:
        KeyboardInterrupt: one of them raised it.
    """
    out = list(values)
    waiting = [i for i, value in enumerate(out) if inspect.isawaitable(value)]
    if not waiting:
        return out
    for i, (result, error) in zip(waiting, _run(_gathered([out[i] for i in waiting])), strict=True):
        if error is not None and is_interrupt(error):
            raise error
        out[i] = result if error is None else FailedError(explain(error))
    return out


async def _listed(values: Any) -> list[Any]:
    return [value async for value in values]


async def _kept(awaitable: Any) -> tuple[Any, BaseException | None]:
    """(result, None) or (None, error): SystemExit would end the loop."""
    try:
        return await awaitable, None
    except BaseException as error:
        return None, error


async def _gathered(awaitables: Iterable[Any]) -> list[tuple[Any, BaseException | None]]:
    return list(await asyncio.gather(*map(_kept, awaitables)))


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.process = os.getpid()
        self.thread = threading.Thread(target=self._serve, name="gnomon-async", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:  # SystemExit in a task that a user's coroutine started ends run_forever
            try:
                self.loop.run_forever()
            except BaseException:  # the task keeps it, and so whoever awaits that
                continue
            return

    @property
    def usable(self) -> bool:
        """False after a fork, which leaves the thread behind."""
        return self.process == os.getpid() and self.thread.is_alive()

    def run(self, coroutine: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:  # an interrupt while waiting
            future.cancel()
            raise

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


_started = threading.Lock()
_shared: list[_Loop] = []


def _run(coroutine: Any) -> Any:
    with _started:
        if not _shared or not _shared[0].usable:
            _shared[:] = [_Loop()]
        loop = _shared[0]
    if threading.current_thread() is not loop.thread:
        return loop.run(coroutine)
    inner = _Loop()  # a coroutine calls another reward: waiting here would never end
    try:
        return inner.run(coroutine)
    finally:
        inner.stop()


def called(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What a user's function returns, awaited if need be.

    Raises:
        FailedError: it raised anything but an interrupt; the text says what and where.
    """
    try:
        return settled(function(*arguments, **keywords))
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise FailedError(explain(error)) from error
