"""The pages of those who run a collection, by their addresses: where it stands, what is disputed,
gold questions, labellers, prices, and what can be taken away.

Adjudicators see how a campaign stands and settle what is disputed; everything else is for admins.
Whoever's link opens one campaign only sees that one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args
from urllib.parse import quote, urlencode

import sqlalchemy as sa
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from gnomon.errors import DataError
from gnomon.feedback import auth
from gnomon.feedback import schema as t
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.admin_pages import SHOWN, WORDS, Board, Kept, item_page, person_rows
from gnomon.feedback.answers import Task, Unfinished, judged_each
from gnomon.feedback.auth import Adjudicating, Form, Refused, Running, Sent, Who, first
from gnomon.feedback.desk import Desk, Notice, OnDesk
from gnomon.feedback.people import Role
from gnomon.feedback.records import Item, Label
from gnomon.feedback.rows import now
from gnomon.feedback.store import Campaign

router = APIRouter(prefix="/admin", default_response_class=Response)
_NOTES = {
    "decided": Notice("Decided. Your verdict stands for all labels of this question.", "good"),
    "undecided": Notice("Your decision is taken back; it is kept, and does not count.", "good"),
    "gold": Notice("This is a gold question now.", "good"),
    "plain": Notice("This is no gold question any more.", "good"),
    "saved": Notice("Saved.", "good"),
    "revoked": Notice("Their links and sessions are ended, and they are given no more.", "good"),
    "ended": Notice("Their links and sessions for this campaign are ended.", "good"),
    "restored": Notice("They are given questions again. Their old links stay ended.", "good"),
}
_LONGEST_NAME = 60


def include(app: Any) -> None:
    """Add these pages to the labelling app."""
    app.state.board = Board()
    app.include_router(router)
    app.state.desk.admin = True


def _about(desk: Desk, who: Who, name: str | None) -> Campaign | None:
    """The campaign of a page; None where one has to be chosen."""
    if name is not None:
        return desk.campaign_of(who, name)
    known = desk.campaigns(who)
    if not known:
        raise Refused("There is no campaign here yet: gnomon label new makes one.", 404)
    return known[0] if len(known) == 1 else None


def _kept(request: Request, desk: Desk, about: Campaign) -> Kept:
    board: Board = request.app.state.board
    return board.read(desk.store, about)


def _notices(note: str) -> tuple[Notice, ...]:
    return (_NOTES[note],) if note in _NOTES else ()


def _to(path: str, about: Campaign, note: str = "") -> RedirectResponse:
    asked = {"campaign": about.name} | ({"note": note} if note else {})
    return RedirectResponse(f"{path}?{urlencode(asked)}", 303)


# -- how it stands --------------------------------------------------------------------------------


@router.get("")
def board(
    request: Request, desk: OnDesk, who: Adjudicating, campaign: str | None = None, note: str = ""
) -> Response:
    """How a campaign stands."""
    about = _about(desk, who, campaign)
    if about is None:
        names = [c.name for c in desk.campaigns(who)]
        return desk.page("campaigns.html.j2", who, campaigns=names, to="/admin")
    kept = _kept(request, desk, about)
    return desk.page(
        "admin.html.j2", who, notices=_notices(note), about=about, o=kept.overview,
        prices=kept.prices, several=len(desk.campaigns(who)) > 1, **WORDS,
    )  # fmt: skip


@router.get("/items")
def items(
    request: Request,
    desk: OnDesk,
    who: Adjudicating,
    campaign: str | None = None,
    show: str = "disputed",
    page: int = 1,
) -> Response:
    """The items of a campaign: those that are disputed, waiting, flagged, gold, ..."""
    about = _about(desk, who, campaign)
    if about is None:
        names = [c.name for c in desk.campaigns(who)]
        return desk.page("campaigns.html.j2", who, campaigns=names, to="/admin/items")
    if show not in SHOWN or (show == "gold" and not who.can("admin")):
        raise Refused(f"There is no list {show!r}; there are {', '.join(SHOWN)}.", 404)
    lists = [name for name in SHOWN if name != "gold" or who.can("admin")]
    kept = _kept(request, desk, about)
    return desk.page(
        "admin_items.html.j2", who, about=about, show=show, lists=lists,
        **kept.listed(desk.store, show, page), **WORDS,
    )  # fmt: skip


@router.get("/items/{item}")
def item(request: Request, desk: OnDesk, who: Adjudicating, item: str, note: str = "") -> Response:
    """One item: what everyone said of it, and a form to settle it."""
    found, about = _item(desk, who, item)
    return _item_page(request, desk, who, found, about, _notices(note))


def _item_page(
    request: Request,
    desk: Desk,
    who: Who,
    found: Item,
    about: Campaign,
    notices: tuple[Notice, ...] = (),
    status: int = 200,
) -> Response:
    kept = _kept(request, desk, about)
    shown = item_page(desk.store, found, about, kept.overview)
    return desk.page("admin_item.html.j2", who, status, notices, about=about, **WORDS, **shown)


def _item(desk: Desk, who: Who, id: str) -> tuple[Item, Campaign]:
    """An item of a campaign that somebody may see."""
    try:
        found = desk.store.item(id)
    except DataError as error:
        raise Refused("There is no such question.", 404) from error
    return found, desk.campaign_of(who, found.campaign)


@router.post("/items/{item}/decide")
def decide(request: Request, desk: OnDesk, who: Adjudicating, item: str, sent: Sent) -> Response:
    """Settle an item: a label of the adjudicator's, which stands for all others."""
    found, about = _item(desk, who, item)
    own = [label for label in desk.store.labels(item=item, labeller=who.labeller, standing=True)
           if ADJUDICATION in label.tags]  # fmt: skip
    action = first(sent, "action")
    said: dict[str, Any] = {"kind": "all_bad"}
    if action == "undo":
        said = {"kind": "skip"}
        if not own:
            raise Refused("You have not decided about this question.", 400)
    elif action == "rank":
        problem, said = _decision(sent, found, about)
        if problem:
            return _item_page(request, desk, who, found, about, (Notice(problem, "bad"),), 422)
    elif action != "all_bad" or _task(found, about).ask == "rating":
        raise Refused("This form is not one of ours. Nothing was written.", 400)
    label = Label(
        id=secrets.token_hex(16), item=item, labeller=who.labeller, tags=(ADJUDICATION,), at=now(),
        comment=first(sent, "comment").strip()[:10_000], guideline=about.guideline,
        replaces=own[-1].id if own else None, **said,
    )  # fmt: skip
    desk.store.add_labels([label])
    return _to(f"/admin/items/{item}", about, "undecided" if action == "undo" else "decided")


