"""Who is asking: links and invitations that let people in, cookies that keep them in, their roles.

A token is a random secret with its use in front (``once-...``, ``link-...``, ``session-...``). The
store keeps the SHA-256 of the whole: neither the store nor a copy of it lets anybody in, and a
token of one use cannot be passed off as one of another. What a form must hold against forgery is
derived from the cookie, which no other page can read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from fastapi import Depends, Request
from starlette.responses import Response

from gnomon.errors import GnomonError
from gnomon.feedback import schema as t
from gnomon.feedback.people import Access, Role
from gnomon.feedback.rows import now
from gnomon.feedback.store import Store
from gnomon.web.forms import read_form

TokenKind = Literal["once", "link", "join", "session"]
NEWCOMERS = "newcomers"
"""Whose the links are with which anybody joins under a pseudonym of their own."""
SESSION_DAYS = 30
_RANK = {role: i for i, role in enumerate(get_args(Role))}
_LARGEST_FORM = 1024 * 1024


@dataclass(frozen=True)
class Who:
    """The person behind a request.

    Attributes:
        labeller: their pseudonym.
        campaign: the only one that they may see; None for all.
        csrf: what their forms must hold.
    """

    labeller: str
    role: Role
    campaign: str | None
    csrf: str

    def can(self, role: Role) -> bool:
        """Whether their role is this one or a higher one."""
        return _RANK[self.role] >= _RANK[role]


class Refused(GnomonError):  # noqa: N818 - what is refused is the request
    """A request that is not answered, with the status and words for the page.

    Attributes:
        status: of HTTP.
        retry: seconds after which it may be tried again, if that helps.
    """

    def __init__(self, message: str, status: int = 403, retry: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retry = retry


# -- tokens ---------------------------------------------------------------------------------------


def issue(
    store: Store,
    kind: TokenKind,
    labeller: str,
    role: Role = "labeller",
    *,
    campaign: str | None = None,
    days: float | None = SESSION_DAYS,
) -> str:
    """A new token for a labeller who is known to the store.

    Args:
        kind: ``once`` is used up by the first who joins with it; ``link`` is good for any number of
            browsers; ``join`` for any number of people; ``session`` is what a cookie holds.
        campaign: the only one that it opens.
        days: how long it is good for; None for ever.
    """
    token = f"{kind}-{secrets.token_urlsafe(32)}"
    row = {
        "digest": _digest(token),
        "labeller": labeller,
        "role": role,
        "campaign": campaign,
        "at": now(),
        "expires": None if days is None else now(days * 24 * 60),
    }
    with store.db.write() as connection:
        connection.execute(t.access.insert(), [row])
    return token


def peek(store: Store, token: str) -> Access:
    """What a link opens, without using it up.

    Raises:
        Refused: nothing (any more), and why, where that is known.
    """
    kind = token.partition("-")[0]
    found = store.people.access(token) if kind in ("once", "link", "join") else None
    if found is None:
        raise Refused(
            "This link lets nobody in: it is incomplete, has expired, or was revoked. Open the "
            "whole link as it was sent to you, or ask for a new one.", 401)  # fmt: skip
    if kind == "once" and found.used is not None:
        raise Refused(
            "This invitation was for one use, and it has been used. If that was you, go on in the "
            "browser in which you began; else ask for a new one, and say that somebody used yours.",
            401)  # fmt: skip
    return found


def enter(store: Store, token: str) -> str:
    """Use a link: the session token that goes into the cookie.

    Raises:
        Refused: as :func:`peek`, also where another was faster.
    """
    found = peek(store, token)
    if token.startswith("once-") and store.people.use_token(token) is None:
        peek(store, token)  # says that it was used
        raise Refused("This link does not let anybody in any more.", 401)
    return issue(store, "session", found.labeller, found.role, campaign=found.campaign)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


# -- cookies --------------------------------------------------------------------------------------


def cookie_name(request: Request) -> str:
    """Cookies of one host are shared by its ports."""
    return f"gnomon-label-{request.url.port or 80}"


def set_cookie(response: Response, request: Request, session: str) -> None:
    """Keep somebody in on this browser."""
    forwarded = request.headers.get("x-forwarded-proto", request.url.scheme)
    response.set_cookie(
        cookie_name(request),
        session,
        max_age=SESSION_DAYS * 24 * 3600,
        httponly=True,
        samesite="lax",
        secure=forwarded == "https",
    )


def session_of(request: Request) -> str:
    """The session token of a request; empty where there is none."""
    token = request.cookies.get(cookie_name(request), "")
    return token if token.startswith("session-") else ""


def known(request: Request) -> Who | None:
    """Who is asking; None where nobody is known."""
    token = session_of(request)
    store: Store = request.app.state.desk.store
    found = store.people.access(token) if token else None
    if found is None:
        return None
    csrf = hmac.new(token.encode(), b"gnomon label form", "sha256").hexdigest()
    return Who(found.labeller, found.role, found.campaign, csrf)


def current(request: Request) -> Who:
    """Who is asking, as a dependency of a page.

    Raises:
        Refused: nobody who is known, or too often.
    """
    who = known(request)
    if who is None:
        raise Refused(
            "You are not signed in on this browser: open the link that was sent to you.", 401
        )
    request.state.who = who  # for the page of an error
    wait = request.app.state.desk.paces.take(who.labeller)
    if wait:
        raise Refused(f"That was too fast to be read: wait {wait} s and go on.", 429, wait)
    return who


def adjudicator(who: Annotated[Who, Depends(current)]) -> Who:
    """Whoever may settle disagreements, as a dependency of a page."""
    return _at_least(who, "adjudicator")


def admin(who: Annotated[Who, Depends(current)]) -> Who:
    """Whoever runs the collection, as a dependency of a page."""
    return _at_least(who, "admin")


def _at_least(who: Who, role: Role) -> Who:
    if not who.can(role):
        raise Refused(f"This page is for the role {role}; your link has the role {who.role}.", 403)
    return who


# -- forms ----------------------------------------------------------------------------------------

Form = dict[str, list[str]]


async def plain_form(request: Request) -> Form:
    """The fields of a form of somebody who is not known yet, as a dependency.

    Raises:
        Refused: larger than any of ours.
    """
    fields = await read_form(request, _LARGEST_FORM)
    if fields is None:
        raise Refused("The form is larger than 1 MB, which is more than any of ours.", 413)
    return fields


def form(
    who: Annotated[Who, Depends(current)], fields: Annotated[Form, Depends(plain_form)]
) -> Form:
    """The fields of a form that this person was given, as a dependency.

    Raises:
        Refused: it was not given to them.
    """
    if not hmac.compare_digest(first(fields, "csrf").encode(), who.csrf.encode()):
        raise Refused(
            "This page was made for another session. Nothing was written: go back, load the page "
            "again (your draft is kept) and save again.", 403)  # fmt: skip
    return fields


def first(fields: Form, name: str) -> str:
    """A field's value; empty where it is missing."""
    return fields.get(name, [""])[-1]


