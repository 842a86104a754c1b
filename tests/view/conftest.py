"""Folders of runs, and a browser where there is one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from view_world import add_alarm, add_answers, open_client, write_run

from gnomon.view.serve import ViewServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs: ``bad`` with an alarm and answers, ``plain`` with another recipe."""
    folder = tmp_path / "runs"
    add_alarm(write_run(folder / "bad"))
    add_answers(folder / "bad")
    write_run(folder / "plain", beta=0.5)
    return folder


@pytest.fixture
def client(runs: Path) -> TestClient:
    return open_client(runs)


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
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on a free port; the address without the last slash."""
    started: list[tuple[ViewServer, threading.Thread]] = []

    def start(folder: Path) -> str:
        server = ViewServer(folder)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        started.append((server, thread))
        return server.link.rstrip("/")

    yield start
    for server, thread in started:
        server.stop()
        thread.join(timeout=60)
