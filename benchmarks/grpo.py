"""GRPO speed and memory: gnomon against TRL's GRPOTrainer.

    python benchmarks/grpo.py                # SmolLM2-135M, 4 prompts x 8 samples x 48 new tokens
    python benchmarks/grpo.py long           # 1 prompt of 512 tokens x 16 samples x 48 new tokens
    python benchmarks/grpo.py --eos          # responses end where the model ends them
    python benchmarks/grpo.py --sides gnomon trl-checkpointed --threads 2

Full fine-tuning in float32, beta 0.04 (a reference is run), one optimiser step per rollout, AdamW,
gradient norm clipped at 1, temperature 1. Every side is a fresh process with the same prompts in
the same order and scripted rewards, which spread within every group, so that no side has less to
train on. Sides: "gnomon" and "trl" keep all activations, the "-checkpointed" ones recompute them in
the backward pass (TRL's default), "gnomon-compiled" runs the layers through torch.compile (the
warm-up step pays for compiling), "trl-accumulated" cuts TRL's batch into one prompt at a time (it
still samples all of them together).

First both sides train on the same given completions, unequally long; losses and gradient norms must
agree. Then they are timed, sampling their own. By default every response has full length (EOS is
ignored), which is the fair comparison: with ``--eos`` each side has other responses, and a
seconds-a-step ratio is that of their lengths too; look at tokens/s then.

On a GPU: ``--device cuda --dtype bfloat16``, TRL with ``--trl-vllm`` and ``--trl-liger``; gnomon
samples with its torch engine. docs/gpu.md has what an H200 took. Memory is then the peak of torch's
allocator, and ``--peak-tflops`` (the card's, dense, for the dtype) gives the share of peak FLOP/s.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Measured, Workplace, finish, machine, parser, rate, run, show, workplace
from gnomon.records import TokenGroup, TokenResponse
from grpo_worker import GrpoJob
from rows import Rows, demonstrations, in_steps, random_groups

WORKER = Path(__file__).with_name("grpo_worker.py")
SIDES = (
    "gnomon",
    "trl",
    "gnomon-checkpointed",
    "gnomon-compiled",
    "trl-checkpointed",
    "trl-accumulated",
)
CHECK_LR = 1e-5
TOLERANCES = {"float32": 2e-3, "bfloat16": 5e-2}
LOSS_FLOORS = {"float32": 1e-4, "bfloat16": 1e-1}
"""Losses below are compared as if they were this large: rounding of a sum of unit advantages."""
SIZES = {"base": (4, 8), "long": (1, 16)}
"""Prompts and samples of each case."""


def make_rows(args: argparse.Namespace, place: Workplace, steps: int) -> Rows:
    """Prompts with completions of unequal length, which only the check uses."""
    wanted = args.prompts * steps
    longest = args.new_tokens
    if place.data is None:
        size = (args.prompt_tokens,) * 2 if args.part == "long" else (8, 24)
        bounds = (max(1, longest // 2), longest)
        groups = random_groups(wanted, args.samples, place.vocabulary(), size, bounds)
        groups = [replace(g, comparisons=()) for g in groups]
        return in_steps(groups, args.prompts, steps, "random tokens")
    questions = demonstrations(place.tokenizer(), place.data, 8 * wanted + 32, 1024)
    said = [t for g in questions for r in g.responses for t in r.ids]
    groups = []
    for i in range(wanted):
        prompt = list(questions[i].prompt_ids)
        if args.part == "long":  # earlier questions, for the length alone
            more = [t for g in questions[wanted:] for t in g.prompt_ids]
            prompt = (more[i:] + prompt)[-args.prompt_tokens :]
        responses = []
        for k in range(args.samples):
            size = longest - (5 * k) % (longest // 2 + 1)
            start = (i * args.samples + k) * longest % (len(said) - longest)
            ids = said[start : start + size]
            responses.append(TokenResponse(ids, [True] * len(ids)))
        groups.append(TokenGroup(f"prompt-{i}", prompt, tuple(responses)))
    return in_steps(groups, args.prompts, steps, "gsm8k")


def job_of(side: str, args: argparse.Namespace, place: Workplace, rows: str) -> GrpoJob:
    """The job behind a side's name."""
    job = GrpoJob(
        side=side.split("-")[0],
        model=str(place.model),
        rows=rows,
        new_tokens=args.new_tokens,
        forced=not args.eos,
        checkpointing=side.endswith("-checkpointed"),
        compile=side.endswith("-compiled"),
        microbatch_tokens=args.microbatch_tokens,
        accumulate=args.prompts if side == "trl-accumulated" else 1,
        device=args.device,
        dtype=args.dtype,
        matmul=side in ("gnomon", "gnomon-compiled"),
    )
    if side.startswith("trl"):
        job = replace(job, trl_vllm=args.trl_vllm, trl_liger=args.trl_liger)
    return job


def check_same_work(sides: dict[str, Measured], dtype: str = "float32") -> float:
    """The largest relative difference between the sides' gradient norms and losses.

    Compared are the first step's gradient norm (its loss is 0 on all sides: the advantages of a
    group sum to 0 and the policy is the reference) and the second step's norm and loss (now beta x
    KL), which follow from the first update.

    Raises:
        SystemExit: they differ by more, so the sides do not compute the same thing.
    """
    worst = 0.0
    for step in range(len(next(iter(sides.values())).losses)):
        for what, floor in (("grad_norms", 1e-8), ("losses", LOSS_FLOORS[dtype])):
            values = [getattr(m, what)[step] for m in sides.values()]
            gap = (max(values) - min(values)) / max(floor, *map(abs, values))
            if not gap <= TOLERANCES[dtype]:
                found = dict(zip(sides, values, strict=True))
                raise SystemExit(f"{what} of step {step} differ by {gap:.1e}: {found}")
            worst = max(worst, gap)
    return worst


