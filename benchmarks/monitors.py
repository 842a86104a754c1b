"""What watching costs: the monitors' share of a step, with GRPO and PPO.

    python benchmarks/monitors.py [--model smollm2-135m] [--steps 12] [--only grpo ppo] [--pairs]

Prints for each method the share of the iterations' time that the monitors took (they time
themselves), the first iteration left out; and the same for a long run, where a look with a model
comes every fifth iteration. With --pairs each stage is also run without monitors, from the same
start, and the processor seconds of the two are compared, the evaluation's and loading's included.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow.parquet as pq
import torch

from gnomon.recipe.load import parse_recipe
from gnomon.recipe.training import MonitorSpec
from gnomon.stages import run as stages_run

OFF = {"every": 0, "texts": 0}
EVERY = MonitorSpec().every


def stages(
    model: str, steps: int, methods: list[str], kinds: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
    """Each method with each kind of monitors, from the same start."""
    if model == "tunnel":
        data = {"path": "tunnel:prompts", "options": {"n": 200, "seed": 1}}
        reward: Any = "gold"
        rollout = {"samples": 4, "max_new_tokens": 32}
        train: dict[str, Any] = {"batch_size": 16, "lr": 1e-4}
    else:
        data = {"path": "instructions:prompts", "options": {"n": 100, "seed": 1, "most": 1}}
        reward = {"builtin": "instructions", "options": {"unfinished": 0}}
        rollout = {"samples": 4, "max_new_tokens": 48}
        train = {"batch_size": 6, "lr": 1e-4, "tokens_per_microbatch": 2048}
    return [
        {
            "name": f"{method}-{kind}",
            "algorithm": method,
            "from": "model",
            "data": data,
            "reward": reward,
            "lora": {"rank": 16, "alpha": 32},
            "rollout": rollout,
            "train": train | {"steps": steps, "monitor": monitor},
            # an untrained model's rewards may not differ; its groups are trained on all the same
            "settings": {"beta": 0.0, "zero_spread": "keep"} if method == "grpo" else {},
        }
        for method in methods
        for kind, monitor in kinds.items()
    ]


def share(folder: Path) -> tuple[float, float]:
    """The monitors' share of the iterations' seconds: as run, and with a look every EVERY steps."""
    rows = [r for r in pq.read_table(folder / "metrics.parquet").to_pylist() if not r.get("final")]
    rows = rows[1:]  # the first one warms up
    took, whole = (sum(r[name] for r in rows) for name in ("monitor_seconds", "seconds"))
    looked = [r["monitor_seconds"] for r in rows if (r["iteration"] - 1) % EVERY == 0]
    looked = looked or [rows[-1]["monitor_seconds"]]
    other = [r["monitor_seconds"] for r in rows[:-1] if (r["iteration"] - 1) % EVERY]
    usual = sum(looked) / len(looked) / EVERY
    usual += (1 - 1 / EVERY) * sum(other) / max(1, len(other))
    return took / whole, usual / ((whole - took) / len(rows))


def seconds(folder: Path) -> float:
    """Of the processor, a whole stage."""
    return float(json.loads((folder / "stage.json").read_text())["cpu_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="tunnel")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=["grpo", "ppo"])
    parser.add_argument("--pairs", action="store_true", help="run each without monitors too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"on": {}, "off": OFF} if arguments.pairs else {"on": {}}
    wanted = stages(arguments.model, arguments.steps, arguments.only, kinds)
    with tempfile.TemporaryDirectory() as folder:
        raw = {"name": "monitors", "model": arguments.model, "output": folder, "stages": wanted}
        recipe = parse_recipe(raw | {"max_length": 192})
        stages_run.write_report = lambda folder: None  # type: ignore[assignment]
        run = stages_run.run_recipe(recipe, base=Path.cwd(), announce=lambda text: None)
        found = dict(
            zip([s["name"] for s in wanted], sorted((run / "stages").iterdir()), strict=True)
        )
        for method in arguments.only:
            as_run, usual = share(found[f"{method}-on"])
            text = (
                f"{arguments.model} {method}: monitors {as_run:.1%} of the steps' time "
                f"({usual:.1%} with a look every {EVERY} steps)"
            )
            if arguments.pairs:
                on, off = (seconds(found[f"{method}-{kind}"]) for kind in kinds)
                text += f"; {on:.1f} and {off:.1f} s of processor with and without"
            print(text, flush=True)


if __name__ == "__main__":
    main()
