"""Control learned from comparisons of clips (Christiano et al. 2017), beside the true reward and a
reward of noise: three seeds of recipes/control-TASK.yaml.

    python benchmarks/control.py                      all that is not in the rows yet
    python benchmarks/control.py --task pendulum      one task
    python benchmarks/control.py --plot               only draw docs/images/control.png

A row is added to benchmarks/control/rows.jsonl as a stage is done; one that was killed is resumed
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

from gnomon.files import append_line
from gnomon.runs.records import StageInfo
from gnomon.runs.rows import MetricsStore

HERE = Path(__file__).resolve().parent
ROWS = HERE / "control" / "rows.jsonl"
IMAGE = HERE.parent / "docs" / "images" / "control.png"
TASKS = ("pendulum", "inverted-pendulum", "reacher")
SEEDS = (0, 1, 2)
STAGES = {"truth": "true reward", "comparisons": "comparisons of clips", "noise": "random reward"}
COLOURS = {"truth": "#4a4a4a", "comparisons": "#1f5fbf", "noise": "#b5532a"}


def rows() -> list[dict[str, Any]]:
    """All rows so far."""
    text = ROWS.read_text(encoding="utf-8") if ROWS.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def measure(task: str, seed: int, runs: Path) -> None:
    """Run the stages of a task's recipe that have no row yet, or go on with them."""
    from gnomon.recipe.load import load_recipe
    from gnomon.runs.folder import RunFolder
    from gnomon.stages.stage import open_stage, run_stage

    file = HERE.parent / "recipes" / f"control-{task}.yaml"
    name = f"control-{task}-seed{seed}"
    recipe = load_recipe(file, [f"name={name}", f"seed={seed}", f"output={runs}"])
    run = RunFolder(recipe)
    run.open(resume=True)
    for spec in recipe.stages:
        if any((r["task"], r["seed"], r["reward"]) == (task, seed, spec.name) for r in rows()):
            continue
        stage = open_stage(recipe, spec, run, file.parent)
        stage.check()
        row = {"task": task, "seed": seed, "reward": spec.name, **figures(run_stage(stage, True))}
        append_line(ROWS, json.dumps(row | curve(stage.folder.path)).encode())


def figures(info: StageInfo) -> dict[str, Any]:
    """What a stage measured."""
    seen, held_out = info.summary, info.held_out
    return {
        "gold": held_out["gold"],
        "random_play": held_out["random_play"],
        "no_action": held_out["no_action"],
        "share": held_out.get("share"),
        "comparisons": int(seen.get("comparisons", 0)),
        "accuracy": seen.get("accuracy"),
        "correlation": seen.get("correlation"),
        "cpu_seconds": round(info.cpu_seconds or 0),
    }


def curve(folder: Path) -> dict[str, list[float]]:
    """The true return of training episodes after each round."""
    columns, _ = MetricsStore.read(folder / "metrics.parquet", done=True)
    return {"episodes": [int(x) for x in columns["episodes"]],
            "curve": [round(float(x), 2) for x in columns["gold"]]}  # fmt: skip


def table(known: Sequence[dict[str, Any]]) -> None:
    """Print every row, and the mean share with its range over seeds."""
    heads = ("seed", "return", "share", "asked", "cpu s")
    print(f"{'task':<19}{'reward':<13}" + "".join(f"{head:>9}" for head in heads))
    for r in sorted(known, key=lambda r: (r["task"], list(STAGES).index(r["reward"]), r["seed"])):
        share = "" if r["share"] is None else f"{r['share']:.2f}"
        cells = (r["seed"], f"{r['gold']:.1f}", share, r["comparisons"], r["cpu_seconds"])
        print(f"{r['task']:<19}{r['reward']:<13}" + "".join(f"{cell:>9}" for cell in cells))
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
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(5 * len(tasks), 4.4), squeeze=False)
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
        for name, style in (("random_play", ":"), ("no_action", "--")):
            level = fmean(r[name] for r in known if r["task"] == task)
            words = name.replace("_", " ")
            panel.axhline(level, color="#999999", lw=1, ls=style, label=words)
        panel.set_title(task.capitalize().replace("-", " "), loc="left")
        panel.set_xlabel("episodes")
        panel.set_ylabel("true return of training episodes")
        panel.spines[["top", "right"]].set_visible(False)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        panel.legend(fontsize=8, frameon=False, **below)  # beside no curve
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
    for seed in args.seeds:
        for task in args.task or TASKS:
            if not args.plot:
                measure(task, seed, args.runs)
    table(rows())
    if rows():
        plot(rows())


if __name__ == "__main__":
    main()
