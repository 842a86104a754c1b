"""Does choosing which pairs to label beat labelling at random, at the same number of labels?

    python benchmarks/active.py --out FOLDER             # about 40 minutes on a core
    python benchmarks/active.py --out FOLDER --report    # what is done so far: table and plot

In the tunnel: a pool of pairs of a policy's answers, one noisy labeller, reward models trained from
the start after each round. All methods share a seed's first labels, which are drawn at random; from
there on each chooses its own by ``gnomon.feedback.select``. Stop it at any time; the same command
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from gnomon.feedback.select import METHODS, Method, candidates, choose
from gnomon.records import Group
from gnomon.report import style
from gnomon.tasks.tunnel.labellers import Labeller
from label_world import (
    Heldout,
    Rows,
    accuracy,
    as_items,
    over_seeds,
    pairs,
    prepare,
    row_of,
    train,
)

SEEDS = (0, 1, 2)
ROUNDS = (128, 256, 512)
"""Labels after each round."""
PERSON = {"noise": 0.1, "careless": 0.05}


class Study:
    """One pool, its held-out pairs, and the figures so far."""

    def __init__(self, out: Path, pool: int, heldout: int, members: int, share: bool) -> None:
        self.out = out
        self.run = prepare(out, pool, heldout)
        self.pool = pairs(self.run, "02-pool")
        self.heldout = Heldout(pairs(self.run, "03-heldout"))
        self.settings = {"members": members, "share_trunk": share, "member_fraction": 0.8}
        self.rows = Rows(out / "active.jsonl")

    def curve(self, by: Method, seed: int) -> None:
        """Label round by round, as a method chooses."""
        order = list(range(len(self.pool)))
        Random(f"first/{seed}").shuffle(order)
        asked = order[: ROUNDS[0]]
        model = self.fit("first", seed, asked)
        for budget in ROUNDS[1:]:
            left = [i for i in order if i not in set(asked)]
            chosen = self.choose(by, model, left, budget - len(asked), seed)
            asked = asked + chosen
            model = self.fit(f"{by}-{budget}", seed, asked)

    def choose(self, by: Method, model: Path, left: list[int], n: int, seed: int) -> list[int]:
        if by == "random":
            return left[:n]  # they are in random order
        name = f"{by}-{model.parents[2].name}-chosen"
        row = self.rows.get(name)
        if row is None:
            found = candidates(model, as_items([self.pool[i] for i in left]))
            place = dict(zip(found.ids, left, strict=True))
            picked = [place[found.ids[k]] for k in choose(found, n, by, seed)]
            row = self.rows.add(name, chosen=picked)
        return list(row["chosen"])

    def fit(self, name: str, seed: int, asked: Sequence[int]) -> Path:
        """A reward model of these pairs' labels, and its figure."""
        name = f"{name}-s{seed}"
        labelled = [label(self.pool[i], seed) for i in asked]
        model = train(name, labelled, self.run, self.out, seed, **self.settings)
        if self.rows.get(name) is None:
            right, prompts = self.heldout.right(model)
            found = accuracy(right, prompts)
            gold = [row["comparisons"][0] for row in labelled]
            self.rows.add(
                name,
                labels=len(asked),
                accuracy=found.value,
                low=found.low,
                high=found.high,
                right=[float(x) for x in right],
                wrong_labels=self.wrong(asked, gold),
            )
        return model

    def wrong(self, asked: Sequence[int], said: Sequence[dict[str, Any]]) -> float:
        """The share of labels of decided pairs that gold contradicts."""
        from gnomon.tasks.tunnel.gold import gold_score

        checks = []
        for i, verdict in zip(asked, said, strict=True):
            group = self.pool[i]
            gold = [gold_score(group.prompt, r.text).total for r in group.responses]
            if abs(gold[0] - gold[1]) > 1e-9:
                checks.append(gold[int(verdict["better"])] < gold[int(verdict["worse"])])
        return float(np.mean(checks)) if checks else 0.0


def label(group: Group, seed: int) -> dict[str, Any]:
    """The labeller's verdict on a pair."""
    person = Labeller("person", seed=seed, **PERSON)
    ranks = person.label_group(group.prompt, [r.text for r in group.responses])
    better, worse = (0, 1) if ranks[0] <= ranks[1] else (1, 0)
    return row_of(group, [{"better": better, "worse": worse}])


