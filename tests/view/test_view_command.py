"""``gnomon view`` as it is typed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx
import pytest
from view_world import until

import command
from gnomon.cli.main import app


def test_it_prints_a_link_serves_and_ends_with_ctrl_c(runs, tmp_path):
    log = tmp_path / "log"
    start = "from gnomon.cli.main import main; main()"
    typed = [sys.executable, "-c", start, "view", str(runs), "--port", "0", "--no-open"]
    with log.open("wb") as stream:
        program = subprocess.Popen(typed, stdout=stream, stderr=stream)
    try:
        until(lambda: re.search(r"http://\S+\s", log.read_text()) is not None, 300)
        link = re.search(r"http://\S+", log.read_text())[0]  # type: ignore[index]
        answered = httpx.get(link, trust_env=False, timeout=60)
        assert answered.status_code == 200
        assert "bad" in answered.text
        assert "default-src 'none'" in answered.headers["Content-Security-Policy"]
        headers = {"Host": "evil.example"}
        refused = httpx.get(link, headers=headers, trust_env=False, timeout=60)
        assert refused.status_code == 421
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=60) == 130
    finally:
        program.kill()
        program.wait()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--port", "99999"]])
def test_what_cannot_be_served_is_said(arguments, tmp_path, monkeypatch, capsys):
    code, said = command.runs(tmp_path, monkeypatch, capsys, "view")(*arguments, "--no-open")
    assert code == 1
    assert said.startswith("error: ")
    assert "Traceback" not in said


def test_help_teaches():
    from typer.testing import CliRunner

    text = CliRunner().invoke(app, ["view", "--help"], env={"COLUMNS": "200"}).output
    for word in ("blind", "token", "docs/view.md", "preferences"):
        assert word in text
