"""The labelling app in headless Chromium: by keys, by dragging, without script, on a phone, read
aloud, and while the server is gone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from itertools import product

import pytest

from gnomon.feedback import auth
from gnomon.feedback.answers import order
from gnomon.feedback.identity import make_item
from gnomon.feedback.records import standing
from gnomon.feedback.serve import LabelServer
from label_world import asked, item_of, labels, questions, said, write_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MANY = """# Title

Text with `code` and [a link](http://example.org/x).

```python
x = 1
```

| a | b |
|---|---|
| 1 | 2 |

$$x = \\frac{1}{2}$$

> said

- one
- two"""
HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
  document.dispatchEvent(new Event('visibilitychange')); }"""
SHIFT = """ms => {
  const now = performance.now.bind(performance);
  performance.now = () => now() + ms; }"""
FOCUSED = """() => {
  const one = document.activeElement;
  const shown = one.matches('.pick input') ? one.nextElementSibling : one;
  const name = one.name || one.textContent.trim().slice(0, 20);
  return [name, getComputedStyle(shown).outlineStyle]; }"""


@pytest.fixture(scope="module")  # while it is open, nothing else can run an event loop
def browser() -> Iterator[object]:
    sync = pytest.importorskip("playwright.sync_api", reason="Chromium is not here: no playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not here")
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def world(browser, tmp_path):
    """Opens a tab for ann over a store that is made as asked; checks what the console said."""
    opened, servers = [], []

    def start(items=None, settings=None, page="/label", **context):
        name = str(tmp_path / f"labels{len(servers)}.db")
        write_store(tmp_path / f"labels{len(servers)}.db", items, settings).close()
        server = LabelServer(name)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        at = server.address.rstrip("/")
        made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        port = at.rsplit(":", 1)[1]
        session = auth.issue(server.store, "session", "ann")
        made.add_cookies([{"name": f"gnomon-label-{port}", "value": session, "url": at}])
        tab = made.new_page()
        tab.said, tab.at, tab.store, tab.server = [], at, server.store, server
        tab.on("console", lambda message: tab.said.append(message.text))
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.on(
            "request",
            lambda r: tab.said.append(r.url) if not r.url.startswith((at, "data:")) else 0,
        )
        tab.set_default_timeout(60_000)
        tab.goto(at + page)
        opened.append((made, tab))
        return tab

    yield start
    for made, _ in opened:
        made.close()
    for server, thread in servers:
        server.stop()
        thread.join(timeout=60)
        server.store.close()


def ready(tab, done: int) -> None:
    tab.get_by_text(f"{done} of ").wait_for()
    tab.locator("#ask[data-ready]").wait_for()


def kept(tab):
    return labels(tab.store)


def best(tab, label) -> str:
    """Which answer a label likes best: its place on the page, from 1."""
    ranks = [label.ranks[i] for i in order("ann", tab.store.item(label.item))]
    return str(1 + ranks.index(1))


def test_pairs_by_keys_and_undo(world):
    tab = world()
    for done, key in enumerate(("2", "1")):
        ready(tab, done)
        tab.keyboard.press(key)
        tab.keyboard.press("Enter")
    ready(tab, 2)
    assert [best(tab, label) for label in kept(tab)] == ["2", "1"]
    tab.keyboard.press("u")
    tab.get_by_text("You are changing your answer").wait_for()
    tab.locator("#ask[data-ready]").wait_for()
    assert tab.locator("#answer-1.chosen").count() == 1
    tab.keyboard.press("t")
    tab.keyboard.press("Enter")
    tab.get_by_text("Your new answer replaces").wait_for()
    assert standing(kept(tab))[-1].ranks == (1, 1)
    tab.locator("#ask[data-ready]").wait_for()
    tab.keyboard.press("s")
    tab.get_by_text("That is all for now").wait_for()
    assert len(kept(tab)) == 4
    assert all(0 <= label.cost.seconds < 60 for label in kept(tab))
    assert tab.said == []


def test_a_ranking_by_keys(world):
    tab = world(questions(2, 4))
    ready(tab, 0)
    for key in ("3", "1", "=", "4", "2"):
        tab.keyboard.press(key)
    tab.keyboard.press("Backspace")
    tab.keyboard.press("2")
    values = tab.locator("select[data-rank-of]").evaluate_all("all => all.map(one => one.value)")
    assert values == ["2", "3", "1", "2"]
    assert tab.locator('[data-rank="2"] .chip').all_text_contents() == ["1", "4"]
    tab.locator(".chip", has_text="2").focus()
    tab.keyboard.press("ArrowUp")
    tab.get_by_text("Answer 2: rank 2 of 4, tied with 1 and 4").wait_for()
    assert tab.evaluate("document.activeElement.textContent") == "2"
    tab.locator("h1").click()
    tab.keyboard.press("Enter")
    ready(tab, 1)
    (label,) = kept(tab)
    item = tab.store.item(label.item)
    assert [label.ranks[i] for i in order("ann", item)] == [2, 2, 1, 2]
    assert tab.said == []


@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, {"width": 390, "height": 844}])
def test_a_ranking_by_dragging(world, size):
    tab = world(questions(2, 3), viewport=size)
    ready(tab, 0)
    for place, rank in (("2", 1), ("1", 2), ("3", 2), ("1", 3)):
        tab.locator("#board").scroll_into_view_if_needed()
        tab.locator("#board").evaluate("one => one.scrollIntoView({block: 'center'})")
        chip = tab.locator(".chip", has_text=place).bounding_box()
        zone = tab.locator(f'#board li[data-rank="{rank}"]').bounding_box()
        tab.mouse.move(chip["x"] + chip["width"] / 2, chip["y"] + chip["height"] / 2)
        tab.mouse.down()
        tab.mouse.move(zone["x"] + zone["width"] - 12, zone["y"] + zone["height"] - 12, steps=4)
        tab.mouse.up()
    assert tab.locator('select[name="rank_1"]').input_value() == "3"
    tab.get_by_role("button", name="Save").click()
    ready(tab, 1)
    (label,) = kept(tab)
    assert [label.ranks[i] for i in order("ann", tab.store.item(label.item))] == [3, 1, 2]
    assert tab.said == []


