"""Writes a synthetic run directory: an over-optimised PPO run whose every figure is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.stats.reward_model import evaluate_comparisons

HOSTILE = "<script>alert('x')</script> costs $5 [bold]really[/bold] \x1b[31mred"

RECIPE = """name: synthetic
seed: 7
stages:
  - name: sft
    algorithm: sft
  - name: reward_model
    algorithm: reward_model
  - name: ppo
    algorithm: ppo
    beta: 0.0
"""


def write_rows(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    as_lists = {
        k: [None if v is None or v != v else v for v in values] for k, values in columns.items()
    }
    pq.write_table(pa.table(as_lists), path)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")


def gold_at(d: np.ndarray) -> np.ndarray:
    """The planted gold curve of Gao et al.: 0.35 + d (0.42 - 0.28 ln d)."""
    return 0.35 + d * (0.42 - 0.28 * np.log(np.maximum(d, 1e-9)))


def _every(values: np.ndarray, n: int) -> list[float | None]:
    return [float(v) if i % n == 0 else None for i, v in enumerate(values)]


def _sft(folder: Path, rng: np.random.Generator) -> None:
    step = np.arange(1, 151)
    loss = 1.1 + 2.2 * np.exp(-step / 30)
    write_rows(
        folder / "metrics.parquet",
        {
            "step": step.tolist(),
            "iteration": step.tolist(),
            "seconds": (step * 0.31).tolist(),
            "loss": (loss + rng.normal(0, 0.08, 150)).tolist(),
            "eval/loss": _every(loss + 0.08, 15),
            "grad_norm": (1 + rng.gamma(4, 0.1, 150)).tolist(),
            "lr": (3e-4 * np.minimum(step / 15, 1 - step / 200)).tolist(),
            "tokens_per_second": (5200 + rng.normal(0, 160, 150)).tolist(),
            "peak_rss_gb": (0.9 + 0.1 * (step > 10)).tolist(),
        },
    )
    write_json(
        folder / "stage.json",
        {
            "name": "sft", "algorithm": "sft", "status": "done", "seconds": 46.5, "iterations": 150,
            "summary": {"loss": 1.11}, "memory": {"trainer": {"weights_gb": 0.02, "peak_gb": 1.0}},
            "skipped": {"count": 3, "examples": ["demos.jsonl, row 12: empty response", HOSTILE]},
        },
    )  # fmt: skip


def _reward_model(folder: Path, rng: np.random.Generator) -> None:
    step = np.arange(1, 81)
    accuracy = 0.82 - 0.32 * np.exp(-step / 15)
    half = 0.035
    write_rows(
        folder / "metrics.parquet",
        {
            "step": step.tolist(),
            "loss": (0.4 + 0.3 * np.exp(-step / 15) + rng.normal(0, 0.03, 80)).tolist(),
            "accuracy": np.clip(accuracy + rng.normal(0, 0.06, 80), 0, 1).tolist(),
            "margin": (1.6 * (1 - np.exp(-step / 20))).tolist(),
            "eval/accuracy": _every(accuracy - 0.02, 10),
            "eval/accuracy_low": _every(accuracy - 0.02 - half, 10),
            "eval/accuracy_high": _every(accuracy - 0.02 + half, 10),
            "eval/ece": _every(0.04 + 0.1 * np.exp(-step / 10), 10),
        },
    )
    margin = rng.normal(1.1, 1.4, 600)
    better, worse = rng.integers(5, 60, 600), rng.integers(5, 60, 600)
    report = evaluate_comparisons(
        margin + 0.02 * (better - worse),
        np.zeros(600),
        category=[["arithmetic", "lists", "facts", "style"][i % 4] for i in range(600)],
        lengths=(better, worse),
    )
    write_json(folder / "evals.json", {"held_out": report.to_dict()})
    write_json(
        folder / "stage.json",
        {
            "name": "reward_model", "algorithm": "reward_model", "status": "done", "seconds": 31.0,
            "iterations": 80, "summary": {"accuracy": report.accuracy.to_dict()},
            "skipped": {"count": 0, "examples": []}, "memory": {"peak_gb": 1.1},
        },
    )  # fmt: skip


def _ppo(folder: Path, rng: np.random.Generator) -> None:
    iteration = np.arange(120)
    kl = 14.0 * (iteration / 119) ** 1.3
    d = np.sqrt(kl)
    proxy = 0.3 + 0.62 * d
    write_rows(
        folder / "metrics.parquet",
        {
            "step": (4 * (iteration + 1)).tolist(),
            "iteration": iteration.tolist(),
            "seconds": (iteration * 1.2).tolist(),
            "reward": (proxy + rng.normal(0, 0.12, 120)).tolist(),
            "gold": (gold_at(d) + rng.normal(0, 0.06, 120)).tolist(),
            "kl": (kl + rng.normal(0, 0.2, 120)).tolist(),
            "entropy": (1.4 - 0.7 * iteration / 119 + rng.normal(0, 0.04, 120)).tolist(),
            "length": (14 + 12 * iteration / 119 + rng.normal(0, 0.7, 120)).tolist(),
            "finished": np.clip(0.99 - 0.04 * rng.random(120), 0, 1).tolist(),
            "clip_fraction": (0.12 + rng.normal(0, 0.02, 120)).tolist(),
            "value_loss": (0.3 * np.exp(-iteration / 30) + 0.05).tolist(),
            "explained_variance": (0.7 * (1 - np.exp(-iteration / 20))).tolist(),
            "beta": [0.0] * 120,
            "mismatch": (1e-6 * (1 + rng.random(120))).tolist(),
            "lr": [1e-5] * 120,
            "eval/reward": _every(proxy, 10),
            "eval/gold": _every(gold_at(d), 10),
            "eval/kl": _every(kl, 10),
            "reward/length_bonus": (0.1 * iteration / 119).tolist(),
        },
    )
    rows: dict[str, list[Any]] = {k: [] for k in (
        "step", "prompt_id", "category", "prompt", "response", "reward", "parts", "error", "length",
        "finished")}  # fmt: skip
    for step, centre in ((4, 14), (240, 19), (480, 27)):
        for i in range(64):
            length = int(max(1, rng.normal(centre, 4)))
            values = (step, f"p{i}", "lists", f"Sort the list {i}.", "word " * length, 0.5,
                      '{"rm": 0.4, "length_bonus": 0.1}', None, length, i % 16 != 0)  # fmt: skip
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
    write_rows(folder / "samples.parquet", rows)
    write_json(
        folder / "stage.json",
        {
            "name": "ppo", "algorithm": "ppo", "status": "done", "seconds": 143.0,
            "iterations": 120,
            "summary": {"reward": 2.6, "gold": 0.6, "kl": 14.0},
            "skipped": {"count": 0, "examples": []},
            "memory": {"policy_gb": 0.02, "optimizer_gb": 0.04, "peak_gb": 1.4},
        },
    )  # fmt: skip


def comparison() -> dict[str, Any]:
    def m(value: float, half: float) -> dict[str, float]:
        return {"value": value, "low": value - half, "high": value + half}

    def row(model: str, *values: Any) -> dict[str, Any]:
        return {"model": model, "values": list(values)}

    return {
        "columns": ["gold reward", "proxy reward", "task accuracy", "KL", "length"],
        "rows": [
            row("base", m(0.11, 0.04), m(-0.9, 0.1), m(0.08, 0.03), 0.0, m(31, 2)),
            row("sft", m(0.55, 0.04), m(0.3, 0.08), m(0.41, 0.05), None, m(14, 1)),
            row("ppo", m(0.42, 0.04), m(2.6, 0.07), m(0.44, 0.05), 14.0, m(26, 1)),
        ],
        "samples": [
            {"prompt": "What is 7 + 5?", "base": "7 + 5 + 7 +", "sft": "12", "ppo": "Sure! 12."},
            {"prompt": HOSTILE, "base": "</div><img src=http://evil.test/x>", "ppo": ""},
        ],
    }


def build_run(run: Path) -> Path:
    """Write the whole synthetic run into ``run``."""
    rng = np.random.default_rng(0)
    _sft(run / "stages" / "01-sft", rng)
    _reward_model(run / "stages" / "02-reward_model", rng)
    _ppo(run / "stages" / "03-ppo", rng)
    (run / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    write_json(
        run / "manifest.json",
        {
            "seed": 7, "started": "2026-01-05T10:00:00Z", "finished": "2026-01-05T10:03:41Z",
            "command": ["gnomon", "run", "recipe.yaml", "seed=7"],
            "versions": {"gnomon": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
            "hardware": {"cpu": "2 cores", "memory_gb": 24.0},
            "data": {"demos.jsonl": "sha256:" + "ab" * 32},
        },
    )  # fmt: skip
    write_json(run / "comparison.json", comparison())
    return run
