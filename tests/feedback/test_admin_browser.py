"""The admin's pages in headless Chromium, on a desk and on a phone: looked at by axe, too."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_admin_overview import crowd, ranked

from gnomon.feedback import auth
from gnomon.feedback.app import make_app
from gnomon.feedback.store import Store
from gnomon.web.guard import Guard
from gnomon.web.server import Server, listen
from label_world import write_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
RULES = ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]
SCREENSHOTS = os.environ.get("GNOMON_SCREENSHOTS")
"""A folder to keep pictures in, for whoever wants to look."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="Chromium is not here: no playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not here")
    with sync.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    items, labels = crowd(30)
    store = write_store(tmp_path / "crowd.db", items, people=("root", "new"), overlap=8)
    store.add_labels(labels, add_labellers="person")
    return store


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    server = Server(Guard(make_app(store)), listen("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server.address.rstrip("/")
    server.stop()
    thread.join(timeout=60)


def opened(chromium: Any, address: str, store: Store, size: str) -> Any:
    """A tab of an admin, which notes what the console says and what else is asked for."""
    width, height = SIZES[size]
    tab = chromium.new_page(viewport={"width": width, "height": height})
    tab.set_default_timeout(60_000)
    tab.said = []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on(
        "request", lambda r: 0 if r.url.startswith((address, "data:")) else tab.said.append(r.url)
    )
    token = auth.issue(store, "link", "root", "admin")
    tab.goto(f"{address}/join?token={token}")
    tab.locator("main form button").first.click()
    tab.get_by_role("heading", name="pilot").wait_for()
    return tab


def seen(tab: Any, name: str) -> None:
    """Nothing runs out of the page, axe finds nothing wrong in the light and nothing wrong with the
    colours in the dark, and the console is quiet."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab.wait_for_load_state("load")  # style sheets may come after the words
    wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{name} is {wide} px too wide"
    assert tab.said == []
    # the library puts a script into the page, which the page's policy rightly forbids
    script = Path(axe.__file__).parent / "axe.min.js"
    tab.context.new_cdp_session(tab).send("Page.setBypassCSP", {"enabled": True})
    tab.evaluate(script.read_text(encoding="utf-8"))
    for scheme, rules, looked in (("light", RULES, 10), ("dark", ["color-contrast"], 0)):
        tab.emulate_media(color_scheme=scheme)
        if SCREENSHOTS:
            picture = Path(SCREENSHOTS) / f"{name}-{scheme}.png"
            tab.screenshot(path=str(picture), full_page=True)
        found = tab.evaluate("rules => axe.run({runOnly: rules})", rules)
        assert len(found["passes"]) > looked  # it has
        wrong = [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found["violations"]]
        assert wrong == [], f"{name}, {scheme}: {wrong}"
    tab.emulate_media(color_scheme="light")


@pytest.mark.parametrize("mark", SIZES)
def test_every_page_fits_and_can_be_read_by_everyone(
    chromium: Any, address: str, store: Store, mark: str
) -> None:
    tab = opened(chromium, address, store, mark)
    try:
        seen(tab, f"board-{mark}")
        tab.get_by_role("link", name="Questions", exact=True).click()
        tab.get_by_role("heading", name="Questions of pilot").wait_for()
        seen(tab, f"items-{mark}")
        tab.locator(".mine a").first.click()
        tab.get_by_role("heading", name="One question").wait_for()
        seen(tab, f"item-{mark}")
        tab.get_by_role("link", name="Labellers").click()
        tab.get_by_role("heading", name="Labellers of pilot").wait_for()
        seen(tab, f"people-{mark}")
    finally:
        tab.close()


def test_an_admin_works_with_labels_and_keys_alone(
    chromium: Any, address: str, store: Store
) -> None:
    tab = opened(chromium, address, store, "desk")
    try:
        tab.get_by_role("link", name="disputed question").click()
        tab.locator(".mine a").first.click()
        decide = tab.locator("form[action$='/decide']")
        decide.get_by_label("Rank of answer 1").select_option("1")
        decide.get_by_label("Rank of answer 2").select_option("2")
        decide.get_by_label("Why").fill("the source says so")
        decide.get_by_role("button", name="Decide").press("Enter")
        tab.get_by_text("Decided by root").wait_for()
        gold = tab.locator("form[action$='/gold']")
        gold.get_by_label("Rank of answer 1").select_option("1")
        gold.get_by_label("Rank of answer 2").select_option("2")
        gold.get_by_role("button").first.press("Enter")
        tab.get_by_text("This is a gold question now").wait_for()
        tab.get_by_role("link", name="Labellers").click()
        tab.get_by_label("Pseudonym").fill("zoe")
        tab.get_by_role("button", name="Make a link").press("Enter")
        link = tab.get_by_label("Link", exact=True).input_value()
        guest = chromium.new_page()
        guest.goto(link)
        guest.locator("main form button").first.click()
        guest.locator("#ask").wait_for()
        guest.close()
        tab.get_by_role("button", name="Revoke zoe").press("Enter")
        tab.get_by_text("Their links and sessions are ended").wait_for()
        assert tab.said == []
    finally:
        tab.close()


def test_figures_come_by_themselves(chromium: Any, address: str, store: Store) -> None:
    tab = opened(chromium, address, store, "desk")
    try:
        tab.add_init_script("const i = setInterval; window.setInterval = f => i(f, 200)")
        tab.reload()
        labels = tab.locator("dt", has_text="labels").locator("xpath=../dd")
        before = int(labels.text_content())
        item = next(iter(store.items("pilot")))
        store.add_labels([ranked(item, "new", 1.0)])
        tab.wait_for_function(
            "n => [...document.querySelectorAll('.figures dt')].some(dt => dt.textContent === "
            "'labels' && +dt.nextElementSibling.textContent === n)",
            arg=before + 1,
        )
        assert tab.said == []
    finally:
        tab.close()
