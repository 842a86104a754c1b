"""Who may look: this machine, or whoever was given the link.

A page in somebody's browser can reach a server on their own machine. It cannot give a name of this
machine as ``Host``, even where a name of its own has been made to point here (DNS rebinding), and
it cannot read the secret that a form of ours holds (CSRF).
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src data:; media-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TOKEN = "token"


class Guard:
    """Lets requests in by their ``Host``, their origin and their token, and sends HEADERS.

    Args:
        app: what they reach then.
        names: what the server is called, besides ``localhost`` and its own addresses.
        token: wanted of everybody, when it is given: once in a link, then in a cookie.
        command: what serves the pages, for the messages.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Iterable[str] = (),
        token: str | None = None,
        command: str = "gnomon view",
    ) -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *(n.lower() for n in names)}
        self._token = token
        self._command = command

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, sent)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if not self._is_ours(host, scope):
            return PlainTextResponse(
                f"This server has another name: use the address that {self._command} printed, or "
                "start it with --allow-host NAME.", 421)  # fmt: skip
        if scope["method"] not in ("GET", "HEAD") and not _is_same_site(headers, host):
            return PlainTextResponse("Another page sent this; nothing was written.", 403)
        return None if self._token is None else self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """What to answer where the token is missing, or has come by the link for the first time."""
        assert self._token is not None
        port = urlsplit(f"//{headers.get('host', '')}").port or 80
        cookie = f"gnomon-view-{port}"  # cookies of one host are shared by its ports
        if _same(_cookies(headers.get("cookie", "")).get(cookie, ""), self._token):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and _same(dict(query).get(TOKEN, ""), self._token):
            rest = urlencode([(key, value) for key, value in query if key != TOKEN])
            path = scope["raw_path"].decode("latin-1") if "raw_path" in scope else scope["path"]
            where = "/" + path.lstrip("/")  # "//other.site" would lead away
            response = RedirectResponse(f"{where}?{rest}" if rest else where, 303)
            response.set_cookie(cookie, self._token, httponly=True, samesite="lax")
            return response
        return PlainTextResponse(
            f"A token is needed: open the whole link that {self._command} printed.", 401
        )

    def _is_ours(self, host: str, scope: Scope) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return False
        if parts.path or parts.query or parts.username is not None:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        here = (scope.get("server") or [""])[0]  # the address that this connection came in by
        return address.is_loopback or name == str(here).lower()


def _is_same_site(headers: Mapping[str, str], host: str) -> bool:
    """Whether a browser sent it from a page of ours (or it is no browser)."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    ours = origin is None or urlsplit(origin).netloc.lower() == host.lower()
    return ours and site in ("same-origin", "none")


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _same(shown: str, secret: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8", "replace"), secret.encode())
