"""The admin's pages: who may see and do what, what they change, and that nobody's words run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from test_admin_overview import crowd, ranked

from gnomon.feedback import admin_pages, auth
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.app import make_app
from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Label
from gnomon.feedback.store import Campaign, Store
from label_world import Visitor, asked, questions, said, write_store

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\u202e\"'&"
PAGES = ("/admin", "/admin/items", "/admin/items/{item}", "/admin/people")
FILES = ("/admin/export/labels.jsonl", "/admin/export/labellers.json")
ADMIN_ONLY = ("/admin/people", *FILES)
FORMS = {
    "/admin/items/{item}/decide": ("adjudicator", {"action": "all_bad"}),
    "/admin/items/{item}/gold": ("admin", {"action": "gold", "rank_1": "1", "rank_2": "2"}),
    "/admin/campaign": ("admin", {"campaign": "pilot", "overlap": "3", "gold": "10",
                                  "minutes": "5", "price_label": "1", "price_hour": "0",
                                  "open": "yes"}),
    "/admin/people/invite": ("admin", {"campaign": "pilot", "name": "new", "role": "labeller",
                                       "days": "1"}),
    "/admin/people/revoke": ("admin", {"campaign": "pilot", "name": "bob", "action": "revoke"}),
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A campaign ``pilot`` with three questions, the first of which ann and bob contradict."""
    store = write_store(tmp_path / "labels.db", people=("ann", "bob", "root", "judge"))
    first = next(iter(store.items("pilot")))
    store.add_labels([ranked(first, "ann", 1.0), ranked(first, "bob", 0.0)])
    return store


def first_item(store: Store) -> str:
    return next(iter(store.items("pilot"))).id


def csrf(visitor: Visitor) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', visitor.page("/mine"))
    assert found is not None
    return found[1]


def admin(store: Store, role: str = "admin") -> Visitor:
    name = {"admin": "root", "adjudicator": "judge", "labeller": "ann"}[role]
    return Visitor(store, name, role)


def send(visitor: Visitor, path: str, **fields: Any) -> Any:
    return visitor.post(path, {"csrf": csrf(visitor), **fields})


def text_of(answered: Any) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answered.text)).split())


# -- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["", "labeller", "adjudicator", "admin"])
def test_every_page_asks_who_it_is(store: Store, role: str) -> None:
    visitor = admin(store, role) if role else Visitor(store)
    item = first_item(store)
    for path in (*PAGES, *FILES):
        wanted = "admin" if path in ADMIN_ONLY else "adjudicator"
        code = visitor.get(path.replace("{item}", item)).status_code
        if not role:
            assert code == 401, path
        elif role == "labeller" or (role == "adjudicator" and wanted == "admin"):
            assert code == 403, path
        else:
            assert code == 200, path


@pytest.mark.parametrize("role", ["", "labeller", "adjudicator", "admin"])
def test_every_form_asks_who_it_is_and_for_its_token(store: Store, role: str) -> None:
    visitor = admin(store, role) if role else Visitor(store)
    token = csrf(visitor) if role else "x"
    for form, (wanted, fields) in FORMS.items():
        path = form.replace("{item}", first_item(store))
        forged = visitor.post(path, {**fields, "csrf": "forged"}).status_code
        assert forged == (403 if role else 401), path
        code = visitor.post(path, {**fields, "csrf": token}).status_code
        allowed = role == "admin" or role == wanted
        assert (code in (200, 303)) == allowed, (path, code)
        if not allowed:
            assert code == (403 if role else 401)
    if role in ("", "labeller"):  # nothing was written
        assert not any(ADJUDICATION in label.tags for label in store.labels())
        assert "new" not in store.labellers()
        assert store.campaign("pilot").overlap == 2


def test_every_route_is_in_these_tests(store: Store) -> None:
    """A page that is added has to be added to the lists above."""
    made = make_app(store)
    routes = {(r.path, m) for r in _routes(made.routes) for m in r.methods if m != "HEAD"}
    known = {(path, "GET") for path in PAGES} | {(path, "POST") for path in FORMS}
    known.add(("/admin/export/{what}", "GET"))
    assert {r for r in routes if r[0].startswith("/admin")} == known


def _routes(routes: Any) -> Any:
    for route in routes:
        if getattr(route, "methods", None):
            yield route
        inner = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", None
        )
        if inner:
            yield from _routes(inner)


