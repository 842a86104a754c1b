"""DPO: gnomon against TRL's DPOTrainer, pairs a second and peak memory.

    python benchmarks/dpo.py full      # full fine-tuning, 24 hh-rlhf pairs, batch 8
    python benchmarks/dpo.py lora      # LoRA of rank 16 on all linear layers
    python benchmarks/dpo.py cached    # full, the reference's log-probs computed beforehand
    python benchmarks/dpo.py prompt    # cost of a pair as its shared prompt grows from 64 tokens

Float32, pairs of at most 300 tokens a side, the same tokens in the same batches on both sides, each
in a fresh process; log-probs must agree at step 0. gnomon caches the reference's log-probs by
default, so in "full" and "lora" its pass over the pairs is counted in: pairs/s is that of a first
epoch. TRL's reference runs in each step (with LoRA: the adapter switched off). In "cached" and
"prompt" both have the reference's log-probs before the steps, and only the steps count.

"trl" runs its batch whole, as its users get it; "trl-accumulated" cuts it into single pairs, as
gnomon cuts its own into micro-batches, and is the side to compare memory with.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
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
from rows import Rows, in_steps, pairs, random_groups

SIDES = ("gnomon", "trl", "gnomon-checkpointed", "trl-checkpointed", "trl-accumulated")
PROMPTS = (64, 256, 1024)
ANSWER = 64


def pair_rows(args: argparse.Namespace, place: Workplace) -> Rows:
    """``pairs`` pairs in batches, after a warm-up on the first batch."""
    if place.data is None:
        lengths = ((8, 24), (8, 24)) if args.tiny else ((60, 180), (20, 120))
        groups, source = random_groups(args.pairs, 2, place.vocabulary(), *lengths), "random tokens"
    else:
        groups = pairs(place.tokenizer(), place.data, args.pairs, args.max_length)
        source = "hh-rlhf"
    timed = in_steps(groups, args.batch, max(1, args.pairs // args.batch), source)
    return Rows(groups, [timed.schedule[0], *timed.schedule], source)


def prompt_rows(args: argparse.Namespace, place: Workplace) -> tuple[Rows, list[int]]:
    """One step for each prompt length, two pairs in it, after a warm-up on the shortest."""
    sizes = [size // 16 for size in PROMPTS] if args.tiny else list(PROMPTS)
    answer = ANSWER // 8 if args.tiny else ANSWER
    groups = [
        group
        for i, size in enumerate(sizes)
        for group in random_groups(2, 2, place.vocabulary(), (size, size), (answer, answer), seed=i)
    ]
    steps = [[2 * i, 2 * i + 1] for i in range(len(sizes))]
    return Rows(groups, [steps[0], *steps], "random tokens"), sizes


def job_of(side: str, args: argparse.Namespace, place: Workplace, rows: str) -> Job:
    """The job behind a side's name."""
    gnomon = side.startswith("gnomon")
    job = Job(
        side=side.split("-")[0],
        algorithm="dpo",
        model=str(place.model),
        rows=rows,
        checkpointing=side.endswith("-checkpointed"),
        microbatch_tokens=args.microbatch_tokens,
        lora=args.part == "lora",
        cached=gnomon or args.part in ("cached", "prompt"),
        profile=side == "gnomon",
    )
    return replace(job, accumulate=args.batch) if side == "trl-accumulated" else job


def seconds_of(args: argparse.Namespace, m: Measured) -> tuple[float, float]:
    """Seconds and CPU seconds of the timed steps, and of the reference's pass unless it is given
    (the part "cached"). The pass covers each pair once, as the timed steps do."""
    if args.part == "cached":
        return m.timed(), m.timed_cpu()
    return m.timed() + m.before_seconds, m.timed_cpu() + m.before_cpu_seconds


def report_pairs(
    args: argparse.Namespace, rows: Rows, sides: dict[str, Measured]
) -> dict[str, Any]:
    """Print pairs a second and memory, and return what the table says."""
    gap = check_same_work(sides)
    timed = sum(map(len, rows.schedule[1:]))
    base = next((m for name, m in sides.items() if name.startswith("trl")), None)
    lines, results = [], {}
    for name, m in sides.items():
        wall, cpu = seconds_of(args, m)
        said = {
            "pairs_per_second": timed / wall,
            "cpu_seconds_per_pair": cpu / timed,
            "reference_seconds": m.before_seconds,
            "peak_rss_gb": m.peak_rss_gb,
        }
        if base is not None:
            base_wall, base_cpu = seconds_of(args, base)
            said |= {
                "speed_ratio": base_wall / wall,
                "speed_ratio_cpu": base_cpu / cpu,
                "memory_ratio": m.peak_rss_gb / base.peak_rss_gb,
            }
        results[name] = said
        lines.append([name, *said.values()])
    columns = ["side", "pairs/s", "CPU s/pair", "reference s", "peak RSS GB"]
    if base is not None:
        columns += ["x TRL's speed", "x, CPU time", "of TRL's memory"]
    show(
        f"DPO, {args.part}: {timed} pairs of {rows.source}, batch {args.batch}; log-probs agree to "
        f"{gap:.0e}",
        columns,
        lines,
    )
    speed = sides["gnomon"].speed if "gnomon" in sides else {}
    if speed:
        show("gnomon, the last step", ["figure", "value"], list(speed.items()))
    return {"sides": results, "speed": speed, "measured": sides}


def report_prompts(sizes: list[int], sides: dict[str, Measured]) -> dict[str, Any]:
    """Print seconds a pair for each prompt length, and return what the table says."""
    gap = check_same_work(sides)
    lines, results = [], {}
    for name, m in sides.items():
        for kind, times in (("seconds", m.seconds), ("CPU seconds", m.cpu_seconds)):
            each = [t / 2 for t in times[1:]]
            growth = each[-1] - each[0]
            results[f"{name}, {kind}"] = {
                "per_pair": dict(zip(map(str, sizes), each, strict=True)),
                "growth": growth,
            }
            lines.append([f"{name}, {kind}", *each, growth])
    show(
        f"DPO, seconds a pair as the shared prompt grows; log-probs agree to {gap:.0e}",
        ["side", *(f"{size} tokens" for size in sizes), "growth"],
        lines,
    )
    return {"sides": results, "measured": sides}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("part", choices=["full", "lora", "cached", "prompt"])
    made.add_argument("--sides", nargs="+", choices=SIDES, default=["gnomon", "trl"])
    made.add_argument("--pairs", type=int, default=24)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--max-length", type=int, default=300, help="longer pairs are left out")
    args = made.parse_args()
    print(machine())
    with workplace(args) as place:
        if args.part == "prompt":
            rows, sizes = prompt_rows(args, place)
        else:
            rows = pair_rows(args, place)
        kept = place.keep(rows)
        sides = {side: run(job_of(side, args, place, kept)) for side in args.sides}
        if args.part == "prompt":
            finish(args, report_prompts(sizes, sides))
        else:
            finish(args, report_pairs(args, rows, sides))


if __name__ == "__main__":
    main()
