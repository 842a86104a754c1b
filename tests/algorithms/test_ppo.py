"""PPO against a second PPO on padded tensors, and what must hold of its parts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from ppo_zoo import Padded, Spread, make_ppo
from pydantic import ValidationError
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Step
from gnomon.algorithms.on_policy_settings import PPOSettings
from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, SampleJudge, Score
from gnomon.records import TokenGroup
from gnomon.training.learner import Experience, Learner

DEFAULTS = {"beta": 0.02, "no_eos_penalty": 0.0, "gamma": 1.0, "lam": 0.95}


def all_groups(experience: Experience) -> list[TokenGroup]:
    """An iteration's groups in the order they were sampled."""
    groups = {g.id: g for m in experience.minibatches for g in m.groups}
    return [groups[k] for k in sorted(groups)]


def column(groups: Sequence[TokenGroup], name: str) -> Tensor:
    return torch.cat([r.token[name] for g in groups for r in g.responses])


def naive_experience(
    ppo: Learner, groups: Sequence[TokenGroup], temperature: float = 1.0
) -> dict[str, Tensor]:
    """[R] columns of what PPO should have worked out for these responses."""
    s, p = ppo.algorithm.settings, Padded.of(groups)
    with torch.no_grad():
        old = p.logprobs(ppo.roles["policy"], temperature)
        reference = p.logprobs(ppo.roles["reference"], temperature)
        values, after = p.values(ppo.roles["value_model"])
    score = p.reward - s.no_eos_penalty * (1 - p.finished)
    if s.reward_clip is not None:
        score = score.clamp(-s.reward_clip, s.reward_clip)
    beta = s.beta if s.kl_in == "reward" else 0.0
    rewards = p.token_rewards(score, old, reference, beta)
    beyond = after * (1 - p.finished) if s.bootstrap_truncated else torch.zeros_like(after)
    advantages, returns = p.gae(rewards, values, beyond, s.gamma, s.lam)
    if s.whiten_advantages:
        advantages = p.whiten(advantages)
    found = {"old_logprobs": old, "old_values": values, "advantages": advantages}
    return {k: p.flat(v) for k, v in (found | {"returns": returns}).items()}


