"""The page as people use it: the answer first, samples to search and sort, alarms with their cures.

Where Chromium is installed the page is opened in it; the same is read from the HTML everywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests_report_oracles import HOSTILE, build_run, write_rows

from gnomon.report.html import write_report
from gnomon.runs.audit import AUDIT, GATES, Audit, Exhibit, Finding, GateResult, Gates
from gnomon.runs.evals import EvalResult
from gnomon.stats.intervals import Interval

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class _Rows(HTMLParser):
    """The rewards of the samples to browse, in order, and every text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rewards: list[float] = []
        self.texts: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.scripts += tag == "script"
        if "data-reward" in found:
            self.rewards.append(float(found["data-reward"] or "nan"))

    def handle_data(self, data):
        self.texts.append(data)


def _samples(folder: Path) -> None:
    """60 samples whose rewards come in no order; every tenth is about a lighthouse."""
    n = 60
    write_rows(
        folder / "samples.parquet",
        {
            "step": [480] * n,
            "prompt_id": [f"p{i}" for i in range(n)],
            "prompt": [f"Sort the list {i}." for i in range(n)],
            "response": [
                f"{HOSTILE} lighthouse {i}" if i % 10 == 0 else f"answer {i}" for i in range(n)
            ],
            "reward": [((i * 37) % n) / n for i in range(n)],
            "length": [1 + (i * 7) % n for i in range(n)],
            "finished": [True] * n,
            "policy_iteration": [None if i < 30 else 120 for i in range(n)],
        },
    )


def _alarmed(run: Path) -> Path:
    alarm = Finding(
        name="reward_hacking",
        detector="drift",
        stage="ppo",
        status="alarm",
        measure="share of repeats",
        figure=Interval(0.19, 0.12, 0.26, 32),
        limit=0.1,
        text=f"answers repeat themselves {HOSTILE}",
        exhibits=[Exhibit(prompt=HOSTILE, response=HOSTILE, reward=1.0, step=480, shows=HOSTILE)],
        curves=["reward", "entropy", "nowhere"],
        since=240,
        cures=["ppo.settings.beta=0.05", "ppo.data='a b'"],
    )
    other = Finding(name="mode_collapse", detector="entropy", stage="ppo", status="clear",
                    measure=HOSTILE, detectable=0.2)  # fmt: skip
    watch = Finding(name="reward_hacking", detector="spoiled", stage="ppo", status="unclear",
                    measure="share kept", text=f"the reward reads no prompt {HOSTILE}")  # fmt: skip
    Audit(findings=[alarm, other, watch]).write(run / AUDIT)
    result = GateResult(condition=f"x >= 1 {HOSTILE}", stage="ppo", passed=False, text=HOSTILE)
    Gates({"ppo": [result]}).write(run / GATES)
    for model, value in (("sft", 0.5), ("ppo", 0.4)):
        scores = {"accuracy": Interval(value, value - 0.01, value + 0.01, 900)}
        EvalResult(
            suite=f"exam {HOSTILE}", model=model, scores=scores, main="accuracy", n=900
        ).write(run / "evals" / model / "exam.json")
    info = run / "stages" / "03-ppo" / "stage.json"
    info.write_text(
        json.dumps(
            json.loads(info.read_text()) | {"start": {"from": "runs/synthetic/stages/01-sft/model"}}
        )
    )
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build_run(tmp_path_factory.mktemp("page") / "synthetic")
    _samples(run / "stages" / "03-ppo")
    return write_report(_alarmed(run))


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# -- read from the HTML ---------------------------------------------------------------------------


def test_the_answer_comes_before_everything_else(html):
    body = html[html.index("<body>") :]
    hold = body.index('class="answer-box hold"')
    assert hold < min(body.index(part) for part in ("<nav>", "<img", "<table", "<details"))
    answer = body[hold : body.index("</section>")]
    for text in ("ppo should not ship", "Alarm reward_hacking in ppo", "0.190 [0.120, 0.260] n=32",
                 "failed", "x &gt;= 1", "Eval exam"):  # fmt: skip
        assert text in answer, text


def test_the_sections_are_in_the_order_of_their_weight(html):
    places = [html.index(f'id="{part}"') for part in (
        "answer", "evals", "alarms", "curves", "browse", "results", "audit", "verdict", "stage-1",
        "asked", "reproduce")]  # fmt: skip
    assert places == sorted(places)
    assert html.count('class="curves"') == 2  # the alarm's and the key curves
    keys = html[html.index('id="curves"') : html.index('id="browse"')]
    assert keys.count("<img") == 4


def test_an_alarm_shows_its_figure_its_samples_its_curves_and_its_cure(html):
    part = html[html.index('id="alarm-1"') : html.index("</article>")]
    assert "<b>0.190 [0.120, 0.260] n=32</b>" in part
    assert "first at step 240" in part
    assert part.count("<img") == 2  # of the curves that there are
    assert "gnomon run recipe.yaml seed=7 ppo.settings.beta=0.05 name=synthetic-cured" in part
    assert "&#39;ppo.data=a b&#39;" in part
    assert "reward 1 · step 480" in part


