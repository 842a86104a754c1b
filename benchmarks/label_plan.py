"""Does the study designer say what a study will show? Checked where the answer is known.

    python benchmarks/label_plan.py [--data FOLDER]

Simulated: does the interval of alpha that a study computes cover, and is it as wide as the
forecast; is a win rate of the size that is called detectable seen four times in five. Real: from a
pilot of some items of PandaLM (3 labellers a pair) or of Tulu's human evaluation (16 labellers),
the width of alpha's interval in studies of other sizes, against the spread of alpha over samples of
that size from all items.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gnomon.feedback.agreement import alpha, vote_units
from gnomon.feedback.plan import Design, forecast, study_alpha
from gnomon.feedback.records import Vote
from gnomon.feedback.worlds import World, counts_of, fit_pilot
from rows import DEFAULT_DATA

WON = {"0": 0.5, "1": 1.0, "2": 0.0}


def pandalm(data: Path) -> list[Vote]:
    with gzip.open(data / "pandalm" / "testset-v1.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    return [
        Vote(str(row["idx"]), f"annotator{k}", 0, 1, WON[str(row[f"annotator{k}"])])
        for row in rows
        for k in (1, 2, 3)
    ]


def tulu(data: Path) -> list[Vote]:
    """The pairs that two people or more judged; the models' order is made the same."""
    with gzip.open(data / "tulu_human_eval" / "eval_annotations_tulu_1.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    out = []
    for row in rows:
        won = 0.5 if "tie" in row["preference"] else float(row["preference"].startswith("a"))
        a, b = row["model_a"], row["model_b"]
        won = won if a < b else 1.0 - won
        item = f"{row['instance_id']}/{min(a, b)}/{max(a, b)}"
        out.append(Vote(item, row["evaluator"], 0, 1, won))
    return out


def by_item(votes: Sequence[Vote]) -> list[list[Vote]]:
    found: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        found[vote.item].append(vote)
    return [v for v in found.values() if len({x.labeller for x in v}) > 1]


def flat(items: Sequence[Sequence[Vote]]) -> list[Vote]:
    return [vote for item in items for vote in item]


def real(name: str, votes: Sequence[Vote], pilot: int, sizes: Sequence[int], seeds: int) -> None:
    """Forecast from pilots, against what studies of the other items give."""
    items = by_item(votes)
    rng = np.random.default_rng(0)
    people = len({v.labeller for v in votes})
    forecasts: dict[int, list[float]] = defaultdict(list)
    worlds = []
    for _ in range(seeds):
        chosen = [items[i] for i in rng.permutation(len(items))[:pilot]]
        world = fit_pilot(flat(chosen))
        worlds.append(world)
        k = round(float(np.mean([len(item) for item in chosen])))
        for n in sizes:
            forecasts[n].append(forecast(world, Design(n, max(people, k), k)).alpha_width)
    print(f"{name}: {len(items)} items with several labels, {people} labellers; pilots of {pilot}")
    print(
        "  fitted: accuracy "
        + ", ".join(f"{w.accuracy:.3f}" for w in worlds)
        + "; ties "
        + ", ".join(f"{w.ties:.2f}" for w in worlds)
    )
    whole = alpha(vote_units(flat(items)), "nominal", seed=0)
    print(f"  alpha of all items: {whole}")
    for n in sizes:
        drawn = []
        for seed in range(200):
            at = np.random.default_rng(seed).integers(len(items), size=n)
            copies = [
                [Vote(f"{i}/{v.item}", v.labeller, 0, 1, v.won) for v in items[j]]
                for i, j in enumerate(at)
            ]
            drawn.append(alpha(vote_units(flat(copies)), "nominal", resamples=1).value)
        seen = 2 * 1.96 * float(np.nanstd(drawn, ddof=1))
        guess = np.array(forecasts[n])
        off = guess / seen - 1
        print(
            f"  {n:5} items: width by subsampling {seen:.3f}; forecast mean {guess.mean():.3f} "
            f"({guess.min():.3f} to {guess.max():.3f}); relative error mean {off.mean():+.0%}, "
            f"worst {off[np.abs(off).argmax()]:+.0%}"
        )


def simulated(world: World, design: Design, studies: int) -> None:
    """Coverage and width of the interval that a study computes."""
    rng = np.random.default_rng(1)
    crew = world.crew(design.labellers, rng)
    truth = alpha_at(world, crew, design, rng)
    covered, widths, seen = 0, [], 0
    for s in range(studies):
        said = study(world, crew, design, 0.0, rng)
        counts = counts_of(said)
        found = alpha(as_units(counts), "nominal", resamples=300, seed=s)
        covered += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    shown = forecast(world, design)
    difference = shown.win_difference
    lean = float(_lean_of(difference))
    for _ in range(4 * studies):
        wins = study(world, world.crew(design.labellers, rng), design, lean, rng).mean(1) / 2.0
        error = wins.std(ddof=1) / np.sqrt(design.items)
        seen += abs(wins.mean() - 0.5) > 1.96 * error
    print(
        f"{world}, {design}\n"
        f"  alpha's interval covers {covered / studies:.3f} of {studies} studies; mean width "
        f"{np.mean(widths):.3f}, forecast {shown.alpha_width:.3f} "
        f"({shown.alpha_width / np.mean(widths) - 1:+.0%})\n"
        f"  a win rate {difference:.3f} from 0.5 is seen in {seen / (4 * studies):.3f} of "
        f"{4 * studies} studies (0.8 is said)"
    )


def _lean_of(difference: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + difference))


def study(world: World, crew: np.ndarray, design: Design, lean: float, rng) -> np.ndarray:
    drawn = rng.random((design.items, design.labellers)).argsort(1)[:, : design.per_item]
    lead = rng.normal(lean, 1.0, (design.items, 1))
    return world.votes(lead, crew[drawn], rng)


def alpha_at(world: World, crew: np.ndarray, design: Design, rng) -> float:
    large = Design(200_000, design.labellers, design.per_item)
    return study_alpha(counts_of(study(world, crew, large, 0.0, rng)), "nominal")


def as_units(counts: np.ndarray):
    from gnomon.feedback.agreement import Units

    return Units(counts, np.array([0.0, 0.5, 1.0]), np.arange(len(counts)), True)


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, default=DEFAULT_DATA)
    made.add_argument("--studies", type=int, default=200)
    made.add_argument("--pilots", type=int, default=5)
    args = made.parse_args()
    if args.studies:
        simulated(World(0.8, 0.05), Design(300, 10, 3), args.studies)
        simulated(World(0.7, 0.1, ties=0.2), Design(200, 6, 2), args.studies)
    real("PandaLM", pandalm(args.data), 100, (100, 300, 700), args.pilots)
    real("Tulu", tulu(args.data), 60, (60, 107), args.pilots)


if __name__ == "__main__":
    main()
