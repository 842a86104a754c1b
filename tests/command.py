"""The command line in this process, as the shell would run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gnomon.cli.main import main

Run = Callable[..., tuple[int, str]]


def runs(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *command: str,
) -> Run:
    """Runs ``gnomon COMMAND ARGS`` in ``folder``; gives the exit code and all that was said, on one
    line, since the console wraps long ones."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["gnomon", *command, *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        seen = capsys.readouterr()
        return code, " ".join((seen.out + " " + seen.err).split())

    return run