def test_a_link_for_one_campaign_opens_no_other(store: Store) -> None:
    store.add_items(questions(2, campaign="secret"))
    hidden = next(iter(store.items("secret"))).id
    visitor = Visitor(store, "root", "admin")
    session = auth.issue(store, "session", "root", "admin", campaign="pilot")
    visitor.client.cookies.set("gnomon-label-80", session)
    for path in ("/admin?campaign=secret", f"/admin/items/{hidden}",
                 "/admin/export/labels.jsonl?campaign=secret"):  # fmt: skip
        assert visitor.get(path).status_code == 404, path
    assert "secret" not in visitor.page("/admin")
    fields = {**FORMS["/admin/campaign"][1], "campaign": "secret"}
    assert send(visitor, "/admin/campaign", **fields).status_code == 404
    assert send(visitor, f"/admin/items/{hidden}/decide", action="all_bad").status_code == 404
    made = send(visitor, "/admin/people/invite", campaign="pilot", name="new", role="admin",
                days="1", all="yes")  # fmt: skip
    token = re.search(r"token=([\w%-]+)", made.text)
    assert token is not None
    access = store.people.access(token[1])
    assert access is not None
    assert access.campaign == "pilot"  # nobody gives away more than they have
    other = auth.issue(store, "session", "bob", campaign="secret")
    own = auth.issue(store, "session", "bob", campaign="pilot")
    assert send(visitor, "/admin/people/revoke", campaign="pilot", name="bob",
                action="revoke").status_code == 303  # fmt: skip
    assert store.people.access(own) is None
    assert store.people.access(other) is not None
    assert send(visitor, "/admin/people/revoke", campaign="pilot", name="bob",
                action="restore").status_code == 403  # fmt: skip


# -- what they show -------------------------------------------------------------------------------


def test_how_a_campaign_stands(store: Store) -> None:
    visitor = admin(store)
    assert visitor.get("/").headers["location"] == "/admin"
    shown = text_of(visitor.get("/admin"))
    assert "questions 3" in shown
    assert "waiting 2" in shown
    assert "done 1" in shown
    assert "labels 2" in shown
    assert "1 disputed question to settle" in shown
    held = store.queue.assign("judge", "pilot")
    assert held is not None
    assert "being judged 1" in text_of(visitor.get("/admin"))  # live, without a label
    store.add_labels([ranked(list(store.items("pilot"))[1], "ann", 1.0)])
    assert "labels 3" in text_of(visitor.get("/admin"))


def test_figures_of_labellers_have_their_intervals(tmp_path: Path) -> None:
    items, labels = crowd(40)
    store = write_store(tmp_path / "crowd.db", items, people=("root",), overlap=7)
    store.add_labels(labels, add_labellers="simulated")
    visitor = admin(store)
    shown = text_of(visitor.get("/admin"))
    assert re.search(r"0\.\d\d \[-?0\.\d\d, 0\.\d\d\] Krippendorff", shown)
    assert "gus takes the answer shown first in 100% of the choices" in shown
    assert re.search(r"eva 40 \d+ s \d+% \[\d+%, \d+%\] of \d+", shown)
    people = text_of(visitor.get("/admin/people"))
    assert "names the worse side more often than a guess would" in people
    rows = [json.loads(x) for x in visitor.get("/admin/export/labellers.json").text.splitlines()]
    assert {row["labeller"] for row in rows} == {label.labeller for label in labels}
    assert all(0 <= row["gold"]["value"] <= 1 for row in rows)


def test_lists_have_pages_and_refuse_what_is_none(tmp_path: Path) -> None:
    store = write_store(tmp_path / "many.db", questions(60), people=("root",))
    visitor = admin(store)
    first = visitor.page("/admin/items?show=waiting")
    assert "60 waiting, page 1 of 3" in text_of(visitor.get("/admin/items?show=waiting"))
    assert first.count('href="/admin/items/') == 25
    last = visitor.page("/admin/items?show=waiting&page=99")
    assert last.count('href="/admin/items/') == 10
    assert visitor.get("/admin/items?show=nonsense").status_code == 404
    assert visitor.get("/admin/items/0123").status_code == 404
    assert visitor.get("/admin?campaign=none").status_code == 404


def test_what_models_and_people_wrote_is_shown_and_does_nothing(tmp_path: Path) -> None:
    item = make_item(asked(HOSTILE), [said(HOSTILE), said(f"{HOSTILE} 2")], campaign="pilot")
    store = write_store(tmp_path / "hostile.db", [item], people=("root",), settings={})
    name = "<b>eve</b>"
    label = ranked(item, name, 1.0, comment=HOSTILE, flag=HOSTILE)
    store.add_labels([label, ranked(item, "ann", 0.0)], add_labellers="person")
    visitor = admin(store)
    for path in (*PAGES, "/admin/items?show=flagged"):
        page = visitor.page(path.replace("{item}", item.id))
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "<b>eve" not in page
        assert "\u202e" not in page
    whole = visitor.page(f"/admin/items/{item.id}")
    assert "&lt;script&gt;alert" in whole
    assert "&lt;b&gt;eve" in whole
    store.set_campaign(Campaign(HOSTILE.replace("\u202e", "")))
    assert "<script>alert" not in visitor.page("/admin")  # where a campaign has to be chosen


