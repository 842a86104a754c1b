"""Reward-model training on a ranking: K responses in one group, or as K(K-1)/2 pairs.

    python benchmarks/ranking.py                # K = 8 answers to AlpacaEval's instructions
    python benchmarks/ranking.py --k 4 --trl    # and the pairs through TRL's RewardTrainer too

The loss is the same (the mean over all pairs of a prompt), so the gradient is; what differs is how
often prompt and responses are computed. Each side is a fresh process.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import (
    Job,
    Measured,
    Workplace,
    check_same_work,
    finish,
    machine,
    parser,
    run,
    show,
    workplace,
)
from rows import Rows, as_pairs, in_steps, random_groups, rankings


def make_rows(args: argparse.Namespace, place: Workplace) -> dict[str, Rows]:
    """The same prompts as groups of K and as pairs, one prompt a step."""
    steps = 1 + args.steps
    if place.data is None:
        lengths = ((8, 16), (8, 16)) if args.tiny else ((40, 80), (80, 160))
        groups = random_groups(steps, args.k, place.vocabulary(), *lengths)
        source = "random tokens"
    else:
        groups = rankings(place.tokenizer(), place.data, steps, args.k, args.max_length)
        source = "alpaca_eval and alpaca_farm"
    pairs = [pair for group in groups for pair in as_pairs(group)]
    return {
        "one group": in_steps(groups, 1, steps, source),
        "pairs": in_steps(pairs, args.k * (args.k - 1) // 2, steps, source),
    }


def computed(rows: Rows, trl: bool) -> float:
    """Tokens that the timed steps compute, TRL's padding included."""
    total = 0
    for step in rows.steps()[1:]:
        if trl:
            longest = max(len(g.prompt_ids) + len(r.ids) for g in step for r in g.responses)
            total += 2 * len(step) * longest
        else:
            total += sum(g.num_tokens() for g in step)
    return float(total)


def report(
    args: argparse.Namespace, rows: dict[str, Rows], sides: dict[str, Measured]
) -> dict[str, Any]:
    """Print the table and return what it says."""
    gap = check_same_work(sides)
    base = sides["one group"]
    lines, results = [], {}
    for name, m in sides.items():
        said = {
            "tokens_computed": computed(rows["one group" if m is base else "pairs"], "TRL" in name),
            "seconds": m.timed(),
            "cpu_seconds": m.timed_cpu(),
            "peak_rss_gb": m.peak_rss_gb,
            "times_one_group": m.timed() / base.timed(),
            "times_one_group_cpu": m.timed_cpu() / base.timed_cpu(),
        }
        results[name] = said
        lines.append([name, *said.values()])
    show(
        f"{args.steps} prompts of {args.k} responses from {rows['pairs'].source}; losses agree to "
        f"{gap:.0e}",
        [
            "side",
            "tokens computed",
            "seconds",
            "CPU s",
            "peak RSS GB",
            "x one group",
            "x, CPU time",
        ],
        lines,
    )
    return {"sides": results, "measured": sides}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--k", type=int, default=8, help="responses to a prompt")
    made.add_argument("--max-length", type=int, default=400, help="longer prompts are left out")
    made.add_argument("--trl", action="store_true", help="the pairs through TRL as well")
    args = made.parse_args()
    print(machine())
    with workplace(args) as place:
        rows = make_rows(args, place)
        kept = {name: place.keep(r, name.replace(" ", "-")) for name, r in rows.items()}
        common = {
            "algorithm": "reward_model",
            "model": str(place.model),
            "microbatch_tokens": args.microbatch_tokens,
        }
        jobs = {
            "one group": Job("gnomon", rows=kept["one group"], **common),
            f"{args.k * (args.k - 1) // 2} pairs": Job("gnomon", rows=kept["pairs"], **common),
        }
        if args.trl:
            jobs["pairs, TRL"] = Job("trl", rows=kept["pairs"], **common)
        finish(args, report(args, rows, {name: run(job) for name, job in jobs.items()}))


if __name__ == "__main__":
    main()
