"""With CI=true, a skip whose reason is not listed here fails: a test that skips in CI is a hole."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

ALLOWED = (
    # .ci/run runs these in vLLM's own environment, or prints why it could not be had.
    "vLLM is not in this environment",
    # verifiers and openenv each pin versions that the other, or the lock file, cannot have; .ci/run
    # gives each a folder of its own, or prints why it could not be had.
    "verifiers is not in this environment",
    "openenv is not in this environment",
    # The real data is never part of the project: it lies beside a checkout, or nowhere.
    "needs the real data in ../shared/data",
    # The page's script is tried in a browser where there is one; its HTML is read everywhere.
    "Chromium is not here",
    # A kernel without landlock or user namespaces cannot run that sandbox at all.
    "the kernel has no",
)


def _reason(report: Any) -> str:
    where = report.longrepr
    return str(where[2] if isinstance(where, tuple) else where)


def _refuse(report: Any) -> None:
    """Turn a skip that is not on the list into a failure that says so."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = _reason(report)
    if not any(allowed in reason for allowed in ALLOWED):
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} skips in CI ({reason}). Install what it needs in .ci/run, "
            "or add the reason to ALLOWED in tests/skips.py."
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    _refuse(report)
    return report
