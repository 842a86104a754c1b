"""Serving the pages: where they listen, and who may reach them."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path

from gnomon.view.app import make_app
from gnomon.web.guard import TOKEN, Guard
from gnomon.web.server import Server, listen


class ViewServer(Server):
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
        listening = listen(host, port)
        loopback = ipaddress.ip_address(str(listening.getsockname()[0])).is_loopback
        private = loopback and not names  # a name means that others come by a proxy
        self.token = None if private else secrets.token_urlsafe(24)
        super().__init__(Guard(app, [host, *names], self.token), listening)

    @property
    def link(self) -> str:
        """What to open; it holds the token, where one is needed."""
        return self.address + (f"?{TOKEN}={self.token}" if self.token else "")
