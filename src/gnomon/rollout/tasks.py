"""The queue of a rollout server's work, and a task's answer as it grows."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gnomon.rollout.protocol import Progress
from gnomon.rollout.wire import error_line, refusal, result_line

_ALIVE = b'{"alive": true}\n'


class GoneError(Exception):
    """The client went away in the middle of a task."""


class Task:
    """Something for the host to do, and the lines that it answers.

    Made, and listened to, on an event loop; worked on in another thread.

    Args:
        work: what to do; it is given a function to call with (finished, all), which raises when
            nobody waits for the result any more.
        after: called when it is over, done or not.
    """

    def __init__(self, work: Callable[[Progress], Any], after: Callable[[], None]) -> None:
        self._work = work
        self._after = after
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._progress: tuple[int, int] | None = None
        self._last: bytes | None = None
        self._gone = threading.Event()

    # -- on the event loop

    async def line(self, seconds: float) -> tuple[bytes, bool]:
        """The next line, and whether it is the last; a sign of life after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        progress, self._progress = self._progress, None
        if progress is not None:
            if self._last is None:
                self._news.clear()
            return json.dumps({"progress": progress}).encode() + b"\n", False
        if self._last is not None:
            return self._last, True
        return _ALIVE, False

    def leave(self) -> None:
        """Note that the client is gone."""
        self._gone.set()

    # -- in the host's thread

    def run(self) -> None:
        """Do the work, unless nobody waits for it any more."""
        try:
            self._check()
            last = result_line(self._work(self._report))
        except Exception as error:
            last = error_line(error)
        except BaseException:
            self.drop()
            raise
        self._end(last)

    def drop(self) -> None:
        """Refuse it, because the server is being stopped."""
        self._end(refusal("it is being stopped", "busy"))

    def _end(self, last: bytes) -> None:
        self._after()
        self._tell(last=last)

    def _report(self, done: int, total: int) -> None:
        self._check()
        self._tell(progress=(done, total))

    def _tell(self, progress: tuple[int, int] | None = None, last: bytes | None = None) -> None:
        def update() -> None:
            self._progress = progress or self._progress
            self._last = last or self._last
            self._news.set()

        with suppress(RuntimeError):  # the loop is over: nobody listens
            self._loop.call_soon_threadsafe(update)

    def _check(self) -> None:
        if self._gone.is_set():
            raise GoneError("the client went away")


class Tasks:
    """A queue of tasks, of which at most ``most`` wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ended = False
        self._lock = threading.Lock()

    def add(self, task: Task) -> bool:
        """Queue a task; False when too many wait or the server is being stopped."""
        with self._lock:
            if self._ended or self._queue.qsize() >= self._most:
                return False
            self._queue.put(task)
            return True

    def work(self) -> None:
        """Do what is queued until :meth:`stop`."""
        while (task := self._queue.get()) is not None:
            task.run()

    def stop(self) -> None:
        """Have :meth:`work` return after the task at hand."""
        self._queue.put(None)

    def end(self) -> None:
        """Refuse new tasks, and drop those that wait."""
        with self._lock:
            self._ended = True
        with suppress(queue.Empty):
            while True:
                task = self._queue.get_nowait()
                if task is not None:
                    task.drop()


_PIECE = 1 << 20  # bytes of an answer sent at a time


class TaskResponse(Response):
    """A task's answer, line by line, with signs of life in between."""

    media_type = "application/jsonlines"

    def __init__(self, task: Task, alive_seconds: float) -> None:
        super().__init__()
        self._task = task
        self._alive_seconds = alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self.media_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(_gone(receive))
        try:
            last = False
            while not last and not gone.done():
                line, last = await self._next(gone)
                for start in range(0, len(line), _PIECE):
                    piece = line[start : start + _PIECE]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._task.leave()
            gone.cancel()

    async def _next(self, gone: asyncio.Future[None]) -> tuple[bytes, bool]:
        line = asyncio.ensure_future(self._task.line(self._alive_seconds))
        either: set[asyncio.Future[Any]] = {line, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if line.done():
            return line.result()
        line.cancel()
        return b"", True


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