@router.post("/items/{item}/gold")
def gold(request: Request, desk: OnDesk, who: Running, item: str, sent: Sent) -> Response:
    """Make an item a gold question, whose answer is known; or a plain one again."""
    found, about = _item(desk, who, item)
    if first(sent, "action") == "plain":
        desk.store.set_gold(item, None, who.labeller)
        return _to(f"/admin/items/{item}", about, "plain")
    problem, ranks = _ranks(sent, len(found.responses))
    if problem:
        return _item_page(request, desk, who, found, about, (Notice(problem, "bad"),), 422)
    desk.store.set_gold(item, ranks, who.labeller)
    return _to(f"/admin/items/{item}", about, "gold")


def _task(item: Item, about: Campaign) -> Task:
    return Task.of(about.settings, about.name).for_item(item)


def _decision(sent: Form, item: Item, about: Campaign) -> tuple[str, dict[str, Any]]:
    """(what is wrong, what is decided): a judgement of the kind that the campaign asks for, since
    ranks say nothing of how good an answer is."""
    task = _task(item, about)
    if task.ask not in ("rating", "approval"):
        problem, ranks = _ranks(sent, len(item.responses))
        return problem, {"kind": "ranking", "ranks": ranks}
    try:
        return "", judged_each(sent, item, task)
    except Unfinished as error:
        return f"Nothing was saved: {error}.", {}


def _ranks(sent: Form, count: int) -> tuple[str, tuple[float, ...]]:
    """(what is wrong, the ranks of the responses in the item's order)."""
    given = [first(sent, f"rank_{place}") for place in range(1, count + 1)]
    known = [str(rank) for rank in range(1, count + 1)]
    missing = [str(p) for p, rank in enumerate(given, start=1) if rank not in known]
    if missing:
        return f"Nothing was saved: give a rank to answer {', '.join(missing)}; ties are fine.", ()
    places = {rank: i for i, rank in enumerate(sorted(set(map(int, given))), start=1)}
    return "", tuple(float(places[int(rank)]) for rank in given)


# -- how it is run --------------------------------------------------------------------------------


@router.post("/campaign")
def campaign(desk: OnDesk, who: Running, sent: Sent) -> Response:
    """Change how a campaign is run from now on: overlap, gold rate, time for each, prices."""
    about = desk.campaign_of(who, first(sent, "campaign"))
    prices = {f"price_{name}": _amount(sent, f"price_{name}") for name in ("label", "hour")}
    changed = replace(
        about,
        overlap=int(_amount(sent, "overlap", 1, 100)),
        gold_rate=_amount(sent, "gold", 0, 100) / 100,
        minutes=_amount(sent, "minutes", 0.1, 7 * 24 * 60),
        open=first(sent, "open") == "yes",
        settings={**about.settings, **prices},
    )
    desk.store.set_campaign(changed)
    return _to("/admin", about, "saved")


def _amount(sent: Form, name: str, low: float = 0.0, high: float = 1e9) -> float:
    text = first(sent, name).strip().replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Refused(
            f"Nothing was saved: {name} is {text[:40]!r}; give a number from {low:g} to {high:g}.",
            422,
        )
    return value