CASES = {
    "defaults": {},
    "strong KL in the reward": {"beta": 0.7},
    "KL in the loss": {"kl_in": "loss", "beta": 0.7, "kl_estimator": "k2"},
    "discounted, not whitened": {"gamma": 0.9, "lam": 0.5, "whiten_advantages": False},
    "penalty for no EOS": {"no_eos_penalty": 3.0},
    "bootstrap": {"bootstrap_truncated": True, "whiten_advantages": False},
    "clipped reward": {"reward_clip": 1.0},
}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_rewards_advantages_and_returns_are_the_naive_ones(case: str, lora: bool) -> None:
    ppo = make_ppo(lora=lora, **CASES[case])
    groups = all_groups(ppo.experience(0))
    finished = [r.scalar["finished"] for g in groups for r in g.responses]
    assert 0 < sum(finished) < len(finished)  # both kinds are there
    for name, expected in naive_experience(ppo, groups).items():
        torch.testing.assert_close(column(groups, name), expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("case", ["penalty for no EOS", "bootstrap", "strong KL in the reward"])
def test_each_of_these_settings_changes_the_returns(case: str) -> None:
    ppo = make_ppo(**CASES[case])
    groups = all_groups(ppo.experience(0))
    ppo.algorithm.settings = ppo.algorithm.settings.model_copy(
        update={**DEFAULTS, "bootstrap_truncated": False}
    )
    assert (naive_experience(ppo, groups)["returns"] - column(groups, "returns")).abs().max() > 0.01


def test_the_wrong_sign_of_the_kl_and_a_lost_last_reward_would_be_noticed() -> None:
    ppo = make_ppo(beta=0.7)
    groups = all_groups(ppo.experience(0))
    returns = column(groups, "returns")
    right = naive_experience(ppo, groups)["returns"]
    torch.testing.assert_close(returns, right, rtol=1e-3, atol=2e-4)
    ppo.algorithm.settings = ppo.algorithm.settings.model_copy(update={"beta": -0.7})
    assert (naive_experience(ppo, groups)["returns"] - returns).abs().max() > 0.05
    p = Padded.of(groups)
    lost = p.token_rewards(p.reward, p.mask * 0.0, p.mask * 0.0, 0.0)
    assert lost.sum() == pytest.approx(float(p.reward.sum()), rel=1e-5)
    ends = p.mask.sum(1) - 1
    assert torch.equal(lost[torch.arange(len(ends)), ends] != 0, p.reward != 0)


def naive_loss(ppo: Learner, groups: Sequence[TokenGroup], temperature: float = 1.0) -> Tensor:
    """The clipped objectives, token by token, over the mean of the step's tokens."""
    s, p = ppo.algorithm.settings, Padded.of(groups)
    new = p.flat(p.logprobs(ppo.roles["policy"], temperature))
    entropy = p.flat(p.entropy(ppo.roles["policy"], temperature))
    values = p.flat(p.values(ppo.roles["value_model"])[0])
    old, advantages = column(groups, "old_logprobs"), column(groups, "advantages")
    returns, old_values = column(groups, "returns"), column(groups, "old_values")
    with torch.no_grad():
        reference = p.flat(p.logprobs(ppo.roles["reference"], temperature))
    total = torch.zeros(())
    for t in range(new.numel()):
        ratio = torch.exp(new[t] - old[t])
        clipped = ratio.clamp(1 - s.clip_eps, 1 + s.clip_eps)
        unclipped_objective = ratio * advantages[t]
        clipped_objective = clipped * advantages[t]
        policy = -torch.minimum(unclipped_objective, clipped_objective)
        near = old_values[t] + (values[t] - old_values[t]).clamp(
            -s.value_clip_eps, s.value_clip_eps
        )
        value = 0.5 * torch.maximum((values[t] - returns[t]) ** 2, (near - returns[t]) ** 2)
        total = total + policy + s.value_coef * value - s.entropy_coef * entropy[t]
        if s.kl_in == "loss":
            d = new[t] - reference[t]
            kl = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}[s.kl_estimator]
            total = total + s.beta * kl
    return total / new.numel()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_eps": 0.05, "value_clip_eps": 0.05, "entropy_coef": 0.2},
        {"kl_in": "loss", "kl_estimator": "k2", "beta": 0.3},
        {"kl_in": "loss", "kl_estimator": "k3", "beta": 0.3},
    ],
)
def test_the_steps_gradient_is_the_naive_one(settings: dict, lora: bool) -> None:
    ppo = make_ppo(lora=lora, temperature=0.8, **settings)
    groups = all_groups(ppo.experience(0))
    tw.shake(ppo.roles["policy"], 0.02, seed=6)  # an earlier minibatch moved both
    tw.shake(ppo.roles["value_model"], 0.02, seed=7)
    loss, gradient = tw.step_gradient(ppo, groups)
    for _, parameter in ppo.named_parameters():
        parameter.grad = None
    expected = naive_loss(ppo, groups, temperature=0.8)
    expected.backward()
    naive = {n: p.grad for n, p in ppo.named_parameters() if p.grad is not None}
    # the naive pass leaves out nothing that the packed one trains, and adds nothing
    assert {n for n in gradient if gradient[n].abs().sum() > 0} <= naive.keys()
    assert loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert tw.distance(naive, {n: gradient[n] for n in naive}) < 2e-3


@pytest.mark.parametrize("tokens", [1, 50])
@pytest.mark.parametrize("settings", [{}, {"kl_in": "loss", "beta": 0.3}])
def test_any_split_gives_the_same_gradient(settings: dict, tokens: int) -> None:
    ppo = make_ppo(text=True, pretraining_coef=0.4, **settings)
    groups = all_groups(ppo.experience(0))
    tw.shake(ppo.roles["policy"], 0.02, seed=6)
    loss, whole = tw.step_gradient(ppo, groups, tw.documents())
    split_loss, split = tw.step_gradient(ppo, groups, tw.documents(), tokens=tokens)
    assert split_loss == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert tw.distance(whole, split) < 1e-4


