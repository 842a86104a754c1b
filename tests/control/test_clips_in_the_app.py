"""Clips in the labelling app: rendered as videos, handed out by name alone, compared."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from point_world import POINT, played
from typer.testing import CliRunner

from gnomon.algorithms.control_settings import ControlSettings
from gnomon.cli.label import label_app
from gnomon.control.queries import Desk
from gnomon.errors import DataError, Pending
from gnomon.feedback import auth
from gnomon.feedback.app import make_app
from gnomon.feedback.clips import find_video, video_name
from gnomon.feedback.render import show
from gnomon.feedback.serve import LabelServer
from gnomon.feedback.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> str:
    """A store with two pairs of clips that wait for people, rendered."""
    where = str(tmp_path_factory.mktemp("clips") / "labels.db")
    settings = ControlSettings(
        environment=POINT, clip_steps=8, comparisons=8, labeller={"kind": "people"},
        task="Bring the point to the middle and keep it there.",
    )  # fmt: skip
    with pytest.raises(Pending):
        Desk(where, "pilot", settings, 0).ask(played(), [(0, 45), (22, 8)], 0)
    said = CliRunner().invoke(label_app, ["clips", where])
    assert said.exit_code == 0, said.output
    assert "4 clips rendered, 0 were there already" in said.output
    again = CliRunner().invoke(label_app, ["clips", where, "--limit", "1"])
    assert "0 clips rendered, 2 were there already" in again.output
    return where


@pytest.fixture
def served(where) -> Iterator[tuple[LabelServer, str]]:
    server = LabelServer(where)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    server.store.add_labeller("kim")
    yield server, auth.issue(server.store, "session", "kim")
    server.stop()
    thread.join(timeout=60)
    server.store.close()


def test_only_videos_are_handed_out_and_only_to_labellers(where, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    secret = tmp_path / "secret.webm"
    secret.write_bytes(b"secret")
    (folder / ("a" * 32 + ".webm")).symlink_to(secret)
    (folder / ("b" * 32 + ".webm")).write_bytes(b"\x1aE\xdf\xa3")
    (folder / "notes.txt").write_text("notes")
    with Store.open(where) as store:
        client = TestClient(make_app(store, clips=folder), base_url="http://localhost")
        good = "/clips/" + "b" * 32 + ".webm"
        assert client.get(good).status_code == 401
        store.add_labeller("lee")
        session = auth.issue(store, "session", "lee")
        for port in ("", "-80", "-None"):
            client.cookies.set(f"gnomon-label{port}", session)
        answered = client.get(good)
        assert answered.status_code == 200
        assert answered.headers["content-type"] == "video/webm"
        for name in ("a" * 32 + ".webm", "..%2fsecret.webm", "%2e%2e/secret.webm", "notes.txt",
                     "b" * 32 + ".webm%00", "B" * 32 + ".webm", "c" * 32 + ".webm"):  # fmt: skip
            assert client.get(f"/clips/{name}").status_code == 404, name
    assert find_video(None, "b" * 32 + ".webm") is None


def test_nothing_that_a_model_wrote_hides_behind_a_video():
    assert "<video" not in show('{"clip": "x", "and": "this is shown"}').head
    text = ('{"clip": "<script>x", "options": {}, "seed": 1, "first": 0, "steps": 2, '
            '"actions": "all of this is shown"}')  # fmt: skip
    shown = show(text)
    assert video_name(text) in shown.head
    assert "<script>" not in shown.head + (shown.rest or "")
    assert "all of this is shown" in (shown.rest or "")


def test_a_store_without_clips_says_so(tmp_path):
    Store.open(tmp_path / "labels.db").close()
    said = CliRunner().invoke(label_app, ["clips", str(tmp_path / "labels.db")])
    assert isinstance(said.exception, DataError)
    assert "holds no clips" in str(said.exception)


def test_two_clips_are_compared_in_a_browser(served):
    sync = pytest.importorskip("playwright.sync_api", reason="Chromium is not here: no playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not here")
    server, session = served
    at = server.address.rstrip("/")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_context(viewport={"width": 1280, "height": 900})
        port = at.rsplit(":", 1)[1]
        tab.add_cookies([{"name": f"gnomon-label-{port}", "value": session, "url": at}])
        page, said = tab.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.set_default_timeout(60_000)
        page.goto(f"{at}/label")
        page.wait_for_function(
            "() => [...document.querySelectorAll('video.clip')].filter("
            "v => v.readyState >= 2 && v.videoWidth === 320 && !v.error).length === 2"
        )
        assert page.get_by_text("Bring the point to the middle").is_visible()
        page.locator("#ask[data-ready]").wait_for()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.get_by_text("1 of ").wait_for()
        browser.close()
    assert said == []
    assert [label.labeller for label in server.store.labels("pilot")] == ["kim"]
