"""Does choosing which pairs to label beat labelling at random, at the same number of labels?

    python benchmarks/active.py --out FOLDER              # minutes: heads on the frozen policy
    python benchmarks/active.py --out FOLDER --whole      # an hour: whole reward models
    python benchmarks/active.py --out FOLDER [--whole] --report    # what is done so far

In the tunnel: a pool of pairs of a policy's answers, one noisy labeller, reward models trained anew
after each round. All methods share a seed's first labels, which are drawn at random; from there
each chooses its own by ``gnomon.feedback.select``. The pool and the held-out prompts are the same
for all seeds; the first labels, the labeller's noise and the training are not. Stop it at any time;
the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from gnomon.feedback.select import METHODS, Candidates, Method, candidates, choose
from gnomon.records import Group
from gnomon.report import style
from gnomon.tasks.tunnel.labellers import Labeller
from label_world import (
    Heldout,
    Rows,
    accuracy,
    answers,
    as_items,
    fit_heads,
    gold_accuracy,
    over_seeds,
    pairs,
    prepare,
    row_of,
    train,
)

SEEDS = {"heads": tuple(range(10)), "whole": (0, 1, 2)}
ROUNDS = {"heads": (32, 64, 128, 256, 512), "whole": (128, 256, 512)}
"""Labels after each round."""
WHOLE_METHODS: tuple[Method, ...] = ("both", "random")
MEMBERS = 8
"""Of an ensemble of heads."""
PERSON = {"noise": 0.1, "careless": 0.05}


class HeadStudy:
    """Reward heads on the policy's frozen states; fitted in a moment."""

    def __init__(self, out: Path, pool: int, heldout: int) -> None:
        self.pool, self.heldout = answers(out, pool, heldout)
        self.states = self.pool.first_two()
        self.rows = Rows(out / "active-heads.jsonl")

    def curve(self, by: Method, seed: int) -> None:
        """Label round by round, as a method chooses."""
        won = np.array([float(verdict(group, seed)[0] == 0) for group in self.pool.groups])
        asked = list(np.random.default_rng(seed).permutation(len(won)))[: ROUNDS["heads"][0]]
        for budget in ROUNDS["heads"]:
            if budget > len(asked):
                left = np.setdiff1d(np.arange(len(won)), asked)
                margins = self.states[left] @ heads.T  # noqa: F821 - of the round before
                toward = np.where(margins.mean(1) >= 0, 1.0, -1.0)[:, None]
                ids = tuple(str(i) for i in left)
                found = Candidates(ids, margins, np.arange(len(left)), self.states[left] * toward)
                asked += [int(left[k]) for k in choose(found, budget - len(asked), by, seed)]
            heads = fit_heads(self.states[asked], won[asked], seed, MEMBERS)
            right = gold_accuracy(heads, self.heldout)
            name = f"{by}-{budget}-s{seed}"
            if self.rows.get(name) is None:
                self.rows.add(name, accuracy=right.value, low=right.low, high=right.high)


class WholeStudy:
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
        asked = order[: ROUNDS["whole"][0]]
        model = self.fit("first", seed, asked)
        for budget in ROUNDS["whole"][1:]:
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
            self.rows.add(
                name,
                labels=len(asked),
                accuracy=found.value,
                low=found.low,
                high=found.high,
            )
        return model


def verdict(group: Group, seed: int) -> tuple[int, int]:
    """Which of a pair the labeller finds better, and which worse."""
    person = Labeller("person", seed=seed, **PERSON)
    ranks = person.label_group(group.prompt, [r.text for r in group.responses])
    return (0, 1) if ranks[0] <= ranks[1] else (1, 0)


def label(group: Group, seed: int) -> dict[str, Any]:
    """The labeller's verdict on a pair, as a row of training data."""
    better, worse = verdict(group, seed)
    return row_of(group, [{"better": better, "worse": worse}])


# -- what came of it -------------------------------------------------------------------------------

Curves = dict[str, dict[int, list[float]]]