def test_a_ranking_by_selects_is_on_the_board_too(world):
    tab = world(questions(1, 3))
    ready(tab, 0)
    for place, rank in (("1", "2"), ("2", "1"), ("3", "2")):
        tab.get_by_label(f"Rank of answer {place}").select_option(rank)
    assert tab.locator('[data-rank="2"] .chip').all_text_contents() == ["1", "3"]
    assert tab.locator("#answer-2.chosen").count() == 1


def test_ratings_and_good_or_bad_by_keys(world):
    tab = world(questions(2, 2), {"ask": "rating"})
    ready(tab, 0)
    for key in ("4", "ArrowUp", "2", "5", "Enter"):  # the first again, then the second
        tab.keyboard.press(key)
    ready(tab, 1)
    (label,) = kept(tab)
    assert [label.ratings[i] for i in label.shown] == [2, 5]
    tab = world(questions(2, 3), {"ask": "approval"})
    ready(tab, 0)
    for key in ("g", "b", "g", "Enter"):
        tab.keyboard.press(key)
    ready(tab, 1)
    (label,) = kept(tab)
    assert [label.approvals[i] for i in label.shown] == [True, False, True]
    assert tab.said == []


def test_an_edit_begins_with_any_answer(world):
    tab = world(questions(1, 2), {"ask": "edit"})
    ready(tab, 0)
    tab.get_by_role("button", name="Begin with answer 2").click()
    box = tab.get_by_label("Your better answer")
    item = tab.store.item(item_of(tab.content()))
    assert box.input_value() == item.responses[order("ann", item)[1]].text
    tab.keyboard.press("s")  # a letter, not a command
    box.fill("It is 0. 1 2 3 s u ?")
    tab.keyboard.press("Control+Enter")
    tab.get_by_text("That is all for now").wait_for()
    assert kept(tab)[0].edit == "It is 0. 1 2 3 s u ?"
    assert tab.said == []


