"""One process at a time in a run's folder; a killed one blocks nobody."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnomon.errors import RunError
from gnomon.runs.lock import run_lock
from gnomon.stages.run import run_recipe
from tiny_world import make_recipe, sft_stage

HOLD = """
import os, sys
from pathlib import Path
from gnomon.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    child = os.fork() if "orphan" in sys.argv else None
    if child == 0:
        sys.stdin.read()  # lives on with the lock's file open when its parent is killed
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    extra = getattr(request, "param", [])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run"), *extra],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_it(
    tmp_path: Path, tiny_folder: Path, holder: subprocess.Popen[str]
) -> None:
    recipe = make_recipe(tiny_folder, tmp_path, sft_stage(steps=1))
    with pytest.raises(RunError) as caught:
        run_recipe(recipe, base=tmp_path, resume=True, announce=lambda text: None)
    said = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in said
    assert "name=..." in said
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    assert holder.stdin is not None
    holder.stdin.close()
    holder.wait()
    with run_lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / ".lock.json").exists()


@pytest.mark.parametrize("holder", [[], ["orphan"]], indirect=True)
def test_a_killed_one_blocks_nobody(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / ".lock.json").exists()  # what it left
    with run_lock(tmp_path / "run"):
        pass


def test_a_holder_that_left_no_name_still_holds(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    (tmp_path / "run" / ".lock.json").write_text("garbage")
    with pytest.raises(RunError, match="worked on by another process"), run_lock(tmp_path / "run"):
        pytest.fail("it got in")


def test_a_lock_may_be_taken_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path / "run"):
            pass
