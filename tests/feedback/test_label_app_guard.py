"""Who is let in, who may do what, and that nothing a model or a person wrote can do anything."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from gnomon.errors import ConfigError, DataError
from gnomon.feedback import auth, render
from gnomon.feedback.auth import Paces
from gnomon.feedback.identity import make_item
from gnomon.feedback.serve import LabelServer, invitation, link, revoke_all
from gnomon.feedback.store import Campaign, Guideline
from label_world import Visitor, asked, form_of, item_of, labels, questions, said, write_store

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</textarea></template></select><script>alert(2)</script>",
    '"><svg onload=alert(3)>',
    "' onfocus=alert(4) autofocus='",
    "[click](javascript:alert(5)) ![i](http://track.example/p.png) <http://x.example/a>",
    "$\\text{<script>alert(6)</script>}$ and \\[\\href{javascript:alert(7)}{x}\\]",
    '```"><script>alert(8)</script>\ncode</code></pre><script>alert(9)</script>\n```',
    "'; DROP TABLE labels; --",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;script&gt; &#x202E;fake &#0;",
    "nul\x00 bell\x07 esc\x1b[31m turned\u202egnp.exe\u202c unseen\u200b half\ud800 \x85 sep\u2028",
]


class Tags(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(page: str) -> Tags:
    """Check that a page has no element or attribute that could act; what it holds."""
    found = Tags(page)
    for tag, attributes in found.tags:
        assert tag not in ("iframe", "object", "embed", "img", "svg", "style", "base", "frame")
        if tag == "script":
            assert attributes == {"src": "/static/label.js", "defer": None}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("style", "srcdoc", "autofocus", "formaction")
            if name in ("href", "src", "action"):
                assert re.match(r"(/(?!/)|#|data:,|https?://|mailto:)", value or "")
    for character in page:
        assert character in "\n\t" or ord(character) >= 32
        assert not 0x202A <= ord(character) <= 0x202E
        assert not 0x2066 <= ord(character) <= 0x2069
        assert not 0xD800 <= ord(character) < 0xE000
    return found


@pytest.fixture
def store(tmp_path):
    with write_store(tmp_path / "labels.db", questions(2)) as opened:
        yield opened


def team_link(store) -> str:
    store.add_labeller(auth.NEWCOMERS, "program")
    return auth.issue(store, "join", auth.NEWCOMERS)


# -- what models and people wrote -----------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_whole_and_does_nothing(text):
    shown = render.show(text).head
    found = harmless(str(shown))
    if "&" not in text:
        for part in re.findall(r"[^\W_]{2,}", render.visible(text)):
            assert part in found.text


@pytest.mark.parametrize("kind", ["ranking", "rating", "edit"])
def test_hostile_text_everywhere_on_every_page(tmp_path, kind):
    everything = "\n\n".join(HOSTILE)
    answers = [said(everything), said(HOSTILE[2]), said("")]
    items = [make_item(asked(everything, system=HOSTILE[0]), answers, campaign="pilot")]
    name = "<b onmouseover=alert(1)>'\"--"
    tag = HOSTILE[3]
    settings = {"ask": kind, "question": HOSTILE[1], "tags": [tag], "low": HOSTILE[4]}
    store = write_store(tmp_path / "l.db", items, settings, people=[name], overlap=1)
    store.add_guideline(Guideline("<i>v2", everything))
    store.set_campaign(Campaign("pilot", guideline="<i>v2", settings=settings))
    visitor = Visitor(store, name)
    page = visitor.page()
    text = harmless(page).text
    for part in (
        "DROP TABLE labels",
        "⟨U+202E⟩gnp.exe",
        "⟨U+D800⟩",
        "␀",
        "alert(9)",
        "{{ 7 * 7 }}",
    ):
        assert text.count(part) >= 3, part  # prompt, an answer, the guidelines
    path = form_of(page)[0]
    given = {"rank_1": 1, "rank_2": 2, "rank_3": 3, "rating_1": 1, "rating_2": 2, "rating_3": 3,
             "edit": everything.replace("\ud800", ""), "tag": tag,
             "comment": everything.replace("\ud800", "")}  # fmt: skip
    draft = form_of(page)[1] | given
    assert visitor.post(path.replace("/label/", "/draft/"), draft).status_code == 200
    harmless(visitor.page())
    refused = visitor.answer(page, **given | {"confidence": '"><script>'})
    assert refused.status_code == 422
    harmless(refused.text)
    assert visitor.answer(page, **given).status_code == 303
    (label,) = labels(store)
    assert label.comment == everything.replace("\ud800", "").strip()  # as it was written
    assert label.tags == (tag,)
    for where in ("/label", path, "/mine", "/guideline", f"{path}/whole/1/0", f"{path}/whole/0/1"):
        harmless(visitor.page(where))
    harmless(visitor.get("/label?campaign=" + "%3Cscript%3E").text)
    harmless(visitor.get("/%3Cscript%3Ealert(1)").text)


def test_an_answer_of_a_megabyte_is_folded_and_all_there(tmp_path):
    start = time.process_time()
    text = "".join(f"line {i} of very many\n" for i in range(48_000))
    long = "[" * 1_000_000
    item = make_item(asked("Count."), [said(text), said(long)], campaign="pilot")
    visitor = Visitor(write_store(tmp_path / "l.db", [item]), "ann")
    page = visitor.page()
    assert "line 10 of" in page
    assert "Show the other" in page
    assert len(page) < 1_500_000
    link_ = re.search(r'href="(/label/\w+/whole/\d/0)"[^>]*>Open all 1,0', page)
    assert link_ is not None
    for place in (1, 2):
        whole = visitor.page(f"/label/{item.id}/whole/{place}/0")
        harmless(whole)
        shown = whole[whole.index("<pre") :]
        assert shown.count("[") == 1_000_000 or "line 47999 of very many" in shown
    assert visitor.get(f"/label/{item.id}/whole/3/0").status_code == 404
    assert visitor.get(f"/label/{item.id}/whole/1/-1").status_code == 404
    assert time.process_time() - start < 120  # a parser of squares would need hours


def test_markdown_that_would_swallow_words_is_shown_as_it_was_written():
    for text in ("a|b\n-|-\n1|2|left out\n", "".join("  " * i + f"- item{i}\n" for i in range(60))):
        assert "<pre" in render.markdown(text)
        for word in re.findall(r"\w+", text):
            assert word in render.markdown(text)
    assert "<table>" in render.markdown("a|b\n-|-\n1|2\n")
    assert "[unused]: http://hidden.example" in render.markdown("[unused]: http://hidden.example")


def test_code_tables_and_maths_are_what_they_are():
    shown = render.markdown(
        "Costs $5 and $6.\n\n$x^2 < \\frac{1}{2}$ \\(a*b*c\\)\n\n$$\ny = 1\n- z\n$$"
    )
    assert "Costs $5 and $6." in shown
    assert shown.count("<math") == 3
    assert "<mfrac>" in shown
    assert "<li>" not in shown
    assert "<em>" not in shown
    code = render.markdown("```python\nif a < b:\n    pass\n```")
    assert "if a &lt; b:\n    pass" in code
    assert "python" in code
    assert '<code class="tex">\\frac{' in render.markdown("$\\frac{$")  # cannot be read: as written


# -- links, cookies, roles ------------------------------------------------------------------------


def test_anybody_joins_by_the_link_under_a_pseudonym_that_is_free(store):
    visitor = Visitor(store)
    token = team_link(store)
    assert "Begin" in visitor.page(f"/join?token={token}")
    for name, words_ in (("ann", "somebody already"), ("ANN", "somebody already"),
                         ("", "pseudonym of 1"), ("x" * 61, "pseudonym of 1"),
                         ("a\x07b", "control characters")):  # fmt: skip
        answered = visitor.post("/join", {"token": token, "name": name})
        assert answered.status_code == 422, name
        assert words_ in answered.text
    answered = visitor.post("/join", {"token": token, "name": "heron"})
    assert answered.status_code == 303
    cookie = answered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert item_of(visitor.page())
    assert "heron" in store.labellers()
    later = Visitor(store)  # another server: the link goes on
    assert later.post("/join", {"token": token, "name": "owl"}).status_code == 303
    store.people.revoke(labeller=auth.NEWCOMERS)
    assert later.post("/join", {"token": token, "name": "rook"}).status_code == 401
    assert later.get("/label").status_code == 200  # who has joined stays
    token = team_link(store)
    tls = visitor.post("/join", {"token": token, "name": "emu"}, **{"x-forwarded-proto": "https"})
    assert "Secure" in tls.headers["set-cookie"]


def test_an_invitation_works_once_and_says_so_after(store, tmp_path):
    url = invitation(str(tmp_path / "labels.db"), "cleo", url="http://localhost")
    path = url.removeprefix("http://localhost")
    first, second = Visitor(store), Visitor(store)
    assert "Welcome, <bdi>cleo</bdi>" in first.page(path)
    assert "Welcome, <bdi>cleo</bdi>" in second.page(path)  # looking uses nothing up
    token = path.partition("token=")[2]
    assert first.post("/join", {"token": token}).status_code == 303
    assert "cleo" in first.page()
    for answered in (second.post("/join", {"token": token}), second.get(path)):
        assert answered.status_code == 401
        assert "it has been used" in answered.text
    assert second.get("/label").status_code == 401
    assert "cleo" in first.page()  # and goes on in the first browser


def test_a_token_is_good_for_its_own_use_alone(store):
    once = auth.issue(store, "once", "ann")
    visitor = Visitor(store)
    visitor.client.cookies.set("gnomon-label-80", once)
    assert visitor.get("/label").status_code == 401
    for token in (once.replace("once", "link"), once.replace("once", "session"), once + "x", ""):
        assert visitor.post("/join", {"token": token}).status_code == 401
    session = auth.issue(store, "session", "ann")
    assert visitor.post("/join", {"token": session}).status_code == 401
    with store.db.read() as connection:
        from gnomon.feedback import schema as t

        kept = [row.digest for row in connection.execute(t.access.select())]
    assert not any(secret.partition("-")[2] in digest for secret in (once, session)
                   for digest in kept)  # fmt: skip
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in kept)


def test_what_is_revoked_or_expired_lets_nobody_in(store, tmp_path):
    old = auth.issue(store, "link", "ann", days=-1)
    visitor = Visitor(store)
    assert "has expired" in visitor.get(f"/join?token={old}").text
    many = invitation(str(tmp_path / "labels.db"), "ann", many=True, url="http://localhost")
    token = many.partition("token=")[2]
    browsers = [Visitor(store), Visitor(store)]
    for browser in browsers:
        assert browser.post("/join", {"token": token}).status_code == 303
        assert browser.get("/label").status_code == 200
    assert revoke_all(str(tmp_path / "labels.db"), "ann") >= 3
    for browser in browsers:
        assert browser.get("/label").status_code == 401
        assert browser.post("/join", {"token": token}).status_code == 401
    with pytest.raises(DataError, match="did you mean 'ann'"):
        revoke_all(str(tmp_path / "labels.db"), "anne")
    with pytest.raises(ConfigError, match="adjudicator"):
        invitation(str(tmp_path / "labels.db"), "ann", "adjudicater", url="http://x")
    with pytest.raises(ConfigError, match="no address"):
        invitation(str(tmp_path / "labels.db"), "ann", url="javascript:x")


def test_whoever_is_no_longer_active_is_out(store):
    ann = Visitor(store, "ann")
    assert ann.get("/label").status_code == 200
    store.people.set_active("ann", False)
    assert ann.get("/label").status_code == 401


def test_leaving_ends_the_session(store):
    ann = Visitor(store, "ann")
    csrf = re.search(r'name="csrf" value="(\w+)"', ann.page("/mine"))[1]
    assert ann.post("/leave", {"csrf": "x"}).status_code == 403
    assert ann.post("/leave", {"csrf": csrf}).status_code == 200
    ann.client.cookies.set("gnomon-label-80", ann.session)  # a copy of the cookie
    assert ann.get("/label").status_code == 401


def test_another_page_cannot_send_a_form(store):
    ann, bob = Visitor(store, "ann"), Visitor(store, "bob")
    page = ann.page()
    path, hidden = form_of(page)
    sent = hidden | {"choice": "1"}
    bobs = form_of(bob.page())[1]["csrf"]
    for csrf in ("", "x", bobs, None):
        fields = {k: v for k, v in (sent | {"csrf": csrf}).items() if v is not None}
        for where in (path, path.replace("/label/", "/draft/")):
            answered = ann.post(where, fields)
            assert answered.status_code == 403
            assert "Nothing was written" in answered.text
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert ann.post(path, sent, **headers).status_code == 403
    assert ann.post(path, sent, Host="evil.example").status_code == 421
    assert ann.get("/label", headers={"Host": "evil.example"}).status_code == 421
    assert ann.post(path, sent | {"ticket": "../../x"}).status_code == 400
    assert ann.post(path, {"comment": "x" * 1_100_000}).status_code == 413
    assert labels(store) == []
    assert store.queue.draft("ann", item_of(page)) is None


def test_every_answer_forbids_what_the_pages_do_not_need(store):
    visitor = Visitor(store, "ann")
    for path in ("/label", "/mine", "/nope", "/join?token=x", "/static/label.js"):
        policy = visitor.get(path).headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
    for name in ("label.css", "label.js"):
        text = visitor.page(f"/static/{name}")
        assert "http" not in text
        assert "@import" not in text
        assert "innerHTML" not in text
    for name in ("..%2fapp.py", "%2e%2e/app.py", "app.py", "none.css"):
        assert visitor.get(f"/static/{name}").status_code == 404


@pytest.fixture
def now(monkeypatch):
    """The time by which paces are kept: it stands still unless a test moves it."""
    clock = [100.0]
    monkeypatch.setattr("gnomon.feedback.auth.time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def test_guessing_links_is_slowed_down_by_address(store, now):
    visitor = Visitor(store)
    good = team_link(store)
    status = [visitor.get(f"/join?token=once-{i}").status_code for i in range(14)]
    assert status == [401] * 10 + [429] * 4
    answered = visitor.get(f"/join?token={good}")
    assert answered.status_code == 429
    assert int(answered.headers["Retry-After"]) > 0
    assert Visitor(store, "ann", app=visitor.app).get("/label").status_code == 200  # who is in


def test_one_labeller_cannot_flood_the_others(store, now):
    ann = Visitor(store, "ann")
    ann.app.state.desk.paces = Paces(burst=5, rate=0.001)
    assert [ann.get("/mine").status_code for _ in range(7)] == [200] * 5 + [429] * 2
    assert Visitor(store, "bob", app=ann.app).get("/mine").status_code == 200


def test_paces_give_back_in_time_and_forget(now):
    paces = Paces(burst=2, rate=1, most=3)
    assert [paces.take(name) for name in "aabbccdd"] == [0] * 8
    assert len(paces._left) == 3
    slow = Paces(burst=1, rate=0.01)
    assert slow.take("a") == 0
    now[0] += 0.5
    assert slow.take("a") == 100
    assert slow.wait("a") == 100
    now[0] += 99.5
    assert slow.wait("a") == 0
    assert slow.take("a") == 0


def test_roles_are_ordered(store):
    from fastapi import APIRouter

    from gnomon.feedback.app import make_app

    router = APIRouter()

    @router.get("/settle")
    def settle(who: auth.Adjudicating) -> str:
        return who.labeller

    @router.get("/run")
    def run(who: auth.Running) -> str:
        return who.labeller

    app = make_app(store)
    app.include_router(router)
    seen = {}
    for role in ("labeller", "adjudicator", "admin"):
        visitor = Visitor(store, "ann", role, app=app)
        seen[role] = [visitor.get(path).status_code for path in ("/settle", "/run")]
    assert seen == {"labeller": [403, 403], "adjudicator": [200, 403], "admin": [200, 200]}
    assert Visitor(store, app=app).get("/settle").status_code == 401


def test_a_token_of_one_campaign_opens_no_other(store):
    store.add_items(questions(1, campaign="deux"))
    visitor = Visitor(store)
    session = auth.issue(store, "session", "ann", campaign="deux")
    visitor.client.cookies.set("gnomon-label-80", session)
    assert visitor.get("/label?campaign=pilot").status_code == 404
    assert "of 1 done" in visitor.page()


def test_what_nobody_foresaw_is_a_page_and_the_rest_goes_on(store, monkeypatch):
    from gnomon.feedback import pages

    ann = Visitor(store, "ann")
    ann.client._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    monkeypatch.setattr(pages, "mine", lambda *_: 1 / 0)
    answered = ann.get("/mine")
    assert answered.status_code == 500
    assert "ZeroDivisionError" in answered.text
    assert "Traceback" not in answered.text
    assert ann.get("/label").status_code == 200


def test_the_server_prints_a_link_for_each_role(tmp_path):
    write_store(tmp_path / "l.db").close()
    server = LabelServer(str(tmp_path / "l.db"), "pilot")
    assert [role for role, _ in server.links] == ["labellers", "adjudicator", "admin"]
    assert all(url.startswith(server.address + "join?token=") for _, url in server.links)
    assert link("http://a/", "once-x") == "http://a/join?token=once-x"
    port = int(server.address.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ConfigError, match="choose another with --port"):
        LabelServer(str(tmp_path / "l.db"), port=port)
    with pytest.raises(DataError, match="no campaign 'pilo'"):
        LabelServer(str(tmp_path / "l.db"), "pilo")
    with pytest.raises(DataError, match="no such store"):
        LabelServer(str(tmp_path / "none.db"))
    server._socket.close()
