"""What every method shares: totals, metrics, settings, which parameters are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

import tiny_world as tw
from gnomon.algorithms.base import Algorithm, Workbench, token_weight
from gnomon.algorithms.metric import MetricSums, largest, mean, ratio
from gnomon.algorithms.registry import METHODS, find_method
from gnomon.data.batch import microbatches, pack
from gnomon.errors import ConfigError
from gnomon.losses.reduce import Totals
from gnomon.models.roles import Role
from gnomon.records import Comparison, TokenResponse
from gnomon.training.learner import Learner


def test_totals_by_hand() -> None:
    d = tw.Draw(0)
    two = d.response(4), d.response(6, hidden=slice(1, 3))
    unseen = TokenResponse(d.ids(3), [False] * 3)
    responses = (*two, unseen)
    group = tw.TokenGroup("a", d.ids(3), responses, (Comparison(0, 1, weight=0.5),), weight=2.0)
    text = tw.TokenGroup("t", d.ids(1), (d.response(7),))
    totals = Totals.of([group], [text])
    assert totals == Totals(
        groups=2.0,
        responses=6.0,
        tokens=2.0 * (4 + 4),
        answered=4.0,
        text_tokens=7.0,
    )
    assert Totals.of([replace(group, trained=False)], [text]) == totals  # it counts all the same


def test_the_totals_of_the_parts_add_up_to_those_of_the_whole() -> None:
    groups = tw.rankings()
    whole = Totals.of(groups)
    for tokens in (1, 30):
        parts = [Totals.of(part) for part in microbatches(groups, tokens)]
        assert sum(p.groups for p in parts) == pytest.approx(whole.groups)
        assert sum(p.tokens for p in parts) == pytest.approx(whole.tokens)
        assert sum(p.answered for p in parts) == pytest.approx(whole.answered)


def test_token_weight_is_the_groups_weight_at_counted_tokens_only() -> None:
    d = tw.Draw(1)
    one = tw.TokenGroup("a", d.ids(2), (d.response(4, hidden=slice(1, 2)),), weight=3.0)
    batch = pack([one, tw.TokenGroup("b", d.ids(2), (d.response(2),))])
    assert token_weight(batch).tolist() == [3.0, 0.0, 3.0, 3.0, 1.0, 1.0]


# -- metrics --------------------------------------------------------------------------------------


def test_a_mean_is_sum_and_weight() -> None:
    values = torch.tensor([1.0, 5.0, 2.0], requires_grad=True)
    plain, some = mean(values), mean(values, torch.tensor([True, False, True]))
    assert (float(plain.total), float(plain.weight)) == (8.0, 3.0)
    assert (float(some.total), float(some.weight)) == (3.0, 2.0)
    assert not plain.total.requires_grad


def test_micro_batches_add_up_by_the_metrics_own_reduction() -> None:
    sums = MetricSums()
    for values, kept in (([1.0, 4.0], [1, 1]), ([2.0], [1]), ([7.0], [0]), ([9.5, -3.0], [1, 1])):
        x, mask = torch.tensor(values), torch.tensor(kept, dtype=torch.bool)
        sums.add(
            {
                "mean": mean(x, mask),
                "max": largest(x, mask),
                "nats": ratio((x * mask).sum(), 2),
                "sum": replace(mean(x, mask), reduce="sum"),
            }
        )
    found = sums.values()
    assert found["mean"] == pytest.approx(13.5 / 5)
    assert found["max"] == 9.5
    assert found["nats"] == pytest.approx(13.5 / 8)
    assert found["sum"] == pytest.approx(13.5)


def test_what_nothing_was_counted_in_is_not_logged() -> None:
    sums = MetricSums()
    none = torch.zeros(2, dtype=torch.bool)
    sums.add({"mean": mean(torch.ones(2), none), "max": largest(torch.ones(2), none)})
    assert sums.values() == {}
    assert MetricSums().values() == {}


def test_metrics_stay_tensors_until_they_are_read_and_are_read_once() -> None:
    values, mask = torch.rand(3), torch.tensor([True, False, True])
    sums = MetricSums()
    with tw.watched_reads() as read:
        for _ in range(3):
            given = {"a": mean(values, mask), "b": largest(values, mask), "c": mean(values)}
            sums.add(given | {"d": ratio(values.sum(), 2)})
        assert read == []
        found = sums.values()
    assert read == ["algorithms"]
    assert found.keys() == {"a", "b", "c", "d"}
    assert all(isinstance(m.total, torch.Tensor) and not m.total.dim() for m in given.values())


# -- parameters -----------------------------------------------------------------------------------


def sft(role: Role) -> Learner:
    bench = Workbench({"policy": role}, batch_size=2, tokens_per_microbatch=1000)
    return tw.on_groups("sft", bench, tw.demonstrations(), {})


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


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_can_be_found_and_refuses_unknown_settings(name: str) -> None:
    method = find_method(name)
    assert method.name == name
    assert method.summary
    assert issubclass(method.settings, method.algorithm.Settings)
    needed = {"teacher": "sft"} if name == "distill" else {}
    method.settings(**needed)  # defaults are valid
    with pytest.raises(ValidationError, match="extra"):
        method.settings(**needed, no_such_setting=1)
    for key, field in method.settings.model_fields.items():
        assert key == key.lower()
        assert field.annotation is not None


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_inherits_the_protocol_and_nothing_else(name: str) -> None:
    algorithm = tw.method(name)
    assert algorithm.__mro__ == (algorithm, Algorithm, object)


def test_a_misspelt_method_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'reward_model'"):
        find_method("rewardmodel")
    with pytest.raises(ConfigError, match=r"known: .*sft"):
        find_method("qqq")


def test_a_zero_weight_group_takes_no_part() -> None:
    algorithm = sft(Role("policy", tw.trunk(), trainable=True))
    groups = tw.demonstrations()
    silent = [*groups[:3], *(replace(g, weight=0.0) for g in groups[3:])]
    loss, gradient = tw.step_gradient(algorithm, silent)
    expected, expected_gradient = tw.step_gradient(algorithm, groups[:3])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert tw.distance(expected_gradient, gradient) < 1e-5