def test_labellers_never_see_what_admins_know(store: Store) -> None:
    visitor = admin(store)
    item = first_item(store)
    send(visitor, f"/admin/items/{item}/gold", action="gold", rank_1="1", rank_2="2")
    page = admin(store, "labeller").page("/label")
    assert "gold" not in page.lower()
    assert 'href="/admin"' not in page
    assert "gold" not in admin(store, "adjudicator").page("/admin").lower()
    assert admin(store, "adjudicator").get("/admin/items?show=gold").status_code == 404


# -- what they do ---------------------------------------------------------------------------------


def test_a_dispute_is_settled_changed_and_taken_back(store: Store) -> None:
    visitor, item = admin(store, "adjudicator"), first_item(store)
    path = f"/admin/items/{item}/decide"
    missing = send(visitor, path, action="rank", rank_1="1")
    assert missing.status_code == 422
    assert "give a rank to answer 2" in missing.text
    assert send(visitor, path, action="what").status_code == 400
    assert send(visitor, path, action="undo").status_code == 400
    done = send(visitor, path, action="rank", rank_1="2", rank_2="1", comment="see the source")
    assert done.status_code == 303
    assert "Decided by judge" in text_of(visitor.get(done.headers["location"]))
    assert "0 disputed" in text_of(visitor.get("/admin/items"))
    send(visitor, path, action="rank", rank_1="1", rank_2="1")
    send(visitor, path, action="undo")
    assert "1 disputed" in text_of(visitor.get("/admin/items"))
    own = list(store.labels(labeller="judge"))
    assert [(x.kind, x.ranks) for x in own] == [
        ("ranking", (2.0, 1.0)), ("ranking", (1.0, 1.0)), ("skip", ()),
    ]  # fmt: skip
    assert [x.replaces for x in own] == [None, own[0].id, own[1].id]  # nothing is overwritten
    assert len(list(store.labels())) == 5


@pytest.mark.parametrize(
    ("settings", "name", "kind", "values"),
    [
        ({"ask": "approval"}, "good", "approvals", (True, False)),
        ({"ask": "rating", "scale": 3}, "rating", "ratings", (3.0, 1.0)),
    ],
)
def test_a_decision_is_of_the_kind_that_is_asked_for(
    store: Store, settings: dict[str, Any], name: str, kind: str, values: tuple[Any, ...]
) -> None:
    """By ranks alone nobody could say how good an answer is: its score would be missing."""
    store.set_campaign(replace(store.campaign("pilot"), settings=settings))
    visitor, item = admin(store, "adjudicator"), first_item(store)
    path = f"/admin/items/{item}/decide"
    sent = ("good", "bad") if name == "good" else ("3", "1")
    fields = {f"{name}_{i}": value for i, value in enumerate(sent, start=1)}
    half = {f"{name}_1": fields[f"{name}_1"]}
    assert send(visitor, path, action="rank", **half).status_code == 422
    assert send(visitor, path, action="rank", **fields).status_code == 303
    (label,) = store.labels(labeller="judge")
    assert getattr(label, kind) == values
    page = visitor.page(f"/admin/items/{item}")
    assert page.count(" selected") == 2
    bad = send(visitor, path, action="all_bad").status_code
    assert bad == (400 if name == "rating" else 303)


def test_a_gold_question_is_made_and_unmade(store: Store) -> None:
    visitor, item = admin(store), first_item(store)
    path = f"/admin/items/{item}/gold"
    assert send(visitor, path, action="gold", rank_1="9", rank_2="1").status_code == 422
    send(visitor, path, action="gold", rank_1="1", rank_2="2")
    assert store.item(item).gold == (1.0, 2.0)
    shown = text_of(visitor.get("/admin"))
    assert "gold questions 1" in shown
    assert "questions 2" in shown
    people = text_of(visitor.get("/admin/people"))
    assert re.search(r"ann .* right on gold 100% ", people)
    assert re.search(r"bob .* right on gold 0% ", people)
    send(visitor, path, action="plain")
    assert store.item(item).gold is None