def test_what_is_to_be_watched_stands_among_what_was_looked_for(html):
    part = html[html.index('id="audit"') :]
    assert "1 not found, 1 to watch, 0 left open" in part
    row = part[part.index("by spoiled") :]
    assert "<td>to watch</td>" in row[: row.index("</tr>")]
    assert "the reward reads no prompt" in row[: row.index("</tr>")]


def test_without_the_script_the_worst_come_first_and_nothing_is_missing(html):
    rows = _Rows(html)
    assert len(rows.rewards) == 60
    assert rows.rewards == sorted(rows.rewards)
    assert html.count('class="controls" hidden') == html.count("data-list=")


def test_hostile_text_is_text_wherever_it_comes_from(html):
    rows = _Rows(html)
    assert rows.scripts == 1
    assert "<script>alert" not in html
    assert " ".join(rows.texts).count("<script>alert('x')</script>") > 10


@pytest.mark.parametrize("damage", ["samples", "metrics", "audit", "gates", "evals", "stage"])
def test_a_run_cut_off_mid_write_says_what_is_missing(tmp_path, damage):
    run = build_run(tmp_path / "synthetic")
    stage = run / "stages" / "03-ppo"
    _alarmed(run)
    if damage in ("samples", "metrics"):
        (stage / f"{damage}.parquet").write_bytes(b"PAR1 cut off")
    else:
        file = {"audit": run / AUDIT, "gates": run / GATES, "stage": stage / "stage.json",
                "evals": run / "evals/ppo/exam.json"}[damage]  # fmt: skip
        file.write_text('{"findings": [')
    html = write_report(run).read_text(encoding="utf-8")
    missing = html[html.index('id="not-read"') :]
    files = {"samples": "samples.parquet", "metrics": "metrics.parquet", "audit": AUDIT,
             "gates": GATES, "evals": "evals/ppo/exam.json", "stage": "stage.json"}  # fmt: skip
    name = files[damage]
    assert name in missing[: missing.index("</section>")]
    assert 'class="answer-box' in html


def test_records_of_another_version_are_shown_as_far_as_they_are_understood(tmp_path):
    run = build_run(tmp_path / "synthetic")
    finding = {"name": "reward_hacking", "stage": "ppo", "status": "alarm", "figure": "much",
               "exhibits": "none", "since": "soon", "novel": 1}  # fmt: skip
    (run / AUDIT).write_text(json.dumps({"findings": [finding, 7, {"status": "new"}]}))
    (run / GATES).write_text(json.dumps({"ppo": [{"condition": "?", "passed": "yes"}]}))
    html = write_report(run).read_text(encoding="utf-8")
    assert 'class="answer-box hold"' in html
    assert "Alarm reward_hacking in ppo" in html


# -- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    sync = pytest.importorskip("playwright.sync_api", reason="Chromium is not here: no playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not here")
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.said = []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("request", lambda r: tab.said.append(r.url) if not r.url.startswith("data:") else None)
    tab.goto(page.as_uri())
    yield tab
    tab.close()


def _shown(tab, what="reward"):
    return tab.locator("#browse [data-row]").evaluate_all(
        f"rows => rows.map(row => Number(row.dataset.{what}))"
    )


def test_search_and_order_in_a_browser(opened, page):
    browse = opened.locator("#browse")
    assert browse.locator("output").text_content() == "60 of 60"
    assert len(_shown(opened)) == 20
    assert _shown(opened) == sorted(_shown(opened))
    browse.locator("input").fill("lighthouse")
    assert browse.locator("output").text_content() == "6 of 60"
    assert all("lighthouse" in text for text in browse.locator(".row .text").all_text_contents())
    browse.locator("select").select_option("reward down")
    assert _shown(opened) == sorted(_shown(opened), reverse=True)
    browse.locator("input").fill("")
    assert _shown(opened)[0] == max(_shown(opened))
    browse.locator("select").select_option("length up")
    assert _shown(opened, "length") == list(range(1, 21))
    browse.locator(".more").click()
    assert len(_shown(opened)) == 40
    browse.locator("input").fill("no such words anywhere")
    assert browse.locator("output").text_content() == "0 of 60"
    assert opened.said == [page.as_uri()]  # nothing was blocked, nothing else was asked for


def test_it_fits_a_phone(browser, page):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator("#answer").bounding_box()["y"] < 300
    tab.close()


def test_without_scripts_it_is_all_there(browser, page):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert not tab.locator("#browse input").is_visible()
    assert tab.locator("#browse [data-body] [data-row]").count() == 20
    tab.locator("#browse details summary").click()
    assert tab.locator("#browse details [data-row]").last.is_visible()
    context.close()
