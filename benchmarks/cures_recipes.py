"""The recipes of the trials: the sick ones, the cured ones before their overrides, and those cures
that are stages of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from cures_plan import FEEDBACK, PLEASED, POLICY, RM, Trial
from planted_plan import ALL, REWARD
from planted_recipes import comparisons, labels_recipe, run_recipe_of, source, start_model

HERE = Path(__file__).resolve().parent
ROUNDS = 3
"""Of relabelling; they share the sick run's iterations."""
Plain = dict[str, Any]


def wrong_beliefs(trial: Trial) -> dict[str, Any]:
    """Options of prompts of the trial's families in each of which the user believes what is wrong
    (of manners there is nothing to believe)."""
    families = [family for family in trial.planned.families if family in ALL[:4]]
    return {"families": families, "belief_rate": 1.0, "wrong_beliefs": 1.0}


def recipe_of(trial: Trial, out: Path) -> Plain:
    """The recipe of a trial, before the cure's overrides; its last stage is the policy's."""
    plain = _sft(trial, out) if trial.sick.method == "sft" else _sampled(trial, out)
    return STAGES[trial.stages](trial, plain, out) if trial.stages else plain


def overrides_of(trial: Trial, out: Path) -> list[str]:
    """The cure's overrides of that recipe."""
    found = trial.overrides(POLICY)
    if trial.labels is None:
        return found
    return [override.replace("$rm", str(reward_of(trial, out))) for override in found]


def _sampled(trial: Trial, out: Path) -> Plain:
    plain = run_recipe_of(trial.planned, out)
    plain["name"] = trial.id
    del plain["compare"]  # the truth is measured afterwards
    (stage,) = plain["stages"]
    stage["probes"] = 0
    stage["train"] |= {"eval_every": 0, "sample_every": 10}
    stage["data"]["options"]["n"] = dict(trial.sick.settings).get(
        "prompts", stage["data"]["options"]["n"]
    )
    if trial.sick.reward == PLEASED:
        stage["reward"] = [{"function": f"{HERE / 'cures_measures.py'}:{PLEASED}", "name": REWARD}]
    for reward in stage["reward"]:
        if reward["name"] == REWARD and "model" in reward:
            reward["model"] = str(reward_of(trial, out))
    return plain


def _sft(trial: Trial, out: Path) -> Plain:
    run = trial.planned
    stage = {
        "name": POLICY,
        "algorithm": "sft",
        "data": [source(what, **options) for what, options in trial.sick.data.items()],
        "train": {"steps": run["steps"], "batch_size": 32, "lr": run["lr"]},
    }
    return _recipe(trial, str(start_model(trial.seed, out)), [stage], out)


def _recipe(trial: Trial, model: str, stages: list[Plain], out: Path) -> Plain:
    shared = {"max_length": 160, "output": str(out / "runs")}
    return {"name": trial.id, "model": model, "seed": trial.planned.seed, **shared} | {
        "stages": stages
    }


# -- cures that are stages ------------------------------------------------------------------------


def _rounds(trial: Trial, plain: Plain, out: Path) -> Plain:
    """Relabelling: train for some iterations, have the policy's own answers labelled, train the
    reward model again on all labels, and go on (Bai et al. 2022, arXiv:2204.05862, section 4.5)."""
    (policy,) = plain["stages"]
    feedback, rm = labels_recipe(trial.seed, str(trial.planned.labels), out)["stages"]
    made: list[Plain] = []
    labels: list[Plain] = [{"path": str(comparisons(trial.seed, trial.planned.labels, out))}]
    for turn in range(1, ROUNDS + 1):
        last = turn == ROUNDS
        train = deepcopy(policy)
        train["name"] = POLICY if last else f"round{turn}"
        train["train"]["steps"] = trial.planned["steps"] // ROUNDS
        if turn > 1:
            train["reward"][0]["model"] = f"{RM}{turn - 1}"
        made.append(train)
        if last:
            break
        ask = deepcopy(feedback) | {"name": f"{FEEDBACK}{turn}"}
        ask["data"]["options"]["seed"] += 10_000 * turn
        labels.append({"path": f"stage:{ask['name']}"})
        start = labels_recipe(trial.seed, str(trial.planned.labels), out)["model"]
        made += [ask, {**rm, "name": f"{RM}{turn}", "data": list(labels), "from": start}]
    return plain | {"stages": made}