def useful_flops(place: Workplace, rows: Rows, args: argparse.Namespace) -> float:
    """Floating-point operations that a step cannot do without: a prompt is computed once for its
    samples when sampling (2 per weight and token), in the reference (2) and in training (6)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from common import parameter_counts

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place.model))
    trunk, head = parameter_counts(model)
    prompts = sum(len(g.prompt_ids) for g in rows.steps()[-1])
    responses = args.prompts * args.samples * args.new_tokens
    return float((2 + 2 + 6) * (trunk * (prompts + responses) + head * responses))


def report(
    args: argparse.Namespace, rows: Rows, sides: dict[str, Measured], gap: float, flops: float
) -> dict[str, Any]:
    """Print the tables and return what they say."""
    base = next((m for name, m in sides.items() if name.startswith("trl")), None)
    lines, shares, results = [], [], {}
    for name, m in sides.items():
        seconds = statistics.median(m.seconds[1:])
        said: dict[str, float] = {
            "seconds_per_step": seconds,
            "cpu_seconds_per_step": statistics.median(m.cpu_seconds[1:]),
            "tokens_per_step": statistics.mean(m.tokens[1:]),
            "tokens_per_second": rate(m.tokens, m),
            "peak_memory_gb": m.peak_rss_gb,
            "useful_gflops": flops / seconds / 1e9,
        }
        if base is not None:
            said |= {
                "speed_ratio": statistics.median(base.seconds[1:]) / seconds,
                "tokens_ratio": said["tokens_per_second"] / rate(base.tokens, base),
                "memory_ratio": m.peak_rss_gb / base.peak_rss_gb,
            }
        spent = {k: statistics.mean(p.get(k, 0.0) for p in m.phases[1:]) for k in PHASES}
        total = sum(spent.values())
        results[name] = {**said, "shares": {k: v / total for k, v in spent.items()}}
        lines.append([name, *said.values()])
        shares.append([name, *(f"{v:.3g} s ({v / total:.0%})" for v in spent.values())])
    columns = ["side", "s/step", "CPU s", "tokens", "tokens/s", "peak GB", "useful GFLOP/s"]
    if base is not None:
        columns += ["x TRL's steps/s", "x tokens/s", "of TRL's memory"]
    ends = "natural EOS" if args.eos else "full length forced"
    show(
        f"GRPO on {rows.source}: {args.prompts} prompts x {args.samples} samples x "
        f"{args.new_tokens} new tokens ({ends}), median of {args.steps} steps after a warm-up; "
        f"losses and gradient norms on given completions agree to {gap:.0e}",
        columns,
        lines,
    )
    show("where a step's time goes", ["side", *PHASES], shares)
    if args.peak_tflops is not None:
        peak = [[n, r["useful_gflops"] / 1e3 / args.peak_tflops] for n, r in results.items()]
        show("share of the card's peak FLOP/s", ["side", "share"], peak)
    matmul = next((m.speed["matmul_gflops"] for m in sides.values() if m.speed), None)
    if matmul is not None:
        print(f"a plain float32 matmul on this machine: {matmul:.0f} GFLOP/s")
    return {"sides": results, "agreement": gap, "matmul_gflops": matmul, "measured": sides}


PHASES = ("generation", "reference and rewards", "forward", "backward", "optimiser and other")


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("part", nargs="?", choices=tuple(SIZES), default="base")
    made.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES[:2]))
    made.add_argument("--prompts", type=int, help="a step; 4, or 1 in the long case")
    made.add_argument("--samples", type=int, help="per prompt; 8, or 16 in the long case")
    made.add_argument("--new-tokens", type=int, default=48)
    made.add_argument("--prompt-tokens", type=int, default=512, help="of the long case")
    made.add_argument("--eos", action="store_true", help="responses end by themselves")
    made.add_argument("--threads", type=int, help="of each side's torch")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument("--dtype", choices=list(TOLERANCES), default="float32")
    made.add_argument("--trl-vllm", action="store_true", help="TRL samples with vLLM (not run yet)")
    made.add_argument("--trl-liger", action="store_true", help="TRL's fused loss (not run yet)")
    made.add_argument("--peak-tflops", type=float, help="the card's, for the share of it")
    args = made.parse_args()
    prompts, samples = SIZES[args.part]
    args.prompts, args.samples = args.prompts or prompts, args.samples or samples
    return args


def main() -> None:
    args = arguments()
    print(machine())
    with workplace(args) as place:
        checked = place.keep(make_rows(args, place, 2), "check")
        agree = {
            side: run(
                replace(
                    job_of(side, args, place, checked),
                    scripted=True,
                    lr=CHECK_LR,
                    trl_vllm=False,
                    matmul=False,
                ),
                WORKER,
                args.threads,
            )
            for side in args.sides
        }
        gap = check_same_work(agree, args.dtype)
        print(f"losses and gradient norms on given completions agree to {gap:.0e}", flush=True)
        rows = make_rows(args, place, 1 + args.steps)
        kept = place.keep(rows)
        sides = {s: run(job_of(s, args, place, kept), WORKER, args.threads) for s in args.sides}
        flops = useful_flops(place, rows, args)
        finish(args, report(args, rows, sides, gap, flops))


if __name__ == "__main__":
    main()
