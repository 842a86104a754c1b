"""Gates as a recipe writes them."""

import re

import pytest

from gnomon.errors import ConfigError
from gnomon.recipe.gates import Bound, NoAlarm, parse_gate
from tiny_world import make_recipe, sft_stage


@pytest.mark.parametrize(
    ("text", "metric", "at_least", "bound", "side"),
    [
        ("win_rate >= 0.55", "win_rate", True, 0.55, "low"),
        ("capability_drop <= .02", "capability_drop", False, 0.02, "high"),
        ("eval/reward>=0.4 (value)", "eval/reward", True, 0.4, "value"),
        ("kl ≤ 2e1 (low)", "kl", False, 20.0, "low"),
        ("lm_eval/gsm8k.exact_match ≥ -0.5  (HIGH)", "lm_eval/gsm8k.exact_match", True, -0.5,
         "high"),
    ],
)  # fmt: skip
def test_a_bound_and_the_side_that_counts(text, metric, at_least, bound, side):
    gate = parse_gate(text)
    assert isinstance(gate, Bound)
    assert (gate.metric, gate.at_least, gate.bound, gate.side) == (metric, at_least, bound, side)


def test_the_default_side_makes_the_claim_hard():
    for sign, easy, hard in ((">=", 0.6, 0.5), ("<=", 0.5, 0.6)):
        gate = parse_gate(f"x {sign} 0.55")
        assert gate.holds(easy)
        assert not gate.holds(hard)
        assert gate.side == ("low" if sign == ">=" else "high")
        assert not gate.holds(float("nan"))


def test_alarms_by_name_or_any():
    assert parse_gate("no alarm: reward_hacking") == NoAlarm(
        "no alarm: reward_hacking", "reward_hacking"
    )
    assert parse_gate("No alarm") == NoAlarm("No alarm", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("win_rate > 0.5", "neither >= nor <="),
        ("win_rate = 0.5", "neither >= nor <="),
        ("win_rate => 0.5", "neither >= nor <="),
        ("win_rate", "is no condition"),
        ("", "is no condition"),
        ("win_rate >= 55%", "55% is 0.55"),
        ("win_rate >= nan", "no number"),
        ("win_rate >= much", "no number"),
        ("0.4 <= reward <= 0.5", "is no condition"),
        ("reward >= 0.5 (lower)", "(low), (high) or (value)"),
        ("no alarm:", "names no alarm"),
        ("x" * 300 + " >= 1", "at most 200"),
    ],
)
def test_what_is_no_condition_is_told_how_to_write_one(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_gate(text)


def test_in_a_recipe_they_are_a_list_or_one_and_quotes_are_not_needed(tmp_path):
    recipe = make_recipe("tunnel", tmp_path, sft_stage(gates="eval/loss <= 3"))
    assert recipe.stages[0].gates == ["eval/loss <= 3"]
    listed = [{"no alarm": "reward_hacking"}, "loss <=  4"]
    recipe = make_recipe("tunnel", tmp_path, sft_stage(), gates=listed)
    assert recipe.gates == ["no alarm: reward_hacking", "loss <= 4"]
    assert recipe.on_fail_of(recipe.stages[0]) == "stop"


@pytest.mark.parametrize("gates", [["loss 4"], [{"a": "b", "c": "d"}], [3], ["x>=1", "x>=1"]])
def test_a_wrong_one_is_an_error_of_the_recipe(tmp_path, gates):
    with pytest.raises(ConfigError, match=r"sft\.gates"):
        make_recipe("tunnel", tmp_path, sft_stage(gates=gates))
