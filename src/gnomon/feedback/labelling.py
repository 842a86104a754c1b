"""The labeller's pages by their addresses: the next question, an answer changed, what one said."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from gnomon.feedback import answers, pages
from gnomon.feedback import schema as t
from gnomon.feedback.answers import Task, Unfinished
from gnomon.feedback.assignments import OPEN
from gnomon.feedback.auth import Asking, Form, Refused, Sent, Who, first
from gnomon.feedback.desk import Desk, Notice, OnDesk
from gnomon.feedback.identity import digest
from gnomon.feedback.records import Item, Label
from gnomon.feedback.rows import now
from gnomon.feedback.store import Campaign

router = APIRouter(default_response_class=Response)
_TICKET = re.compile(r"[0-9a-f]{32}")
_NOTES = {
    "late": Notice(
        "Your time for that question had run out, and it may have been given to somebody else as "
        "well. Your answer is kept and counts."
    ),
    "twice": Notice("That answer was saved before; it counts once."),
    "changed": Notice("Your new answer replaces the one before; both are kept.", "good"),
    "taken": Notice("Your answer is taken back. It is kept, and does not count.", "good"),
}


@dataclass(frozen=True)
class _Given:
    """An item that somebody was given; ``late`` where their time for it has run out."""

    id: str
    late: bool


@router.get("/label")
def ask(desk: OnDesk, who: Asking, campaign: str | None = None, note: str = "") -> Response:
    """The next question, or that there is none."""
    about = _campaign(desk, who, campaign)
    if about is None:
        names = [c.name for c in desk.campaigns(who)]
        return desk.page("campaigns.html.j2", who, campaigns=names, to="/label")
    given = desk.store.queue.assign(who.labeller, about.name)
    if given is None:
        return _nothing(desk, who, about, note)
    item = desk.store.item(given.item)
    old = desk.store.label(given.label) if given.label else None
    return _page(desk, who, about, item, given.id, old=old, notices=_notices(note))


def _campaign(desk: Desk, who: Who, name: str | None) -> Campaign | None:
    """The campaign of a page; None where somebody has to choose one."""
    if name is not None:
        return desk.campaign_of(who, name)
    known = desk.campaigns(who)
    wanted = [c for c in known if c.open] or known
    if not wanted:
        raise Refused(
            "There are no questions in this store yet. Whoever runs it adds them (gnomon label).",
            404,
        )
    return wanted[0] if len(wanted) == 1 else None


def _notices(note: str) -> tuple[Notice, ...]:
    return (_NOTES[note],) if note in _NOTES else ()


def _nothing(desk: Desk, who: Who, about: Campaign, note: str) -> Response:
    progress = pages.progress(desk.store, about.name, who.labeller)
    heading, words = "That is all for now", (
        "Every question here has as many answers as it needs, or has yours already. Thank you."
    )  # fmt: skip
    if not about.open:
        heading, words = "This collection is closed", (
            "No more questions are given out. What you said is kept; thank you."
        )  # fmt: skip
    elif not progress.done:
        words = "There is no question for you at the moment. Come back later."
    return desk.page("done.html.j2", who, notices=_notices(note), heading=heading, words=words,
                     progress=progress)  # fmt: skip


def _page(
    desk: Desk,
    who: Who,
    about: Campaign,
    item: Item,
    ticket: str,
    *,
    old: Label | None = None,
    fields: Form | None = None,
    notices: tuple[Notice, ...] = (),
    status: int = 200,
) -> Response:
    """The page of a question: as it was sent (``fields``), else as its draft, else as before."""
    task = Task.of(about.settings, about.name).for_item(item)
    at = ""
    if fields is None:
        draft = desk.store.queue.draft(who.labeller, item.id)
        if draft is not None and draft.get("base") == [old.id if old else ""]:
            at = draft.pop("at")
            fields = draft
    progress = pages.progress(desk.store, about.name, who.labeller)
    shown = pages.question(item, task, who.labeller, ticket, fields=fields, draft=at, replaces=old)
    return desk.page(
        "ask.html.j2", who, status, notices, ask=shown, progress=progress,
        guideline=pages.guide(desk.store, about.guideline, progress.guideline),
        confidences=answers.CONFIDENCES, flags=answers.FLAGS,
        longest_comment=answers.LONGEST_COMMENT, base=old.id if old else "",
    )  # fmt: skip


@router.get("/label/{item}")
def change(desk: OnDesk, who: Asking, item: str) -> Response:
    """A question that somebody judged, to judge it anew."""
    found, about, given = _theirs(desk, who, item)
    old = _standing(desk, who, item)
    if old is None:
        return RedirectResponse(_next(desk, who, about, ""), 303)
    ticket = digest("change", given.id, old.id)
    return _page(desk, who, about, found, ticket, old=old)


def _theirs(desk: Desk, who: Who, item: str) -> tuple[Item, Campaign, _Given]:
    """An item, its campaign, and how it was given to this person.

    Raises:
        Refused: it was not.
    """
    a = t.assignments.c
    found = t.assignments.select().where(a.item == item, a.labeller == who.labeller)
    with desk.store.db.read() as connection:
        row = connection.execute(found).mappings().first()
    if row is None:
        raise Refused("There is no such question, or it was not given to you.", 404)
    late = row["state"] in ("expired", "released") or (
        row["state"] == OPEN and row["expires"] < now()
    )
    about = desk.campaign_of(who, row["campaign"])
    return desk.store.item(item), about, _Given(row["id"], late)


def _standing(desk: Desk, who: Who, item: str) -> Label | None:
    """What somebody says of an item."""
    found = list(desk.store.labels(item=item, labeller=who.labeller, standing=True))
    return found[-1] if found else None


@router.post("/label/{item}")
def keep(request: Request, desk: OnDesk, who: Asking, item: str, sent: Sent) -> Response:
    """Keep what somebody says of a question, and go on."""
    by_script = "application/json" in request.headers.get("accept", "")
    ticket = first(sent, "ticket")
    if not _TICKET.fullmatch(ticket):
        raise Refused("This form is not one of ours. Nothing was written.", 400)
    with desk.locks.of(who.labeller):
        found, about, given = _theirs(desk, who, item)
        task = Task.of(about.settings, about.name).for_item(found)
        versions = {g.version for g in desk.store.guidelines()}
        shown = first(sent, "guideline")
        guideline = shown if shown in versions else about.guideline
        try:
            label = answers.read_label(
                sent, found, task, who.labeller, id=ticket, guideline=guideline
            )
        except Unfinished as problem:
            words = f"Not saved yet: {problem}."
            if by_script:
                return JSONResponse({"problem": words}, 422)
            return _page(
                desk, who, about, found, ticket, old=_standing(desk, who, item), fields=sent,
                notices=(Notice(words, "bad"),), status=422,
            )  # fmt: skip
        note = _keep(desk, who, label, given.late)
    if first(sent, "action") == "retract" and note == "changed":
        note = "taken"
    where = _next(desk, who, about, note)
    return JSONResponse({"next": where}) if by_script else RedirectResponse(where, 303)


def _keep(desk: Desk, who: Who, label: Label, late: bool) -> str:
    """Write a label, as a correction where they said something before; which note to show."""
    store = desk.store
    before, old = store.label(label.id), _standing(desk, who, label.item)
    if before is not None:
        if (before.labeller, before.item) != (label.labeller, label.item):
            raise Refused("This form is not one of ours. Nothing was written.", 400)
        if old is None or answers.same_judgement(old, label):
            return "twice"
        label = replace(label, id=digest("again", old.id, *answers.judgement(label)))
    store.add_labels([replace(label, replaces=old.id if old else None)])
    return "changed" if old else "late" if late else ""


def _next(desk: Desk, who: Who, about: Campaign, note: str) -> str:
    asked = {"campaign": about.name} if len(desk.campaigns(who)) > 1 else {}
    asked |= {"note": note} if note else {}
    return f"/label?{urlencode(asked)}" if asked else "/label"


@router.post("/draft/{item}")
def draft(desk: OnDesk, who: Asking, item: str, sent: Sent) -> Response:
    """Keep what somebody has entered so far."""
    _theirs(desk, who, item)
    body = {k: v for k, v in sent.items() if k not in ("csrf", "action", "made", "guideline")}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    desk.store.queue.save_draft(who.labeller, item, body | {"at": at})
    return JSONResponse({"at": at})


@router.get("/label/{item}/whole/{place}/{turn}")
def whole(desk: OnDesk, who: Asking, item: str, place: int, turn: int) -> Response:
    """All of a text that is too long for its place on a page."""
    found, _, _ = _theirs(desk, who, item)
    shown = pages.whole(found, who.labeller, place, turn)
    if shown is None:
        raise Refused("There is no such text.", 404)
    return desk.page("whole.html.j2", who, heading=shown[0], text=shown[1])


@router.get("/mine")
def mine(desk: OnDesk, who: Asking) -> Response:
    """What somebody said lately."""
    return desk.page("mine.html.j2", who, rows=pages.mine(desk.store, who.labeller, who.campaign))


@router.get("/guideline")
def guideline(desk: OnDesk, who: Asking, campaign: str | None = None) -> Response:
    """The guidelines of a campaign."""
    about = _campaign(desk, who, campaign)
    if about is None:
        names = [c.name for c in desk.campaigns(who)]
        return desk.page("campaigns.html.j2", who, campaigns=names, to="/guideline")
    return desk.page("guideline.html.j2", who, guideline=pages.guide(desk.store, about.guideline))
