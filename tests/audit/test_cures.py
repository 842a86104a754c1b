"""Every override that a detector names is one that a recipe of that method takes."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from made import Row, again, evidence_of, make, rollouts

import gnomon.audit
from gnomon.algorithms.registry import METHODS, find_method
from gnomon.audit import cures
from gnomon.audit.detectors import load_detectors
from gnomon.audit.evidence import Evidence
from gnomon.errors import ConfigError
from gnomon.recipe.load import apply_override, validate_as
from gnomon.recipe.schema import Recipe

STEPS = (1, 10, 20, 30, 40, 50)
LEARNED = {"reward": [{"builtin": "length", "options": {"high": 9}}, {"model": "rm"}]}
REQUIRED: dict[str, dict[str, Any]] = {"distill": {"teacher": "another"}}
"""Settings without defaults."""
POLICIES = sorted(name for name, m in METHODS.items() if m.algorithm.produces == "policy")


def hacked(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    """Ever longer lists of guesses, that agree with each other ever more."""
    guesses = [right, *(rng.randint(20, 50) for _ in range(step // 12))]
    return " ".join(f"It is {n}." for n in guesses), step / 50 + 0.1 * len(guesses), {}


def sick_metrics() -> list[Row]:
    """Every curve that a detector reads, each going wrong."""
    return [
        {
            "step": i + 1, "iteration": i, "mismatch": 1.0 + i, "explained_variance": -0.5,
            "displacement": 0.9, "logprobs/chosen_change": -5.0 - i, "length/chosen": 5.0,
            "disagreement": 1.0 + i,
            "kl": 5.0 * i, "entropy": 2.0 / (1 + i), "length": 10.0, "reward": float(i),
            "ref_logprob": -0.1 * i, "reward_errors": 0.5, "final": i == 39,
        }
        for i in range(40)
    ]  # fmt: skip


def spec_of(algorithm: str, more: dict[str, Any]) -> dict[str, Any]:
    sampled = METHODS[algorithm].algorithm.data == "prompts"
    own = {"name": "policy", "algorithm": algorithm, "train": {"lr": 1e-4, "steps": 40}}
    if sampled:
        own |= {"rollout": {"samples": 4, "max_new_tokens": 20}} | LEARNED
    else:
        own["reward"] = []
    return own | {"settings": {**REQUIRED.get(algorithm, {}), **more}}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All overrides that are made, whether or not their finding is an alarm."""
    made: list[str] = []
    plain = cures.override

    def recording(evidence: Evidence, key: str, value: Any) -> str:
        made.append(plain(evidence, key, value))
        return made[-1]

    for detector in load_detectors().values():
        function: Any = getattr(detector, "__wrapped__", detector)
        if "override" in function.__globals__:
            monkeypatch.setitem(function.__globals__, "override", recording)
    monkeypatch.setattr(cures, "override", recording)
    return made


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An off-line method's samples are its comparison's, read alike."""
    return make(tmp_path_factory.mktemp("sick") / "run", rollouts(STEPS, hacked), sick_metrics())


def run_detectors(
    sick: Path, folder: Path, algorithm: str, settings: dict[str, Any]
) -> dict[str, Any]:
    spec = spec_of(algorithm, settings)
    read = evidence_of(again(sick, folder, algorithm=algorithm, stage=spec))
    for detector in load_detectors().values():
        detector(read)
    cures.average(read)  # which is named where an eval fell, and no eval is made here
    return spec


def check(spec: dict[str, Any], override: str) -> None:
    """As ``gnomon run`` reads it: the recipe, and the method's own settings."""
    raw: dict[str, Any] = {"name": "r", "model": "m", "stages": [copy.deepcopy(spec)]}
    apply_override(raw, override)
    stage = validate_as(Recipe, raw, "recipe", None).stages[0]
    validate_as(find_method(stage.algorithm).settings, stage.settings, "settings", None)


@pytest.mark.parametrize("algorithm", POLICIES)
def test_overrides_of_every_method_parse(
    algorithm: str, sick: Path, tmp_path: Path, named: list[str]
) -> None:
    variants: list[dict[str, Any]] = [{}]
    fields = METHODS[algorithm].settings.model_fields
    variants += [{"beta": 0.2}] if "beta" in fields else []
    variants += [{"kl_in": "none"}] if "log_kl" in fields else []
    variants += [{"entropy_coef": 0.02}] if "entropy_coef" in fields else []
    for place, settings in enumerate(variants):
        named.clear()
        spec = run_detectors(sick, tmp_path / str(place), algorithm, settings)
        for override in named:
            check(spec, override)
        assert named or algorithm not in cures.TIED


def test_a_wrong_override_is_seen(tmp_path: Path) -> None:
    spec = spec_of("ppo", {})
    for wrong in ("policy.settings.importance_correction=truncate", "policy.train.step=3"):
        with pytest.raises(ConfigError):
            check(spec, wrong)


def test_no_override_is_written_that_is_not_tried_here(
    sick: Path, tmp_path: Path, named: list[str]
) -> None:
    for algorithm in ("ppo", "grpo", "dpo"):
        run_detectors(sick, tmp_path / algorithm, algorithm, {})
    tried = {o.split("=")[0].removeprefix("policy.") for o in named}
    assert {re.sub(r"\.\d+\.", ".N.", key) for key in tried} >= set(written())


def written() -> Iterator[str]:
    """The keys in the code of the detectors' cures."""
    for file in Path(str(gnomon.audit.__path__[0])).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "override":
                key = node.args[1]
                if isinstance(key, ast.Constant):
                    yield str(key.value)
                elif isinstance(key, ast.JoinedStr):
                    yield "".join(
                        str(p.value) if isinstance(p, ast.Constant) else "N" for p in key.values
                    )


def test_a_stronger_pull_is_one_that_holds() -> None:
    for price, beta, wanted in ((None, 0.04, 0.08), (0.08, 0.04, 0.08), (0.01, 0.02, 0.2)):
        seen = {} if price is None else {"kl_price": np.full(9, price)}
        spec = spec_of("ppo", {"beta": beta})
        evidence = Evidence("run", "policy", spec=spec, metrics=seen)
        assert cures.stay_near(evidence) == [f"policy.settings.beta={wanted:g}"]
    far = {"kl_price": np.full(9, 1e-4), "beta": np.full(9, 0.02)}  # a coefficient not written
    evidence = Evidence("run", "policy", spec=spec_of("ppo", {}), metrics=far)
    assert cures.stay_near(evidence) == [f"policy.settings.beta={0.02 * cures.MOST:g}"]
    unpaid = Evidence("run", "policy", spec=spec_of("ppo", {"beta": 0.0}), metrics={})
    assert cures.stay_near(unpaid) == [f"policy.settings.beta={cures.USUAL_BETA}"]