def test_a_draft_is_kept_and_comes_back_with_its_time(world):
    tab = world()
    ready(tab, 0)
    tab.keyboard.press("2")
    tab.get_by_label("Comment").fill("half a thought")
    tab.get_by_text("Draft saved").wait_for()
    before = float(tab.locator("[data-seconds]").input_value())
    tab.reload()
    ready(tab, 0)
    assert tab.get_by_label("Comment").input_value() == "half a thought"
    assert tab.locator('input[value="2"][name="choice"]').is_checked()
    assert float(tab.locator("[data-seconds]").input_value()) >= before > 0
    assert kept(tab) == []


def test_time_runs_only_while_the_page_is_seen(world):
    tab = world()
    ready(tab, 0)
    tab.evaluate(HIDE, True)
    tab.evaluate(SHIFT, 100_000)  # a minute and more in another tab
    tab.evaluate(HIDE, False)
    tab.keyboard.press("1")
    tab.evaluate(SHIFT, 50_000)  # and most of one looking
    tab.keyboard.press("Enter")
    ready(tab, 1)
    seconds = kept(tab)[0].cost.seconds
    assert 50 <= seconds < 90


def test_nobody_in_front_of_the_page_is_no_work(world):
    tab = world()
    ready(tab, 0)
    tab.evaluate(SHIFT, 3_600_000)
    tab.keyboard.press("1")
    tab.keyboard.press("Enter")
    ready(tab, 1)
    assert 110 < kept(tab)[0].cost.seconds < 160  # two minutes until nobody is there


def test_a_server_that_is_gone_loses_nothing(world):
    tab = world()
    ready(tab, 0)
    tab.route("**/label/*", lambda route: route.abort())
    tab.route("**/draft/*", lambda route: route.abort())
    tab.keyboard.press("2")
    tab.get_by_text("No connection").wait_for()
    tab.keyboard.press("Enter")
    tab.get_by_text("Nothing on this page is lost").wait_for()
    assert kept(tab) == []
    tab.unroute("**/label/*")
    tab.unroute("**/draft/*")
    tab.keyboard.press("Enter")
    ready(tab, 1)
    assert len(kept(tab)) == 1


def test_what_is_missing_is_said_without_leaving_the_page(world):
    tab = world(questions(1, 3))
    ready(tab, 0)
    tab.keyboard.press("2")
    tab.locator("#ask").evaluate("one => { one.noValidate = true; }")
    tab.keyboard.press("Enter")
    alert = tab.get_by_role("alert")
    alert.wait_for()
    assert "give a rank to answer 1, 3" in alert.text_content()
    assert tab.locator('select[name="rank_2"]').input_value() == "1"


def test_keys_can_be_turned_off(world):
    tab = world()
    ready(tab, 0)
    tab.keyboard.press("?")
    tab.get_by_role("dialog").wait_for()
    tab.get_by_label("Keys work on this browser").uncheck()
    tab.get_by_role("button", name="Close").click()
    tab.keyboard.press("1")
    assert tab.locator('input[name="choice"]:checked').count() == 0
    tab.reload()
    ready(tab, 0)
    tab.keyboard.press("1")
    assert tab.locator('input[name="choice"]:checked').count() == 0


def test_without_script_all_that_matters_works(world):
    tab = world(questions(2, 3), java_script_enabled=False)
    for place, rank in (("1", "2"), ("2", "1"), ("3", "2")):
        tab.get_by_label(f"Rank of answer {place}").select_option(rank)
    tab.get_by_label("Comment").fill("by hand")
    assert not tab.locator("#board").is_visible()
    tab.get_by_role("button", name="Save").click()
    tab.get_by_text("1 of 2").wait_for()
    tab.get_by_role("button", name="All are bad").click()
    tab.get_by_text("That is all for now").wait_for()
    tab.get_by_role("link", name="Change my last answer").click()
    tab.get_by_role("button", name="Skip").click()
    tab.get_by_text("Your new answer replaces").wait_for()
    assert [label.kind for label in kept(tab)] == ["ranking", "all_bad", "skip"]
    assert kept(tab)[0].comment == "by hand"


