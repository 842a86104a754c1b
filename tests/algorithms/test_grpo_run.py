"""The policy-gradient family in iterations: bad input, corrections, resuming, learning."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from grpo_zoo import (
    NEW_TOKENS,
    PRESETS,
    Even,
    Listed,
    Spread,
    advantages,
    column,
    counted,
    finite,
    loop,
    make,
    padded,
    trained,
    weights,
)

import tiny_world as tw
from gnomon.errors import ConfigError, RewardsFailedError
from gnomon.judges.protocol import Sample, Score
from gnomon.losses.policy_variants import soft_overlong_penalty
from gnomon.losses.reduce import Totals
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.stage import open_stage, run_stage
from gnomon.training.learner import Learner
from gnomon.training.played import Asked


def rows_of(folder: Path) -> list[dict]:
    """The rows of a stage's metrics, without what a row does not have."""
    table = pq.read_table(folder / "metrics.parquet").to_pylist()
    return [{k: v for k, v in row.items() if v is not None} for row in table]


# -- who says what is right ---------------------------------------------------------------------


class Right(Listed):
    name = "correct"


def observed_now_and_then() -> Learner:
    learner = make(reward=Listed(*[1.0, 0.0] * 8), observers=[Right(*[0.0] * 16)])
    source: Any = learner.source
    source.played = replace(source.played, asked={"correct": Asked(every=2)})
    return learner


def test_right_answers_are_the_observers_alone_where_it_is_asked_now_and_then() -> None:
    learner = observed_now_and_then()
    assert learner.experience(0).metrics["pass@1"] == 0
    assert "pass@1" not in learner.experience(1).metrics  # the reward's would be 0.5
    resumed = observed_now_and_then()
    resumed.load_state_dict(learner.state_dict())
    assert "pass@1" not in resumed.experience(1).metrics


# -- bad input ------------------------------------------------------------------------------------


def test_a_failed_reward_leaves_its_response_out_of_baseline_and_training() -> None:
    reward = Listed(1.0, None, 0.0, 0.0, *[1.0, 0.0] * 6)
    algorithm = make(reward=reward, advantage_scale="none")
    experience = algorithm.experience(0)
    groups = {g.id: g for g in trained(experience)}
    assert len(groups["0:0"].responses) == 3
    assert advantages(experience)[0] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert experience.metrics["reward_errors"] == 1
    assert finite(experience.metrics)


def test_a_group_whose_rewards_fail_but_for_one_is_dropped_not_nan() -> None:
    reward = Listed(1.0, None, None, None, *[1.0, 0.0] * 6)
    experience = make(reward=reward).experience(0)
    assert sorted(g.id for g in trained(experience)) == ["0:1", "0:2", "0:3"]
    assert finite(experience.metrics)


