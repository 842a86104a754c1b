"""Who may use a rollout server, and within which limits: bytes, seconds and connections.

A page in somebody's browser can reach a server on their own machine. It cannot hide its ``Origin``,
and it cannot give a name of this machine as ``Host``, even where a name of its own has been made to
point here (DNS rebinding). Both are looked at before the token, and all three before any body.

uvicorn alone waits for ever for headers that never come, and for a client that never reads its
answer. Every answer closes its connection: a trainer makes few requests, and a connection that is
used once needs one set of deadlines.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gnomon.errors import ConfigError
from gnomon.rollout.wire import PROTOCOL, TOKEN_VARIABLE, VERSION_HEADER, host_name, refusal

_MIB = 1 << 20


@dataclass(frozen=True)
class ServerLimits:
    """The bounds of a server. The defaults suit a trainer on the same network.

    Attributes:
        connections: open at once; further ones are asked to come back later.
        backlog: connections that the system may hold before they are accepted.
        tasks: waiting for the host at once.
        header_bytes: of a request's first line and headers together.
        header_seconds: until they must be complete.
        idle_seconds: without a byte of a body, or without the client taking any of its answer.
        grace_seconds: that a body may take whatever its size.
        slowest: bytes a second that it must reach beyond those.
        job_bytes: of one job.
        jobs_bytes: of all jobs that are being received or wait, together.
        weights_bytes: of one file of weights; None: 8 bytes a number of the model, and a header.
        uploads: files of weights that may be on disk at once.
        linger_seconds: for which a refused body is still read, so that the refusal arrives.
        alive_seconds: between signs of life while the host works.
        stop_seconds: that open answers get to end when the server is stopped.
    """

    connections: int = 64
    backlog: int = 64
    tasks: int = 16
    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    idle_seconds: float = 30.0
    grace_seconds: float = 60.0
    slowest: float = 256 * 1024.0
    job_bytes: int = 64 * _MIB
    jobs_bytes: int = 128 * _MIB
    weights_bytes: int | None = None
    uploads: int = 2
    linger_seconds: float = 2.0
    alive_seconds: float = 5.0
    stop_seconds: int = 2


class Budget:
    """A number of bytes that all bodies on their way share; safe to use from several threads."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take ``size`` more bytes; False, taking none, where that many are not left."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._left += size


class Lease:
    """One body's share of a budget; :meth:`end` gives all of it back, once."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def grow(self, size: int) -> bool:
        """Whether ``size`` more bytes were granted."""
        granted = self._budget.take(size)
        self._held += size if granted else 0
        return granted

    def end(self) -> None:
        held, self._held = self._held, 0
        self._budget.give(held)


_READ = 1 << 20  # bytes taken from the system at a time


def protocol_with(limits: ServerLimits, note: Callable[[str], None]) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol under these limits; ``note`` is called with what they refused."""

    class Bounded(_Bounded):
        bounds = limits
        tell = staticmethod(note)

    return Bounded


