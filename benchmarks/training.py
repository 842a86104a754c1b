"""Training speed and memory: gnomon against TRL's SFTTrainer and RewardTrainer.

    python benchmarks/training.py sft                 # SmolLM2-135M on GSM8K
    python benchmarks/training.py reward              # SmolLM2-135M on hh-rlhf pairs
    python benchmarks/training.py sft --sides gnomon trl trl-accumulated
    python benchmarks/training.py sft --sides gnomon gnomon-compiled --lora

In float32: full fine-tuning, or adapters of rank 16 on all linear layers (gnomon's sides only).
Every side is a fresh process that trains on the same rows in the same batches; losses must agree at
step 0. Sides: "gnomon" and "trl" keep all activations, the "-checkpointed" ones recompute them in
the backward pass (TRL's default), "gnomon-compiled" runs the layers through torch.compile (which
the warm-up step pays for), "trl-accumulated" cuts TRL's batch into single rows as gnomon cuts its
own into micro-batches. Tokens are the rows' own, each response with its prompt, no padding: the
same number for both sides.
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
    rate,
    run,
    show,
    workplace,
)
from rows import Rows, demonstrations, in_steps, pairs, random_groups

TASKS = {"sft": "sft", "reward": "reward_model"}
SIDES = (
    "gnomon",
    "trl",
    "gnomon-checkpointed",
    "gnomon-compiled",
    "trl-checkpointed",
    "trl-accumulated",
)


def make_rows(args: argparse.Namespace, place: Workplace) -> Rows:
    """The rows of the task, and which of them each step takes; the first step is the warm-up."""
    steps = 1 + args.steps
    wanted = args.batch * steps
    if place.data is None:
        k = 1 if args.task == "sft" else 2
        lengths = ((8, 24), (8, 24)) if args.tiny else ((60, 160), (40, 180))
        groups = random_groups(wanted, k, place.vocabulary(), *lengths)
        return in_steps(groups, args.batch, steps, "random tokens")
    take, source = (demonstrations, "gsm8k") if args.task == "sft" else (pairs, "hh-rlhf")
    groups = take(place.tokenizer(), place.data, wanted, args.max_length)
    return in_steps(groups, args.batch, steps, source)


def job_of(side: str, args: argparse.Namespace, place: Workplace, rows: str) -> Job:
    """The job behind a side's name."""
    job = Job(
        side=side.split("-")[0],
        algorithm=TASKS[args.task],
        model=str(place.model),
        rows=rows,
        checkpointing=side.endswith("-checkpointed"),
        microbatch_tokens=args.microbatch_tokens,
        lora=args.lora,
        compile=side.endswith("-compiled"),
    )
    if side == "trl-accumulated":
        job = replace(job, accumulate=args.batch)
    return replace(job, profile=side == "gnomon")


def report(args: argparse.Namespace, rows: Rows, sides: dict[str, Measured]) -> dict[str, Any]:
    """Print the tables and return what they say."""
    tokens = [float(sum(g.num_tokens(shared=False) for g in step)) for step in rows.steps()]
    gap = check_same_work(sides)
    base = next((m for name, m in sides.items() if name.startswith("trl")), None)
    lines, results = [], {}
    for name, m in sides.items():
        said = {
            "tokens_per_second": rate(tokens, m),
            "tokens_per_cpu_second": rate(tokens, m, cpu=True),
            "peak_rss_gb": m.peak_rss_gb,
            "loss": m.losses[0],
        }
        if base is not None:
            said |= {
                "speed_ratio": said["tokens_per_second"] / rate(tokens, base),
                "speed_ratio_cpu": said["tokens_per_cpu_second"] / rate(tokens, base, cpu=True),
                "memory_ratio": m.peak_rss_gb / base.peak_rss_gb,
            }
        results[name] = said
        lines.append([name, *said.values()])
    columns = ["side", "tokens/s", "tokens/CPU s", "peak RSS GB", "loss, step 0"]
    if base is not None:
        columns += ["x TRL's speed", "x, CPU time", "of TRL's memory"]
    mean = sum(tokens) / len(tokens)
    show(
        f"{args.task} on {rows.source}: batch {args.batch}, {mean:.0f} tokens a step, median of "
        f"{args.steps} after a warm-up; losses agree to {gap:.0e}",
        columns,
        lines,
    )
    speed = sides["gnomon"].speed if "gnomon" in sides else {}
    if speed:
        show("gnomon, the last step", ["figure", "value"], list(speed.items()))
    return {"tokens_per_step": tokens, "sides": results, "speed": speed, "measured": sides}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("task", choices=TASKS)
    made.add_argument(
        "--sides", nargs="+", choices=SIDES, default=["gnomon", "trl", "trl-accumulated"]
    )
    made.add_argument("--batch", type=int, default=8, help="rows (or pairs) a step")
    made.add_argument("--max-length", type=int, default=300, help="longer rows are left out")
    made.add_argument("--lora", action="store_true", help="train adapters; gnomon's sides only")
    args = made.parse_args()
    if args.lora and any(side.startswith("trl") for side in args.sides):
        made.error("--lora compares gnomon's sides: name them with --sides gnomon gnomon-compiled")
    print(machine())
    with workplace(args) as place:
        rows = make_rows(args, place)
        kept = place.keep(rows)
        sides = {side: run(job_of(side, args, place, kept)) for side in args.sides}
        finish(args, report(args, rows, sides))


if __name__ == "__main__":
    main()
