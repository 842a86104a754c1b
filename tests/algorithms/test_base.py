"""What every algorithm shares: totals, settings, which parameters are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

import tiny_world as tw
from gnomon.algorithms.base import Ingredients, Totals, mean_metric, token_weight
from gnomon.algorithms.registry import ALGORITHMS, find_algorithm
from gnomon.algorithms.sft import SFT, SFTSettings
from gnomon.data.batch import microbatches, pack
from gnomon.errors import ConfigError
from gnomon.models.roles import Role
from gnomon.records import Comparison


def test_totals_by_hand() -> None:
    d = tw.Draw(0)
    two = d.response(4), d.response(6, hidden=slice(1, 3))
    group = tw.TokenGroup("a", d.ids(3), two, (Comparison(0, 1, weight=0.5),), weight=2.0)
    text = tw.TokenGroup("t", d.ids(1), (d.response(7),))
    totals = Totals.of([group], [text])
    assert totals == Totals(
        groups=2.0, responses=4.0, tokens=2.0 * (4 + 4), pair_weight=1.0, text_tokens=7.0
    )


def test_the_totals_of_the_parts_add_up_to_those_of_the_whole() -> None:
    groups = tw.rankings()
    whole = Totals.of(groups)
    for tokens in (1, 30):
        parts = [Totals.of(part) for part in microbatches(groups, tokens)]
        assert sum(p.groups for p in parts) == pytest.approx(whole.groups)
        assert sum(p.tokens for p in parts) == pytest.approx(whole.tokens)
        assert sum(p.pair_weight for p in parts) == pytest.approx(whole.pair_weight)


def test_token_weight_is_the_groups_weight_at_counted_tokens_only() -> None:
    d = tw.Draw(1)
    one = tw.TokenGroup("a", d.ids(2), (d.response(4, hidden=slice(1, 2)),), weight=3.0)
    batch = pack([one, tw.TokenGroup("b", d.ids(2), (d.response(2),))])
    assert token_weight(batch).tolist() == [3.0, 0.0, 3.0, 3.0, 1.0, 1.0]


def test_mean_metric_is_sum_and_weight() -> None:
    values = torch.tensor([1.0, 5.0, 2.0])
    assert mean_metric(values) == (8.0, 3.0)
    assert mean_metric(values, torch.tensor([True, False, True])) == (3.0, 2.0)


def sft(role: Role) -> SFT:
    ingredients = Ingredients(
        roles={"policy": role},
        seed=0,
        batch_size=2,
        iterations=1,
        tokens_per_microbatch=1000,
        groups=tw.demonstrations(),
    )
    return SFT(ingredients, SFTSettings())


def test_lora_trains_the_adapter_and_nothing_else() -> None:
    shared = tw.trunk()
    shared.add_adapter("policy", tw.LORA)
    algorithm = sft(Role("policy", shared, adapter="policy", trainable=True))
    names = [n for n, _ in algorithm.named_parameters()]
    assert names
    assert all(n.startswith("adapter.policy.") for n in names)
    _, gradient = tw.step_gradient(algorithm, tw.demonstrations())
    assert set(gradient) == set(names)
    trained = {id(p) for _, p in algorithm.named_parameters()}
    assert all(p.grad is None for p in shared.model.parameters() if id(p) not in trained)


def test_tied_weights_are_trained_once() -> None:
    algorithm = sft(Role("policy", tw.trunk(), trainable=True))
    parameters = [id(p) for _, p in algorithm.named_parameters()]
    assert len(parameters) == len(set(parameters))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_can_be_found_and_refuses_unknown_settings(name: str) -> None:
    algorithm = find_algorithm(name)
    assert algorithm.name == name
    assert algorithm.summary
    algorithm.Settings()  # defaults are valid
    with pytest.raises(ValidationError, match="extra"):
        algorithm.Settings(no_such_setting=1)
    for key, field in algorithm.Settings.model_fields.items():
        assert key == key.lower()
        assert field.annotation is not None


def test_a_misspelt_algorithm_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'reward_model'"):
        find_algorithm("rewardmodel")
    with pytest.raises(ConfigError, match=r"known: .*sft"):
        find_algorithm("qqq")


def test_a_zero_weight_group_takes_no_part() -> None:
    algorithm = sft(Role("policy", tw.trunk(), trainable=True))
    groups = tw.demonstrations()
    silent = [*groups[:3], *(replace(g, weight=0.0) for g in groups[3:])]
    loss, gradient = tw.step_gradient(algorithm, silent)
    expected, expected_gradient = tw.step_gradient(algorithm, groups[:3])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert tw.distance(expected_gradient, gradient) < 1e-5
