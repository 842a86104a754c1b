"""Serving the pages: where they listen, and who may reach them."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from gnomon.errors import ConfigError
from gnomon.view.app import make_app
from gnomon.view.guard import TOKEN, Guard

_HEADERS = 32 * 1024
_STOP_SECONDS = 2


class ViewServer:
    """Serves the pages over a folder until it is interrupted.

    Args:
        folder: of runs, or of one.
        host, port: where to listen; port 0 takes a free one.
        names: what else the server is called in a ``Host`` header.

    Raises:
        ConfigError: it cannot listen there.
        DataError: the folder is not there.
    """

    def __init__(
        self, folder: Path, host: str = "127.0.0.1", port: int = 0, names: Sequence[str] = ()
    ) -> None:
        app = make_app(folder)
        self._socket = _listen(host, port)
        address = str(self._socket.getsockname()[0])
        private = _is_loopback(address) and not names  # a name means that others come by a proxy
        self.token = None if private else secrets.token_urlsafe(24)
        self._http = uvicorn.Server(
            uvicorn.Config(
                Guard(app, [host, *names], self.token),
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
    def link(self) -> str:
        """What to open; it holds the token, where one is needed."""
        address, port = self._socket.getsockname()[:2]
        if ipaddress.ip_address(address).is_unspecified:
            address = socket.gethostname()
        shown = f"[{address}]" if ":" in address else address
        return f"http://{shown}:{port}/" + (f"?{TOKEN}={self.token}" if self.token else "")

    def run(self, ready: Callable[[], object] | None = None) -> None:
        """Serve until :meth:`stop` or Ctrl-C."""
        if ready is not None:
            ready()
        self._http.run([self._socket])

    def stop(self) -> None:
        """Have :meth:`run` return."""
        self._http.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
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


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
