"""Drift of the reward model between rounds, from the comparison's scores alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scipy.stats import kendalltau

from gnomon.audit.evidence import Evidence
from gnomon.audit.reward_drift import reward_model_drift
from gnomon.runs.answers import Answer
from gnomon.runs.audit import Finding
from gnomon.runs.comparison import Comparison, ComparisonRow
from gnomon.runs.records import StageInfo

PROMPTS = [f"p{i}" for i in range(60)]


def stages() -> list[dict[str, Any]]:
    return [
        {"name": "rm_1", "algorithm": "reward_model", "data": "labels.jsonl"},
        {"name": "ppo", "algorithm": "ppo", "reward": [{"model": "rm_1"}]},
        {"name": "ask", "algorithm": "collect", "from": "ppo"},
        {"name": "rm_2", "algorithm": "reward_model", "data": ["labels.jsonl", "stage:ask"]},
    ]


def found(scores: dict[str, dict[str, list[list[float]]]], **more: Any) -> list[Finding]:
    """``scores``: policy -> column -> [prompts][samples]."""
    columns = list(next(iter(scores.values())))
    rows = [
        ComparisonRow(model=model, values=[None] * len(columns), scores=list(own.values()))
        for model, own in scores.items()
    ]
    rewards = [{"model": "rm_1"}, {"model": "rm_2"}]
    answers = {
        model: [Answer(model=model, prompt_id=p, sample=i, prompt=p, response=f"{model} {p} {i}")
                for p in PROMPTS for i in range(2)]
        for model in scores
    }  # fmt: skip
    evidence = Evidence(
        "run",
        more.pop("stage", "rm_2"),
        recipe={"stages": more.pop("stages", stages()), "compare": {"rewards": rewards}},
        info=StageInfo(algorithm="reward_model"),
        comparison=Comparison(columns=columns, rows=rows, prompts=PROMPTS),
        answers=answers,
    )
    return reward_model_drift(evidence)


def made(noise: float, sign: float = 1.0) -> dict[str, dict[str, list[list[float]]]]:
    rng = random.Random(0)
    out: dict[str, dict[str, list[list[float]]]] = {}
    for model in ("sft", "ppo"):
        old = [[rng.gauss(0, 1) for _ in range(2)] for _ in PROMPTS]
        new = [[sign * x + rng.gauss(0, noise) for x in row] for row in old]
        out[model] = {"rm 1": old, "rm 2": new}
    return out


@pytest.mark.parametrize(
    ("noise", "sign", "status"), [(0.2, 1.0, "clear"), (1.0, -1.0, "alarm"), (3.0, 1.0, "unclear")]
)
def test_a_model_that_turned_is_an_alarm(noise: float, sign: float, status: str) -> None:
    scores = made(noise, sign)
    (finding,) = found(scores)
    assert (finding.name, finding.status, finding.stage) == ("drift", status, "rm_2")
    pooled = [[[*scores["sft"][c][i], *scores["ppo"][c][i]] for i in range(60)]
              for c in ("rm 1", "rm 2")]  # fmt: skip
    taus = [kendalltau(a, b).statistic for a, b in zip(*pooled, strict=True)]
    assert finding.figure is not None
    assert 1 - 2 * finding.figure.value == pytest.approx(sum(taus) / 60)
    assert "360 pairs of 60 prompts" in finding.text
    assert finding.detectable is not None
    assert finding.detectable > 0.4
    assert bool(finding.exhibits) == (status == "alarm")
    if finding.exhibits:
        assert "rm_1 prefers: " in finding.exhibits[0].shows


def test_what_it_needs_is_said_and_a_first_round_has_nothing_to_compare() -> None:
    only = {model: {"rm 2": own["rm 2"]} for model, own in made(1.0).items()}
    (finding,) = found(only)
    assert finding.status == "not_looked"
    assert "{model: rm_1}, {model: rm_2}" in finding.needs
    assert found(made(1.0), stage="rm_1") == []


def _round(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages with other fields, and a policy trained on the later model after them."""
    after = {"name": "ppo_2", "algorithm": "ppo", "reward": {"model": "rm_2"}}
    return [{**stage, **changed.get(stage["name"], {})} for stage in [*stages(), after]]


@pytest.mark.parametrize(
    ("changed", "follows"),
    [
        ({"rm_2": {"data": {"path": "labels.jsonl"}}}, True),  # the same labels, and no others
        ({"rm_2": {"data": "stage:ask"}}, True),  # only what was asked after the first
        ({"rm_2": {"data": "harm.jsonl"}}, True),  # policies trained on the two in turn
        ({"rm_2": {"data": "harm.jsonl"}, "ppo_2": {"reward": "gold"}}, False),
        ({"rm_2": {"data": "harm.jsonl"}, "ppo": {"reward": "gold"},
          "ppo_2": {"reward": [{"model": "rm_1"}, {"model": "rm_2"}]}}, False),  # two of one policy
        ({"rm_1": {"data": None}, "rm_2": {"data": None}, "ppo": {}, "ppo_2": {"reward": None}},
         False),
        ({"rm_2": {"data": {"path": "labels.jsonl", "options": {"question": "harm"}}},
          "ppo_2": {"reward": None}}, False),
    ],
)  # fmt: skip
def test_a_reward_model_of_something_else_is_no_round_before(
    changed: dict[str, dict[str, Any]], follows: bool
) -> None:
    """A model of harmlessness contradicts one of helpfulness, and is no drift of it."""
    assert bool(found(made(1.0, -1.0), stages=_round(**changed))) == follows
