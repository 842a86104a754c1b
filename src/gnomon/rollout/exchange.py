"""Requests to a rollout server, and the thread that waits for its answers."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import TimeoutError as StillRunning
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic_core import from_json

from gnomon.errors import EngineError
from gnomon.rollout.protocol import Progress
from gnomon.rollout.wire import PROTOCOL, VERSION_HEADER, AwayError, raise_line

_POLL_SECONDS = 0.1
_BLOCK = 1 << 20  # bytes sent at a time; the 8 kB that is usual makes weights crawl
_STRANGER = "what answers there is not a rollout server of gnomon"

T = TypeVar("T")


class Waiter:
    """An event loop in a daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T], check: Callable[[], None]) -> T:
        """The result of ``work``; ``check`` is called in this thread meanwhile, and by raising
        cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            while True:
                try:
                    return future.result(_POLL_SECONDS)
                except StillRunning:
                    if future.done():
                        raise
                    check()
        finally:
            future.cancel()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), daemon=True).start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()


class Exchange:
    """Requests to one server. Each has a connection of its own, since there are few.

    Args:
        url: the server's, without a slash at its end.
        headers: sent with every request.
        timeout: seconds without a sign of life after which the server counts as gone.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._url = url
        self._headers = {
            **headers,
            VERSION_HEADER: str(PROTOCOL),
            "Accept-Encoding": "identity",  # what is small on the way and huge here has no bound
        }
        self._timeout = timeout
        # The system's certificates, and those of SSL_CERT_FILE; no proxies out of the environment.
        self._tls = ssl.create_default_context() if url.startswith("https") else False

    async def object(self, path: str, most: int) -> dict[str, Any]:
        """The JSON object that a GET gives, of at most ``most`` bytes."""
        async with aclosing(self._lines("GET", path, most)) as lines:
            async for line in lines:
                return line
        raise AwayError("the answer broke off")

    async def result(
        self,
        path: str,
        body: bytes | Path,
        most: int,
        progress: Progress | None = None,
    ) -> Any:
        """The result of a POST of bytes or a file; raises the error of its error line.

        Args:
            path: with its query.
            body: sent in blocks, never held as a whole when it is a file.
            most: bytes that a line of the answer may have.
            progress: called on the event loop with (finished, all).
        """
        async with aclosing(self._lines("POST", path, most, body)) as lines:
            async for line in lines:
                if "result" in line:
                    return line["result"]
                if "progress" in line and progress is not None:
                    progress(*_counts(line["progress"]))
        raise AwayError("the answer broke off")

    async def _lines(
        self, method: str, path: str, most: int, body: bytes | Path | None = None
    ) -> AsyncGenerator[dict[str, Any]]:
        headers = dict(self._headers)
        content: bytes | AsyncIterator[bytes] | None = None
        if isinstance(body, Path):
            headers["Content-Length"] = str(_size(body))
            content = _blocks(body)
        elif body is not None:
            content = body
        client = httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=self._timeout)
        try:
            async with (
                client,
                client.stream(
                    method, self._url + path, content=content, headers=headers
                ) as response,
            ):
                _judge(response)
                async for raw in _split(response.aiter_raw(), most):
                    line = _parsed(raw)
                    if "error" in line:
                        raise_line(line)
                    yield line
        except httpx.TransportError as error:
            raise _explained(error, self._timeout) from error


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise EngineError(f"the weights to be sent cannot be read: {error}") from error


async def _blocks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _judge(response: httpx.Response) -> None:
    """Raise unless a rollout server of this version answers."""
    version = response.headers.get(VERSION_HEADER)
    status = f"HTTP {response.status_code} {response.reason_phrase}"
    if version is None and response.status_code in (502, 503, 504):  # a proxy, without its server
        raise AwayError(status)
    if version is None and "jsonlines" in response.headers.get("content-type", ""):
        version = "1"
    if version is None:
        raise EngineError(f"{_STRANGER} ({status})")
    if version != str(PROTOCOL):
        raise EngineError(
            f"the server speaks version {version[:20]} of the exchange and this gnomon {PROTOCOL}: "
            "install the same gnomon on both sides"
        )


async def _split(pieces: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Lines without their ends; one that was cut off counts as a broken connection."""
    held = bytearray()
    async for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for end in whole:
            yield bytes(held + end)
            held.clear()
        held += rest
        if len(held) > most:
            raise EngineError(f"an answer of more than {most} bytes, which no answer to this needs")
    if held:
        raise AwayError("the answer broke off")


def _counts(value: Any) -> tuple[int, int]:
    try:
        done, total = value
        return int(done), int(total)
    except (TypeError, ValueError) as error:
        raise EngineError(_STRANGER) from error


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = from_json(line)
    except ValueError as error:
        raise EngineError(_STRANGER) from error
    if not isinstance(value, dict):
        raise EngineError(_STRANGER)
    return value


def _explained(error: httpx.TransportError, timeout: float) -> Exception:
    """A failure of the network in words, and whether another try may help (AwayError)."""
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(deeper)
    tls = next((c for c in causes if isinstance(c, ssl.SSLError)), None)
    if tls is not None:
        return EngineError(
            f"TLS with the rollout server failed ({tls.reason or tls}): does it speak https, and "
            "is its certificate trusted here (SSL_CERT_FILE names further ones)?"
        )
    if isinstance(error, httpx.ProtocolError) and "disconnected" not in str(error):
        broken = "incomplete" in str(error) or "peer closed" in str(error)
        return AwayError("the answer broke off") if broken else EngineError(_STRANGER)
    if isinstance(error, httpx.ConnectTimeout):
        return AwayError(f"no connection within {timeout:g} s")
    if isinstance(error, httpx.TimeoutException):
        return AwayError(f"no sign of life for {timeout:g} s")
    system = [c.errno for c in causes if isinstance(c, OSError) and c.errno]
    words = os.strerror(system[-1]) if system and system[-1] > 0 else str(error)
    return AwayError(words or type(error).__name__)
