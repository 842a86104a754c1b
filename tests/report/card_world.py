"""A run's folder written by hand, every record in it with figures of its own, for the cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

HOSTILE = (
    "</td><script>alert(1)</script> ![x](http://evil.example/p.png) [go](javascript:alert(1)) "
    "`code` |cell| **bold** \u202ereversed\x1b[31m <!-- -->\n# heading\n- item"
)
SHA = {name: f"{i:02x}" * 32 for i, name in enumerate("abcdefgh", start=161)}


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def figure(value: float, low: float, high: float, n: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def recipe(card: dict[str, Any] | None = None) -> dict[str, Any]:
    ai = {"model": "judge-7b", "url": "http://localhost:1", "rubric": "Be honest. Rule 41."}
    return {
        "name": "made",
        "model": "start-model",
        "seed": 17,
        "stages": [
            {"name": "sft", "algorithm": "sft", "data": [{"path": "demos.jsonl"}]},
            {"name": "unused", "algorithm": "dpo", "from": "sft", "data": [{"path": "p.jsonl"}]},
            {
                "name": "rm",
                "algorithm": "reward_model",
                "from": "sft",
                "data": [{"path": "pairs.jsonl"}],
            },
            {
                "name": "grpo",
                "algorithm": "grpo",
                "from": "sft",
                "data": [{"path": "prompts.jsonl"}],
                "reward": [{"model": "rm"}],
                "observe": [{"builtin": "ai", "options": ai}],
                "train": {"batch_size": 23},
                "settings": {"beta": 0.037},
                "rollout": {"samples": 6},
            },
        ],
        "compare": {"rewards": [{"builtin": "gold"}, {"model": "rm"}]},
        **({"card": card} if card is not None else {}),
    }


STATED = {
    "provider": "Example Ltd",
    "contact": "safety@example.org",
    "licence": "apache-2.0",
    "base_model": "org/start-model",
    "base_licence": "mit",
    "base_training_flop": 5.5e19,
    "intended_uses": "answering questions about arithmetic",
    "acceptable_use": "none exists",
    "limitations": "English only",
    "rationale": "short answers were wanted",
    "watts_per_cpu": 8.0,
    "languages": ["en"],
    "data": {
        "demos.jsonl": {"licence": "cc-by-4.0", "kind": "public", "hub": "org/demos"},
        "pairs.jsonl": {"licence": "cc0-1.0", "labellers": "31 people, paid by the hour"},
    },
}


def stage(
    run: Path, number: int, name: str, algorithm: str, kind: str, start: str, **info: Any
) -> Path:
    folder = run / "stages" / f"{number:02d}-{name}"
    model = folder / "model"
    write(model / "gnomon.json", {"kind": kind})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 2048,
        "hidden_size": 96,
    }
    write(model / "config.json", config)
    (model / "model.safetensors").write_bytes(b"weights")
    files = {
        "model/model.safetensors": {
            "size": 7,
            "sha256": SHA["a"],
        }
    }
    base = {
        "name": name,
        "algorithm": algorithm,
        "status": "done",
        "seconds": 61.5,
        "cpu_seconds": 55.25,
        "start": {"from": start, "sha256": SHA["b"]},
        "iterations": 19,
        "files": files,
    }
    write(folder / "stage.json", base | info)
    return folder


def computes(role: str, tokens: int) -> dict[str, Any]:
    size = 1_234_000
    return {
        "parameters": {role: size},
        "trained": {role: size},
        "forward": {role: tokens},
        "backward": {role: tokens},
    }


def build(run: Path, card: dict[str, Any] | None = None) -> Path:
    """sft -> rm, grpo; a stage that had no part in the policy beside them."""
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe(card)), encoding="utf-8")
    data = {
        f"{name}: {path}": {"sha256": SHA["c"], "rows": rows}
        for name, path, rows in (
            ("sft", "demos.jsonl", 311),
            ("unused", "p.jsonl", 977),
            ("rm", "pairs.jsonl", 402),
            ("grpo", "prompts.jsonl", 503),
        )
    }
    write(
        run / "manifest.json",
        {
            "name": "made",
            "seed": 17,
            "started": "2026-01-02T03:04:05+0000",
            "versions": {"gnomon": "0.1.0", "torch": "2.13.0"},
            "hardware": {"cpus": 4, "gpus": []},
            "recipe_sha256": SHA["d"],
            "command": "gnomon run recipe.yaml seed=17",
            "data": data,
            "models": {"sft": {"from": "start-model", "sha256": SHA["b"]}},
            "optimizer": {"grpo": {"name": "AdamW", "lr": 0.00021}},
        },
    )
    sft = stage(run, 1, "sft", "sft", "policy", "start-model", compute=computes("policy", 7100))
    start = str(sft / "model")
    stage(run, 2, "unused", "dpo", "policy", start, compute=computes("policy", 999_000))
    stage(
        run, 3, "rm", "reward_model", "reward_model", start,
        compute=computes("reward_model", 4300), held_out={"accuracy": 0.71},
    )  # fmt: skip
    folder = stage(
        run, 4, "grpo", "grpo", "policy", start,
        compute=computes("policy", 5200),
        judges={
            "rm": {"version": SHA["e"], "judged": 811, "errors": 2, "money": 0.0},
            "ai": {"version": SHA["f"], "judged": 66, "errors": 1, "money": 0.43},
        },
        skipped={"count": 5, "examples": ["row 3"]},
    )  # fmt: skip
    write(folder / "evals.json", {"held-out prompts": {"reward": figure(0.62, 0.55, 0.69, 64)}})
    results(run)
    return run


def results(run: Path) -> None:
    """The audit, the gates, evals, a calibration and the comparison."""
    alarm = {
        "name": "reward_hacking", "detector": "held_out_judge", "stage": "grpo", "status": "alarm",
        "algorithm": "grpo",
        "measure": "held-out judge", "figure": figure(-0.21, -0.31, -0.11, 88), "limit": -0.03,
        "text": "the reward rises and the held-out judge falls", "since": 12.0,
        "cures": ["grpo.settings.beta=0.074"],
        "exhibits": [{"prompt": "What is 2 + 2?", "response": HOSTILE, "shows": HOSTILE}],
    }  # fmt: skip
    clear = {
        "name": "length_bias", "detector": "length_bias", "stage": "grpo", "status": "clear",
        "measure": "growth", "figure": figure(0.02, -0.04, 0.08, 88), "detectable": 0.16,
    }  # fmt: skip
    fell = {**clear, "stage": "sft", "status": "alarm", "text": "answers grow"}
    elsewhere = {**alarm, "stage": "unused", "text": "not of this model"}
    unlooked = {"name": "sycophancy", "detector": "agreement", "stage": "grpo", "needs": "opinions"}
    watch = {**clear, "name": "sycophancy", "status": "unclear", "text": f"agreeing pays {HOSTILE}"}
    write(run / "audit.json", {"findings": [alarm, clear, fell, elsewhere, unlooked, watch]})
    gate = {
        "condition": "win_rate >= 0.55", "stage": "grpo", "passed": False, "side": "low",
        "figure": figure(0.58, 0.51, 0.65, 120), "text": "the lower end is below",
    }  # fmt: skip
    write(run / "gates.json", {"grpo": [gate]})
    write(
        run / "evals" / "grpo" / "xstest.json",
        {
            "suite": "xstest", "model": "grpo", "main": "over_refusal", "n": 250, "errors": 3,
            "higher_is_better": False, "judge": "ai",
            "scores": {"over_refusal": figure(0.14, 0.1, 0.19, 250)},
        },
    )  # fmt: skip
    write(
        run / "calibrations" / "ai.json",
        {
            "judge": "ai", "version": SHA["f"], "labels": 73,
            "agreement": figure(0.77, 0.66, 0.86, 73), "detectable": 0.12,
        },
    )  # fmt: skip
    before, after = figure(0.31, 0.2, 0.42, 40), figure(0.29, 0.18, 0.4, 40)
    rows = [
        {"model": "sft", "values": [before, figure(0.1, 0.0, 0.2, 40)]},
        {"model": "grpo", "values": [after, figure(0.9, 0.8, 1.0, 40)]},
    ]
    compared = {"columns": ["gold", "rm"], "reference": "sft", "rows": rows}
    write(run / "comparison.json", compared)
