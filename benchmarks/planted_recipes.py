"""The recipes of the measurement: starts, labels and runs, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from planted_plan import JUDGE, LABELS, REWARD, Planned


def start_recipe(world: int, out: Path) -> dict[str, Any]:
    """The start of every run in a world: fine-tuned, and then trained on right answers for a while.

    Without the second stage most of any run's gain would be in answering surely what is known, and
    a flawed reward would pay for that as a right one does.
    """
    rng = Random(f"world/{world}")
    demonstrations = source(
        "demonstrations", n=5000, seed=1000 + world, correct=rng.choice((0.85, 0.95)), hedge=0.15
    )
    return {
        "name": f"world-{world}",
        "model": "tunnel",
        "seed": world,
        "max_length": 160,
        "output": str(out / "shared"),
        "stages": [
            {
                "name": "sft",
                "algorithm": "sft",
                "data": demonstrations,
                "holdout": 0.05,
                "train": {
                    "steps": rng.choice((180, 200, 220)),
                    "batch_size": 32,
                    "lr": 1e-3,
                    "checkpoint_every": 400,
                },
            },
            {
                "name": "start",
                "algorithm": "grpo",
                "data": source("prompts", n=2000, seed=4000 + world),
                "reward": "correct",
                "rollout": {"samples": 8, "max_new_tokens": 40, "temperature": 1.0},
                "train": {
                    "steps": rng.choice((2, 3)),
                    "batch_size": 30,
                    "lr": 3e-4,
                    "schedule": "linear",
                    "checkpoint_every": 400,
                },
                "settings": {"beta": 0.0, "minibatches": 2},
            },
        ],
    }


def labelled_model(world: int, out: Path) -> Path:
    """The model whose answers are labelled: the start before it was trained on right answers, whose
    answers differ more."""
    return out / "shared" / f"world-{world}" / "stages" / "01-sft" / "model"


def start_model(world: int, out: Path) -> Path:
    """The folder of a world's start model."""
    return out / "shared" / f"world-{world}" / "stages" / "02-start" / "model"


def labels_recipe(world: int, name: str, out: Path) -> dict[str, Any]:
    """Comparisons in a world, and the reward model of them."""
    labels = LABELS[name]
    rate, wrong = labels.beliefs
    place = list(LABELS).index(name)
    people = ("carol", "dave") if name == JUDGE else ("anna", "ben")
    ordinary = {"length_bias": 0.05, "politeness_bias": 0.1, "careless": 0.05, "inattention": 0.1}
    return {
        "name": f"world-{world}-{name}",
        "model": str(labelled_model(world, out)),
        "seed": 100 * world + place,
        "max_length": 160,
        "output": str(out / "shared"),
        "stages": [
            {
                "name": "feedback",
                "algorithm": "collect",
                "data": source(
                    "prompts", n=labels.prompts, seed=2000 + 100 * world + place,
                    families=list(labels.families), belief_rate=rate, wrong_beliefs=wrong,
                ),
                "rollout": {"samples": 4, "max_new_tokens": 40, "temperature": 1.0},
                "settings": {
                    "labellers": [
                        {"name": who, "noise": noise} | ordinary | dict(labels.bias)
                        for who, noise in zip(people, (0.2, 0.3), strict=True)
                    ]
                },
            },
            {
                "name": "rm",
                "algorithm": "reward_model",
                "data": "stage:feedback",
                "holdout": 0.1,
                "normalise_on": source("demonstrations", n=300, seed=3000 + world),
                "train": {"epochs": labels.epochs, "batch_size": 16, "lr": 3e-4},
            },
        ],
    }  # fmt: skip


def comparisons(world: int, name: str, out: Path) -> Path:
    """The file of a set's comparisons."""
    folder = out / "shared" / f"world-{world}-{name}" / "stages" / "01-feedback"
    return folder / "groups.jsonl"


def reward_model(world: int, name: str, out: Path) -> Path:
    """The folder of a set's reward model."""
    return out / "shared" / f"world-{world}-{name}" / "stages" / "02-rm" / "model"


