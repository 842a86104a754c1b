"""Do two checkouts compute the same? Every method, three iterations, byte by byte.

    git worktree add ../before COMMIT
    python benchmarks/same_numbers.py ../before . [--only grpo ppo] [--iterations 3]

Runs one recipe in both checkouts on this machine, with each preset and variant of the registry as a
stage, and compares every stage's metrics and final weights. Hashes do not travel between
processors, so nothing is stored: both sides run here. Prints a line a stage and exits with 1 where
a number differs; ``--bound 1e-6`` accepts a relative distance of the weights instead (for a change
of order that rounding notices).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file

# Columns that tell of the machine, not of what was computed.
MACHINE = ("seconds", "time/", "memory", "per_second", "_s", "mfu", "flops", "peak")
TRAIN = {"batch_size": 8, "lr": 3.0e-4}


def stages(iterations: int) -> list[dict[str, Any]]:
    """Every method of the registry, and the variants that take another path through the code."""
    train = {**TRAIN, "steps": iterations}
    pairs: dict[str, Any] = {"from": "sft", "data": "stage:feedback", "train": train}
    held_out = {**pairs, "holdout": 0.2}
    prompts = {"path": "tunnel:prompts", "options": {"n": 64, "seed": 4}}
    sums = {"path": "tunnel:prompts", "options": {"n": 64, "seed": 4, "families": ["arithmetic"]}}
    samples = {"samples": 4, "max_new_tokens": 12, "temperature": 0.9}
    judged = {
        "from": "sft",
        "data": prompts,
        "reward": {"model": "rm"},
        "rollout": samples,
        "train": train,
    }
    checked = {**judged, "data": sums, "reward": "correct"}
    lora = {"lora": {"rank": 4}}

    def dpo(name: str, **settings: Any) -> dict[str, Any]:
        return {"name": name, "algorithm": "dpo", **pairs, "settings": {"beta": 0.1, **settings}}

    def ppo(name: str, more: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        return {"name": name, "algorithm": "ppo", **judged, **(more or {}), "settings": settings}

    def grpo(name: str, **settings: Any) -> dict[str, Any]:
        return {"name": name, "algorithm": "grpo", **checked, "settings": settings}

    def rm(name: str, **settings: Any) -> dict[str, Any]:
        return {"name": name, "algorithm": "reward_model", **held_out, "settings": settings}

    demonstrations = {"path": "tunnel:demonstrations", "options": {"n": 200, "seed": 1}}
    return [
        {
            "name": "sft",
            "algorithm": "sft",
            "data": demonstrations,
            "holdout": 0.1,
            "train": {"steps": 30, "batch_size": 16, "lr": 1.0e-3, "eval_every": 10},
        },
        {
            "name": "feedback",
            "algorithm": "collect",
            "data": {"path": "tunnel:prompts", "options": {"n": 48, "seed": 2}},
            "rollout": {"samples": 4, "max_new_tokens": 24, "temperature": 1.0},
            "settings": {"labellers": [{"name": "anna", "noise": 0.2, "length_bias": 0.05}]},
        },
        rm("rm"),
        rm("rm-ensemble", members=3),
        rm("rm-plackett-luce", loss="plackett_luce"),
        rm("rm-debiased", length_debias="offset"),
        {**held_out, "name": "dpo", "algorithm": "dpo"},
        dpo("cdpo", label_smoothing=0.1),
        dpo("robust-dpo", loss="robust", label_smoothing=0.1),
        dpo("ipo", loss="ipo"),
        dpo("hinge", loss="hinge"),
        dpo("plackett-luce-dpo", loss="plackett_luce"),
        dpo("js-dpo", divergence="js"),
        dpo("r-dpo", length_regularisation=0.05),
        dpo("ld-dpo", length_desensitise=0.5),
        dpo("rpo", nll_coef=0.2),
        dpo("tr-dpo", reference="synced", sync_every=2, sync_alpha=0.6),
        {**dpo("dpo-lora"), **lora},
        {"name": "kto", "algorithm": "kto", **held_out},
        {"name": "simpo", "algorithm": "simpo", **held_out},
        {"name": "orpo", "algorithm": "orpo", **held_out},
        {"name": "cpo", "algorithm": "cpo", **held_out},
        {"name": "online-dpo", "algorithm": "online_dpo", **judged, "settings": {"pairs": "all"}},
        {"name": "raft", "algorithm": "raft", **judged},
        ppo("ppo", observe_gold(), no_eos_penalty=1.0),
        ppo("ppo-kl-in-loss", kl_in="loss", kl_estimator="k2"),
        ppo("ppo-adaptive", target_kl=0.5, kl_horizon=50),
        ppo("ppo-lora", lora),
        ppo(
            "ppo-ptx",
            {"pretraining": {"path": "tunnel:text", "options": {"n": 64}}},
            pretraining_coef=0.5,
        ),
        grpo("grpo"),
        grpo("grpo-kl", beta=0.05, minibatches=2, epochs=2),
        grpo("grpo-keep", zero_spread="keep"),
        *(
            {"name": name.replace("_", "-"), "algorithm": name, **checked}
            for name in (
                *("dr_grpo", "dapo", "rloo", "reinforce_pp"),
                *("gspo", "cispo", "gmpo", "reinforce", "dppo", "maxrl"),
            )
        ),
        *(
            {
                "name": f"distill-{loss}",
                "algorithm": "distill",
                "from": "sft",
                "data": prompts,
                "rollout": samples,
                "train": train,
                "settings": {"teacher": "dpo", "loss": loss},
            }
            for loss in ("full", "sampled")
        ),
        {
            "name": "agent",
            "algorithm": "grpo",
            "from": "sft",
            "data": {"path": "agents:rooms", "options": {"n": 32, "seed": 2, "rooms": 2}},
            "environment": {
                "name": "rooms",
                "calls": "python",
                "show_tools": False,
                "max_turns": 3,
                "max_episode_tokens": 80,
            },
            "rollout": {"samples": 4, "max_new_tokens": 10},
            "train": train,
            "settings": {"zero_spread": "keep"},
        },
    ]


def observe_gold() -> dict[str, Any]:
    """The true reward, logged next to the learned one."""
    return {"observe": "gold"}


def run(checkout: Path, recipe: Path, output: Path) -> Path:
    """``recipe`` as ``checkout`` computes it, on one thread; the run's folder."""
    command = [sys.executable, "-c", "from gnomon.cli.main import main; main()"]
    env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "run", str(recipe), f"output={output}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{checkout} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return next(path.parent for path in output.rglob("manifest.json"))


