"""The recipe for a choice: stages with the field's settings, gates, and the reason of each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.algorithms.rates import PREFERENCE_LR, REINFORCEMENT_LR, SUPERVISED_LR, default_lr
from gnomon.data.formats import READABLE_AS
from gnomon.errors import ConfigError
from gnomon.judges.build import AI
from gnomon.plan.facts import DataFile, Facts
from gnomon.plan.job import Precision
from gnomon.plan.methods import additions
from gnomon.plan.ranges import LARGE, check_ranges
from gnomon.plan.recipe_file import critic_spec, judge_spec
from gnomon.plan.shapes import Shape

NAMES = {"reward_model": "rm", "collect": "compared", "revise": "revised"}
"""Of stages that are not called as their method is."""
SAMPLED = ("ppo", "grpo", "online_dpo", "raft")
"""Methods that learn from a reward of the policy's own answers."""
RATES = {
    **dict.fromkeys(("sft", "reward_model", "raft"), SUPERVISED_LR),
    **dict.fromkeys(("ppo", "grpo"), REINFORCEMENT_LR),
    **dict.fromkeys(("dpo", "kto", "online_dpo"), PREFERENCE_LR),
}
"""Learning rates at 7e9 parameters, full fine-tuning."""
BATCH = {"sft": 128, "reward_model": 64, "dpo": 128, "kto": 128}
"""Prompts a step of given data: Lambert et al. 2024, Tulu 3; Tunstall et al. 2023, Zephyr."""
EPOCHS = {"sft": 2, "reward_model": 1, "dpo": 1, "kto": 1}
LEAST_STEPS, MOST_STEPS = 50, 300
"""Iterations of a sampled stage, which takes the prompts four times where that is between."""
HELD_BETA = 0.05
"""KL coefficient on a learned reward. At Ouyang et al. 2022's 0.02 and a reward's usual spread
a nat costs less than the audit takes for a hold (docs/detectors.md, "What holds a policy")."""
UNANSWERED = 1024
"""Tokens of an answer that no data shows the length of."""
TAKES_PROMPTS = tuple(kind for kind, ways in READABLE_AS.items() if "prompts" in ways)
JUDGED = ("preferences", "rankings")


@dataclass(frozen=True)
class Asked:
    """What the recipe is for.

    Attributes:
        name: of the run; ``model`` as a recipe names it, of this ``shape``.
        tuned: whether it answers already; a base model needs a chat template.
        window: tokens that it takes; None where nobody knows.
        judge, constitution: as asked for, or None; ``prices`` of a judge at an endpoint, euros for
            a million tokens read and written.
        held_out: a file of other prompts.
        folder: that the recipe will lie in.
    """

    name: str
    model: str
    shape: Shape
    tuned: bool
    window: int | None
    judge: str | None
    constitution: str | None
    held_out: DataFile | None
    folder: Path
    prices: tuple[float, float] | None = None


@dataclass(frozen=True)
class Way:
    """How the weights are trained, the same for all stages.

    Attributes:
        label: in words.
        lora: whether adapters are trained; ``precision`` of weights and arithmetic.
        checkpointing: layers are computed again in the backward pass.
        microbatch: tokens of one forward and backward pass.
        rows: answers written at once.
    """

    label: str
    lora: bool
    precision: Precision
    checkpointing: bool
    microbatch: int
    rows: int = 256


@dataclass(frozen=True)
class Lengths:
    """Tokens, at most: of a prompt, of an answer that is read, and of one that is written."""

    prompt: int
    response: int
    new: int

    @property
    def whole(self) -> int:
        return self.prompt + max(self.response, self.new)


