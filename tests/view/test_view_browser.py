"""The pages in headless Chromium: live, by keyboard, and on a phone."""

from __future__ import annotations

import json

import pytest
from view_world import add_alarm, append_line, metric_row, write_run

from gnomon.runs.lock import run_lock


@pytest.fixture
def opened(browser, serve, runs):
    """A tab over the runs, which notes what the console says and what else is asked for."""
    at = serve(runs)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.said, tab.at = [], at
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on(
        "request", lambda r: tab.said.append(r.url) if not r.url.startswith((at, "data:")) else 0
    )
    tab.set_default_timeout(60_000)
    yield tab
    tab.close()


def test_a_running_run_goes_on_by_itself(opened, runs):
    run = write_run(runs / "live", done=False, steps=10)
    lines = run / "stages" / "02-ppo" / "metrics.jsonl"
    with run_lock(run):
        opened.goto(f"{opened.at}/runs/live")
        assert opened.locator("h1 .chip").text_content() == "running"
        append_line(lines, metric_row(11))
        opened.get_by_text("iteration 11 of 40").wait_for()
        add_alarm(run, "it shouts now")
        opened.locator(".answer-box.hold").wait_for()
        assert opened.locator("svg.timeline").count() == 1
        append_line(lines, '{"step": 12, "iter')  # half a line is no news
        append_line(lines, 'ation": 12, "kl": 1.2, "reward": 0.3}\n')
        opened.get_by_text("iteration 12 of 40").wait_for()
    assert opened.said == []


def test_the_list_of_runs_is_live_and_keeps_ticks_and_focus(opened, runs):
    opened.goto(opened.at)
    opened.get_by_label("compare plain").check()
    write_run(runs / "later", done=False, steps=3)
    opened.get_by_role("link", name="later").wait_for()
    assert opened.get_by_label("compare plain").is_checked()
    opened.get_by_label("compare bad").check()
    opened.get_by_role("button", name="Compare").click()
    opened.locator("h1").get_by_text("2 runs compared").wait_for()
    opened.get_by_label("Metric").select_option("kl")
    opened.get_by_role("button", name="Show").click()
    opened.locator("figure.plot").wait_for()
    assert opened.locator("figure.plot").count() == 1
    assert opened.said == []


def test_an_open_fold_stays_open_when_the_page_is_renewed(opened, runs):
    lines = runs / "bad" / "stages" / "02-ppo" / "metrics.jsonl"
    info = runs / "bad" / "stages" / "02-ppo" / "stage.json"
    info.write_text(json.dumps({"name": "ppo", "algorithm": "ppo", "status": "running"}))
    for i in range(6):
        append_line(lines, metric_row(41 + i) | {f"more_{k}": i * k for k in range(1, 4)})
    opened.goto(f"{opened.at}/runs/bad/02-ppo")
    opened.locator("#more-curves summary").click()
    count = opened.locator("#more-curves figure").count()
    assert count > 0
    append_line(lines, metric_row(47) | {"novel": 1.0})
    append_line(lines, metric_row(48) | {"novel": 2.0})
    opened.locator("#more-curves figcaption").get_by_text("novel").wait_for()
    assert opened.locator("#more-curves").evaluate("one => one.open")
    assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert opened.said == []


def test_filter_sort_and_pages(opened):
    opened.goto(f"{opened.at}/runs/bad/02-ppo/samples")
    assert opened.locator("#found").text_content().startswith("36 of 36")
    opened.get_by_label("Words").fill("lighthouse")
    opened.get_by_label("Words").press("Enter")
    opened.locator("#found").get_by_text("9 of 36").wait_for()
    opened.locator("#filters[data-ready]").wait_for()
    opened.get_by_label("Prompts").select_option("training")  # acts at once
    opened.locator("#found").get_by_text("3 of 36").wait_for()
    opened.get_by_text("Clear").click()
    opened.locator("#found").get_by_text("36 of 36").wait_for()
    opened.locator("#filters[data-ready]").wait_for()
    opened.get_by_label("Order").select_option("longest")
    opened.wait_for_url("**order=longest*")
    lengths = opened.locator("[data-row]").evaluate_all("rows => rows.map(r => +r.dataset.length)")
    assert lengths == sorted(lengths, reverse=True)
    opened.get_by_role("link", name="Next").click()
    opened.locator("#found").get_by_text("page 2 of 2").wait_for()
    opened.get_by_text("Before and after").first.click()
    opened.locator("h1").get_by_text("Before and after").wait_for()
    assert opened.said == []


