"""The guard of the suite itself: a hole in CI fails, a listed one does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "function": "import pytest\ndef test_a():\n    pytest.skip({reason!r})\n",
    "marker": "import pytest\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_a(): ...\n",
    "module": "import pytest\npytest.skip({reason!r}, allow_module_level=True)\n",
    "import": "import pytest\npytest.importorskip('nowhere_to_be_found', reason={reason!r})\n",
}


def outcome(folder: Path, cases: str, reason: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(
        "from skips import pytest_make_collect_report, pytest_runtest_makereport\n"
    )
    for case in cases.split():
        (folder / f"test_{case}.py").write_text(CASES[case].format(reason=reason))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "CI": ci,
            "PYTHONPATH": str(Path(__file__).parent),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        check=False,
    )


@pytest.mark.parametrize("cases", ["function marker", "module import"])
def test_an_unlisted_skip_fails_in_ci_and_says_why(tmp_path: Path, cases: str) -> None:
    done = outcome(tmp_path, cases, "somebody forgot to install it", "true")
    assert done.returncode not in (0, 5)
    for case in cases.split():
        said = rf"test_{case}\.py\S* skips in CI \(.*somebody forgot to install it"
        assert re.search(said, done.stdout), done.stdout


@pytest.mark.parametrize(
    ("reason", "ci"),
    [("vLLM is not in this environment", "true"), ("somebody forgot to install it", "")],
)
def test_a_listed_skip_or_one_outside_ci_stays_a_skip(tmp_path: Path, reason: str, ci: str) -> None:
    done = outcome(tmp_path, "function", reason, ci)
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
