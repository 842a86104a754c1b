"""Whether a cure cures: sick runs of the tunnel, and the same runs with one setting changed.

    python benchmarks/cures.py run --out FOLDER [--only NAME ...] [--workers 2]
    python benchmarks/cures.py status
    python benchmarks/cures.py table

``run`` adds a row to ``benchmarks/cures/rows.jsonl`` as each run is done (about 1 minute on one
thread). Stop it at any time; the same command goes on. docs/cures.md says how it is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
ROWS = HERE / "cures" / "rows.jsonl"

from cures_plan import (  # noqa: E402
    CURES,
    FEEDBACK,
    POLICY,
    RM,
    SEEDS,
    SICKNESSES,
    Trial,
    trials,
)
from gnomon.stats.intervals import Interval  # noqa: E402

VERSION = 1


# -- one trial ------------------------------------------------------------------------------------


def make(trial: Trial, out: Path) -> dict[str, Any]:
    """Run a trial, or what is left of it, and return its row."""
    from cures_measures import figures
    from cures_recipes import GOES_ON, labels_recipe_of, overrides_of, recipe_of
    from planted_plan import JUDGE
    from planted_recipes import labels_recipe, start_recipe
    from planted_runs import run_plain

    _once(start_recipe(trial.seed, out), [], out)
    if trial.sick.method != "sft":  # which samples, and is observed by the judge
        _once(labels_recipe(trial.seed, JUDGE, out), [], out)
    if trial.labels is not None:
        _once(labels_recipe_of(trial, out), trial.overrides(FEEDBACK, RM), out)
    if trial.stages in GOES_ON:
        _once(recipe_of(trial.without_cure, out), [], out)
    began, cpu = time.monotonic(), time.process_time()
    plain = recipe_of(trial, out)
    run_plain(plain, overrides_of(trial, out))
    trained = round(time.process_time() - cpu, 1)
    cure = CURES[trial.cure] if trial.cure else None
    return {
        "version": VERSION,
        "id": trial.id,
        "sickness": trial.sickness,
        "cure": trial.cure,
        "overrides": [*(cure.overrides or (cure.words,))] if cure else [],
        "seed": trial.seed,
        **figures(trial, plain, out),
        "seconds": round(time.monotonic() - began, 1),
        "train_cpu_seconds": trained,
    }


def _once(plain: Mapping[str, Any], overrides: Sequence[str], out: Path) -> None:
    """Make what trials share, once."""
    from planted_runs import locked, run_plain

    done = out / "shared" / f"{plain['name']}.done"
    with locked(out / "locks" / str(plain["name"]), wait=True):
        if not done.is_file():
            run_plain(plain, overrides)
            done.touch()


def _work(chosen: Sequence[Trial], out: Path, rows: Path) -> int:
    from planted_runs import add_row, locked, read_rows

    failed = 0
    for trial in chosen:
        with locked(out / "locks" / trial.id, wait=False) as mine:
            if not mine or trial.id in read_rows(rows):
                continue
            try:
                row = make(trial, out)
            except Exception:
                failed += 1
                traceback.print_exc()
                continue
            add_row(rows, row)
            print(f"{time.strftime('%H:%M:%S')} {trial.id}: {row['seconds']:.0f} s", flush=True)
    return failed


# -- what came of it ------------------------------------------------------------------------------


def difference(cured: Mapping[str, Any], sick: Mapping[str, Any], figure: str) -> Interval:
    """Cured less sick on the same hidden prompts, paired, with a 95% interval."""
    return _gain(cured[figure][POLICY], sick[figure][POLICY], figure)


def harm(sick: Mapping[str, Any], figure: str, enough: float | None) -> Interval:
    """What the figure lacks without the cure: of what is enough, else of the start's."""
    from cures_measures import MEASURES
    from gnomon.stats.prompts import over_prompts

    own = sick[figure][POLICY]
    if enough is None:
        return _gain(own, sick[figure]["base"], figure)
    found = over_prompts([[v] for v in own], MEASURES[figure].bounds)
    return Interval(found.value - enough, found.low - enough, found.high - enough, found.n)


def _gain(own: Sequence[float | None], other: Sequence[float | None], figure: str) -> Interval:
    from cures_measures import MEASURES
    from gnomon.stats.prompts import gain_over_prompts

    bounds = MEASURES[figure].bounds
    return gain_over_prompts([[v] for v in own], [[v] for v in other], bounds)