def test_blind_a_b_by_keyboard(opened, runs):
    opened.goto(f"{opened.at}/ab")
    opened.get_by_label("One model").select_option("bad/answers/base")
    opened.get_by_label("The other").select_option("bad/answers/ppo")
    opened.get_by_label("Your pseudonym").fill("ann")
    opened.keyboard.press("Enter")

    def judged(count: int) -> None:
        opened.get_by_text(f"{count} of 9 judged").wait_for()
        opened.locator("#choices[data-ready]").wait_for()

    judged(0)
    for done, key in enumerate(("1", "2", "t", "s"), start=1):
        opened.keyboard.press(key)
        judged(done)
    opened.keyboard.press("u")  # the skip
    judged(3)
    for done in range(4, 9):
        opened.keyboard.press("1")
        judged(done)
    opened.keyboard.press("1")
    opened.get_by_text("All 9 pairs are judged").wait_for()
    opened.get_by_role("link", name="See the result").click()
    opened.get_by_text("was preferred to").wait_for()
    files = (runs / "preferences").glob("*-vs-*.jsonl")
    file = next(f for f in files if "skipped" not in f.name)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["preference"] for row in rows] == ["a", "b", "tie", *"aaaaaa"]
    assert opened.said == []


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/runs/bad", "/runs/bad/02-ppo", "/runs/bad/02-ppo/samples"),
        *("/compare?run=bad&run=plain", "/ab", "/runs/bad/02-ppo/prompt?sample=3"),
        "/ab?a=bad/answers/base&b=bad/answers/ppo&who=ann",
        "/ab/result?a=bad/answers/base&b=bad/answers/ppo&who=ann",
    ],
)
def test_it_fits_a_phone_and_every_control_has_a_name(opened, path):
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.goto(opened.at + path)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.locator("h1").count() == 1
    assert opened.locator("h1").bounding_box()["y"] < 200
    nameless = opened.evaluate("""() => {
        const all = 'input:not([type=hidden]), select, button, progress, svg[role]';
        const named = (one) => one.labels?.length || one.getAttribute('aria-label')
            || (one.tagName !== 'SELECT' && one.textContent.trim());
        return [...document.querySelectorAll(all)].filter((one) => !named(one)).length; }""")
    assert nameless == 0
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the page"
    assert opened.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_against_what_is_behind_it(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.goto(f"{opened.at}/runs/bad")
    ratios = opened.evaluate("""() => {
        const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const back = (one) => { for (; one; one = one.parentElement) {
            const c = getComputedStyle(one).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
        const found = [];
        for (const one of document.querySelectorAll('p, li, h1, h2, h3, a, b, span, summary, td')) {
            if (!one.textContent.trim() || !one.offsetParent) continue;
            const [x, y] = [light(getComputedStyle(one).color), light(back(one))];
            found.push((Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)); }
        return found; }""")
    assert len(ratios) > 30
    assert min(ratios) >= 4.5  # WCAG 2 AA


def test_without_scripts_it_is_all_there(browser, serve, runs):
    at = serve(runs)
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{at}/ab?a=bad/answers/base&b=bad/answers/ppo&who=bob")
    tab.get_by_role("button", name="1 is better").click()
    tab.get_by_text("1 of 9 judged").wait_for()
    tab.goto(f"{at}/runs/bad/02-ppo/samples")
    tab.get_by_label("Words").fill("lighthouse")
    tab.get_by_role("button", name="Filter").click()
    assert tab.locator("#found").text_content().startswith("9 of 36")
    context.close()


def test_a_server_that_ends_is_said_and_found_again(opened, serve, runs):
    opened.goto(f"{opened.at}/runs/bad")
    opened.route("**/runs/bad", lambda route: route.abort())
    opened.get_by_text("does not answer").wait_for()
    opened.unroute("**/runs/bad")
    opened.get_by_text("Connected again").wait_for()
