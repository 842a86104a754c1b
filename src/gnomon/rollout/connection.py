"""One connection to the server, with a deadline for all that a client could leave hanging.

uvicorn alone waits for ever for headers that never come, and for a client that never reads its
answer. Every answer closes its connection: a trainer makes few requests, and a connection that is
used once needs one set of deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gnomon.rollout.limits import Limits
from gnomon.rollout.wire import PROTOCOL, VERSION_HEADER, refusal

_READ = 1 << 20  # bytes taken from the system at a time


def protocol_with(limits: Limits, note: Callable[[str], None]) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol under these limits; ``note`` hears of what they refused."""

    class Bounded(_Bounded):
        bounds = limits
        tell = staticmethod(note)

    return Bounded


class _Bounded(H11Protocol):
    bounds: Limits
    tell: Callable[[str], None]

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._turned_away = False
        self._left: int | None = None  # bytes of a body that are to come past h11
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ  # type: ignore[attr-defined]
        if len(self.connections) > 2 * self.bounds.connections:  # those told so are many already
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
        """The client does not take what was written: it has some time to do so."""
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
            self._turn_away(400, "not understood: no HTTP request, or one with huge headers")
        else:
            self._drop("broken HTTP while it was being answered")

    def _turn_away(self, status: int, reason: str) -> None:
        """Say why, without reading on, and close."""
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
