"""Whole runs on one GPU: each item is a small recipe of the built-in world, run from end to end.

    python benchmarks/gpu_runs.py                        every item, a line each
    python benchmarks/gpu_runs.py --only bytes sampling  those whose names begin so
    python benchmarks/gpu_runs.py --list                 their names

The model comes with the package, so nothing is downloaded. An item that fails says where, and the
next one runs; what each run announced, warned of and raised is in ``--log``. ``--device cpu
--tiny`` drives the same items at a size for a test; those that only a GPU can answer are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from gnomon.stages import run
from gpu_runs_bench import (
    ITEMS,
    LONGEST,
    Bench,
    SkippedError,
    TooLongError,
    UnexpectedError,
)

for _part in ("methods", "bytes", "device", "sampling", "looks"):  # in the order in which they run
    importlib.import_module(f"gpu_runs_{_part}")


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TooLongError in a block that takes longer."""

    def late(number: int, frame: Any) -> None:
        raise TooLongError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def attempt(bench: Bench, name: str, warned_of: dict[str, str]) -> bool:
    """Run an item and print its line; False where it failed.

    Args:
        warned_of: what was warned of, and in which item first; added to.
    """
    began = time.perf_counter()
    lines: list[str] = []
    print(f"== {name}", file=bench.log, flush=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with within(LONGEST):
                verdict, said = "ok", ITEMS[name](bench)
        except SkippedError as reason:
            verdict, said = "skipped", str(reason)
        except UnexpectedError as reason:
            verdict, said = "FAILED", str(reason)
        except Exception as error:
            verdict, said = "FAILED", f"{type(error).__name__}: {str(error)[:300]}"
            text = traceback.format_exc()
            print(text, file=bench.log)
            lines = [line for line in text.splitlines() if line.strip(" ^~")][-7:-1]
    for text in dict.fromkeys(f"{w.category.__name__}: {str(w.message)[:600]}" for w in warned):
        print(f"  {text}", file=bench.log)
        warned_of.setdefault(text, name)
    print(said, file=bench.log, flush=True)
    print(f"{name}: {verdict}, {said[:420]}, {time.perf_counter() - began:.1f} s", flush=True)
    for line in lines:
        print(f"    {line.strip()[:150]}")
    return verdict != "FAILED"


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="few rows, steps and tokens")
    parser.add_argument("--only", nargs="+", default=[""], help="items whose names begin so")
    parser.add_argument("--skip", nargs="+", default=[], help="leave these out, by their beginning")
    parser.add_argument("--list", action="store_true", help="print the items' names")
    parser.add_argument("--budget", type=float, default=540, help="seconds; none begins after it")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="all that was said")
    args = parser.parse_args(given)
    chosen = [n for n in ITEMS if n.startswith(tuple(args.only)) or n == "base"]
    chosen = [n for n in chosen if not n.startswith(tuple(args.skip))]
    if args.list:
        print("\n".join(chosen))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"there is no CUDA device for torch {torch.__version__} here. --device cpu --tiny "
            "drives the same items at a tiny size"
        )
    if args.device == "cpu" and not args.tiny:
        raise SystemExit("--device cpu goes with --tiny: at full size it would take long")
    card = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU: not a measurement"
    print(f"{len(chosen)} items on {card}, torch {torch.__version__}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        args.log.open("a") as log,
        mock.patch.object(run, "write_report"),  # plots take longer than runs
        contextlib.redirect_stderr(log),
    ):
        lost = go(Bench(args.device, args.tiny, Path(folder), log), chosen, args.budget)
    if lost:
        words = [sys.executable, __file__, "--log", str(args.log), "--budget", str(args.budget)]
        raise SystemExit(subprocess.call([*words, "--only", *lost]))


def go(bench: Bench, chosen: Sequence[str], budget: float) -> list[str]:
    """Run the items, and say how many were as expected; gives those that are left where an item
    broke the device for this process.

    Raises:
        SystemExit: some failed, and none is left.
    """
    began = time.perf_counter()
    failed: list[str] = []
    warned_of: dict[str, str] = {}
    for i, name in enumerate(chosen):
        if time.perf_counter() - began > budget:
            print(f"no time left for: {', '.join(chosen[i:])}")
            break
        if attempt(bench, name, warned_of):
            continue
        failed.append(name)
        if bench.cuda and _is_lost() and chosen[i + 1 :]:
            print("the device is lost to this process: another one goes on", flush=True)
            return list(chosen[i + 1 :])
    for text, name in list(warned_of.items())[:15]:
        print(f"warned in {name}: {text[:150]}")
    print(f"{len(failed)} of {len(chosen)} failed, {time.perf_counter() - began:.0f} s")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    return []


def _is_lost() -> bool:
    """Whether an error of a kernel has ended this process's use of the device."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    main()