# -- what came of it -------------------------------------------------------------------------------


def report(rows: Rows, out: Path) -> None:
    """The learning curves as a table (mean over seeds) and a plot, and each method less random."""
    found: dict[str, dict[int, list[float]]] = {}
    for by in METHODS:
        for budget in ROUNDS:
            name = "first" if budget == ROUNDS[0] else f"{by}-{budget}"
            seeds = [rows.get(f"{name}-s{s}") for s in SEEDS]
            found.setdefault(by, {})[budget] = [r["accuracy"] for r in seeds if r is not None]
    print("| labels | " + " | ".join(METHODS) + " |\n" + "|---" * (1 + len(METHODS)) + "|")
    for budget in ROUNDS:
        cells = [_cell(found[by][budget]) for by in METHODS]
        print(f"| {budget} | " + " | ".join(cells) + " |")
    print("\nless random, paired by seed (mean of 3 seeds, 95% by Student's t):")
    summary = {}
    for by in METHODS:
        if by == "random":
            continue
        for budget in (*ROUNDS[1:], None):
            gains = _gains(found, by, budget)
            if len(gains) > 1:
                gap = over_seeds(gains)
                what = "all rounds" if budget is None else f"{budget} labels"
                summary[f"{by}, {what}"] = gap.to_dict()
                print(f"  {by:13} {what:11} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]")
    (out / "active.json").write_text(json.dumps({"curves": found, "gains": summary}, indent=1))
    plot(found, out / "active.png")


def _gains(found: dict[str, dict[int, list[float]]], by: str, budget: int | None) -> list[float]:
    """A method's accuracy less random's, seed by seed; over all rounds where none is named."""
    budgets = ROUNDS[1:] if budget is None else (budget,)
    per = [[a - b for a, b in zip(found[by][n], found["random"][n], strict=False)] for n in budgets]
    return [float(np.mean(seed)) for seed in zip(*per, strict=False)]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def plot(found: dict[str, dict[int, list[float]]], file: Path) -> None:
    with style.new_figure(6.4, 3.8) as figure:
        axis = figure.subplots()
        for i, by in enumerate(("random", *(m for m in METHODS if m != "random"))):
            drawn = [n for n in ROUNDS if found[by][n]]
            mean = [float(np.mean(found[by][n])) for n in drawn]
            spread = [
                [m - min(found[by][n]) for m, n in zip(mean, drawn, strict=True)],
                [max(found[by][n]) - m for m, n in zip(mean, drawn, strict=True)],
            ]
            at = [n * 1.02 ** (i - 2) for n in drawn]
            axis.errorbar(
                at, mean, spread, label=by, color=style.INK if by == "random" else style.PALETTE[i],
                marker=style.MARKERS[i], markersize=4, capsize=2, linewidth=1.4, elinewidth=0.8,
                linestyle="--" if by == "random" else "-",
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xticks(ROUNDS, [str(n) for n in ROUNDS])
        axis.set_xlabel("labels")
        axis.set_ylabel("gold accuracy of the reward model")
        axis.legend(loc="lower right")
        style.title(
            figure, "Which pairs to label", "mean of 3 seeds; bars: lowest and highest seed"
        )
        style.save(figure, file)
    print(f"plot: {file}")


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help="folder of the runs")
    made.add_argument("--pool", type=int, default=1200, help="pairs to choose from")
    made.add_argument("--heldout", type=int, default=400, help="prompts to measure on")
    made.add_argument("--members", type=int, default=4)
    made.add_argument("--separate", action="store_true", help="members are whole models")
    made.add_argument("--seed", type=int, nargs="*", default=SEEDS, help="these seeds only")
    made.add_argument("--report", action="store_true", help="train nothing")
    args = made.parse_args()
    if not args.report:
        study = Study(args.out, args.pool, args.heldout, args.members, not args.separate)
        for seed in args.seed:
            for by in METHODS:
                study.curve(by, seed)  # type: ignore[arg-type]
    report(Rows(args.out / "active.jsonl"), args.out)


if __name__ == "__main__":
    main()