def test_how_it_is_run_and_what_it_costs(store: Store) -> None:
    visitor = admin(store)
    fields = dict(FORMS["/admin/campaign"][1], overlap="1", price_label="0.25", price_hour="18")
    assert send(visitor, "/admin/campaign", **fields).status_code == 303
    about = store.campaign("pilot")
    assert (about.overlap, about.gold_rate, about.minutes, about.open) == (1, 0.1, 5.0, True)
    assert about.guideline == "v1"
    money = 2 * (0.25 + 20 / 3600 * 18)  # two labels of 20 s
    assert f"cost so far {money:.2f} €" in text_of(visitor.get("/admin"))
    for bad in ({"overlap": "0"}, {"gold": "101"}, {"price_label": "-1"}, {"minutes": "soon"},
                {"price_hour": "nan"}, {"overlap": "1e999"}):  # fmt: skip
        answered = send(visitor, "/admin/campaign", **(fields | bad))
        assert answered.status_code == 422, bad
    assert store.campaign("pilot") == about
    send(visitor, "/admin/campaign", **(fields | {"open": "no"}))
    assert store.queue.assign("ann", "pilot") is None


def test_an_invitation_lets_one_person_in_once(store: Store) -> None:
    visitor = admin(store)
    made = send(visitor, "/admin/people/invite", campaign="pilot", name="zoe", role="labeller",
                days="2")  # fmt: skip
    assert made.status_code == 200
    link = re.search(r'value="http://localhost(/join\?token=[^"]+)"', made.text)
    assert link is not None
    token = link[1].partition("token=")[2]
    guest = Visitor(store)
    assert guest.post("/join", {"token": token}).status_code == 303
    assert guest.get("/label").status_code == 200
    assert guest.get("/admin").status_code == 403
    again = Visitor(store).post("/join", {"token": token})
    assert again.status_code == 401
    assert "has been used" in again.text
    raw = Path(store.where).read_bytes()
    assert token.encode() not in raw
    gone = send(visitor, "/admin/people/revoke", campaign="pilot", name="zoe", action="revoke")
    assert gone.status_code == 303
    assert guest.get("/label").status_code == 401
    refused = send(visitor, "/admin/people/invite", campaign="pilot", name="zoe", role="labeller",
                   days="2")  # fmt: skip
    assert refused.status_code == 422
    assert "restore them first" in text_of(refused)
    send(visitor, "/admin/people/revoke", campaign="pilot", name="zoe", action="restore")
    assert next(p for p in store.people.all() if p.name == "zoe").active
    assert send(visitor, "/admin/people/revoke", campaign="pilot", name="root",
                action="revoke").status_code == 400  # fmt: skip
    for name in ("", "x" * 61, "a\nb"):
        answered = send(visitor, "/admin/people/invite", campaign="pilot", name=name,
                        role="labeller", days="1")  # fmt: skip
        assert answered.status_code == 422, name
    assert send(visitor, "/admin/people/revoke", campaign="pilot", name="nobody",
                action="revoke").status_code == 400  # fmt: skip


def test_labels_are_taken_away_as_they_are(store: Store) -> None:
    answered = admin(store).get("/admin/export/labels.jsonl")
    assert "attachment" in answered.headers["content-disposition"]
    rows = [json.loads(line) for line in answered.text.splitlines()]
    assert [(row["labeller"], row["ranks"]) for row in rows] == [
        ("ann", [1.0, 2.0]), ("bob", [2.0, 1.0]),
    ]  # fmt: skip
    assert rows[0]["cost"]["seconds"] == 20.0
    assert admin(store).get("/admin/export/everything.zip").status_code == 404
    half = Label("h", first_item(store), "ann", "skip", comment="half \ud800 a character")
    store.add_labels([half])
    assert admin(store).get("/admin/export/labels.jsonl").status_code == 200


def test_a_slow_overview_is_shown_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.feedback.admin_pages.SLOW", 0.0)
    now = [0.0]
    monkeypatch.setattr("gnomon.feedback.admin_pages.time.monotonic", lambda: now[0])
    made = admin_pages._overview

    def slowly(*asked: Any) -> Any:
        now[0] += 3.0
        return made(*asked)

    monkeypatch.setattr("gnomon.feedback.admin_pages._overview", slowly)
    board, about = admin_pages.Board(), store.campaign("pilot")
    first = board.read(store, about)
    store.add_labels([ranked(list(store.items("pilot"))[1], "ann", 1.0)])
    now[0] += 14.0
    assert board.read(store, about) is first
    now[0] += 2.0
    assert board.read(store, about).overview.labels == first.overview.labels + 1