def numbers(stage: Path) -> list[dict[str, Any]]:
    """The rows of a stage's metrics, without what tells of the machine."""
    file = stage / "metrics.parquet"
    if not file.is_file():
        return []
    return [
        {key: value for key, value in row.items() if not any(word in key for word in MACHINE)}
        for row in pq.read_table(file).to_pylist()
    ]


def differing(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """Names of the metrics that are not the same in both; a NaN equals a NaN."""
    if len(before) != len(after):
        return [f"{len(before)} rows against {len(after)}"]
    names = sorted({name for row in (*before, *after) for name in row})
    return [
        name
        for name in names
        if any(repr(a.get(name)) != repr(b.get(name)) for a, b in zip(before, after, strict=True))
    ]


def distance(before: Path, after: Path) -> float:
    """Relative distance of two folders' weights, 0 only where every file has the same bytes."""
    files = sorted(path.relative_to(before) for path in before.rglob("*.safetensors"))
    if files != sorted(path.relative_to(after) for path in after.rglob("*.safetensors")):
        return float("inf")
    worst = 0.0
    for file in files:
        one, other = before / file, after / file
        if hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest():
            continue
        a, b = load_file(one), load_file(other)
        if a.keys() != b.keys():
            return float("inf")
        apart = sum(float((a[k].double() - b[k].double()).square().sum()) for k in a) ** 0.5
        size = sum(float(a[k].double().square().sum()) for k in a) ** 0.5
        worst = max(worst, apart / max(size, 1e-30), 5e-324)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="stages to run, with those they start from")
    parser.add_argument("--bound", type=float, default=0.0, help="relative distance of weights")
    arguments = parser.parse_args()
    wanted = stages(arguments.iterations)
    if arguments.only:
        kept = {"sft", "feedback", "rm", *arguments.only}
        wanted = [stage for stage in wanted if stage["name"] in kept]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "every-method.yaml"
        recipe.write_text(
            yaml.safe_dump(
                {"name": "every-method", "model": "tunnel", "max_length": 160, "stages": wanted}
            )
        )
        one = run(arguments.before.resolve(), recipe, Path(folder) / "before")
        other = run(arguments.after.resolve(), recipe, Path(folder) / "after")
        torch.set_num_threads(1)
        failed = 0
        for stage in sorted((one / "stages").iterdir()):
            names = differing(numbers(stage), numbers(other / "stages" / stage.name))
            apart = distance(stage / "model", other / "stages" / stage.name / "model")
            same = not names and apart == 0.0
            failed += not same and not (arguments.bound and apart <= arguments.bound)
            detail = "same bytes" if same else f"weights {apart:.1e} apart; {', '.join(names[:6])}"
            print(f"{stage.name:24} {detail}", flush=True)
    print(f"{len(wanted)} stages, {failed} differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
