"""``gnomon view`` as it is typed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx
import pytest
from view_world import until

from gnomon.cli.main import app


def _gnomon(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from gnomon.cli.main import main; main()", "view", *arguments]


def test_it_prints_a_link_serves_and_ends_with_ctrl_c(runs, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as stream:
        program = subprocess.Popen(
            _gnomon(str(runs), "--port", "0", "--no-open"), stdout=stream, stderr=stream
        )
    try:
        until(lambda: "http://" in log.read_text(), 60)
        link = re.search(r"http://\S+", log.read_text())[0]  # type: ignore[index]
        answered = httpx.get(link, trust_env=False)
        assert answered.status_code == 200
        assert "bad" in answered.text
        assert "default-src 'none'" in answered.headers["Content-Security-Policy"]
        assert httpx.get(link, headers={"Host": "evil.example"}, trust_env=False).status_code == 421
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=30) == 130
    finally:
        program.kill()
        program.wait()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--port", "99999"]])
def test_what_cannot_be_served_is_said(arguments, tmp_path):
    done = subprocess.run(
        _gnomon(*arguments, "--no-open"), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_help_teaches():
    from typer.testing import CliRunner

    text = CliRunner().invoke(app, ["view", "--help"], env={"COLUMNS": "200"}).output
    for word in ("blind", "token", "docs/view.md", "preferences"):
        assert word in text