def verdict(
    differences: Sequence[Interval], lacks: Sequence[Interval], seeds: int = len(SEEDS)
) -> str:
    """``shown``: at every seed the sick run is sick, and the cured run's figure is above the sick
    one's (lower ends above 0). ``not shown``: it was run on all seeds and is not; ``harm`` where at
    a seed it is shown to be below. Else what is missing."""
    if len(differences) < seeds:
        return f"{len(differences)} of {seeds} seeds run"
    if not all(lack.high < 0 for lack in lacks):
        return "not shown: the sick run is not sick at every seed"
    if any(d.high < 0 for d in differences):
        return "not shown; harm at a seed"
    return "shown" if all(d.low > 0 for d in differences) else "not shown"


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The cures of each sickness as a table, seed by seed."""
    from cures_measures import MEASURES

    parts = []
    for name, sickness in SICKNESSES.items():
        figure, beside = sickness.measured, sickness.beside
        enough = sickness.enough
        wanted = "its start's" if enough is None else f"{enough:g}, which is asked for"
        lines = [
            f"`{name}`: {MEASURES[figure].words}. Beside it: {MEASURES[beside].words}.",
            "",
            f"| cure | change | sick run | less {wanted} | cured less sick | beside it | |",
            "|---|---|---|---|---|---|---|",
        ]
        for cure in (c for c, about in CURES.items() if about.sickness == name):
            pairs = _pairs(cure, rows)
            sick = [s for _, s in pairs]
            lacks = [harm(s, figure, enough) for s in sick]
            gains = [difference(c, s, figure) for c, s in pairs]
            cells = [
                "<br>".join(f"{_mean(s[figure][POLICY]):.2f}" for s in sick) or "-",
                *(_cell(found) for found in (lacks, gains)),
                _cell([difference(c, s, beside) for c, s in pairs]),
                verdict(gains, lacks, len(CURES[cure].seeds)),
            ]
            fresh = "" if CURES[cure].seeds == SEEDS else ", at fresh seeds"
            lines.append(f"| `{cure}`{fresh} | {_change(cure)} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _pairs(
    cure: str, rows: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The rows of a cure and of its sick run, at every seed that has both."""
    tried = [Trial(CURES[cure].sickness, cure, seed) for seed in CURES[cure].seeds]
    return [
        (rows[trial.id], rows[trial.without_cure.id])
        for trial in tried
        if trial.id in rows and trial.without_cure.id in rows
    ]


def _change(cure: str) -> str:
    about = CURES[cure]
    return about.words or "<br>".join(f"`{override}`" for override in about.overrides)


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known)


def _cell(found: Sequence[Interval]) -> str:
    return "<br>".join(f"{f.value:+.2f} {_ends(f)}".strip() for f in found) or "-"


def _ends(found: Interval) -> str:
    return f"[{found.low:+.2f}, {found.high:+.2f}]" if found.known else "(the same answers)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "status", "table"))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--out", type=Path, help="folder of the runs (for run)")
    parser.add_argument("--only", nargs="+", default=[], help="sicknesses, cures, or parts of ids")
    parser.add_argument("--workers", type=int, default=1, help="one thread each")
    args = parser.parse_args()
    from planted_runs import read_rows, work_together

    chosen = [t for t in trials() if not args.only or any(word in t.id for word in args.only)]
    if not chosen:
        raise SystemExit(f"--only {' '.join(args.only)}: no such run; cures are {', '.join(CURES)}")
    if args.command == "table":
        print(table(read_rows(args.rows)), end="")
    elif args.command == "status":
        rows = read_rows(args.rows)
        for trial in chosen:
            print(f"{trial.id:36s} {'done' if trial.id in rows else '-'}")
    elif args.out is None:
        parser.error("run needs --out FOLDER")
    elif args.workers > 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        again = [__file__, "run", "--out", str(args.out), "--rows", str(args.rows)]
        again += ["--only", *args.only] if args.only else []
        raise SystemExit(1 if work_together(again, args.workers) else 0)
    else:
        raise SystemExit(1 if _work(chosen, args.out.resolve(), args.rows) else 0)


if __name__ == "__main__":
    main()