class _Bounded(H11Protocol):
    bounds: ServerLimits
    tell: Callable[[str], None]

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._turned_away = False
        self._left: int | None = None  # bytes of a body that are to come past h11
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ  # type: ignore[attr-defined]
        if len(self.connections) > 2 * self.bounds.connections:  # many were turned away already
            self._turned_away = True
            transport.abort()
        elif len(self.connections) > self.bounds.connections:
            self._turn_away(503, "too many connections; try again")
        else:
            late = "the headers took too long"
            self._due("headers", self.bounds.header_seconds, self._turn_away, 408, late)

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        if self._left is not None:
            self._body_received(data, self._left)
            return
        super().data_received(data)
        if self.cycle is not None:
            self._met("headers")
            headers = dict(self.headers)
            declared = headers.get(b"content-length")
            if declared and b"transfer-encoding" not in headers and self.cycle.more_body:
                self._left = int(declared) - len(self.cycle.body)

    def _body_received(self, data: bytes, left: int) -> None:
        """More of a body of known length, past h11, which would copy each of its bytes thrice.

        What comes after the body is dropped: the connection ends with the answer.
        """
        self.cycle.body += data[:left]
        self._left = max(0, left - len(data))
        if self._left:
            self.flow.pause_reading()  # until the application asks for more
        else:
            self.cycle.more_body = False
        self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._met(name)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the deadline by which the client must take what was written."""
        super().pause_writing()
        self._due("read", self.bounds.idle_seconds, self._drop, "it does not read its answer")

    def resume_writing(self) -> None:
        self._met("read")
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._due("end", self.bounds.idle_seconds, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._turn_away(400, "not understood: not an HTTP request, or one with huge headers")
        else:
            self._drop("broken HTTP while it was being answered")

    def _turn_away(self, status: int, reason: str) -> None:
        """Answer why, without reading further, and close."""
        self._met("headers")
        self._turned_away = True
        if self.cycle is not None:  # the body was broken: nobody need wait for the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._tell(reason)
        body = refusal(reason, "busy" if status == 503 else "data")
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            f"{VERSION_HEADER}: {PROTOCOL}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._due("end", self.bounds.linger_seconds, self.transport.abort)

    def _drop(self, reason: str) -> None:
        self._tell(reason)
        self.transport.abort()

    def _tell(self, reason: str) -> None:
        self.tell(f"{self.client[0] if self.client else 'a client'}: {reason}")

    def _due(self, name: str, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        self._met(name)
        self._timers[name] = self.loop.call_later(seconds, call, *args)

    def _met(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class RefusedError(Exception):
    """A request that is not served: ``status`` and ``kind`` as in an answer."""

    def __init__(self, status: int, message: str, kind: str = "data") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Refusal(Response):
    """A refusal that arrives.

    To close a connection while its client still writes resets it, and the client may never see what
    was said; so the rest is read and thrown away, for a short while.
    """

    media_type = "application/json"

    def __init__(self, error: RefusedError, linger_seconds: float) -> None:
        super().__init__(refusal(str(error), error.kind), error.status)
        self._linger = linger_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Door:
    """Lets requests in by their ``Host``, their origin and their token.

    Args:
        app: what they reach then.
        bound: the address that the server listens on.
        names: further names that it is called by: of a proxy in front of it, say.
        token: wanted of everybody, when it is given.
        limits: of headers, and of how long a refused body is read.
        note: called with who was refused and why.
    """

    def __init__(
        self,
        app: ASGIApp,
        bound: str,
        names: Iterable[str],
        token: str | None,
        limits: ServerLimits,
        note: Callable[[str], None],
    ) -> None:
        self._app = app
        self._names = {"localhost", bound.lower(), socket.gethostname().lower()}
        self._names |= {host_name(name) for name in names}
        self._token = token
        self._limits = limits
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except RefusedError as error:
            client = (scope.get("client") or ["a client"])[0]
            self._note(f"{client}: {error}")
            await Refusal(error, self._limits.linger_seconds)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > self._limits.header_bytes:
            raise RefusedError(431, "not understood: huge headers")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(host, scope):
            raise RefusedError(
                421,
                f"this server is not called {host[:100]!r}: use the address that it prints, or "
                "start it with --allow-host NAME",
                "config",
            )
        site = headers.get(b"sec-fetch-site", b"none")
        if b"origin" in headers or site != b"none":
            raise RefusedError(403, "this is not for browsers", "config")
        if self._token is not None:
            shown = headers.get(b"authorization", b"")
            if not hmac.compare_digest(shown, b"Bearer " + self._token.encode()):
                raise RefusedError(
                    401,
                    f"the token is missing or wrong: set {TOKEN_VARIABLE} to what the server has",
                    "config",
                )
        theirs = headers.get(VERSION_HEADER.lower().encode(), str(PROTOCOL).encode())
        if theirs != str(PROTOCOL).encode():
            raise RefusedError(
                400,
                f"the trainer speaks version {theirs.decode('latin-1')[:20]} of the exchange and "
                f"this server {PROTOCOL}: install the same gnomon on both sides",
                "config",
            )

    def _is_ours(self, host: str, scope: Scope) -> bool:
        try:
            name = host_name(host)
        except ConfigError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        here = (scope.get("server") or [""])[0]  # the address that this connection came in by
        return address.is_loopback or name == str(here).lower()


async def body_of(
    request: Request, most: int, lease: Lease, limits: ServerLimits
) -> AsyncIterator[bytes]:
    """A body piece by piece, within its bounds.

    Args:
        request: whose body it is.
        most: bytes that it may have.
        lease: grown by every byte.
        limits: its deadlines.

    Raises:
        RefusedError: it is too large, too slow, or all bodies together are too much.
        ClientDisconnect: the client went away.
    """
    declared = request.headers.get("content-length", "0")
    too_large = RefusedError(413, f"more than {most} bytes; this model needs less")
    if int(declared) > most:  # h11 has checked that these are digits
        raise too_large
    clock = asyncio.get_running_loop().time
    began, seen = clock(), 0
    while True:
        left = began + limits.grace_seconds + seen / limits.slowest - clock()
        try:
            async with asyncio.timeout(max(0.0, min(limits.idle_seconds, left))):
                message: dict[str, Any] = dict(await request.receive())
        except TimeoutError:
            raise RefusedError(408, f"the body came too slowly ({seen} bytes)", "busy") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece: bytes = message.get("body", b"")
        seen += len(piece)
        if seen > most:
            raise too_large
        if not lease.grow(len(piece)):
            raise RefusedError(503, "too much is on its way already; try again", "busy")
        if piece:
            yield piece
        if not message.get("more_body", False):
            return
