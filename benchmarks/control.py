"""Control learned from comparisons of clips (Christiano et al. 2017), beside the true reward and a
reward of noise: three seeds of recipes/control-TASK.yaml.

    python benchmarks/control.py                      every task and seed that is not in the rows
    python benchmarks/control.py --task pendulum      one task
    python benchmarks/control.py --plot               only draw docs/images/control.png

A row is added to benchmarks/control/rows.jsonl as a run is done; a run that was killed is resumed
from its last round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).resolve().parent
ROWS = HERE / "control" / "rows.jsonl"
IMAGE = HERE.parent / "docs" / "images" / "control.png"
TASKS = ("pendulum", "reacher")
SEEDS = (0, 1, 2)
STAGES = {"truth": "true reward", "comparisons": "comparisons of clips", "noise": "random reward"}
COLOURS = {"truth": "#4a4a4a", "comparisons": "#1f5fbf", "noise": "#b5532a"}


def rows() -> list[dict[str, Any]]:
    """All rows so far."""
    text = ROWS.read_text(encoding="utf-8") if ROWS.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def measure(task: str, seed: int, runs: Path) -> None:
    """Run a task's recipe with a seed, or go on with it, and add a row for each of its stages."""
    from gnomon.recipe.load import load_recipe
    from gnomon.runs.read import read_run
    from gnomon.stages.run import run_recipe

    file = HERE.parent / "recipes" / f"control-{task}.yaml"
    name = f"control-{task}-seed{seed}"
    recipe = load_recipe(file, [f"name={name}", f"seed={seed}", f"output={runs}"])
    folder = run_recipe(recipe, base=file.parent, resume=True)
    ROWS.parent.mkdir(exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as stream:
        for stage in read_run(folder).stages:
            figures = {k.removeprefix("policy."): v for k, v in stage.evals.figures().items()}
            steps, gold = stage.series("gold")
            row = {
                "task": task,
                "seed": seed,
                "reward": stage.name,
                "gold": figures["gold"].to_dict(),
                "random_play": figures["random_play"].value,
                "share": figures["share"].value if "share" in figures else None,
                "comparisons": int(stage.info.summary.get("comparisons", 0)),
                "accuracy": stage.info.summary.get("accuracy"),
                "correlation": stage.info.summary.get("correlation"),
                "episodes": [int(x) for x in stage.series("episodes")[1]],
                "curve": [round(float(y), 3) for y in gold[: len(steps)]],
                "cpu_seconds": round(stage.info.cpu_seconds or 0),
            }
            stream.write(json.dumps(row) + "\n")


def table(known: Sequence[dict[str, Any]]) -> None:
    """Print every row, and the mean share with its range over seeds."""
    heads = ("seed", "return", "share", "asked", "cpu s")
    print(f"{'task':<10}{'reward':<13}" + "".join(f"{head:>9}" for head in heads))
    for r in sorted(known, key=lambda r: (r["task"], list(STAGES).index(r["reward"]), r["seed"])):
        share = "" if r["share"] is None else f"{r['share']:.2f}"
        cells = (r["seed"], f"{r['gold']['value']:.1f}", share, r["comparisons"], r["cpu_seconds"])
        print(f"{r['task']:<10}{r['reward']:<13}" + "".join(f"{cell:>9}" for cell in cells))
    for task, reward in product(TASKS, ("comparisons", "noise")):
        of = [r for r in known if (r["task"], r["reward"]) == (task, reward)]
        own = [r["share"] for r in of if r["share"] is not None]
        if own:
            spread = f"{fmean(own):.2f} [{min(own):.2f}, {max(own):.2f}] over {len(own)} seeds"
            print(f"{task}, {reward}: share {spread}")


def plot(known: Sequence[dict[str, Any]]) -> None:
    """Returns of training episodes by task: a thin line a seed, a thick one their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task for task in TASKS if any(r["task"] == task for r in known)]
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(5 * len(tasks), 3.6), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        for reward, label in STAGES.items():
            own = [r for r in known if (r["task"], r["reward"]) == (task, reward)]
            for r in own:
                panel.plot(r["episodes"], r["curve"], color=COLOURS[reward], alpha=0.3, lw=1)
            if own:
                mean = [fmean(values) for values in zip(*(r["curve"] for r in own), strict=True)]
                asked = max(r["comparisons"] for r in own)
                words = f"{asked:,} {label}" if asked else label
                panel.plot(own[0]["episodes"], mean, color=COLOURS[reward], lw=2, label=words)
        chance = fmean(r["random_play"] for r in known if r["task"] == task)
        panel.axhline(chance, color="#999999", lw=1, ls=":", label="random play")
        panel.set_title(task.capitalize(), loc="left")
        panel.set_xlabel("episodes")
        panel.set_ylabel("true return of training episodes")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE, dpi=130)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--task", choices=TASKS, action="append", help="may be repeated; else all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("--plot", action="store_true", help="run nothing")
    args = parser.parse_args()
    done = {(r["task"], r["seed"]) for r in rows()}
    for seed in args.seeds:
        for task in args.task or TASKS:
            if not args.plot and (task, seed) not in done:
                measure(task, seed, args.runs)
    table(rows())
    if rows():
        plot(rows())


if __name__ == "__main__":
    main()
