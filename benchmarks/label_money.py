"""People, an AI judge, or both: what the same money buys.

    python benchmarks/label_money.py --out FOLDER [--human-price 1 --ai-price 0.1]

In the tunnel: people are right more often and dear, judges are biased (they like polite answers,
and often do not check what they say) and cheap. At each budget a Bradley-Terry reward head on the
policy's frozen states is fitted to the labels that the money buys, and measured by gold on held-out
prompts. Mixed: half the money each, people on some of the pairs that the judge labels; the
consensus finds from those how far the judge is to be believed. Then the ledger:
euros a pair, a bit, a point.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from gnomon.feedback.consensus import consensus
from gnomon.feedback.information import per_point
from gnomon.feedback.ledger import Tariff, ledger
from gnomon.feedback.records import Label, votes
from gnomon.records import Cost
from gnomon.report import style
from gnomon.runs.labels import LabelCosts
from gnomon.tasks.tunnel.labellers import Labeller
from label_world import Answers, answers, fit_heads, gold_accuracy, over_seeds

SEEDS = tuple(range(10))
BUDGETS = (15, 30, 60, 120)
HUMAN = {"noise": 0.1, "careless": 0.03}
JUDGES = {
    "a mildly biased judge": {"noise": 0.2, "inattention": 0.3, "politeness_bias": 0.4},
    "a strongly biased judge": {"noise": 0.2, "inattention": 0.8, "politeness_bias": 1.0},
}
SIDES = ("people", "AI", "mixed")
Curves = dict[str, dict[int, list[float]]]


class Study:
    """The pool, the held-out answers, and who labels at which price."""

    def __init__(
        self, pool: Answers, heldout: Answers, prices: dict[str, float], judge: dict[str, float]
    ) -> None:
        self.pool, self.heldout, self.prices, self.judge = pool, heldout, prices, judge
        self.states = pool.first_two()

    def labels(self, who: str, kind: str, pairs: Sequence[int], seed: int) -> list[Label]:
        """What somebody says of these pairs, at their price."""
        person = Labeller(who, seed=seed, **(HUMAN if kind == "person" else self.judge))
        out = []
        for i in pairs:
            group = self.pool.groups[i]
            ranks = person.label_group(group.prompt, [r.text for r in group.responses[:2]])
            cost = Cost(money=self.prices[kind])
            out.append(Label(f"{who}-{i}", str(i), who, "ranking", ranks=tuple(ranks), cost=cost))
        return out

    def bought(self, side: str, budget: float, seed: int) -> list[Label]:
        """The labels that a budget buys; a pool that is labelled out buys no more."""
        order = [int(i) for i in np.random.default_rng(seed).permutation(len(self.states))]
        half = budget / 2 if side == "mixed" else budget
        people = [] if side == "AI" else order[: int(half / self.prices["person"] + 1e-9)]
        machine = [] if side == "people" else order[: int(half / self.prices["model"] + 1e-9)]
        return self.labels("person", "person", people, seed) + self.labels(
            "judge", "model", machine, seed
        )

    def accuracy(self, labels: Sequence[Label], seed: int) -> Any:
        """Gold accuracy of a head on what the labels say together: people are taken at their word,
        the judge as far as the consensus believes it."""
        said = votes(labels)
        word = {(v.item, 0, 1): v.won for v in said if v.labeller == "person"}
        of_judge = [v for v in said if v.labeller == "judge"]
        belief = dict(word)
        if of_judge:
            found = consensus(of_judge, "dawid_skene", gold=word).beliefs if word else None
            for v in of_judge:
                pair = (v.item, 0, 1)
                belief.setdefault(pair, v.won if found is None else found[pair].probability)
        items = [int(item) for item, _, _ in belief]
        heads = fit_heads(self.states[items], np.array(list(belief.values())), seed)
        return gold_accuracy(heads, self.heldout)


def ledgers(study: Study) -> tuple[LabelCosts, LabelCosts]:
    """Three people and the judge on the same 200 pairs: the ledger by the others' consensus, and by
    gold."""
    pairs = [
        i for i in range(len(study.states)) if abs(np.subtract(*study.pool.gold[i][:2])) > 1e-9
    ][:200]
    labels = [x for who in ("anna", "ben", "chloe") for x in study.labels(who, "person", pairs, 0)]
    labels += study.labels("judge", "model", pairs, 0)
    kinds = {"judge": "model"}
    gold = {(str(i), 0, 1): float(np.subtract(*study.pool.gold[i][:2]) > 0) for i in pairs}
    return ledger(labels, kinds), ledger(labels, kinds, gold=gold, tariff=Tariff({}))


def report(study: Study, curves: Curves) -> None:
    print("| euros | " + " | ".join(SIDES) + " | mixed less people | mixed less AI |")
    print("|---" * (len(SIDES) + 3) + "|")
    for b in BUDGETS:
        cells = [
            f"{np.mean(curves[s][b]):.3f} ({min(curves[s][b]):.3f} to {max(curves[s][b]):.3f})"
            for s in SIDES
        ]
        for other in ("people", "AI"):
            gap = over_seeds(np.subtract(curves["mixed"][b], curves[other][b]).tolist())
            cells.append(f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]")
        print(f"| {b} | " + " | ".join(cells) + " |")
    print("\neuros for a point of accuracy above 0.5:")
    for b in BUDGETS:
        prices = [per_point(b, over_seeds(curves[s][b])) for s in SIDES]
        said = (
            f"{s} {p.value:.2f} [{p.low:.2f}, {p.high:.2f}]"
            for s, p in zip(SIDES, prices, strict=True)
        )
        print(f"  {b} euros: " + "; ".join(said))
    for name, found in zip(("the others' consensus", "gold"), ledgers(study), strict=True):
        print(f"\nthe ledger, by {name}:")
        for line in (*found.lines, *found.sums):
            if line.who != "all" or line.kind == "person":
                print(
                    f"  {line.who:6} {line.kind:7} {line.pairs} pairs, {line.per_pair:.2f} a pair; "
                    f"bits {line.bits}; euros a bit {line.per_bit}"
                )


def plot(found: dict[str, Curves], file: Path) -> None:
    with style.new_figure(8.0, 3.6) as figure:
        panels = figure.subplots(1, len(found), sharey=True)
        for axis, (name, curves) in zip(panels, found.items(), strict=True):
            _panel(axis, name, curves)
        panels[0].set_ylabel("gold accuracy of the reward model")
        panels[-1].legend(loc="lower right")
        style.title(
            figure, "What the same money buys", f"mean of {len(SEEDS)} seeds; bars: standard errors"
        )
        style.save(figure, file)
    print(f"plot: {file}")


def _panel(axis: Any, name: str, curves: Curves) -> None:
    for i, side in enumerate(SIDES):
        mean = [float(np.mean(curves[side][b])) for b in BUDGETS]
        error = [np.std(curves[side][b], ddof=1) / len(SEEDS) ** 0.5 for b in BUDGETS]
        axis.errorbar(
            [b * 1.02 ** (i - 1) for b in BUDGETS], mean, error, label=side,
            color=style.PALETTE[i], marker=style.MARKERS[i], markersize=4, capsize=2,
            linewidth=1.5,
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
    axis.set_xlabel("euros spent on labels")
    axis.set_title(name)


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--pool", type=int, default=1200)
    made.add_argument("--heldout", type=int, default=400)
    made.add_argument("--human-price", type=float, default=1.0, help="euros a label")
    made.add_argument("--ai-price", type=float, default=0.1)
    args = made.parse_args()
    pool, heldout = answers(args.out, args.pool, args.heldout)
    prices = {"person": args.human_price, "model": args.ai_price}
    found: dict[str, Curves] = {}
    for name, judge in JUDGES.items():
        study = Study(pool, heldout, prices, judge)
        found[name] = {
            side: {
                b: [study.accuracy(study.bought(side, b, s), s).value for s in SEEDS]
                for b in BUDGETS
            }
            for side in SIDES
        }
        print(f"\n{name}: {judge}; people: {HUMAN}; euros a label: {prices}\n")
        report(study, found[name])
    (args.out / "label-money.json").write_text(json.dumps(found, indent=1))
    plot(found, args.out / "label-money.png")


if __name__ == "__main__":
    main()