ASKS = [("ranking", 2), ("ranking", 4), ("rating", 2), ("approval", 3), ("edit", 1)]
PAGES = {ASKS[0]: ("/label", "/mine", "/guideline", "/join?token=x")}
"""The pages looked at; the others than the first are the same whatever is asked."""
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"], "resultTypes": ["violations"]}
"""The rules of axe that look at colours; the others say the same in the light and in the dark."""


@pytest.mark.parametrize(("ask", "size"), ASKS)
def test_it_fits_a_phone_and_is_accessible_in_light_and_dark(world, ask, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    texts = [f"{MANY}\n\n{'word ' * (2000 if i == 0 else 20)}{i}" for i in range(size)]
    item = make_item(asked(MANY, system="Be kind."), [said(text) for text in texts],
                     campaign="pilot")  # fmt: skip
    tab = world([item, *questions(1, size)], {"ask": ask, "tags": ["right", "clear"]},
                viewport={"width": 390, "height": 844})  # fmt: skip
    for path, width in product(PAGES.get((ask, size), ("/label",)), (390, 1280)):
        tab.set_viewport_size({"width": width, "height": 844})
        tab.emulate_media(color_scheme="light")
        tab.goto(tab.at + path)
        if path == "/label":
            tab.locator("#ask[data-ready]").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, path
        assert tab.locator("h1").count() == 1
        assert violations(axe, tab) == [], (width, path)
        tab.emulate_media(color_scheme="dark")
        assert violations(axe, tab, options=COLOURS) == [], ("dark", width, path)
    assert [words for words in tab.said if "401" not in words] == []


def violations(axe, tab, **options):
    found = axe.run(tab, **options).response["violations"]
    return [(v["id"], [n["html"][:160] for n in v["nodes"]][:3]) for v in found]


def test_axe_sees_what_is_wrong(world):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = world()
    tab.evaluate("document.querySelector('label[for=comment]').remove()")
    tab.evaluate("document.querySelector('.question').style.color = '#eee'")
    assert {"label", "color-contrast"} <= {name for name, _ in violations(axe, tab)}
    assert [name for name, _ in violations(axe, tab, options=COLOURS)] == ["color-contrast"]


def test_focus_goes_in_order_and_can_be_seen(world):
    tab = world(questions(1, 3))
    ready(tab, 0)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the page"
    tab.keyboard.press("Enter")
    seen, tops = [], []
    for _ in range(14):
        tab.keyboard.press("Tab")
        name, outline = tab.evaluate(FOCUSED)
        assert outline != "none", name
        seen.append(name)
        tops.append(tab.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
    ranks = [name for name in seen if name.startswith("rank_")]
    assert ranks == ["rank_1", "rank_2", "rank_3"]
    assert seen.index("rank_3") < seen.index("confidence") < seen.index("comment")
    hidden = tab.evaluate("""() => { const one = document.activeElement.getBoundingClientRect();
        return one.bottom <= 0 || one.top >= innerHeight; }""")
    assert not hidden


def test_script_in_texts_does_not_run(world):
    hostile = """<script>window.pwned=1</script><img src=x onerror='window.pwned=2'>

[a](javascript:window.pwned=3) $\\text{<img src=x onerror=window.pwned=4>}$"""
    item = make_item(
        asked(hostile), [said(hostile), said("</textarea>" + hostile)], campaign="pilot"
    )
    for ask in ("ranking", "edit"):
        tab = world([item], {"ask": ask, "question": hostile, "tags": [hostile]})
        ready(tab, 0)
        tab.wait_for_timeout(50)
        assert tab.evaluate("window.pwned") is None
        assert tab.said == []
