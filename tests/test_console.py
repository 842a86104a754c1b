"""Output whose other end is gone, closed or full: the work goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gnomon.console import announce, complain, say

TALK = """
import sys
from pathlib import Path
from gnomon.console import make_console
out, err = make_console(), make_console(stderr=True)
for i in range(2000):
    out.print(f"line {i} [bold]é[/]")
    err.print(f"line {i}")
Path(sys.argv[1]).write_text("went on to the end")
"""


@pytest.mark.parametrize(
    "redirected",
    ["2>/dev/null | head -1", "2>&1 | head -1", ">&-", "2>&-", ">&- 2>&-", ">/dev/full 2>&1"],
)
def test_nothing_that_becomes_of_the_output_stops_the_work(tmp_path: Path, redirected: str) -> None:
    script, done = tmp_path / "talk.py", tmp_path / "done"
    script.write_text(TALK)
    command = f"set -o pipefail; '{sys.executable}' '{script}' '{done}' {redirected}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.read_text() == "went on to the end"
    assert ended.returncode == 0
    assert "Traceback" not in ended.stdout + ended.stderr


def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for tell in (say, announce, lambda text: complain("error", "red", text)):
        tell("the reward failed: \x1b]0;mine\x07 \x9b2J [bold]x[/]\nas it is")
    seen = "".join(capsys.readouterr())
    assert not set("\x1b\x9b\x07") & set(seen)
    assert seen.count("␛]0;mine␇ ⟨U+009B⟩2J [bold]x[/]\nas it is") == 3


def test_a_terminal_without_unicode_gets_what_it_can_show(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TALK, str(tmp_path / "done")],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii:strict", "PATH": "/usr/bin"},
        check=True,
    )
    assert b"line 1999 ?" in ended.stdout
