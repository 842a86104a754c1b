"""Forms as browsers send them, no larger than they may be."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request


async def read_form(request: Request, largest: int) -> dict[str, list[str]] | None:
    """The fields of a form, each with its values in order; None where it has more bytes than
    ``largest``."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > largest:
            return None
    return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
