"""The policy-gradient family against its papers, written again on padded tensors, and TRL."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from grpo_zoo import (
    NEW_TOKENS,
    PRESETS,
    TIGHT,
    Listed,
    Spread,
    column,
    counted,
    loop,
    make,
    naive_advantages,
    naive_loss,
    naive_token_loss,
    padded,
    trained,
)
from torch import Tensor

import tiny_world as tw
from gnomon.losses.reduce import Totals
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner


def one_step(name: str, **more: object) -> tuple[Learner, list[TokenGroup], Tensor]:
    """A member with all its groups in one step, pi_old [S, T] of them, the policy moved since."""
    off_policy = {} if name == "reinforce" else {"epochs": 2, "minibatches": 1}
    extra = {"dapo": {"overlong_buffer": 0.0}, "dppo": {"clip_low": TIGHT}}.get(name, {})
    algorithm = make(name, moved=True, **{**off_policy, **extra, **more})
    groups = trained(algorithm.experience(0))
    with torch.no_grad():
        old = padded(groups)[1](algorithm.roles["policy"])
    if name != "reinforce":
        tw.shake(algorithm.roles["policy"], 0.02, seed=6)
    return algorithm, groups, old


def naive_step(
    name: str, algorithm: Learner, groups: list[TokenGroup], old: Tensor
) -> tuple[float, dict[str, Tensor]]:
    p, logprobs = padded(groups)
    rewards = p.reward.reshape(len(groups), -1)
    ref = None
    if "reference" in algorithm.roles:
        with torch.no_grad():
            ref = logprobs(algorithm.roles["reference"])
    A = naive_advantages(name, rewards, None if ref is None else old - ref, p.mask)
    new = logprobs(algorithm.roles["policy"])
    per_token = naive_token_loss(name, new, old, A, p.mask)
    if name == "grpo":
        assert ref is not None
        per_token = per_token + 0.04 * (torch.exp(ref - new) - (ref - new) - 1)
    loss = naive_loss(name, per_token, p.mask)
    parameters = dict(algorithm.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    named = zip(parameters, grads, strict=True)
    return float(loss.detach()), {n: g for n, g in named if g is not None}


@pytest.mark.parametrize("name", PRESETS)
def test_loss_and_gradient_of_each_preset_are_those_of_its_paper(name: str) -> None:
    algorithm, groups, old = one_step(name)
    ours_loss, ours = tw.step_gradient(algorithm, groups)
    loss, naive = naive_step(name, algorithm, groups, old)
    assert ours_loss == pytest.approx(loss, rel=2e-3, abs=2e-5)
    assert tw.distance(naive, ours) < 2e-3


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_presets_have_the_same_gradient(name: str) -> None:
    """So the test above would notice one method's settings under another's name."""
    algorithm, groups, old = one_step(name)
    _, ours = tw.step_gradient(algorithm, groups)
    for other in PRESETS:
        if other == name or ("reference" in make(other).roles) > ("reference" in algorithm.roles):
            continue
        _, naive = naive_step(other, algorithm, groups, old)
        assert tw.distance(naive, ours) > 5e-3, other


@pytest.mark.parametrize("name", PRESETS)
def test_the_gradient_does_not_depend_on_the_split(name: str) -> None:
    algorithm, groups, _ = one_step(name, lora=True)
    whole_loss, whole = tw.step_gradient(algorithm, groups)
    for tokens in (1, 60):
        loss, cut = tw.step_gradient(algorithm, groups, tokens=tokens)
        assert loss == pytest.approx(whole_loss, rel=1e-4, abs=1e-6)
        assert tw.distance(whole, cut) < 1e-4


def test_a_normaliser_of_the_micro_batch_would_be_noticed() -> None:
    algorithm, groups, _ = one_step("dapo")
    _, whole = tw.step_gradient(algorithm, groups)
    parts = []
    for group in groups:  # each group as if it were a step of its own, then averaged
        parts.append(tw.step_gradient(algorithm, [group])[1])
    averaged = {k: sum(p[k] for p in parts) / len(parts) for k in whole}
    assert tw.distance(whole, averaged) > 0.01


def test_on_the_only_step_no_forward_pass_is_spent_on_the_old_policy() -> None:
    algorithm = make(beta=0.0)
    calls = count_forwards(algorithm)
    groups = trained(algorithm.experience(0))
    assert not calls
    _, once = tw.step_gradient(algorithm, groups)
    assert calls == ["policy"]
    twice = make(beta=0.0, epochs=2)
    _, same = tw.step_gradient(twice, trained(twice.experience(0)))
    assert tw.distance(once, same) < 1e-4  # pi_old computed, or taken to be pi


def count_forwards(algorithm: Learner) -> list[str]:
    calls: list[str] = []
    for name, role in algorithm.roles.items():

        def counted(*args: object, _role=role, _plain=role.logprobs, _name=name, **kwargs: object):
            calls.append(_name)
            return _plain(*args, **kwargs)

        role.logprobs = counted  # type: ignore[method-assign]
    return calls


# -- TRL ------------------------------------------------------------------------------------------

TRL_LOSSES = {
    "grpo": {"loss_type": "grpo", "beta": 0.04},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon_low": 3e-4,
        "epsilon_high": 4e-4,
    },
}


@pytest.mark.parametrize("name", TRL_LOSSES)
def test_the_same_step_through_trls_loss(name: str) -> None:
    trainer_module = pytest.importorskip("trl.trainer.grpo_trainer")
    algorithm, groups, old = one_step(name)
    _, ours = tw.step_gradient(algorithm, groups)
    p, logprobs = padded(groups)
    new = logprobs(algorithm.roles["policy"])
    rewards = p.reward.reshape(len(groups), -1)
    A = rewards - rewards.mean(1, keepdim=True)
    if name != "dr_grpo":
        A = A / (rewards.std(1, keepdim=True) + 1e-4)
    settings = {
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        **TRL_LOSSES[name],
    }
    accelerator = SimpleNamespace(
        num_processes=1,
        sync_gradients=False,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    model = torch.nn.Identity().eval()
    trainer = SimpleNamespace(
        accelerator=accelerator,
        model=model,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        use_vllm=False,
        max_completion_length=NEW_TOKENS,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"eval": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
        **settings,
    )
    inputs = {
        "prompt_ids": torch.ones(len(new), 1).long(),
        "prompt_mask": torch.ones(len(new), 1).long(),
        "completion_ids": torch.ones_like(new).long(),
        "completion_mask": p.mask.long(),
        "advantages": A.flatten(),
        "old_per_token_logps": old,
        "num_items_in_batch": p.mask.sum(),
    }
    if "reference" in algorithm.roles:
        with torch.no_grad():
            inputs["ref_per_token_logps"] = logprobs(algorithm.roles["reference"])
    loss = trainer_module.GRPOTrainer._compute_loss(trainer, model, inputs)
    parameters = dict(algorithm.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()))
    assert tw.distance(dict(zip(parameters, grads, strict=True)), ours) < 2e-3


# -- zero spread ----------------------------------------------------------------------------------


def test_groups_without_spread_cost_no_training_and_are_counted() -> None:
    algorithm = make(reward=Listed(*[1.0] * 16), epochs=2, minibatches=2)
    calls = count_forwards(algorithm)
    experience = algorithm.experience(0)
    assert [len(m.trained) for m in experience.minibatches] == [0, 0, 0, 0]
    assert [len(m.groups) for m in experience.minibatches] == [2, 2, 2, 2]
    assert not calls
    assert experience.metrics["zero_spread"] == 1
    assert experience.metrics["groups_trained"] == 0


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_dropping_them_changes_no_gradient(aggregation: str) -> None:
    found = {}
    for how in ("drop", "keep"):
        reward = Spread(flat=["p0", "p2"])
        algorithm = make(reward=reward, aggregation=aggregation, beta=0.0, zero_spread=how)
        experience = algorithm.experience(0)
        assert experience.metrics["zero_spread"] == 0.5
        assert len(trained(experience)) == (2 if how == "drop" else 4)
        found[how] = tw.step_gradient(algorithm, counted(experience))[1]
    assert tw.distance(found["keep"], found["drop"]) < 1e-4
    alone = make(reward=Spread(flat=["p0", "p2"]), aggregation=aggregation, beta=0.0)
    left = trained(alone.experience(0))  # as if the others had not been drawn
    assert tw.distance(found["keep"], tw.step_gradient(alone, left)[1]) > 0.1


def test_flat_groups_are_trained_on_where_the_baseline_is_the_batch() -> None:
    reward = Listed(*[1.0] * 4, *[0.0] * 4, *[1.0] * 4, *[0.0] * 4)
    for name in ("reinforce", "reinforce_pp"):
        experience = make(name, reward=reward).experience(0)
        assert experience.metrics["zero_spread"] == 1
        assert experience.metrics["groups_trained"] == 4


def test_dynamic_sampling_draws_other_prompts_for_groups_without_spread() -> None:
    flat = [f"p{i}" for i in range(0, 12, 2)]
    reward = Spread(flat=flat)
    more = {"prompts": 12, "minibatches": 1, "max_resamples": 8, "overlong_buffer": 0.0}
    algorithm = make("dapo", reward=reward, **more)
    first = {f"p{i}" for i in tw.sampled(algorithm).sampler.batch(0)}
    experience = algorithm.experience(0)
    rows = experience.samples
    assert len(trained(experience)) == 4
    assert not {r["prompt_id"] for r in rows[:16]} - first
    assert experience.metrics["prompts_sampled"] == len(rows) / 4
    assert 4 < len(rows) / 4 <= 4 + 8 * 4
    again = make("dapo", reward=Spread(flat=flat), **more)
    assert [r["response"] for r in again.experience(0).samples] == [r["response"] for r in rows]


def test_dynamic_sampling_is_bounded_and_counts_only_what_it_found() -> None:
    everything = [f"p{i}" for i in range(12)]
    reward = Spread(flat=everything)
    more = {"prompts": 12, "max_resamples": 2, "overlong_buffer": 0.0}
    experience = make("dapo", reward=reward, **more).experience(0)
    assert len(experience.samples) == 3 * 16
    assert [len(m.groups) for m in experience.minibatches] == [0]
    assert experience.metrics["zero_spread"] == 1


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_the_loop_divides_by_all_groups_of_the_step(aggregation: str, tmp_path: Path) -> None:
    """Those without signal cost no forward pass, but they count."""
    more = {"reward": Spread(flat=["p0", "p2"]), "aggregation": aggregation, "beta": 0.3}
    algorithm = make(moved=True, iterations=1, **more)
    experience = algorithm.experience(0)
    groups = counted(experience)
    assert (len(groups), len(trained(experience))) == (4, 2)
    assert experience.minibatches[0].totals() == Totals.of(groups)
    loss, _ = tw.step_gradient(algorithm, groups)
    wrong, _ = tw.step_gradient(algorithm, trained(experience))
    assert abs(loss - wrong) > 1e-4
    run = loop(algorithm, tmp_path)
    run.run()
    assert run.kept.metrics.rows[0]["loss"] == pytest.approx(loss, rel=1e-5)


def test_advantages_are_what_the_loss_gets() -> None:
    _, groups, _ = one_step("grpo")
    p, _ = padded(groups)
    rewards = p.reward.reshape(len(groups), -1)
    naive = naive_advantages("grpo", rewards, None, p.mask)
    torch.testing.assert_close(column(groups, "advantages"), naive[p.mask], rtol=1e-3, atol=1e-4)
