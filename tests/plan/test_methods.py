"""Each rule decides about facts that meet it, and about none that are just short of it."""

from __future__ import annotations

import dataclasses

import pytest
from plan_world import TRIGGERS

from gnomon.algorithms.registry import METHODS
from gnomon.errors import ConfigError
from gnomon.plan.facts import Facts
from gnomon.plan.methods import ADDITIONS, FEW, LONG, NOISY, RULES, additions, choose
from gnomon.stats.intervals import Interval

STAGES = {*METHODS, "collect", "revise"}


def test_every_rule_is_tested() -> None:
    assert list(TRIGGERS) == [rule.name for rule in RULES]


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_rule_decides_just_where_it_says(name: str) -> None:
    enough, short = TRIGGERS[name]
    assert choose(enough).rule.name == name
    if short.demonstrations or short.compared:
        assert choose(short).rule.name != name
    else:
        with pytest.raises(ConfigError, match="too little to learn from"):
            choose(short)


def test_rules_say_all_that_a_reader_needs() -> None:
    for rule in RULES:
        assert {*rule.stages, *rule.instead} <= STAGES
        assert bool(rule.instead) == bool(rule.unless)
        assert rule.because and rule.reference and rule.more and rule.needs  # noqa: PT018
        assert rule.instead != rule.stages


def test_ppo_is_only_for_named_reasons() -> None:
    assert [rule.name for rule in RULES if "ppo" in rule.stages] == ["full PPO: many rankings"]


def test_sft_first_only_where_there_is_something_to_imitate() -> None:
    tuned = Facts(pairs=FEW, demonstrations=FEW)
    assert choose(tuned).stages == ("dpo",)  # the pairs' own better answers do not count
    assert choose(dataclasses.replace(tuned, tuned=False)).stages == ("sft", "dpo")
    assert choose(dataclasses.replace(tuned, demonstrations=2 * FEW)).stages == ("sft", "dpo")
    assert choose(Facts(checkable=FEW, tuned=False)).stages == ("grpo",)


def agree(value: float, half: float) -> Interval:
    return Interval(value, value - half, value + half, 100)


CASES = {
    "noise": (Facts(agreement=agree(NOISY - 0.1, 0.09)), Facts(agreement=agree(NOISY - 0.1, 0.1))),
    "length": (Facts(longer=LONG + 0.01), Facts(longer=LONG)),
    "both": (
        Facts(agreement=agree(NOISY - 0.1, 0.09), longer=LONG + 0.01),
        Facts(agreement=agree(NOISY - 0.1, 0.1), longer=LONG + 0.01),
    ),
    "length of a reward": (Facts(longer=LONG + 0.01), Facts(longer=LONG)),
    "one class": (Facts(good=201, bad=100), Facts(good=200, bad=100)),
}


@pytest.mark.parametrize(("addition", "case"), zip(ADDITIONS, CASES, strict=True))
def test_each_addition_is_set_just_where_it_says(addition: object, case: str) -> None:
    enough, short = CASES[case]
    methods = ("dpo", "reward_model", "online_dpo", "kto")
    assert addition in [one for _, one in additions(methods, enough)]
    assert addition not in [one for _, one in additions(methods, short)]


def test_additions_go_together_in_one_stage() -> None:
    """What a stage is given never contradicts itself: its settings are validated."""
    for enough, _ in CASES.values():
        for method in ("dpo", "reward_model", "online_dpo", "kto"):
            given: dict[str, object] = {}
            for _, addition in additions((method,), enough):
                assert not given.keys() & addition.settings.keys()
                given |= addition.settings
            METHODS[method].settings.model_validate(given)


def test_what_to_settle_first() -> None:
    facts = Facts(pairs=FEW, leaked=3, contradictions=FEW // 10, agreement=agree(0.52, 0.05))
    leaked, contradictory, agreement = choose(facts).warnings
    assert "3 prompts are also in the held-out file" in leaked
    assert f"{FEW // 10} pairs are judged both ways" in contradictory
    assert "not shown that these labels say anything" in agreement
    assert choose(Facts(pairs=FEW, leaked=0, agreement=agree(0.8, 0.1))).warnings == ()


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ConfigError, match=r"too little.*199 prompts.*--judge"):
        choose(Facts(prompts=FEW - 1, judge=True))
