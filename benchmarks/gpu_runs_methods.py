"""Runs of each method, and of several stages."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from gpu_runs_bench import (
    FALLS,
    ITEMS,
    PROMPTS,
    Bench,
    Item,
    check,
    item,
    rate,
)


@item("base")
def base(bench: Bench) -> str:
    """Fine-tuning with ``precision: auto``; later items start from what it leaves."""
    raw = bench.recipe([bench.stage("sft", bench.size(60, 2))], name="base")
    made = bench.run(raw)
    bench.start = str(made.model)
    loss, info = made.column("loss"), json.loads((made.stage / "stage.json").read_text())
    check(bench.tiny or loss[-1] < loss[0] - 1, f"the loss went from {loss[0]} to {loss[-1]}")
    return f"loss {loss[0]:.2f} to {loss[-1]:.2f}, {rate(made)}, stage.json: {len(info)} keys"


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _method(method: str, precision: str, lora: bool) -> Item:
    def work(bench: Bench) -> str:
        stage = bench.stage(method, bench.size(8, 2), lora=lora)
        # a loss falls in eight steps where nothing was learned yet, and a teacher is another model
        more = {"model": "tunnel"} if method in ("sft", "distill") else {}
        made = bench.run(bench.recipe([stage], precision=precision, **more))
        losses = made.column("loss")
        check(bool(losses), "nothing was trained")
        odd = {k for row in made.rows() for k, v in row.items() if not _finite(v)}
        check(not odd, f"not finite: {odd}")
        for tensors in made.checkpoints().values():
            odd = {name for name, t in tensors.items() if not bool(t.isfinite().all())}
            check(not odd, f"not finite: {odd}")
        some = max(1, len(losses) // 4)
        first, last = sum(losses[:some]) / some, sum(losses[-some:]) / some
        falls = method in FALLS and not bench.tiny
        check(not falls or last < first, f"the loss rose from {first:.4f} to {last:.4f}")
        figures = [
            f"{key} {made.column(key)[-1]:.2g}"
            for key in ("reward", "mismatch", "accuracy")
            if made.column(key)
        ]
        return ", ".join([f"loss {first:.3f} to {last:.3f}", *figures, rate(made)])

    return work


for _precision, _lora in itertools.product(("mixed", "bfloat16", "float32"), (False, True)):
    for _name in ("sft", "dpo", "grpo", "ppo"):
        _way = "lora" if _lora else "full"
        ITEMS[f"method {_name} {_precision} {_way}"] = _method(_name, _precision, _lora)
for _name in (
    "reward_model",
    "kto",
    "rloo",
    "online_dpo",
    "distill",
    "raft",
    "simpo",
    "orpo",
    "dapo",
):
    ITEMS[f"method {_name} mixed full"] = _method(_name, "mixed", False)


@item("learns grpo gold")
def learns(bench: Bench) -> str:
    """The true reward rises under GRPO."""
    stage = bench.stage("grpo", bench.size(20, 2), lr=4e-4, data=PROMPTS, reward="gold")
    stage["rollout"]["samples"] = bench.size(8, 2)
    stage["settings"] = {"beta": 0.0}
    made = bench.run(bench.recipe([stage]))
    reward = made.column("reward")
    some = max(1, len(reward) // 4)
    first, last = sum(reward[:some]) / some, sum(reward[-some:]) / some
    check(bench.tiny or last > first, f"the reward went from {first:.3f} to {last:.3f}")
    return f"reward {first:.3f} to {last:.3f}, {rate(made)}"


def _same_as_cpu(method: str, lora: bool) -> Item:
    def work(bench: Bench) -> str:
        stage = bench.stage(method, bench.size(6, 2), lora=lora)
        here, there = (
            bench.run(bench.recipe([stage], precision="float32", device=device)).column("loss")
            for device in ("cpu", bench.device)
        )
        gap = max(abs(a - b) for a, b in zip(here, there, strict=True))
        check(gap < 1e-3, f"losses {here} on the CPU and {there}")
        return f"losses at most {gap:.1e} apart over {len(here)} steps"

    return work


for _name, _lora in itertools.product(("sft", "dpo"), (False, True)):
    ITEMS[f"cpu {_name} {'lora' if _lora else 'full'}"] = _same_as_cpu(_name, _lora)


@item("variants")
def variants(bench: Bench) -> str:
    """Settings that cost or save memory: the losses stay."""
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": ({}, {}),
        "recomputed": ({"gradient_checkpointing": True}, {}),
        "small passes": ({"tokens_per_microbatch": bench.size(512, 80)}, {}),
        "float32 head": ({}, {"float32_head": True}),
    }
    losses, said = [], []
    for name, (train, top) in ways.items():
        stage = bench.stage("dpo", bench.size(5, 2), train=train)
        made = bench.run(bench.recipe([stage], precision="mixed", **top))
        losses.append(made.column("loss"))
        gap = max(abs(a - b) for a, b in zip(losses[0], losses[-1], strict=True))
        check(gap < 2e-2, f"{name}: losses {losses[-1]}, not {losses[0]}")
        said.append(f"{name} {gap:.0e} apart, {rate(made)}")
    return "; ".join(said)


@item("pipeline")
def pipeline(bench: Bench) -> str:
    """Feedback, a reward model, PPO against it, the comparison: as the quickstart does."""
    few = {"path": "tunnel:prompts", "options": {"n": bench.size(64, 6), "seed": 2}}
    tokens = {"max_new_tokens": bench.size(32, 6)}
    feedback = {
        "name": "feedback", "algorithm": "collect", "data": few,
        "rollout": {"samples": 4, **tokens},
        "settings": {"labellers": [{"name": "anna", "noise": 0.2}]},
    }  # fmt: skip
    model = bench.stage("reward_model", bench.size(8, 2), data="stage:feedback", holdout=0.1)
    learner = bench.stage("ppo", bench.size(3, 2), observe="gold")
    learner["reward"] = {"model": "reward-model"}
    compare = {"prompts": few, "rewards": "gold", "size": bench.size(64, 6), "rollout": tokens}
    made = bench.run(bench.recipe([feedback, model, learner], compare=compare))
    return (
        f"reward {made.column('reward')[-1]:.3f}, gold {made.column('gold')[-1]:.3f}, {rate(made)}"
    )
