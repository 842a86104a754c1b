"""How often the audit's detectors are right: runs with planted failures, and clean ones.

    python benchmarks/detectors.py run --out FOLDER --workers 2 [--only KIND ...] [--limit N]
    python benchmarks/detectors.py again --out FOLDER       # a detector changed: audit stored runs
    python benchmarks/detectors.py status
    python benchmarks/detectors.py table [--markdown FILE ...]
    python benchmarks/detectors.py plot [--image FILE]
    python benchmarks/detectors.py smollm2 --out FOLDER     # four runs of a real model, test only

``run`` makes 1080 small runs (about 1 minute each on one thread) and adds a row to
``benchmarks/detectors/rows.jsonl`` as each is done. Stop it at any time; the same command goes on.
The run folders stay in FOLDER (some 15 MB each), so that ``again`` can recompute what the detectors
say without training anything. docs/detectors.md says how it is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
ROWS = HERE / "detectors" / "rows.jsonl"


def _run(args: argparse.Namespace) -> int:
    from planted_runs import THREADS, work, work_together

    if args.workers > 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        arguments = [__file__, "run", "--out", str(args.out), "--rows", str(args.rows)]
        arguments += ["--workers", "1"]
        arguments += ["--only", *args.only] if args.only else []
        arguments += ["--limit", str(args.limit)] if args.limit else []
        return 1 if work_together(arguments, args.workers) else 0
    import torch

    torch.set_num_threads(int(THREADS["OMP_NUM_THREADS"]))
    from transformers.utils import logging

    logging.disable_progress_bar()
    return 1 if work(_chosen(args), args.out.resolve(), args.rows) else 0


def _chosen(args: argparse.Namespace):
    from planted_plan import CLEAN, KINDS, plan

    wrong = [word for word in args.only if not any(word in run.id for run in plan())]
    if wrong:
        raise SystemExit(
            f"--only {' '.join(wrong)}: no such run; kinds are {', '.join((CLEAN, *KINDS))}"
        )
    runs = [r for r in plan() if not args.only or any(word in r.id for word in args.only)]
    return runs[: args.limit or None]


def _again(args: argparse.Namespace) -> int:
    from gnomon.files import write_text
    from planted_row import row_of
    from planted_runs import as_lines, read_rows
    from planted_truth import read_truth

    rows = read_rows(args.rows)
    for run in _chosen(args):
        truth = read_truth(run, args.out.resolve())
        if truth is not None and run.id in rows:
            rows[run.id] |= row_of(run, truth, args.out.resolve())
            print(f"{run.id}: audited again", flush=True)
    write_text(args.rows, as_lines(rows.values()))
    return 0


def _smollm2(args: argparse.Namespace) -> int:
    from planted_smollm2 import run_all

    run_all(args.out.resolve(), args.rows, args.only)
    return 0


def _status(args: argparse.Namespace) -> int:
    from planted_plan import plan
    from planted_runs import read_rows

    rows = read_rows(args.rows)
    done = Counter(row["kind"] for row in rows.values())
    for kind, total in Counter(run.kind for run in plan()).items():
        classes = Counter(r["class"] for r in rows.values() if r["kind"] == kind)
        print(f"{kind:14s} {done[kind]:3d} of {total:3d}  {dict(classes)}")
    return 0


def _table(args: argparse.Namespace) -> int:
    from planted_report import MARK, SHORT, markdown, placed, short
    from planted_runs import read_rows

    rows = list(read_rows(args.rows).values())
    parts = {SHORT: short(rows), MARK: markdown(rows)}
    for file in args.markdown:
        file.write_text(placed(file.read_text() if file.is_file() else "", parts))
    print("\n".join(parts.values()))
    return 0


def _plot(args: argparse.Namespace) -> int:
    from planted_report import plot
    from planted_runs import read_rows

    plot(list(read_rows(args.rows).values()), args.image)
    print(args.image)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, action in (
        ("run", _run), ("again", _again), ("status", _status), ("table", _table), ("plot", _plot),
        ("smollm2", _smollm2),
    ):  # fmt: skip
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument("--rows", type=Path, default=ROWS)
        if name in ("run", "again", "smollm2"):
            command.add_argument("--out", type=Path, required=True, help="folder of the runs")
            command.add_argument("--only", nargs="+", default=[], help="kinds, or parts of ids")
        if name in ("run", "again"):
            command.add_argument("--limit", type=int, default=0, help="only the first of them")
        if name == "run":
            command.add_argument("--workers", type=int, default=1, help="one thread each")
        if name == "table":
            command.add_argument(
                "--markdown", type=Path, nargs="+", default=[], help="write it there, in its place"
            )
        if name == "plot":
            command.add_argument(
                "--image", type=Path, default=HERE.parent / "docs" / "images" / "detectors.png"
            )
    args = parser.parse_args()
    raise SystemExit(args.action(args))


if __name__ == "__main__":
    main()