# -- how often ------------------------------------------------------------------------------------


@dataclass
class Paces:
    """So many at once, and so many a second after that, for each of many; kept in memory.

    Args:
        burst: at once.
        rate: a second.
        most: how many are remembered; the ones that were not seen for longest are forgotten.
    """

    burst: float
    rate: float
    most: int = 10_000
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, count: float = 1.0) -> int:
        """Take one: 0, or how many seconds to wait for the next."""
        with self._lock:
            left = self._now(key)
            if left < count:
                return int((count - left) / self.rate) + 1
            self._left[key] = (left - count, time.monotonic())
            self._left.move_to_end(key)
            while len(self._left) > self.most:
                self._left.popitem(last=False)
            return 0

    def wait(self, key: str) -> int:
        """How many seconds to wait for the next, without taking it."""
        with self._lock:
            left = self._now(key)
            return 0 if left >= 1 else int((1 - left) / self.rate) + 1

    def _now(self, key: str) -> float:
        left, at = self._left.get(key, (self.burst, time.monotonic()))
        return min(self.burst, left + (time.monotonic() - at) * self.rate)


Asking = Annotated[Who, Depends(current)]
Adjudicating = Annotated[Who, Depends(adjudicator)]
Running = Annotated[Who, Depends(admin)]
Sent = Annotated[Form, Depends(form)]
"""Parameters of a page's function: who asks (with at least that role), and the form they sent."""