def lengths_of(facts: Facts, files: Sequence[DataFile], window: int | None) -> Lengths:
    """Room for the data's prompts and answers, in whole sixty-fours, within the model's window."""
    shown = [file.facts for file in files if file.facts.response_tokens]
    prompt = _up(facts.prompt_tokens + 32)
    response = _up(facts.response_tokens + 16) if shown else 0
    new = min(_up(1.25 * facts.response_tokens), 4096) if shown else UNANSWERED
    if facts.checkable:  # reasoning is longer than the answers that the data shows
        new = max(new, UNANSWERED)
    if window:
        prompt = min(prompt, window // 2)
        response, new = min(response, window - prompt), min(new, window // 2)
    return Lengths(prompt, response, new)


def _up(tokens: float) -> int:
    return 64 * max(1, math.ceil(tokens / 64))


def make_recipe(
    stages: Sequence[str], facts: Facts, files: Sequence[DataFile], asked: Asked, way: Way
) -> dict[str, Any]:
    """The recipe as plain data, as YAML would give it."""
    writer = _Writer(stages, facts, files, asked, way)
    room = writer.lengths
    recipe: dict[str, Any] = {
        "name": asked.name,
        "model": asked.model,
        "seed": 0,
        "max_length": room.whole,
        "max_prompt_length": room.prompt,
        "precision": way.precision,
    }
    if not asked.tuned:
        recipe["template"] = "chatml"
    recipe["stages"] = [writer.stage(method) for method in stages]
    recipe |= writer.comparison()
    return recipe


class _Writer:
    """Writes the stages of one recipe."""

    def __init__(
        self, stages: Sequence[str], facts: Facts, files: Sequence[DataFile], asked: Asked, way: Way
    ) -> None:
        self.stages, self.facts, self.files = stages, facts, files
        self.asked, self.way = asked, way
        self.lengths = lengths_of(facts, files, asked.window)
        self.large = asked.shape.parameters >= LARGE
        self.added: dict[str, dict[str, Any]] = {}
        for method, addition in additions(tuple(stages), facts):
            self.added.setdefault(method, {}).update(addition.settings)

    def stage(self, method: str) -> dict[str, Any]:
        """One stage."""
        spec: dict[str, Any] = {"name": NAMES.get(method, method), "algorithm": method}
        data, rows = self._data(method)
        spec["data"] = data
        if method == "reward_model" and (shown := self._of_kind("demonstrations")):
            spec["normalise_on"] = [
                self._source(f, "demonstrations") | {"limit": 256} for f in shown
            ]
        if method not in ("collect", "revise"):
            spec |= self._held_out(method, rows)
        if method in (*SAMPLED, "collect"):
            spec["reward"] = self._reward(method)
        if self.way.lora and method not in ("collect", "revise"):
            spec["lora"] = {"rank": 32, "alpha": 64}
        if method in (*SAMPLED, "collect", "revise"):
            spec["rollout"] = self._rollout(method)
        if method not in ("collect", "revise"):
            spec["train"] = self._train(method, rows)
        if settings := {**self._settings(method), **self.added.get(method, {})}:
            spec["settings"] = settings
        looks = "holdout" in spec or "eval_data" in spec
        return spec | self._gates(method, looks) | self._on_purpose(method, spec)

    # -- data -------------------------------------------------------------------------------------

    def _of_kind(self, *kinds: str) -> list[DataFile]:
        return [file for file in self.files if file.kind in kinds]

    def _source(self, file: DataFile, kind: str) -> dict[str, Any]:
        return {"path": self._place(file.path), "kind": kind, **file.reading}

    def _place(self, path: Path) -> str:
        """As the recipe names it: relative to its own folder where it is below that."""
        whole, folder = path.resolve(), self.asked.folder.resolve()
        return os.path.relpath(whole, folder) if whole.is_relative_to(folder) else str(whole)

    def _data(self, method: str) -> tuple[list[Any], int]:
        """The sources of a stage, and about how many rows they have."""
        if method == "sft" and "revise" in self.stages:
            shown = self._of_kind("demonstrations")
            rows = sum(file.facts.prompts for file in self.files)
            return [{"path": "stage:revised"}, *(self._source(f, f.kind) for f in shown)], rows
        if method in ("dpo", "reward_model") and "collect" in self.stages:
            rows = sum(file.facts.prompts for file in self._prompts())
            return [{"path": "stage:compared"}], rows
        if method in (*SAMPLED, "collect", "revise"):
            files = self._checked() if method in ("grpo", "raft") else self._prompts()
            return [self._source(file, "prompts") for file in files], sum(
                file.facts.prompts for file in files
            )
        if method == "sft":
            files = self._of_kind("demonstrations", "text") or self._of_kind(*JUDGED)
            files = files or self._of_kind("unpaired")
            rows = sum(file.facts.demonstrations + file.facts.good for file in files)
            return [self._source(file, _shown_as(file)) for file in files], rows
        files = self._of_kind("unpaired") if method == "kto" else self._of_kind(*JUDGED)
        kind = "unpaired" if method == "kto" else ""
        rows = sum(f.facts.unpaired if method == "kto" else f.facts.compared for f in files)
        return [self._source(file, kind or file.kind) for file in files], rows

    def _checked(self) -> list[DataFile]:
        """The files whose prompts the same program can check; the largest such set."""
        checks: dict[tuple[str, str], list[DataFile]] = {}
        for file in self.files:
            if file.check is not None:
                checks.setdefault(file.check, []).append(file)
        if not checks:
            return self._prompts()
        return max(checks.values(), key=lambda found: sum(f.facts.checkable for f in found))

    def _prompts(self) -> list[DataFile]:
        """Prompts alone where there are some, else those of any data."""
        files = self._of_kind("prompts") or self._of_kind(*TAKES_PROMPTS)
        if "online_dpo" in self.stages or "ppo" in self.stages:
            files = [file for file in self.files if file.kind in ("prompts", *JUDGED)] or files
        if not files:
            raise ConfigError("no file has prompts that answers can be sampled for")
        return files

    def _held_out(self, method: str, rows: int) -> dict[str, Any]:
        """Rows to evaluate on: the held-out file where it fits, else a share."""
        kept, needed = self.asked.held_out, _needed(method)
        if kept is not None and needed in READABLE_AS.get(kept.kind, ()) and self._fits(method):
            return {"eval_data": [self._source(kept, needed) | {"limit": 256}]}
        if rows < 100 or self._judge_compares(method):
            return {}
        return {"holdout": round(min(0.2, max(0.02, 256 / rows)), 2)}

    def _fits(self, method: str) -> bool:
        """Whether the held-out file has what this stage's reward reads."""
        kept = self.asked.held_out
        if method not in ("grpo", "raft") or not self.facts.checkable:
            return True
        return kept is not None and kept.check == self._checked()[0].check

    def _judge_compares(self, method: str) -> bool:
        """An AI judge compares answers, and held-out prompts have one each."""
        return method in SAMPLED and self._reward(method)[0].get("builtin") == AI

    # -- rewards and settings ---------------------------------------------------------------------

    def _reward(self, method: str) -> list[dict[str, Any]]:
        if method in SAMPLED and "reward_model" in self.stages:
            return [{"model": NAMES["reward_model"]}]
        check = self._checked()[0].check if method in ("grpo", "raft") else None
        if check is not None:
            builtin, column = check
            options: dict[str, Any] = {} if builtin == "code" else {"field": column}
            if builtin == "exact":
                options["extract"] = ["boxed", "hash", "phrase", "all"]
            reward = {"builtin": builtin, "name": "correct", "options": options}
            return [{key: value for key, value in reward.items() if value}]
        asked = self.asked
        return [judge_spec(asked.model, asked.judge, self._constitution(), asked.prices)]

    def _rollout(self, method: str) -> dict[str, Any]:
        samples = {"ppo": 4, "grpo": 16 if self.asked.shape.parameters >= 1e9 else 8}
        found = {"samples": samples.get(method, 1 if method == "revise" else 4)}
        rollout = {
            "max_new_tokens": self.lengths.new,
            "temperature": 1.0,
            "max_rows": self.way.rows,
        }
        return (found if method != "revise" else {}) | rollout

    def _train(self, method: str, rows: int) -> dict[str, Any]:
        lr = default_lr(RATES[method], self.asked.shape.parameters, self.way.lora)
        train: dict[str, Any] = {}
        if method in SAMPLED:
            batch = min(_power(rows), 256 if self.large else 64)
            steps = min(MOST_STEPS, max(LEAST_STEPS, math.ceil(4 * rows / batch)))
            train |= {"steps": steps, "batch_size": batch, "schedule": "constant"}
        else:
            epochs = EPOCHS[method]
            train |= {
                "epochs": epochs,
                "batch_size": min(BATCH[method], _power(rows * epochs / 20)),
            }
        train |= {"lr": float(f"{lr:.2g}"), "checkpoint_every": 50}
        train |= {"tokens_per_microbatch": self.way.microbatch}
        if self.way.checkpointing:
            train["gradient_checkpointing"] = True
        return train

    def _settings(self, method: str) -> dict[str, Any]:
        if method == "grpo":
            learned = self.facts.checkable == 0
            return {
                "beta": HELD_BETA if learned else 0.0,
                "aggregation": "token",
                "advantage_scale": "none",
                "clip_high": 0.28,
                "zero_spread": "drop",
            }
        if method == "revise":
            critic = None if self.asked.judge is None else critic_spec(self.asked.judge)
            settings = {"constitution": self._constitution(), "rounds": 2}
            return settings if critic is None else {**settings, "critic": critic}
        settings_of: dict[str, dict[str, Any]] = {
            "dpo": {"beta": 0.1},
            "kto": {"beta": 0.1},
            "online_dpo": {"beta": 0.1, "no_eos_penalty": 1.0},
            "ppo": {"beta": HELD_BETA, "no_eos_penalty": 1.0},
            "collect": {"keep": "best-worst"},
        }
        return settings_of.get(method, {})

    def _constitution(self) -> str | None:
        named = self.asked.constitution
        return self._place(Path(named)) if named and Path(named).is_file() else named

    # -- gates ------------------------------------------------------------------------------------

    def _gates(self, method: str, looks: bool) -> dict[str, Any]:
        """What must hold after a stage; ``looks`` is whether it has held-out rows to tell."""
        if method in ("dpo", "kto", "reward_model", "sft") and not looks:
            return {}
        if method in ("dpo", "kto"):
            return {"gates": ["eval/accuracy >= 0.5"], "on_fail": "previous"}
        if method == "reward_model":
            return {"gates": ["eval/accuracy >= 0.55"], "on_fail": "stop"}
        if method in SAMPLED:
            return {"gates": ["no alarm: reward_hacking"], "on_fail": "previous"}
        if method == "sft" and len(self.stages) == 1:
            return {"gates": ["eval/loss <= 2.5 (value)"]}
        return {}

    def _on_purpose(self, method: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What the data's size forces outside the field's ranges."""
        train, settings = spec.get("train", {}), spec.get("settings", {})
        values = {"train.lr": train.get("lr"), "train.batch_size": train.get("batch_size")}
        values |= {"settings.beta": settings.get("beta")}
        values |= {"rollout.samples": spec.get("rollout", {}).get("samples")}
        found = check_ranges(
            method,
            {key: value for key, value in values.items() if value is not None},
            parameters=self.asked.shape.parameters,
            lora=self.way.lora,
            learned=method in SAMPLED and "builtin" not in self._reward(method)[0],
        ).outside
        return {"on_purpose": [one.range.key for one in found]} if found else {}

    def comparison(self) -> dict[str, Any]:
        """All policies on the held-out prompts, and the gate that the last one gained there."""
        kept = self.asked.held_out
        if kept is None or "prompts" not in READABLE_AS.get(kept.kind, ()):
            return {}
        compare: dict[str, Any] = {
            "prompts": [self._source(kept, "prompts") | {"limit": 256}],
            "rollout": {"max_new_tokens": self.lengths.new, "temperature": 1.0},
            "reference": "base",
        }
        scored = next((method for method in reversed(self.stages) if method in SAMPLED), None)
        if scored is None or not self._fits(scored):
            return {"compare": compare}
        reward = {"name": "reward", **self._reward(scored)[0]}
        if reward.get("builtin") == AI:
            return {"compare": compare}
        return {
            "compare": compare | {"rewards": [reward]},
            "gates": [f"gain/{reward['name']} >= 0"],
        }


def _needed(method: str) -> str:
    """The kind of rows that a method is evaluated on."""
    given = {"sft": "demonstrations", "kto": "unpaired", "dpo": "preferences"}
    return "prompts" if method in SAMPLED else given.get(method, "preferences")


def _shown_as(file: DataFile) -> str:
    return "text" if file.kind == "text" else "demonstrations"


def _power(rows: float) -> int:
    """The largest power of two that is at most ``rows``, and 4 at least."""
    return max(4, 1 << int(math.log2(max(1.0, rows))))
