"""A host behind a URL: the trainer's side of ``gnomon serve-rollouts``.

An event loop in a thread of its own does the waiting: so a caller in any thread, the main one or
the one that samples ahead, can give up within a tenth of a second, whatever the network is doing.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import ssl
import threading
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as StillRunning
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import torch
from pydantic_core import from_json

from gnomon.errors import ConfigError, EngineError
from gnomon.rollout.protocol import (
    About,
    Job,
    Progress,
    RawCompletion,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.transfer import BrokenLinkError, Outlet, choose, local_address, send
from gnomon.rollout.wire import (
    PROTOCOL,
    TOKEN_VARIABLE,
    VERSION_HEADER,
    AwayError,
    about_from_json,
    check_token,
    check_url,
    job_to_json,
    raise_line,
    rows_from_json,
    scores_from_json,
)

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


_LONGEST_WAIT = 30.0
_TICK = 0.1  # seconds between two looks whether the caller still wants an answer
_SMALL = 64 << 20  # bytes: more than any answer that holds no samples
_PER_TOKEN = 64  # bytes of an answer, for its id and its log-prob


class RemoteHost:
    """Talks to a rollout server; what fails because of the connection is tried again a few times.

    Every request can be repeated: weights are named by their content, and samples follow from the
    weights and the job's seeds. A server that was restarted serves its start weights: it
    raises StaleWeightsError, and the engine sends the policy's again before it samples.

    Args:
        url: as printed by ``gnomon serve-rollouts``.
        token: shown to the server, when it is given.
        retries: further tries after a failed one; the pauses double from 1 s to 30 s.
        timeout: seconds without a sign of life after which the server counts as gone.
        sleep: how to pause; by default the caller can give up during a pause.

    Raises:
        ConfigError: not a URL, not a token, or numbers that make no sense.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retries: int = 8,
        timeout: float = 60.0,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        if retries < 0 or not 0 < timeout < math.inf:
            raise ConfigError(
                f"{retries} retries and a timeout of {timeout} s: use 0 or more, and a number of "
                "seconds above 0"
            )
        self._url = check_url(url)
        token = check_token(token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._exchange = Exchange(self._url, headers, timeout)
        self._waiter = Waiter()
        self._retries = retries
        self._sleep = sleep
        self._kind = "file"
        self._device = torch.device("cpu")
        self._workers = 1
        self._address = ""
        self._outlet: Outlet | None = None
        self._check: Callable[[], None] = _always

    def about(self) -> About:
        return about_from_json(self._tried(lambda: self._exchange.object("/about", _SMALL)))

    def connect(self, transfer: str, device: torch.device) -> str:
        """Agree with the server on how whole weights come, and try it.

        Raises:
            ConfigError: what is asked for cannot be.
            EngineError: the server, or the way, is not there. With "auto" weights then go as files,
                and a warning says so.
        """
        about = self.about()
        found = choose(transfer, about, device, url=True)
        if found == "file":
            return found
        host = urlsplit(self._url).hostname or "localhost"
        self._device, self._workers, self._kind = device, max(1, len(about.gpus)), found
        self._address = local_address(host)
        try:
            self._tried_all(self._opened, _always)
        except EngineError as error:
            if transfer != "auto":
                raise
            warnings.warn(
                f"weights do not reach the rollout server by {found} ({error}); they are sent as "
                "files",
                stacklevel=2,
            )
            return "file"
        return found

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> list[float]:
        check = wanted or _always
        if isinstance(weights, WeightsHere):
            return self._tried_all(lambda: self._streamed(weights, probe, check), check)
        path = f"/weights?version={weights.version}&probe={','.join(map(str, probe))}"
        result = self._tried(lambda: self._exchange.result(path, weights.path, _SMALL), check)
        return scores_from_json(result)

    # -- the four phases of a transfer

    def init_weight_transfer(self, info: Mapping[str, Any]) -> None:
        self._phase("init", info)

    def start_weight_update(self, version: str) -> None:
        self._phase("start", {"version": version})

    def update_weights(self, version: str, bucket: Mapping[str, Any]) -> None:
        self._phase("update", {"version": version, "bucket": bucket})

    def finish_weight_update(self, version: str, probe: Sequence[int]) -> list[float]:
        return scores_from_json(self._phase("finish", {"version": version, "probe": list(probe)}))

    def _phase(self, name: str, said: Mapping[str, Any]) -> Any:
        body = json.dumps(said).encode()
        exchange = self._exchange.result(f"/transfer/{name}", body, _SMALL)
        return self._waiter.run(exchange, self._check)

    def _streamed(
        self, weights: WeightsHere, probe: Sequence[int], check: Callable[[], None]
    ) -> list[float]:
        """One try to send weights from memory; what broke is opened anew by the next."""
        self._check = check
        try:
            return send(self, self._outlet or self._opened(), weights, probe, check)
        except BaseException as error:
            self._closed()
            if isinstance(error, BrokenLinkError):
                raise AwayError(str(error)) from error
            raise
        finally:
            self._check = _always

    def _opened(self) -> Outlet:
        """A new outlet, known to the server."""
        self._closed()
        try:
            outlet = Outlet(self._kind, self._device, self._workers, self._address)
        except BrokenLinkError as error:
            raise AwayError(str(error)) from error
        self._outlet = outlet
        try:
            self.init_weight_transfer(outlet.info)
        except BaseException:
            self._closed()
            raise
        return outlet

    def _closed(self) -> None:
        if self._outlet is not None:
            self._outlet.close()
        self._outlet = None

    def rest(self) -> None:
        """Tell the server that nothing is sampled for a while."""
        self._tried(lambda: self._exchange.result("/rest", b"", _SMALL))

    def sample(self, job: Job, progress: Progress | None) -> list[list[RawCompletion]]:
        """``progress`` is called before each try, ten times a second while the server works, and
        at the end; by raising it says that nobody waits any more."""
        body = job_to_json(job)
        total = sum(request.n for request in job.requests)
        most = _SMALL + total * (200 + _PER_TOKEN * job.params.max_new_tokens)
        seen = (0, total)

        def news(done: int, of: int) -> None:
            nonlocal seen
            seen = (done, of)

        def tell() -> None:
            if progress is not None:
                progress(*seen)

        def ask() -> Coroutine[Any, Any, Any]:
            nonlocal seen
            seen = (0, total)
            tell()
            return self._exchange.result("/sample", body, most, news)

        rows = rows_from_json(self._tried(ask, tell))
        if seen == (total, total):
            tell()
        return rows

    def close(self) -> None:
        """End the thread that waits for answers, and the way that weights took."""
        self._closed()
        self._waiter.close()

    def _tried(
        self,
        exchange: Callable[[], Coroutine[Any, Any, Any]],
        wanted: Callable[[], None] | None = None,
    ) -> Any:
        """Repeat a request while the server is away, at most ``retries`` times.

        Raises:
            EngineError: it was away every time.
        """
        check = wanted or _always
        return self._tried_all(lambda: self._waiter.run(exchange(), check), check)

    def _tried_all(self, work: Callable[[], T], check: Callable[[], None]) -> T:
        wait = 1.0
        for left in range(self._retries, -1, -1):
            try:
                return work()
            except AwayError as error:
                problem = str(error)
                if left:
                    self._pause(wait, check)
                    wait = min(2 * wait, _LONGEST_WAIT)
        raise EngineError(
            f"the rollout server at {self._url} is gone ({problem}; tried {self._retries + 1} "
            "times). Start it again (gnomon serve-rollouts MODEL) and resume with --resume; "
            "nothing saved is lost. If the server asks for a token, set "
            f"{TOKEN_VARIABLE}."
        )

    def _pause(self, seconds: float, check: Callable[[], None]) -> None:
        if self._sleep is not None:
            self._sleep(seconds)
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            check()
            time.sleep(min(left, _TICK))


def _always() -> None:
    """Never cancel: the caller still waits."""
