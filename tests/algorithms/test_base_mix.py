"""A reference mixed with a base model reaches every method that samples and has one; a reference
that is a moving average; what of both, of DPPO and of MaxRL is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from grpo_zoo import ENDS, Listed, Spread, column, make, trained
from grpo_zoo import loop as loop_of
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.errors import ConfigError, RunError
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Learner
from gnomon.training.sampled import Played, Sampling

METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"kl_in": "loss"},  # which keeps the reference's log-probs
    "grpo": {},
    "online_dpo": {"length_desensitise": 0.5},  # which keeps them by token
}


def learner(name: str, **settings: Any) -> Learner:
    """With a policy that has moved, a reference and a base model of other weights."""
    given = {**METHODS[name], **settings}
    roles = {}
    for need in tw.method(name).needs(tw.settings(name, **given)):
        trunk = tw.trunk(4 if need.model else 0)
        head = tw.head(1, bias=True) if need.outputs else None
        roles[need.name] = Role(need.name, trunk, head=head, trainable=need.trainable)
    tw.shake(roles["policy"], 0.05)
    engine = TorchEngine(roles["policy"].trunk.model, tw.tokenizer(), eos_token_ids=ENDS)
    sampling = Sampling(SamplingParams(max_new_tokens=6), samples=4)
    bench = Workbench(roles, seed=3, batch_size=3, tokens_per_microbatch=100_000)
    played = Played(engine, Spread(), sampling=sampling)
    return tw.on_prompts(name, bench, played, given, prompts=tw.prompts(3))


def by_rows(role: Role, groups: list[TokenGroup]) -> Tensor:
    """[R] log-probs by transformers' own forward pass, one row at a time."""
    found = []
    for group in groups:
        for response in group.responses:
            row = torch.tensor([[*group.prompt_ids, *response.ids]])
            with torch.no_grad():
                out = role.trunk.model(input_ids=row).logits[0, len(group.prompt_ids) - 1 : -1]
            chosen = torch.tensor(response.ids)[:, None]
            found.append(out.log_softmax(-1).gather(1, chosen)[:, 0])
    return torch.cat(found)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mix", ["arithmetic", "geometric"])
def test_the_reference_of_a_token_is_the_mixtures(name: str, mix: str) -> None:
    more = {"kl_estimator": "k2"} if name != "online_dpo" else {}
    made = learner(name, base_share=0.3, base_mix=mix, **more)
    groups = trained(made.experience(0))
    ref, base = (by_rows(made.roles[role], groups) for role in ("reference", "base"))
    expected = 0.7 * ref + 0.3 * base
    if mix == "arithmetic":
        expected = (0.7 * ref.exp() + 0.3 * base.exp()).log()
    found = column(groups, "ref_logprobs")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (found - ref).abs().max() > 0.05  # not the reference alone


@pytest.mark.parametrize("mix", ["arithmetic", "geometric"])
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_k3_is_logged_to_distributions_alone(name: str, mix: str) -> None:
    made = learner(name, base_share=0.3, base_mix=mix, kl_estimator="k1", kl_in="reward")
    metrics = made.experience(0).metrics
    assert "kl" in metrics
    assert ("kl_k3" in metrics) == (mix == "arithmetic")


@pytest.mark.parametrize("name", METHODS)
def test_without_a_share_no_base_model_is_wanted(name: str) -> None:
    assert "base" not in tw.role_names(name)
    assert "base" in tw.role_names(name, base_share=0.1)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("grpo", {"base_model": "x"}, "no effect without base_share"),
        ("grpo", {"base_share": 0.2, "beta": 0.0}, "nothing uses a reference"),
        ("grpo", {"base_share": 0.2, "base_mix": "geometric"}, "k3 is no KL to it"),
        ("ppo", {"base_share": 0.2, "base_mix": "geometric", "kl_in": "loss"}, "k3 is no KL"),
        ("grpo", {"sync_reference_alpha": 0.5}, "no effect without sync_reference_every"),
        ("maxrl", {"truncated": "penalise"}, "must not fall below"),
        ("maxrl", {"baseline": "batch"}, "needs baseline group"),
        ("dppo", {"importance_correction": "mask"}, "set importance_correction to off"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tw.settings(name, **given)


def test_maxrl_stops_at_a_negative_reward() -> None:
    made = make("maxrl", reward=Listed(*[1.0] * 15, -0.5))
    with pytest.raises(RunError, match=r"a reward is -0\.5.*advantage_scale group"):
        made.experience(0)


def test_dppo_learns_from_older_weights_and_needs_no_correction() -> None:
    method, settings = tw.method("dppo"), tw.settings("dppo")
    assert method.refuses_older_weights(settings) is None
    assert tw.method("grpo").refuses_older_weights(tw.settings("grpo", importance_correction="off"))


def test_an_anchor_moves_part_of_the_way(tmp_path: Any) -> None:
    made = make(sync_reference_every=1, sync_reference_alpha=0.25, iterations=2)
    before = {n: p.clone() for n, p in made.roles["reference"].trunk.model.named_parameters()}
    run = loop_of(made, tmp_path)
    run.options = type(run.options)(**{**run.options.__dict__, "iterations": 1})
    run.run()
    policy = dict(made.roles["policy"].trunk.model.named_parameters())
    for name, value in made.roles["reference"].trunk.model.named_parameters():
        expected = 0.75 * before[name] + 0.25 * policy[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    assert any((policy[n] - before[n]).abs().max() > 1e-3 for n in before)
    with pytest.raises(ConfigError, match="mean of two adapters"):
        make(lora=True, sync_reference_every=1, sync_reference_alpha=0.25)