def report(kind: str, rows: Rows, out: Path) -> None:
    """The learning curves as a table (mean over seeds) and a plot, and each method less random."""
    rounds, seeds = ROUNDS[kind], SEEDS[kind]
    methods = [m for m in METHODS if kind == "heads" or m in WHOLE_METHODS]
    found: Curves = {}
    for by in methods:
        for budget in rounds:
            first = kind == "whole" and budget == rounds[0]
            done = [rows.get(f"{'first' if first else f'{by}-{budget}'}-s{s}") for s in seeds]
            found.setdefault(by, {})[budget] = [
                math.nan if r is None else r["accuracy"] for r in done
            ]
    print("| labels | " + " | ".join(methods) + " |\n" + "|---" * (1 + len(methods)) + "|")
    for budget in rounds:
        print(f"| {budget} | " + " | ".join(_cell(found[by][budget]) for by in methods) + " |")
    print("\nless random, paired by seed (95% by Student's t):")
    summary = {}
    for by in (m for m in methods if m != "random"):
        for budgets in (*((n,) for n in rounds[1:]), rounds[1:]):
            gains = _gains(found, by, budgets)
            if len(gains) > 1:
                gap = over_seeds(gains)
                half = (gap.high - gap.low) / 2
                what = f"{budgets[0]} labels" if len(budgets) == 1 else "all rounds"
                summary[f"{by}, {what}"] = gap.to_dict()
                print(
                    f"  {by:13} {what:11} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] "
                    f"({len(gains)} seeds; about {1.4 * half:.4f} is seen 4 times in 5)"
                )
    (out / f"active-{kind}.json").write_text(
        json.dumps({"curves": found, "gains": summary}, indent=1)
    )
    plot(found, rounds, len(seeds), out / f"active-{kind}.png")


def _gains(found: Curves, by: str, budgets: Sequence[int]) -> list[float]:
    """A method's accuracy less random's, seed by seed, on average over budgets."""
    gaps = [np.array(found[by][n]) - np.array(found["random"][n]) for n in budgets]
    mean = np.mean(gaps, axis=0)
    return [float(x) for x in mean[np.isfinite(mean)]]


def _cell(values: Sequence[float]) -> str:
    known = [v for v in values if math.isfinite(v)]
    return f"{np.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else ""


def plot(found: Curves, rounds: Sequence[int], seeds: int, file: Path) -> None:
    with style.new_figure(6.4, 3.8) as figure:
        axis = figure.subplots()
        for i, by in enumerate(found):
            mean = np.array([np.nanmean(found[by][n]) for n in rounds])
            error = [np.nanstd(found[by][n], ddof=1) / math.sqrt(seeds) for n in rounds]
            axis.errorbar(
                [n * 1.025 ** (i - 2) for n in rounds], mean, error, label=by,
                color=style.INK if by == "random" else style.PALETTE[i],
                marker=style.MARKERS[i], markersize=4, capsize=2, linewidth=1.4, elinewidth=0.8,
                linestyle="--" if by == "random" else "-",
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xticks(rounds, [str(n) for n in rounds])
        axis.set_xlabel("labels")
        axis.set_ylabel("gold accuracy of the reward model")
        axis.legend(loc="lower right")
        style.title(figure, "Which pairs to label", f"mean of {seeds} seeds; bars: standard errors")
        style.save(figure, file)
    print(f"plot: {file}")


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help="folder of the runs")
    made.add_argument("--pool", type=int, default=1200, help="pairs to choose from")
    made.add_argument("--heldout", type=int, default=400, help="prompts to measure on")
    made.add_argument("--whole", action="store_true", help="train whole reward models")
    made.add_argument("--members", type=int, default=4, help="of a whole ensemble")
    made.add_argument("--separate", action="store_true", help="whole members share no trunk")
    made.add_argument("--report", action="store_true", help="train nothing")
    args = made.parse_args()
    kind = "whole" if args.whole else "heads"
    rows = Rows(args.out / ("active.jsonl" if args.whole else "active-heads.jsonl"))
    if not args.report:
        study: Any = (
            WholeStudy(args.out, args.pool, args.heldout, args.members, not args.separate)
            if args.whole
            else HeadStudy(args.out, args.pool, args.heldout)
        )
        for seed in SEEDS[kind]:
            for by in WHOLE_METHODS if args.whole else METHODS:
                study.curve(by, seed)
    report(kind, rows, args.out)


if __name__ == "__main__":
    main()