def test_experience_does_not_depend_on_the_micro_batches_either() -> None:
    one, other = make_ppo(), make_ppo()
    other.bench.tokens_per_microbatch = 1
    a, b = all_groups(one.experience(0)), all_groups(other.experience(0))
    assert [r.ids for g in a for r in g.responses] == [r.ids for g in b for r in g.responses]
    for name in ("advantages", "returns", "old_logprobs"):
        torch.testing.assert_close(column(a, name), column(b, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_the_samplers_logprobs_are_the_trainers_at_the_sampling_temperature(
    temperature: float,
) -> None:
    ppo = make_ppo(temperature=temperature, top_p=0.9)
    experience = ppo.experience(0)
    assert experience.metrics["mismatch"] < 1e-4
    groups = all_groups(experience)
    elsewhere = naive_experience(ppo, groups, temperature * 1.3)["old_logprobs"]
    assert (elsewhere - column(groups, "sampler_logprobs")).abs().mean() > 0.01
    # and the first step starts from ratio 1: the loss sees the same temperature
    batch = next(iter(ppo.bench.batches(groups)))
    out = ppo.loss(batch, tw.step_of(ppo, groups))
    assert float(out.metrics["update_kl"].total) < 1e-6
    assert float(out.metrics["clip_fraction"].total) == 0


def test_temperature_falls_linearly_to_its_end() -> None:
    ppo = make_ppo(temperature=1.2, final_temperature=0.6, iterations=4)
    assert [round(ppo.source.step(i).temperature, 6) for i in range(4)] == [1.2, 1.0, 0.8, 0.6]
    assert ppo.experience(2).metrics["temperature"] == pytest.approx(0.8)
    steady = make_ppo(temperature=1.2).source
    assert [steady.step(i).temperature for i in range(3)] == [1.2] * 3


def test_kl_metric_is_the_sum_over_a_responses_tokens() -> None:
    ppo = make_ppo()
    experience = ppo.experience(0)
    groups = all_groups(experience)
    p = Padded.of(groups)
    with torch.no_grad():
        gap = p.logprobs(ppo.roles["policy"], 1.0) - p.logprobs(ppo.roles["reference"], 1.0)
    expected = float((gap * p.mask).sum(1).mean())
    assert experience.metrics["kl"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert abs(expected) > 0.01
    assert make_ppo(moved=False).experience(0).metrics["kl"] == pytest.approx(0.0, abs=1e-4)


# -- adaptive beta --------------------------------------------------------------------------------


def ended(ppo: Learner, iteration: int, kl: float) -> None:
    """The iteration is over, and its responses' mean KL was this."""
    ppo.algorithm.end_iteration(Step(iteration), {"kl": kl}, None)


def test_adaptive_beta_moves_towards_its_target_and_survives_a_restart() -> None:
    ppo = make_ppo(target_kl=2.0, kl_horizon=80, beta=0.1)
    responses = 4 * 2
    ended(ppo, 0, 10.0)  # too far: hold harder, by at most 20% x responses / horizon
    assert ppo.algorithm.beta == pytest.approx(0.1 * (1 + 0.2 * responses / 80))
    risen = ppo.algorithm.beta
    ended(ppo, 1, 1.9)
    assert ppo.algorithm.beta == pytest.approx(risen * (1 - 0.05 * responses / 80))
    other = make_ppo(target_kl=2.0, kl_horizon=80, beta=0.1)
    other.load_state_dict(ppo.state_dict())
    assert other.algorithm.beta == ppo.algorithm.beta
    assert other.experience(1).metrics["beta"] == ppo.algorithm.beta
    fixed = make_ppo(beta=0.1)
    ended(fixed, 0, 10.0)
    assert fixed.algorithm.beta == 0.1


def test_beta_waits_while_the_critic_warms_up_and_the_policy_stands_still() -> None:
    ppo = make_ppo(target_kl=2.0, kl_horizon=80, beta=0.1, value_warmup=1)
    ppo.end_iteration(ppo.experience(0), {"kl": 0.0})
    assert ppo.algorithm.beta == 0.1
    ppo.end_iteration(ppo.experience(1), {"kl": 0.0})
    assert ppo.algorithm.beta < 0.1


def test_update_kl_is_the_kl_from_the_sampling_policy() -> None:
    ppo = make_ppo()
    groups = all_groups(ppo.experience(0))
    batch = next(iter(ppo.bench.batches(groups)))
    moved = batch.token["old_logprobs"] - 0.5  # the new log-probs lie 0.5 above these
    batch = replace(batch, token={**batch.token, "old_logprobs": moved})
    seen = tw.figures(ppo.loss(batch, tw.step_of(ppo, groups)).metrics)
    # E_old[ratio - 1 - log ratio], a ratio of exp(0.5) at every token
    assert seen["update_kl"] == pytest.approx(math.exp(0.5) - 1 - 0.5, rel=1e-3)


def test_the_adapted_beta_is_the_one_in_the_rewards() -> None:
    ppo = make_ppo(beta=0.1, whiten_advantages=False)
    ppo.algorithm.beta = 0.9
    groups = all_groups(ppo.experience(0))
    ppo.algorithm.settings = ppo.algorithm.settings.model_copy(update={"beta": 0.9})
    expected = naive_experience(ppo, groups)["returns"]
    torch.testing.assert_close(column(groups, "returns"), expected, rtol=1e-3, atol=2e-4)


def test_a_controller_that_could_not_work_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="kl_horizon"):
        make_ppo(target_kl=1.0, kl_horizon=1)
    with pytest.raises(ValidationError, match="beta must start above 0"):
        PPOSettings(target_kl=1.0, beta=0.0)
    with pytest.raises(ValidationError, match="kl_horizon has no effect without target_kl"):
        PPOSettings(kl_horizon=500)
    with pytest.raises(ValidationError, match="kl_estimator has no effect without kl_in: loss"):
        PPOSettings(kl_estimator="k2")


# -- who is trained -------------------------------------------------------------------------------


def run_steps(ppo: Learner, iterations: int, lr: float = 1e-2) -> None:
    parameters = [p for _, p in ppo.named_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1)
    for iteration in range(iterations):
        for minibatch in ppo.experience(iteration).minibatches:
            tw.step_gradient(ppo, minibatch.groups, minibatch.text, iteration=iteration)
            optimizer.step()


def state(role) -> dict[str, Tensor]:
    found = {n: p.detach().clone() for n, p in role.trunk.model.named_parameters()}
    if role.head is not None:
        found |= {f"head.{n}": p.detach().clone() for n, p in role.head.named_parameters()}
    return found


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_never_changes_and_policy_and_value_do(lora: bool) -> None:
    ppo = make_ppo(lora=lora, text=True, pretraining_coef=0.1, epochs=2, minibatches=2)
    batch = next(iter(ppo.bench.batches(tw.demonstrations())))

    def reference() -> Tensor:
        return ppo.roles["reference"].logprobs(batch).logprobs.clone()

    before = reference()
    own = {n: p.detach().clone() for n, p in ppo.named_parameters()}
    run_steps(ppo, 2)
    assert torch.equal(reference(), before)
    changed = {n for n, p in ppo.named_parameters() if not torch.equal(p, own[n])}
    assert any("policy" in n for n in changed)
    assert any("value_model" in n for n in changed)
    assert not any("reference" in n for n in own)


@pytest.mark.parametrize("lora", [False, True])
def test_value_warmup_trains_the_critic_alone_text_or_not(lora: bool) -> None:
    ppo = make_ppo(lora=lora, value_warmup=2, text=True, pretraining_coef=0.5)
    own = {n: p.detach().clone() for n, p in ppo.named_parameters()}
    run_steps(ppo, 2)
    changed = {n for n, p in ppo.named_parameters() if not torch.equal(p, own[n])}
    assert changed
    assert all("value_model" in n for n in changed)
    run_steps(ppo, 3)  # past the warm-up
    assert any("policy" in n for n, p in ppo.named_parameters() if not torch.equal(p, own[n]))


def test_ptx_is_the_texts_loss_times_its_coefficient() -> None:
    ppo = make_ppo(text=True, pretraining_coef=0.25)
    experience = ppo.experience(0)
    text = experience.minibatches[0].text
    assert text
    groups = all_groups(experience)
    without, plain = tw.step_gradient(ppo, groups)
    loss, mixed = tw.step_gradient(ppo, groups, text)
    naive = Padded.of(
        [
            tw.TokenGroup(
                g.id,
                g.prompt_ids,
                tuple(
                    tw.TokenResponse(r.ids, r.mask, scalar={"reward": 0.0, "finished": 1.0})
                    for r in g.responses
                ),
            )
            for g in text
        ]
    )
    for _, parameter in ppo.named_parameters():
        parameter.grad = None
    nll = -naive.flat(naive.logprobs(ppo.roles["policy"], 1.0)).mean()
    (0.25 * nll).backward()
    assert loss == pytest.approx(without + 0.25 * nll.item(), rel=1e-4)
    expected = {
        n: plain[n] + (0.0 if p.grad is None else p.grad)
        for n, p in ppo.named_parameters()
        if n in plain
    }
    assert tw.distance(expected, {n: mixed[n] for n in expected}) < 1e-3


def test_observers_are_logged_and_never_trained_on() -> None:
    class Loud(SampleJudge):
        name = "loud"

        def __call__(self, samples: Sequence[Sample]) -> list[Score]:
            torch.rand(3)  # an observer that draws random numbers
            return [Score(1e6 + i, {"part": 2.0}) for i, _ in enumerate(samples)]

    quiet, watched = make_ppo(), make_ppo(observers=[Loud()])
    a, b = quiet.experience(0), watched.experience(0)
    assert b.metrics["loud"] == pytest.approx(1e6 + 3.5)
    assert b.metrics["loud/part"] == 2.0
    assert b.metrics["loud_errors"] == 0
    for key, value in a.metrics.items():
        assert key == "monitor_seconds" or b.metrics[key] == value or math.isnan(value)
    run_steps(quiet, 1)
    run_steps(watched, 1)
    for (n, p), (_, q) in zip(quiet.named_parameters(), watched.named_parameters(), strict=True):
        assert torch.equal(p, q), n


def test_a_failing_observer_is_counted_and_stops_nothing() -> None:
    class Broken(SampleJudge):
        name = "broken"

        def __call__(self, samples: Sequence[Sample]) -> list[Score]:
            raise RuntimeError("no")

    metrics = make_ppo(observers=[Broken()]).experience(0).metrics
    assert metrics["broken_errors"] == 8
    assert metrics["reward_errors"] == 0
    assert "broken" not in metrics


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_raises_a_simple_reward(seed: int) -> None:
    """The share of even tokens goes from a half to more than 7 in 10 in 16 iterations."""

    class Even(SampleJudge):
        name = "even"

        def __call__(self, samples: Sequence[Sample]) -> list[Score]:
            return [Score(sum(i % 2 == 0 for i in s.response_ids) / 4) for s in samples]

    ppo = make_ppo(
        reward=Even(),
        samples=8,
        new_tokens=4,
        moved=False,
        eos=(tw.EOS,),
        seed=seed,
        epochs=2,
        minibatches=2,
        entropy_coef=0.0,
    )
    optimizer = torch.optim.AdamW([p for _, p in ppo.named_parameters()], lr=3e-2)
    rewards = []
    for iteration in range(16):
        experience = ppo.experience(iteration)
        rewards.append(experience.metrics["reward"])
        for minibatch in experience.minibatches:
            tw.step_gradient(ppo, minibatch.groups)
            torch.nn.utils.clip_grad_norm_([p for _, p in ppo.named_parameters()], 1.0)
            optimizer.step()
    assert sum(rewards[:3]) / 3 < 0.6
    assert sum(rewards[-3:]) / 3 > 0.7


def test_spread_gives_different_rewards() -> None:
    groups = all_groups(make_ppo(reward=Spread()).experience(0))
    assert len({r.scalar["reward"] for g in groups for r in g.responses}) > 2


def test_the_price_of_kl_is_in_spreads_of_what_is_paid() -> None:
    made = make_ppo(reward=Spread(), beta=0.3, samples=3).experience(0)
    paid = [[r.scalar["reward"] for r in g.responses] for g in all_groups(made)]
    within = math.sqrt(statistics.fmean(statistics.variance(group) for group in paid))
    assert made.metrics["kl_price"] == pytest.approx(0.3 / within, rel=1e-6)
    clipped = make_ppo(reward=Spread(), beta=0.3, samples=3, reward_clip=0.5).experience(0)
    cut = [[min(value, 0.5) for value in group] for group in paid]
    within = math.sqrt(statistics.fmean(statistics.variance(group) for group in cut))
    assert clipped.metrics["kl_price"] == pytest.approx(0.3 / within, rel=1e-6)
    alone = make_ppo(reward=Spread(), beta=0.3, samples=1).experience(0)
    assert "kl_price" not in alone.metrics  # no prompt has two answers
    nothing = make_ppo(beta=0.3, kl_in="loss", kl_estimator="k1").experience(0)
    assert nothing.metrics["kl_price"] == 0.0  # it has no gradient there
    by_loss = {"beta": 0.3, "kl_in": "loss"}
    assert make_ppo(**by_loss).experience(0).metrics["kl_price"] == 0.3  # advantages of spread 1
    plain = make_ppo(**by_loss, whiten_advantages=False).experience(0).metrics
    assert plain["kl_price"] == pytest.approx(0.3 / plain["advantage_std"])
    assert make_ppo(beta=0.0).experience(0).metrics["kl_price"] == 0.0
    held = make_ppo(beta=0.3, target_kl=3.0).experience(0).metrics
    assert "kl_price" not in held  # beta goes where it has to


def test_the_spread_of_advantages_is_told_before_whitening() -> None:
    plain = make_ppo(whiten_advantages=False).experience(0)
    given = torch.cat(
        [r.token["advantages"] for m in plain.minibatches for g in m.groups for r in g.responses]
    )
    expected = float(given.double().std(correction=0))
    assert plain.metrics["advantage_std"] == pytest.approx(expected, rel=1e-6)
    whitened = make_ppo(whiten_advantages=True).experience(0).metrics["advantage_std"]
    assert whitened == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(1.0, abs=0.01)