def needed(run: Planned) -> list[str | None]:
    """The shared recipes of its world that a run needs: None is the start model."""
    return [None, JUDGE, *([run.labels] if run.labels else [])]


def run_recipe_of(run: Planned, out: Path) -> dict[str, Any]:
    """The recipe of a run."""
    return {
        "name": run.id,
        "model": str(start_model(run.world, out)),
        "seed": run.seed,
        "max_length": 160,
        "output": str(out / "runs"),
        "stages": [_dpo(run, out) if run.method == "dpo" else _sampled(run, out)],
        "compare": {
            "prompts": prompts(run, run.families, 128, 7000),
            "size": 128,
            "rewards": [*_reward(run, out), judge_of(run, out)],
            "reference": "base",
            "rollout": {"max_new_tokens": run["tokens"], "temperature": 1.0},
        },
    }


def _sampled(run: Planned, out: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "beta": run["beta"],
        "minibatches": 2,
        "entropy_coef": run["entropy"],
    }
    if run.method == "grpo":
        settings["log_kl"] = True
    else:
        settings["epochs"] = 1
        settings["value_init"] = "policy" if run.labels is None else "reward_model"
    if run.labels and run.method == "ppo":
        settings["no_eos_penalty"] = 1.0
    return {
        "name": "policy",
        "algorithm": run.method,
        "data": prompts(run, run.families, 3000, 5000, "train"),
        "eval_data": prompts(run, run.families, 64, 6000),
        "reward": _reward(run, out),
        "observe": [judge_of(run, out)],
        "rollout": {
            "samples": run["samples"],
            "max_new_tokens": run["tokens"],
            "temperature": run["temperature"],
        },
        "train": {
            "steps": run["steps"],
            "batch_size": run["rows"] // run["samples"],
            "lr": run["lr"],
            "schedule": run["schedule"],
            "eval_every": 10,
            "eval_size": 64,
            "checkpoint_every": 20,
            "keep_checkpoints": 1,
            "sample_every": 1,
        },
        "settings": settings,
    }


def _dpo(run: Planned, out: Path) -> dict[str, Any]:
    assert run.labels is not None
    return {
        "name": "policy",
        "algorithm": "dpo",
        "data": str(comparisons(run.world, run.labels, out)),
        "holdout": 0.1,
        "train": {
            "epochs": run["epochs"],
            "batch_size": 16,
            "lr": run["lr"],
            "eval_every": 10,
            "checkpoint_every": 50,
            "keep_checkpoints": 1,
        },
        "settings": {"beta": run["beta"]},
    }


def _reward(run: Planned, out: Path) -> list[dict[str, Any]]:
    """What is trained on; for DPO, whose reward is implicit, nothing."""
    if run.method == "dpo":
        return []
    if run.labels is not None:
        return [{"model": str(reward_model(run.world, run.labels, out)), "name": REWARD}]
    if run.reward == "correct":
        return [{"builtin": "correct", "name": REWARD}]
    if run.reward == "consensus":
        return [{"builtin": "consensus", "options": {"over": "batch"}, "name": REWARD}]
    return [{"builtin": "leaky", "options": {"loophole": run.reward}, "name": REWARD}]


def judge_of(run: Planned, out: Path) -> dict[str, Any]:
    """The held-out judge of a run's world, as a reward."""
    return {"model": str(reward_model(run.world, JUDGE, out)), "name": JUDGE}


def prompts(
    run: Planned, families: Sequence[str], n: int, seed: int, split: str = "heldout"
) -> dict[str, Any]:
    """A source of prompts of a run's world: its families unless others are given."""
    rate, wrong = run.beliefs
    return source(
        "prompts", n=n, seed=seed + run.world, families=list(families), split=split,
        belief_rate=rate, wrong_beliefs=wrong,
    )  # fmt: skip


def source(what: str, **options: Any) -> dict[str, Any]:
    """A data entry of the built-in world."""
    return {"path": f"tunnel:{what}", "options": options}
