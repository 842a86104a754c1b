"""The synthetic run of tests_report_oracles.py, fresh or with its report written."""

from pathlib import Path

import pytest
from tests_report_oracles import build_run

from gnomon.report.html import write_report


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A fresh copy of the synthetic run, for tests that damage it."""
    return build_run(tmp_path / "synthetic")


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic run with its report written, once for all tests that only read."""
    run = build_run(tmp_path_factory.mktemp("runs") / "synthetic")
    write_report(run)
    return run