def test_when_all_rewards_fail_the_run_stops() -> None:
    with pytest.raises(RewardsFailedError, match="16 of 16"):
        make(reward=Listed(*[None] * 16)).experience(0)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ([0.5] * 16, "all 16 rewards are 0.5"),
        ([0.0] * 4 + [1.0] * 12, "each prompt's responses are all equal"),
        ([1e9 + i % 4 for i in range(16)], "differ by less than float32 can tell apart"),
    ],
)
def test_rewards_that_teach_nothing_are_said_once(
    name: str, rewards: list[float], said: str
) -> None:
    algorithm = make(name, reward=Listed(*rewards))
    with pytest.warns(UserWarning, match=f"iteration 1: .*{said}"):
        algorithm.experience(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        algorithm.experience(1)


def test_rewards_that_teach_something_are_not_warned_of() -> None:
    by_prompt = [0.0] * 4 + [1.0] * 12  # differences between prompts teach a batch baseline
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(reward=Listed(*[0.0] * 15, 1.0)).experience(0)
        make("reinforce", reward=Listed(*by_prompt)).experience(0)
        make("reinforce", samples=1).experience(0)
    with pytest.warns(UserWarning, match="all 16 rewards are 1"):
        make("reinforce", reward=Listed(*[1.0] * 16)).experience(0)


def test_rewards_that_overflow_are_errors_and_not_silence() -> None:
    with pytest.raises(RewardsFailedError, match=r"16 of 16 .*1e\+38.*scale it") as caught:
        make(reward=Listed(*[1e38, -1e38] * 8)).experience(0)
    assert all("scale it" in row["error"] for row in caught.value.samples)


@pytest.mark.parametrize("name", PRESETS)
def test_one_sample_for_each_prompt(name: str) -> None:
    if name in ("reinforce", "reinforce_pp"):
        experience = make(name, samples=1).experience(0)
        assert experience.metrics["groups_trained"] == 4
        assert column(trained(experience), "advantages").abs().max() > 0
    else:
        with pytest.raises(ConfigError, match=r"rollout\.samples"):
            make(name, samples=1)


def test_a_reference_that_would_never_move_is_refused() -> None:
    with pytest.raises(ConfigError, match="would never move"):
        make(sync_reference_every=4, iterations=4)


def test_lr_auto_knows_the_whole_family() -> None:
    assert {tw.method(name).base_lr for name in (*PRESETS, "ppo")} == {1e-6}


# -- what a response's end does to it -------------------------------------------------------------


def test_cut_off_responses_are_kept_masked_or_penalised() -> None:
    found = {}
    for how in ("keep", "mask", "penalise"):
        more = {"truncated_penalty": 2.0} if how == "penalise" else {}
        algorithm = make(advantage_scale="none", truncated=how, **more)
        experience = algorithm.experience(0)
        rows = list(experience.samples)
        assert 0 < sum(r["finished"] for r in rows) < len(rows)
        found[how] = experience
    rewards = torch.tensor([r["reward"] for r in rows]).reshape(4, 4)
    cut = torch.tensor([float(not r["finished"]) for r in rows]).reshape(4, 4)
    centred = rewards - rewards.mean(1, keepdim=True)
    for ours, expected in zip(advantages(found["keep"]), centred.tolist(), strict=True):
        assert ours == pytest.approx(expected, abs=1e-5)
    masked = [[a for a, c in zip(*r, strict=True) if not c] for r in zip(centred, cut, strict=True)]
    kept = [r for r in masked if r]
    for ours, expected in zip(advantages(found["mask"]), kept, strict=True):
        assert ours == pytest.approx([float(x) for x in expected], abs=1e-5)
    paid = rewards - 2.0 * cut
    paid = paid - paid.mean(1, keepdim=True)
    for ours, expected in zip(advantages(found["penalise"]), paid.tolist(), strict=True):
        assert ours == pytest.approx(expected, abs=1e-5)
    assert found["penalise"].metrics["reward"] == pytest.approx(float(rewards.mean()))
    assert found["penalise"].metrics["shaped_reward"] < found["penalise"].metrics["reward"]


def test_masked_responses_do_not_count_in_the_normaliser() -> None:
    experience = make(truncated="mask", aggregation="sequence").experience(0)
    (minibatch,) = experience.minibatches
    left = [r for g in minibatch.groups for r in g.responses]
    assert all(r.scalar["finished"] for r in left)
    finished = sum(row["finished"] for row in experience.samples)
    assert minibatch.totals().denominator("sequence") == len(left) == finished < 16


def test_the_soft_overlong_penalty_falls_over_the_last_share() -> None:
    algorithm = make(overlong_buffer=0.5, overlong_penalty=3.0, advantage_scale="none")
    experience = algorithm.experience(0)
    lengths = torch.tensor([r["length"] for r in experience.samples])
    fall = 3.0 * soft_overlong_penalty(lengths, max_length=NEW_TOKENS, buffer=3)
    assert fall.min() == -3.0
    rewards = (torch.tensor([r["reward"] for r in experience.samples]) + fall).reshape(4, 4)
    expected = rewards - rewards.mean(1, keepdim=True)
    for ours, row in zip(advantages(experience), expected.tolist(), strict=True):
        assert ours == pytest.approx(row, abs=1e-5)


# -- KL and the reference -------------------------------------------------------------------------


def test_without_a_penalty_there_is_no_reference() -> None:
    assert tw.role_names("grpo") == ("policy", "reference")
    assert tw.role_names("grpo", beta=0.0) == ("policy",)
    assert tw.role_names("grpo", kl_in="none") == ("policy",)
    assert tw.role_names("grpo", beta=0.0, log_kl=True) == ("policy", "reference")
    assert "kl" not in make(beta=0.0).experience(0).metrics


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_kl_that_is_logged(epochs: int) -> None:
    algorithm = make(moved=True, beta=0.0, log_kl=True, epochs=epochs)
    experience = algorithm.experience(0)
    groups = trained(experience)
    seen = dict(experience.metrics)
    if epochs == 1:  # it is told with the loss
        seen |= tw.step_figures(algorithm, groups, tokens=60)
    p, logprobs = padded(groups)
    with torch.no_grad():
        d = logprobs(algorithm.roles["policy"]) - logprobs(algorithm.roles["reference"])
    assert seen["kl"] == pytest.approx(float(d[p.mask].sum()) / len(d), rel=1e-3)
    assert seen["kl_k3"] == pytest.approx(float((torch.exp(-d) - 1 + d)[p.mask].mean()), rel=1e-3)
    assert seen["mismatch"] < 1e-4
    assert seen["importance_max"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("place", ["reward", "reward_to_go"])
def test_a_kl_in_the_reward_moves_advantages_against_it(place: str) -> None:
    reward = Listed(*[0.0] * 16)
    more = {"reward": reward, "moved": True, "advantage_scale": "none", "kl_in": place}
    algorithm = make(beta=0.5, kl_estimator="k1", **more)
    groups = trained(algorithm.experience(0))  # no spread in the rewards, but in the KL
    assert len(groups) == 4
    p, logprobs = padded(groups)
    with torch.no_grad():
        d = logprobs(algorithm.roles["policy"]) - logprobs(algorithm.roles["reference"])
    total = (d * p.mask).sum(1)
    centred = -0.5 * (total - total.reshape(4, 4).mean(1).repeat_interleave(4))
    expected = centred[:, None].expand_as(d)
    if place == "reward_to_go":
        expected = expected + 0.5 * ((d * p.mask).cumsum(1) - d * p.mask)
    found = column(groups, "advantages")
    torch.testing.assert_close(found, expected[p.mask], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, -expected[p.mask], atol=1e-2)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_estimator_in_the_loss(estimator: str) -> None:
    """With no reward at all only the KL's gradient is left."""
    algorithm = make(
        reward=Listed(*[0.0] * 16),
        moved=True,
        zero_spread="keep",
        beta=0.5,
        kl_estimator=estimator,
        aggregation="token",
    )
    groups = trained(algorithm.experience(0))
    _, ours = tw.step_gradient(algorithm, groups)
    p, logprobs = padded(groups)
    with torch.no_grad():
        ref = logprobs(algorithm.roles["reference"])[p.mask]
    d = logprobs(algorithm.roles["policy"])[p.mask] - ref
    value = {"k1": d, "k2": d * d / 2, "k3": torch.exp(-d) - 1 + d}[estimator]
    parameters = dict(algorithm.named_parameters())
    grads = torch.autograd.grad(0.5 * value.mean(), list(parameters.values()))
    assert tw.distance(dict(zip(parameters, grads, strict=True)), ours) < 1e-3


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_becomes_the_policy_when_it_is_time(tmp_path: Path, lora: bool) -> None:
    algorithm = make(lora=lora, sync_reference_every=2, iterations=3)
    loop(algorithm, tmp_path).run()
    kls = [r["kl"] for r in rows_of(tmp_path) if "kl" in r]
    assert kls[0] == pytest.approx(0.0, abs=1e-4)
    assert abs(kls[1]) > 1e-3
    assert kls[2] == pytest.approx(0.0, abs=1e-4)


# -- sampler and trainer --------------------------------------------------------------------------


def skewed(groups: Sequence, shift: Sequence[float]) -> list:
    """The groups as if the sampler had seen log-probs that differ, response by response."""
    out, at = [], 0
    for g in groups:
        responses = []
        for r in g.responses:
            off = torch.full((len(r.ids),), shift[at % len(shift)])
            off[0] = 0.0
            token = {**r.token, "sampler_logprobs": r.token["sampler_logprobs"] - off}
            responses.append(replace(r, token=token))
            at += 1
        out.append(replace(g, responses=tuple(responses)))
    return out


@pytest.mark.parametrize("how", ["truncate", "mask", "off"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_weights_against_the_sampler(how: str, ratio: str) -> None:
    shift = (0.3, -0.4, 1.5, -2.0)
    algorithm = make(beta=0.0, importance_correction=how, ratio=ratio, aggregation="token")
    groups = skewed(trained(algorithm.experience(0)), shift)
    _, ours = tw.step_gradient(algorithm, groups)
    p, logprobs = padded(groups)
    new = logprobs(algorithm.roles["policy"])
    off = torch.zeros_like(new)
    for i in range(len(new)):
        off[i, 1:] = shift[i % 4]
    off = off * p.mask
    if ratio == "sequence":
        off = (off.sum(1) / p.mask.sum(1))[:, None].expand_as(off)
    w = torch.exp(off)
    if how == "truncate":
        w = w.clamp(max=2.0)
    elif how == "mask":
        w = torch.where((w < 0.5) | (w > 2.0), torch.zeros_like(w), w)
    else:
        w = torch.ones_like(w)
    A = p.spread(lambda i: torch.zeros(int(p.mask[i].sum())))
    A[p.mask] = column(groups, "advantages")
    if ratio == "sequence":  # on policy: a response's loss has the gradient of its mean log-prob
        mean = (new * p.mask).sum(1, keepdim=True) / p.mask.sum(1, keepdim=True)
        per_token = -w * A * mean
    else:
        per_token = -w * A * new
    loss = per_token[p.mask].sum() / p.mask.sum()
    parameters = dict(algorithm.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()))
    assert tw.distance(dict(zip(parameters, grads, strict=True)), ours) < 2e-3


def test_the_mismatch_and_the_largest_weight_are_told() -> None:
    algorithm = make(beta=0.0, importance_cap=3.0)
    groups = skewed(trained(algorithm.experience(0)), (0.0, 0.0, 0.7, 2.0))
    seen = tw.step_figures(algorithm, groups, tokens=60)
    offs = [
        (0.0, 0.0, 0.7, 2.0)[i % 4] if t else 0.0
        for i, r in enumerate(r for g in groups for r in g.responses)
        for t in range(len(r.ids))
    ]
    assert seen["mismatch"] == pytest.approx(sum(offs) / len(offs), rel=1e-3)
    assert seen["importance_max"] == 3.0  # e^2 cut down
    assert seen["importance_cut"] == pytest.approx(offs.count(2.0) / len(offs))


def test_what_was_clipped_on_either_side() -> None:
    algorithm = make("dapo", overlong_buffer=0.0, minibatches=1, epochs=2)
    groups = trained(algorithm.experience(0))
    tw.shake(algorithm.roles["policy"], 0.05)
    p, logprobs = padded(groups)
    with torch.no_grad():
        ratio = torch.exp(
            logprobs(algorithm.roles["policy"])[p.mask] - column(groups, "old_logprobs")
        )
    A = column(groups, "advantages")
    batch = next(iter(algorithm.bench.batches(groups)))
    metrics = algorithm.loss(batch, tw.step_of(algorithm, groups)).metrics
    seen = {k: (float(m.total), float(m.weight)) for k, m in metrics.items()}
    low, high = ((ratio < 0.8) & (A < 0)).sum(), ((ratio > 1.28) & (A > 0)).sum()
    assert low > 0
    assert high > 0
    assert seen["clip_low"] == (float(low), float(len(A)))
    assert seen["clip_high"] == (float(high), float(len(A)))


# -- runs -----------------------------------------------------------------------------------------


class OnceFlat(Spread):
    """Rewards without spread in one iteration, so that one step has nothing to train on."""

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        scores = super().__call__(samples)
        return [Score(1.0) for _ in scores] if samples[0].prompt.id == "p3" else scores


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("grpo", {"sync_reference_every": 2, "minibatches": 2}),
        ("grpo", {"lora": True, "sync_reference_every": 1}),
        ("dapo", {}),
        ("reinforce", {}),
    ],
)
def test_a_resumed_run_ends_as_if_it_had_not_stopped(tmp_path: Path, name: str, more: dict) -> None:
    def fresh():
        return make(name, reward=OnceFlat(), prompts=5, batch_size=2, iterations=5, **more)

    straight = fresh()
    loop(straight, tmp_path / "straight", every=2).run()
    first = fresh()
    half = loop(first, tmp_path / "halves", every=3)
    half.options = replace(half.options, iterations=3)
    half.run()
    second = fresh()
    again = loop(second, tmp_path / "halves")
    again.run(resume=True)
    for key, value in weights(straight).items():
        assert torch.equal(value, weights(second)[key]), key
    rows = [[r for r in rows_of(tmp_path / k) if "reward" in r] for k in ("straight", "halves")]
    places = [[r["iteration"] for r in part] for part in rows]
    assert places[0] == places[1] == [1, 2, 3, 4, 5]
    assert [r["reward"] for r in rows[0]] == [r["reward"] for r in rows[1]]


def test_nothing_to_train_on_leaves_the_policy_alone(tmp_path: Path) -> None:
    algorithm = make(reward=Listed(*[1.0] * 16), iterations=2)
    before = weights(algorithm)
    loop(algorithm, tmp_path).run()
    assert all(torch.equal(before[k], v) for k, v in weights(algorithm).items())
    rows = rows_of(tmp_path)
    assert [r["step"] for r in rows if "zero_spread" in r and r["zero_spread"] == 1][:2] == [1, 2]


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize(
    ("name", "rewards", "idle"),
    [
        ("grpo", [1.0] * 4 + [0.0] * 12, True),
        ("reinforce", [1.0] * 4 + [0.0] * 12, False),  # prompts differ, if not their responses
        ("reinforce", [1.0] * 16, True),
    ],
)
def test_iterations_are_idle_only_where_nothing_moved(
    name: str, rewards: list[float], idle: bool, tmp_path: Path
) -> None:
    algorithm = make(name, reward=Listed(*rewards), iterations=1)
    before = weights(algorithm)
    run = loop(algorithm, tmp_path)
    told: list[str] = []
    run.idle.tell = told.append
    run.run()
    assert rows_of(tmp_path)[0]["zero_spread"] == 1
    assert all(torch.equal(before[k], v) for k, v in weights(algorithm).items()) == idle
    assert run.idle.count == idle
    assert [("same reward" in line) for line in told] == ([True, True] if idle else [])


def test_the_moving_average_is_of_earlier_iterations(tmp_path: Path) -> None:
    algorithm = make("reinforce", iterations=3, ema_decay=0.5)
    loop(algorithm, tmp_path).run()
    r = [x["reward"] for x in rows_of(tmp_path) if "reward" in x]
    assert algorithm.algorithm.ema == pytest.approx(0.25 * r[0] + 0.25 * r[1] + 0.5 * r[2])


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_runs_from_a_recipe(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    stage = {
        "name": "rl",
        "algorithm": name,
        "data": {"path": "tunnel:prompts", "options": {"n": 8, "seed": 1}},
        "eval_data": {"path": "tunnel:prompts", "options": {"n": 2, "seed": 2}},
        "reward": "correct" if name == "maxrl" else "gold",  # which is below 0, too
        "observe": "correct" if name != "maxrl" else "gold",
        "rollout": {"samples": 3, "max_new_tokens": 5},
        "train": {"steps": 2, "batch_size": 2, "checkpoint_every": 1},
        "settings": {"zero_spread": "keep"} if name == "maxrl" else {},  # all of them are wrong
    }
    raw = {"name": "run", "model": str(tiny_folder), "output": str(tmp_path), "stages": [stage]}
    recipe = parse_recipe({**raw, "max_length": 120})
    run = RunFolder(recipe)
    run.open(False)
    run_stage(open_stage(recipe, recipe.stages[0], run, tmp_path), False)
    row = rows_of(run.stage("rl").path)[0]
    expected = {"reward", "pass@1", "pass@3", "zero_spread", "clip_low", "entropy", "finished"}
    assert expected | {"mismatch", "length_incorrect"} <= row.keys()
    assert ("importance_max" in row) == (name != "dppo")  # whose ratio is the sampler's already
    assert "kl" in row  # by the monitors, where the method holds no reference
    assert ("kl_k3" in row) == (name in ("grpo", "rloo", "reinforce_pp"))


def test_advantage_std_and_clip_fraction_are_what_the_loss_sees() -> None:
    made = make(zero_spread="keep", epochs=2)
    experience = made.experience(0)
    expected = column(counted(experience), "advantages").double().std(correction=0)
    assert experience.metrics["advantage_std"] == pytest.approx(float(expected), rel=1e-6)
    tw.shake(made.roles["policy"], 0.3)
    made.bench.tokens_per_microbatch = 100_000
    groups = counted(experience)
    step = made.step_of(experience, Totals.of(groups))
    found = tw.figures(*(made.loss(b, step).metrics for b in made.bench.batches(groups)))
    assert found["clip_fraction"] == pytest.approx(found["clip_low"] + found["clip_high"])
    assert found["clip_fraction"] > 0


def test_the_price_of_kl_is_in_spreads_of_what_is_paid() -> None:
    whole = make(beta=0.3, zero_spread="keep").experience(0).metrics
    assert whole["kl_price"] == pytest.approx(0.3 / whole["advantage_std"])
    bare = make(beta=0.3, zero_spread="keep", advantage_scale="none").experience(0).metrics
    assert bare["kl_price"] == pytest.approx(0.3 / bare["advantage_std"])
    made = make(beta=0.3, zero_spread="keep", kl_in="reward").experience(0)
    paid = [[r.scalar["reward"] for r in g.responses] for g in counted(made)]
    within = math.sqrt(statistics.fmean(statistics.variance(group) for group in paid))
    assert made.metrics["kl_price"] == pytest.approx(0.3 / within, rel=1e-6)
    cut = make(
        beta=0.3, zero_spread="keep", kl_in="reward", truncated="penalise", truncated_penalty=5.0
    ).experience(0)
    after = [[r.scalar["reward"] - 5 * (1 - r.scalar["finished"]) for r in g.responses]
             for g in counted(cut)]  # fmt: skip
    within = math.sqrt(statistics.fmean(statistics.variance(group) for group in after))
    assert cut.metrics["kl_price"] == pytest.approx(0.3 / within, rel=1e-6)
    dropped = make(beta=0.3, zero_spread="drop").experience(0)
    trained = [g for m in dropped.minibatches for g in m.groups if g.trained]
    spread = float(column(trained, "advantages").double().std(correction=0))
    assert dropped.metrics["kl_price"] == pytest.approx(0.3 / spread, rel=1e-5)
    assert make(beta=0.0).experience(0).metrics["kl_price"] == 0.0
    for free in ({"beta": 0.0, "sync_reference_every": 0}, {"beta": 0.3, "kl_estimator": "k1"}):
        assert make(**free).experience(0).metrics["kl_price"] == 0.0
    assert make(kl_in="none", log_kl=True).experience(0).metrics["kl_price"] == 0.0
    moving = make(beta=0.3, sync_reference_every=1).experience(0).metrics
    assert "kl_price" not in moving  # of the way since the last step alone


# -- learning -------------------------------------------------------------------------------------


def rewards_of(algorithm, folder: Path, lr: float = 2e-2) -> list[float]:
    loop(algorithm, folder, lr).run()
    return [r["reward"] for r in rows_of(folder) if "reward" in r]


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grpo_learns_a_trivial_reward(seed: int, tmp_path: Path) -> None:
    algorithm = make(
        reward=Even(), seed=seed, iterations=20, samples=8, eos=(tw.EOS,), prompts=8, batch_size=8
    )
    rewards = rewards_of(algorithm, tmp_path)
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + 0.2


FAST = ("dapo", "gspo", "cispo", "gmpo", "dppo")
"""Presets that have learned it after half as long."""


@pytest.mark.learning
@pytest.mark.parametrize("name", PRESETS[1:])
def test_each_preset_learns_it(name: str, tmp_path: Path) -> None:
    iterations = 12 if name in FAST else 20
    algorithm = make(
        name, reward=Even(), iterations=iterations, samples=8, eos=(tw.EOS,), prompts=8,
        batch_size=8,
    )  # fmt: skip
    rewards = rewards_of(algorithm, tmp_path)
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + 0.15