# -- labellers ------------------------------------------------------------------------------------


@router.get("/people")
def people(
    request: Request, desk: OnDesk, who: Running, campaign: str | None = None, note: str = ""
) -> Response:
    """The labellers: how each works, and whether they are let in."""
    about = _about(desk, who, campaign)
    if about is None:
        names = [c.name for c in desk.campaigns(who)]
        return desk.page("campaigns.html.j2", who, campaigns=names, to="/admin/people")
    return _people(request, desk, who, about, _notices(note))


def _people(
    request: Request,
    desk: Desk,
    who: Who,
    about: Campaign,
    notices: tuple[Notice, ...] = (),
    status: int = 200,
    **shown: str,
) -> Response:
    kept = _kept(request, desk, about)
    rows = person_rows(desk.store, kept.overview, about.name, whole=who.campaign is None)
    fields = {"invited": "", "link": "", "name": ""} | shown
    return desk.page(
        "admin_people.html.j2", who, status, notices, about=about, rows=rows,
        roles=get_args(Role), longest=_LONGEST_NAME, **WORDS, **fields,
    )  # fmt: skip


@router.post("/people/invite")
def invite(request: Request, desk: OnDesk, who: Running, sent: Sent) -> Response:
    """A link for one person, which is shown this once."""
    about = desk.campaign_of(who, first(sent, "campaign"))
    name, role = first(sent, "name").strip(), first(sent, "role") or "labeller"
    if role not in get_args(Role):
        raise Refused("This form is not one of ours. Nothing was written.", 400)
    try:
        if not 0 < len(name) <= _LONGEST_NAME:
            raise DataError(f"Give a pseudonym of 1 to {_LONGEST_NAME} characters.")
        _check_active(desk, name)
        if name not in desk.store.labellers():
            desk.store.add_labeller(name, "person", role)
    except DataError as error:
        notice = (Notice(str(error), "bad"),)
        return _people(request, desk, who, about, notice, 422, name=name)
    limited = who.campaign is not None or first(sent, "all") != "yes"
    token = auth.issue(
        desk.store, "link" if first(sent, "many") == "yes" else "once", name, role,  # type: ignore[arg-type]
        campaign=about.name if limited else None, days=_amount(sent, "days", 0.01, 365),
    )  # fmt: skip
    base = str(request.base_url).rstrip("/")
    link = f"{base}/join?{urlencode({'token': token})}"
    return _people(request, desk, who, about, invited=name, link=link)


def _check_active(desk: Desk, name: str) -> None:
    for known in desk.store.people.all():
        if known.name == name and not known.active:
            raise DataError(f"{name!r} is revoked: restore them first.")
        if known.name == name and known.kind != "person":
            raise DataError(f"{name!r} is a {known.kind}, not a person.")


@router.post("/people/revoke")
def revoke(desk: OnDesk, who: Running, sent: Sent) -> Response:
    """End somebody's links and sessions, and give them no more questions; or let them in again."""
    about = desk.campaign_of(who, first(sent, "campaign"))
    name, action = first(sent, "name"), first(sent, "action")
    if name == who.labeller:
        raise Refused("You cannot end your own session here: use Leave.", 400)
    if who.campaign is not None:
        if action != "revoke":
            raise Refused("Only an admin of all campaigns can do that.", 403)
        a = t.access.c
        same = sa.and_(a.labeller == name, a.campaign == about.name, a.revoked.is_(None))
        with desk.store.db.write() as connection:
            connection.execute(t.access.update().where(same).values(revoked=now()))
        return _to("/admin/people", about, "ended")
    desk.store.people.set_active(name, action == "restore")
    if action != "restore":
        desk.store.people.revoke(labeller=name)
    return _to("/admin/people", about, "restored" if action == "restore" else "revoked")


# -- what can be taken away -----------------------------------------------------------------------


@router.get("/export/{what}")
def export(
    request: Request, desk: OnDesk, who: Running, what: str, campaign: str | None = None
) -> Response:
    """Labels as they are, one JSON line each; or what they come to, to train on."""
    about = _about(desk, who, campaign)
    if about is None:
        names = [c.name for c in desk.campaigns(who)]
        return desk.page("campaigns.html.j2", who, campaigns=names, to=f"/admin/export/{what}")
    if what == "labels.jsonl":
        rows = (asdict(label) for label in desk.store.labels(about.name))
        return _download(rows, f"{about.name}-labels.jsonl")
    if what == "labellers.json":
        quality: Sequence[Any] = _kept(request, desk, about).overview.quality
        return _download((_plain(asdict(q)) for q in quality), f"{about.name}-labellers.jsonl")
    raise Refused("There is no such file.", 404)


def _plain(value: Any) -> Any:
    """Without NaN, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    return None if isinstance(value, float) and value != value else value


def _download(rows: Iterator[Any], name: str) -> Response:
    lines = (json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in rows)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(safe)}"}
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)
