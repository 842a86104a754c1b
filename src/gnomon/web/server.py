"""Serving pages: where they listen, and until when."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from gnomon.errors import ConfigError

_HEADERS = 32 * 1024
_STOP_SECONDS = 2


class Server:
    """Serves an app on a socket until it is interrupted."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self._socket = listening
        self._http = uvicorn.Server(
            uvicorn.Config(
                app,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_SECONDS,
                h11_max_incomplete_event_size=_HEADERS,
            )
        )

    @property
    def address(self) -> str:
        """As in ``http://127.0.0.1:8400/``."""
        address, port = self._socket.getsockname()[:2]
        if ipaddress.ip_address(address).is_unspecified:
            address = socket.gethostname()
        shown = f"[{address}]" if ":" in address else address
        return f"http://{shown}:{port}/"

    def run(self, ready: Callable[[], object] | None = None) -> None:
        """Serve until :meth:`stop` or Ctrl-C."""
        if ready is not None:
            ready()
        self._http.run([self._socket])

    def stop(self) -> None:
        """Have :meth:`run` return."""
        self._http.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ConfigError: it cannot listen there.
    """
    try:
        if not 0 <= port <= 65535:
            raise OSError("a port is a number from 0 to 65535")
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found.sort(key=lambda info: info[0] != socket.AF_INET)  # "localhost" may be both
        family, _, _, _, where = found[0]
        return socket.create_server((str(where[0]), port), family=family)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}): choose another with --port, or 0 for any"
        ) from error