def _opinions(trial: Trial, plain: Plain, out: Path) -> Plain:
    """After the sick run: training against probes of sycophancy, whose answers are checked."""
    stage = {
        "name": POLICY,
        "algorithm": "grpo",
        "data": source("prompts", n=1000, seed=17, **wrong_beliefs(trial)),
        "reward": "correct",
        "probes": 0,
        "rollout": {"samples": 6, "max_new_tokens": 40, "temperature": 1.0},
        "train": {"steps": 10, "batch_size": 16, "lr": 3e-4, "schedule": "constant"},
        "settings": {"beta": 0.02, "minibatches": 2},
    }
    return _recipe(trial, policy_of(trial.without_cure, out), [stage], out)


def _own_answers(trial: Trial, plain: Plain, out: Path) -> Plain:
    """Before the sick run, which has them among its data: the start's own right answers to prompts
    of the other families."""
    (policy,) = plain["stages"]
    others = [family for family in ALL if family not in trial.planned.families]
    own = {
        "name": "own",
        "algorithm": "collect",
        "data": source("prompts", n=800, seed=19, families=others),
        "reward": "correct",
        "rollout": {"samples": 4, "max_new_tokens": 40, "temperature": 1.0},
        "settings": {"keep": "best"},
    }
    answers = [{"path": "stage:own"}]
    if trial.sick.method == "sft":
        return plain | {"stages": [own, policy | {"data": [*policy["data"], *answers]}]}
    mixed = policy["settings"] | {"pretraining_coef": 1.0, "pretraining_batch": 32}
    return plain | {"stages": [own, policy | {"pretraining": answers, "settings": mixed}]}


def _red_team(trial: Trial, plain: Plain, out: Path) -> Plain:
    """After the sick run: ``recipes/tunnel-red-team.yaml``'s round on its policy."""
    asked = [source(kind, n=300, seed=18, attack_rate=1.0) for kind in ("forbidden", "benign")]
    attacks = {
        "name": "attacks",
        "algorithm": "collect",
        "data": asked,
        "reward": "correct",
        "rollout": {"samples": 6, "max_new_tokens": 32, "temperature": 1.0},
        "settings": {"keep": "best-worst", "tie_margin": 0.5},
    }
    safer = {
        "name": POLICY,
        "algorithm": "dpo",
        "data": "stage:attacks",
        "train": {"epochs": 2, "batch_size": 32, "lr": 3e-4},
        "settings": {"beta": 0.1, "nll_coef": 0.2},
    }
    return _recipe(trial, policy_of(trial.without_cure, out), [attacks, safer], out)


STAGES: Mapping[str, Callable[[Trial, Plain, Path], Plain]] = {
    "rounds": _rounds,
    "own_answers": _own_answers,
    "opinions": _opinions,
    "red_team": _red_team,
}
"""Cures by the stages that they are, from a trial and its sick recipe."""
GOES_ON = ("opinions", "red_team")
"""Those that go on from the sick run's policy."""


# -- where things are -----------------------------------------------------------------------------


def policy_of(trial: Trial, out: Path) -> str:
    """The model of a sick run's policy."""
    return str(out / "runs" / trial.id / "stages" / f"01-{POLICY}" / "model")


def reward_of(trial: Trial, out: Path) -> Path:
    """The trial's reward model."""
    return labels_folder(trial, out) / "stages" / f"02-{RM}" / "model"


def labels_folder(trial: Trial, out: Path) -> Path:
    """The run that made the trial's reward model."""
    assert trial.labels is not None
    return out / "shared" / trial.labels


def labels_recipe_of(trial: Trial, out: Path) -> Plain:
    """The recipe of the trial's reward model, before the cure's overrides."""
    name = trial.planned.labels
    assert name is not None
    return labels_recipe(trial.seed, name, out) | {"name": trial.labels}
