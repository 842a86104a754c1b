"""Making the runs: workers that share a folder, each run one row in a file.

Every run, and every model that runs share, is worked on under a lock that ends with its process, so
a killed worker loses its own run's last few iterations and nothing else: the next one resumes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gnomon.errors import RunStopped
from gnomon.files import write_json
from planted_capability import ask
from planted_plan import Planned
from planted_recipes import labels_recipe, needed, run_recipe_of, start_recipe
from planted_row import row_of
from planted_truth import measure_truth, read_truth, write_truth

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


# -- rows -----------------------------------------------------------------------------------------


def read_rows(file: Path) -> dict[str, dict[str, Any]]:
    """The finished rows by id; a last line that was cut off is none."""
    if not file.is_file():
        return {}
    rows = {}
    for number, line in enumerate(file.read_text().split("\n"), start=1):
        try:
            row = json.loads(line) if line else None
        except ValueError:
            print(f"{file}:{number}: not whole, left out; its run adds it again", file=sys.stderr)
            continue
        if row is not None:
            rows[row["id"]] = row
    return rows


def add_row(file: Path, row: Mapping[str, Any]) -> None:
    """Add a finished run's row, unless it is there; rows of several processes never mix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if row["id"] in read_rows(file):
            return
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # a line that a kill cut off
                stream.write(b"\n")
        stream.write(as_lines([row]).encode())
        stream.flush()
        os.fsync(stream.fileno())


def as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the file holds them."""
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


# -- locks ----------------------------------------------------------------------------------------


@contextmanager
def locked(file: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock that ends with this process; gives False where another has it and ``wait`` is
    not asked for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


# -- running --------------------------------------------------------------------------------------


def run_plain(plain: Mapping[str, Any], overrides: Sequence[str] = ()) -> Path:
    """Run a recipe with ``overrides`` (see ``load_recipe``), or what is left of it."""
    from gnomon.recipe.load import load_recipe
    from gnomon.stages.run import run_recipe

    output = Path(plain["output"])
    file = output / "recipes" / f"{plain['name']}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(plain))  # JSON is YAML
    recipe = load_recipe(file, overrides)
    begun = (output / str(plain["name"]) / "manifest.json").is_file()
    return run_recipe(recipe, base=file.parent, resume=begun, announce=lambda line: None)


def make_shared(run: Planned, out: Path) -> None:
    """Make the start model, the judge and the labels that a run needs, each once."""
    for name in needed(run):
        plain = (
            start_recipe(run.world, out) if name is None else labels_recipe(run.world, name, out)
        )
        done = out / "shared" / f"{plain['name']}.done"
        if done.is_file():
            continue
        with locked(out / "locks" / str(plain["name"]), wait=True):
            if not done.is_file():
                run_plain(plain)
                done.touch()


def make_run(run: Planned, out: Path) -> dict[str, Any]:
    """Make a run, measure its truth, and return its row."""
    make_shared(run, out)
    began, cpu = time.monotonic(), time.process_time()
    run_plain(run_recipe_of(run, out))
    if find_spec("gnomon.evals.questions") is not None:
        ask(run, out)
    truth = read_truth(run, out)
    if truth is None:
        truth = measure_truth(run, out)
        write_truth(run, truth, out)
    row = row_of(run, truth, out)
    row["seconds"] = round(time.monotonic() - began, 1)
    row["cpu_seconds"] = round(time.process_time() - cpu, 1)
    for checkpoints in (out / "runs" / run.id / "stages").glob("*/checkpoints"):
        shutil.rmtree(checkpoints)  # most of a run's bytes; nothing reads them once it is done
    return row


def work(runs: Sequence[Planned], out: Path, rows: Path) -> int:
    """Make every run that has no row and that no other worker is making; returns how many failed.

    A run that fails is noted in ``failed/`` with its traceback, and the others go on; it is tried
    again by the next call.
    """
    failed = 0
    for run in runs:
        with locked(out / "locks" / run.id, wait=False) as mine:
            if not mine or run.id in read_rows(rows):
                continue
            try:
                row = make_run(run, out)
            except RunStopped as stopped:
                raise SystemExit(f"{run.id}: {stopped}") from None
            except Exception:
                failed += 1
                note = out / "failed" / f"{run.id}.txt"
                note.parent.mkdir(parents=True, exist_ok=True)
                note.write_text(traceback.format_exc())
                print(f"{run.id}: failed; see {note}", file=sys.stderr, flush=True)
                continue
            add_row(rows, row)
            print(
                f"{time.strftime('%H:%M:%S')} {run.id}: {row['class']}, {row['seconds']:.0f} s",
                flush=True,
            )
    return failed


def work_together(arguments: Sequence[str], workers: int) -> int:
    """Start ``workers`` processes of this program, one thread each, and wait; how many failed."""
    started = [
        subprocess.Popen([sys.executable, *arguments], env={**os.environ, **THREADS})
        for _ in range(workers)
    ]
    try:
        return sum(process.wait() != 0 for process in started)
    except KeyboardInterrupt:  # the workers had it too, and save what they are at
        return sum(process.wait() != 0 for process in started)
