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
    POLICY,
    RM,
    SEEDS,
    Trial,
    labels_folder,
    labels_recipe_of,
    recipe_of,
    trials,
)

VERSION = 1


# -- one trial ------------------------------------------------------------------------------------


def make(trial: Trial, out: Path) -> dict[str, Any]:
    """Run a trial, or what is left of it, and return its row."""
    from planted_plan import JUDGE
    from planted_recipes import labels_recipe, start_recipe
    from planted_runs import run_plain
    from planted_truth import hidden_comparison

    _once(start_recipe(trial.seed, out), [], out)
    _once(labels_recipe(trial.seed, JUDGE, out), [], out)
    if trial.labels is not None:
        _once(labels_recipe_of(trial, out), trial.overrides(RM), out)
        assert labels_folder(trial, out).is_dir()
    began, cpu = time.monotonic(), time.process_time()
    plain = recipe_of(trial, out)
    run_plain(plain, trial.overrides(POLICY))
    trained = round(time.process_time() - cpu, 1)
    compared = hidden_comparison(trial.planned, plain, out, judge=True)
    scores = {model: compared.scores(model) for model in ("base", POLICY)}
    return {
        "version": VERSION,
        "id": trial.id,
        "sickness": trial.sickness,
        "cure": trial.cure,
        "overrides": list(CURES[trial.cure].overrides) if trial.cure else [],
        "seed": trial.seed,
        "gold": {model: _means(columns["gold"]) for model, columns in scores.items()},
        "judge": {model: _means(columns[JUDGE]) for model, columns in scores.items()},
        "reward": _means(scores[POLICY].get("trained", {})),
        "words": _words(compared),
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


def _means(by_prompt: Mapping[str, Sequence[float | None]]) -> list[float | None]:
    """The mean of a prompt's samples, in the order of the prompts."""
    known = [[v for v in values if v is not None] for values in by_prompt.values()]
    return [round(sum(v) / len(v), 4) if v else None for v in known]


def _words(compared: Any) -> float:
    """Words in the shown answers of the policy, on average."""
    texts = [row[POLICY] for row in compared.samples if POLICY in row]
    return round(sum(len(t.split()) for t in texts) / max(1, len(texts)), 2)


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


def difference(cured: Mapping[str, Any], sick: Mapping[str, Any], column: str):
    """Cured less sick on the same hidden prompts, paired, with a 95% interval."""
    from gnomon.stats.prompts import gain_over_prompts

    sides = ([[value] for value in row[column][POLICY]] for row in (cured, sick))
    return gain_over_prompts(*sides, bounds=None)


def verdict(differences: Sequence[Any], harm: Sequence[Any]) -> str:
    """``shown``: at every seed the sick run's gold is hurt, and the cured run's is above the sick
    one's (lower ends above 0). ``not shown``: it was run on all seeds and is not. Else what is
    missing."""
    if len(differences) < len(SEEDS):
        return f"{len(differences)} of {len(SEEDS)} seeds run"
    if not all(h.high < 0 for h in harm):
        return "not shown: the sick run is not sick at every seed"
    return "shown" if all(d.low > 0 for d in differences) else "not shown"


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The cures as a table: gold and the held-out judge, cured less sick, seed by seed."""
    lines = [
        "| cure | overrides | gold: the sick run less its start | gold: cured less sick "
        "| held-out judge: cured less sick | |",
        "|---|---|---|---|---|---|",
    ]
    for name, cure in CURES.items():
        pairs = [
            (rows[a], rows[b])
            for seed in SEEDS
            if (a := Trial(cure.sickness, name, seed).id) in rows
            and (b := Trial(cure.sickness, None, seed).id) in rows
        ]
        gold = [difference(a, b, "gold") for a, b in pairs]
        judge = [difference(a, b, "judge") for a, b in pairs]
        harm = [_harm(sick) for _, sick in pairs]
        changed = ", ".join(f"`{o}`" for o in cure.overrides)
        cells = [_cell(harm), _cell(gold), _cell(judge), verdict(gold, harm)]
        lines.append(f"| `{name}` | {changed} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _harm(sick: Mapping[str, Any]):
    """What training did to gold without the cure."""
    from gnomon.stats.prompts import gain_over_prompts

    sides = ([[value] for value in sick["gold"][who]] for who in (POLICY, "base"))
    return gain_over_prompts(*sides, bounds=None)


def _cell(found: Sequence[Any]) -> str:
    return "<br>".join(f"{f.value:+.2f} [{f.low:+.2f}, {f.high:+.2f}]" for f in found) or "-"


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
