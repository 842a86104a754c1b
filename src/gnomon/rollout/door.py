"""Who may come in to a rollout server, and how much of what they send is read.

A page in somebody's browser can reach a server on their own machine. It cannot hide its ``Origin``,
and it cannot give a name of this machine as ``Host``, even where a name of its own has been made to
point here (DNS rebinding). Both are looked at before the token, and all three before any body.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gnomon.errors import ConfigError
from gnomon.rollout.limits import Lease, Limits
from gnomon.rollout.wire import PROTOCOL, TOKEN_VARIABLE, VERSION_HEADER, refusal

_NAME = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")


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
        note: hears of who was refused and why.
    """

    def __init__(
        self,
        app: ASGIApp,
        bound: str,
        names: Iterable[str],
        token: str | None,
        limits: Limits,
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


def host_name(host: str) -> str:
    """The name in a ``Host`` header, lower case, without port and brackets.

    Raises:
        ConfigError: it holds none.
    """
    match = _NAME.fullmatch(host)
    if match is None:
        raise ConfigError(f"{host!r} is no name of a host")
    return match.group(1).strip("[]").lower().rstrip(".")


async def body_of(
    request: Request, most: int, lease: Lease, limits: Limits
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
    if int(declared) > most:  # h11 has seen to it that these are digits
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
