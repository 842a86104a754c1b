"""The labelling app: ``gnomon label serve`` runs it.

Whoever adds pages to it writes an ``APIRouter``, whose functions take :data:`auth.Asking` (or
``Adjudicating``, ``Running``) to know who asks, :data:`auth.Sent` where something is written, and
``OnDesk`` for the store and the templates, and includes it in :func:`make_app`.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from gnomon.errors import DataError, GnomonError, RunError
from gnomon.feedback import admin, auth, labelling
from gnomon.feedback.auth import Asking, Form, Refused, Sent, first
from gnomon.feedback.clips import MEDIA_TYPE, find_video
from gnomon.feedback.desk import Desk, OnDesk, desk_of
from gnomon.feedback.store import Store
from gnomon.files import first_line

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_LONGEST_NAME = 60

router = APIRouter(default_response_class=Response)
Plain = Annotated[Form, Depends(auth.plain_form)]


@router.get("/")
def home(who: Asking, desk: OnDesk) -> Response:
    """The page that somebody's role begins with."""
    return RedirectResponse("/admin" if desk.admin and who.can("adjudicator") else "/label", 303)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """A style or a script."""
    kind = name.rpartition(".")[2]
    file = files("gnomon.feedback").joinpath("static", name)
    if "/" in name or "\\" in name or kind not in _TYPES or not file.is_file():
        raise Refused("There is no such file.", 404)
    return Response(file.read_bytes(), media_type=_TYPES[kind])


@router.get("/clips/{name}")
def clip(desk: OnDesk, who: Asking, name: str) -> Response:
    """The video of a clip."""
    file = find_video(desk.clips, name)
    if file is None:
        raise Refused("There is no such clip.", 404)
    return FileResponse(file, media_type=MEDIA_TYPE)


# -- coming and going -----------------------------------------------------------------------------


@router.get("/join")
def join(request: Request, desk: OnDesk, token: str = "") -> Response:
    """What a link is for. Looking at it uses nothing up: programs that preview links do that."""
    return _welcome(request, desk, token)


@router.post("/join")
def begin(request: Request, desk: OnDesk, sent: Plain) -> Response:
    """Let somebody in by their link."""
    token, name = first(sent, "token"), first(sent, "name").strip()
    labeller = _whose(request, desk, token)
    try:
        if labeller is None:
            campaign = auth.peek(desk.store, token).campaign
            session = auth.issue(desk.store, "session", _newcomer(desk, name), campaign=campaign)
        else:
            session = auth.enter(desk.store, token)
    except DataError as error:
        return _welcome(request, desk, token, name=name, problem=str(error), status=422)
    if old := auth.session_of(request):
        desk.store.people.revoke(secret=old)
    answer = RedirectResponse("/", 303)
    auth.set_cookie(answer, request, session)
    return answer


def _welcome(
    request: Request,
    desk: Desk,
    token: str,
    *,
    name: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    labeller = _whose(request, desk, token)
    who = auth.known(request)
    return desk.page(
        "join.html.j2", status=status, token=token, labeller=labeller, name=name, problem=problem,
        now=who.labeller if who and who.labeller != labeller else "", longest=_LONGEST_NAME,
        once=token.startswith("once-"),
    )  # fmt: skip


def _whose(request: Request, desk: Desk, token: str) -> str | None:
    """Whose link it is; None where anybody may join with it.

    Raises:
        Refused: it lets nobody in; or too many from the same address did not.
    """
    address = request.client.host if request.client else ""
    if wait := desk.failures.wait(address):
        raise Refused(
            f"Too many links from your address let nobody in. Wait {wait} s and try again.",
            429,
            wait,
        )
    try:
        found = auth.peek(desk.store, token)
    except Refused:
        desk.failures.take(address)
        raise
    return None if token.startswith("join-") else found.labeller


def _newcomer(desk: Desk, name: str) -> str:
    """A new labeller under a pseudonym of their own.

    Raises:
        DataError: the pseudonym cannot be, or is somebody's.
    """
    if not 0 < len(name) <= _LONGEST_NAME:
        raise DataError(f"Give a pseudonym of 1 to {_LONGEST_NAME} characters.")
    with desk.locks.of("join"):
        known = {labeller.casefold() for labeller in desk.store.labellers()}
        if name.casefold() in known:
            raise DataError(
                f"{name!r} is somebody already. If that is you, go on in the browser in which you "
                "began, or ask for an invitation; else take another pseudonym."
            )
        desk.store.add_labeller(name, "person", "labeller")
    return name


@router.post("/leave")
def leave(request: Request, desk: OnDesk, sent: Sent) -> Response:
    """End a session on this browser."""
    desk.store.people.revoke(secret=auth.session_of(request))
    answer = desk.page(
        "message.html.j2", heading="See you", back="",
        message="This browser is signed out; your answers are kept. To go on, open your link.",
    )  # fmt: skip
    answer.delete_cookie(auth.cookie_name(request))
    return answer


# -- the app --------------------------------------------------------------------------------------


def make_app(store: Store, campaign: str | None = None, clips: Path | None = None) -> FastAPI:
    """The pages over a store.

    Args:
        campaign: the only one that is served; None for all.
        clips: the folder that the videos of clips are in.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.desk = Desk(store, campaign, clips)
    app.include_router(router)
    app.include_router(labelling.router)
    admin.include(app)
    app.add_exception_handler(GnomonError, _refused)
    app.add_exception_handler(HTTPException, _missing)
    app.add_exception_handler(Exception, _failed)
    return app


def _refused(request: Request, error: Exception) -> Response:
    """What can be said in words of something that somebody can mend."""
    if isinstance(error, Refused):
        answer = _wrong(request, "This cannot be done", str(error), error.status)
        if error.retry:
            answer.headers["Retry-After"] = str(error.retry)
        return answer
    if isinstance(error, RunError):
        return _wrong(request, "Nothing was saved", f"{error}. Go back and try again.", 503)
    return _wrong(request, "This cannot be done", str(error), 400)


def _missing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _wrong(request, "There is no such page", "Go back, or begin anew.", status)


def _failed(request: Request, error: Exception) -> Response:
    """What nobody foresaw, in a line; the program goes on."""
    words = (
        f"This page could not be made ({type(error).__name__}: {first_line(error)}). "
        "What was saved before is kept."
    )
    return _wrong(request, "Something went wrong", words, 500)


def _wrong(request: Request, heading: str, message: str, status: int) -> Response:
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"problem": message}, status)
    who: Any = getattr(request.state, "who", None)
    back = "/" if who is not None else ""
    return desk_of(request).page(
        "message.html.j2", who, status, heading=heading, message=message, back=back
    )
