"""What methods learn from episodes: masks, rewards by turn, errors, metrics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from agents_zoo import Adder, Chatter, Script, algorithm

import tiny_world as tw
from gnomon.agents.environment import Action, Observation
from gnomon.data.batch import pack
from gnomon.errors import RewardsFailedError
from gnomon.judges.protocol import Judge, Sample, SampleJudge, Score
from gnomon.records import Comparison, Group, Judgement, Message, TokenGroup
from gnomon.runs.folder import RunFolder
from gnomon.stages.stage import open_stage
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress

SETTINGS: dict[str, dict[str, Any]] = {"raft": {"drop_unfinished": False}}
FAMILY = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "gspo", "cispo", "gmpo", "reinforce")


def groups_of(made: Any) -> list[TokenGroup]:
    """The groups of the first iteration that are trained on."""
    return [g for m in made.experience(0).minibatches for g in m.trained]


def with_told_tokens(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    kept = [g for g in groups if any(not all(r.mask) for r in g.responses)]
    assert kept, "no episode of two turns: the test would show nothing"
    return kept


def unmasked(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    return [
        replace(g, responses=tuple(replace(r, mask=[True] * len(r.ids)) for r in g.responses))
        for g in groups
    ]


# -- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILY, "ppo", "raft"])
def test_what_the_model_was_told_changes_no_loss(name: str) -> None:
    """Its log-probs, old ones, advantages and values may be anything at all."""
    made = algorithm(name, **SETTINGS.get(name, {}))
    groups = with_told_tokens(groups_of(made))
    step = tw.step_of(made, groups)
    before = dict(pack(groups).token)
    batch = pack(groups)
    told = ~batch.response_mask
    policy = made.roles["policy"]
    real = policy.logprobs
    assert float(told.sum()) > 0

    def losses(noise: float) -> Any:
        changed = {k: torch.where(told, v + noise, v) for k, v in before.items()}
        noisy = replace(batch, token=changed)

        def logprobs(asked: Any, **more: Any) -> Any:
            out = real(asked, **more)
            shifted = torch.where(told, out.logprobs + noise, out.logprobs)
            return replace(out, logprobs=shifted)

        policy.logprobs = logprobs  # type: ignore[method-assign]
        try:
            return made.loss(noisy, step)
        finally:
            policy.logprobs = real  # type: ignore[method-assign]

    plain, noisy = losses(0.0), losses(0.7)
    assert plain.loss.item() == pytest.approx(noisy.loss.item(), rel=1e-6, abs=1e-9)
    for key, wanted in plain.metrics.items():
        found = noisy.metrics[key]
        assert float(found.total) == pytest.approx(float(wanted.total), rel=1e-5, abs=1e-7), key
        assert float(found.weight) == float(wanted.weight), key


def test_the_gradient_is_that_of_the_models_own_tokens() -> None:
    """GRPO's loss written again over plain forward passes; wrong with the mask left out."""
    made = algorithm("grpo", beta=0.0)
    everything = [g for m in made.experience(0).minibatches for g in m.groups]
    groups = with_told_tokens([g for g in everything if g.trained])
    _, gradient = tw.step_gradient(made, groups, step=tw.step_of(made, everything))

    def naive(use_mask: bool) -> dict[str, torch.Tensor]:
        model = made.roles["policy"].trunk.model
        model.zero_grad()
        loss = torch.zeros(())
        for group in groups:
            for r in group.responses:
                ids = torch.tensor([[*group.prompt_ids, *r.ids]])
                P = len(group.prompt_ids)
                logits = model(ids).logits[0, P - 1 : -1].log_softmax(-1)
                lp = logits.gather(1, ids[0, P:, None])[:, 0]
                mask = torch.tensor(r.mask) if use_mask else torch.ones(len(r.ids)).bool()
                ratio = (lp - lp.detach()).exp()
                loss = loss - (ratio * r.token["advantages"])[mask].mean()
        responses = sum(len(g.responses) for g in everything)
        (loss / responses).backward()
        return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}

    assert tw.distance(naive(True), gradient) < 1e-4
    assert tw.distance(naive(False), gradient) > 1e-2


@pytest.mark.parametrize("name", ["online_dpo", "raft"])
def test_pairs_and_imitation_count_the_models_own_tokens_only(name: str) -> None:
    groups = with_told_tokens(groups_of(algorithm(name, samples=6, **SETTINGS.get(name, {}))))
    for group in groups:
        for r in group.responses:
            told = tw.tokenizer().convert_tokens_to_ids("<|tool|>")
            places = [i for i, t in enumerate(r.ids) if t == told]
            assert all(not r.mask[i] for i in places)
            assert r.mask[-1]


def test_dpo_on_episodes_sums_log_probs_over_the_mask() -> None:
    made = algorithm("online_dpo", samples=6)
    groups = with_told_tokens(groups_of(made))
    loss, _ = tw.step_gradient(made, groups)
    other, _ = tw.step_gradient(made, unmasked(groups))
    assert loss != pytest.approx(other, rel=1e-4)


# -- PPO by turns ---------------------------------------------------------------------------------


def naive_gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float
) -> list[float]:
    out, after, following = [], 0.0, 0.0
    for r, v in zip(reversed(rewards), reversed(values), strict=True):
        after = r + gamma * following - v + gamma * lam * after
        following = v
        out.append(after)
    return out[::-1]


def test_ppo_pays_each_turn_at_its_end_and_knows_no_told_token() -> None:
    made = algorithm("ppo", whiten_advantages=False, gamma=0.9, lam=0.8, beta=0.1)
    groups = with_told_tokens(groups_of(made))
    batch = pack(groups)
    old = made.roles["policy"].logprobs(batch, temperature=1.0).logprobs.detach()
    ref = made.roles["reference"].logprobs(batch, temperature=1.0).logprobs.detach()
    several = 0
    for s in range(batch.num_responses):
        here = slice(int(batch.response_start[s]), int(batch.response_start[s + 1]))
        mask = batch.response_mask[here]
        turns = batch.token["turn_rewards"][here]
        several += int((turns != 0).sum() > 1)
        assert float(turns.sum()) == pytest.approx(float(batch.scalar["reward"][s]), abs=1e-5)
        rewards = (turns - 0.1 * (old - ref)[here])[mask].tolist()
        values = batch.token["old_values"][here][mask].tolist()
        expected = naive_gae(rewards, values, 0.9, 0.8)
        assert batch.token["advantages"][here][mask].tolist() == pytest.approx(expected, abs=1e-4)
        assert not batch.token["advantages"][here][~mask].any()
        assert not batch.token["returns"][here][~mask].any()
    assert several


def test_ppo_puts_penalties_and_clipping_on_the_last_token() -> None:
    plain = groups_of(algorithm("ppo", beta=0.0, lam=1.0, whiten_advantages=False))
    less = groups_of(
        algorithm("ppo", beta=0.0, lam=1.0, whiten_advantages=False, no_eos_penalty=2.0)
    )
    for one, two in zip(plain, less, strict=True):
        for a, b in zip(one.responses, two.responses, strict=True):
            gap = (a.token["returns"] - b.token["returns"])[torch.tensor(a.mask)]
            wanted = 2.0 * (1 - a.scalar["finished"])
            assert gap.tolist() == pytest.approx([wanted] * len(gap), abs=1e-4)


# -- errors, rewards, figures ---------------------------------------------------------------------


class Fails(Chatter):
    """Every second episode ends in an exception, where its first turn is acted on."""

    count = 0

    def __init__(self) -> None:
        super().__init__()
        Fails.count += 1
        self.bad = Fails.count % 2 == 0

    def step(self, action: Action) -> Observation:
        if self.bad:
            raise ValueError("lost the board")
        return super().step(action)


def test_failed_episodes_are_left_out_counted_and_shown() -> None:
    Fails.count = 0
    made = algorithm(make=Fails, new_tokens=30, max_reward_errors=0.9)
    experience = made.experience(0)
    failed = [r for r in experience.samples if r["error"]]
    assert experience.metrics["reward_errors"] == len(failed) > 0
    assert all("task, step 1: ValueError: lost the board" in r["error"] for r in failed)
    assert all(r["reward"] is None for r in failed)
    sizes = sum(len(g.responses) for m in experience.minibatches for g in m.trained)
    assert sizes <= 12 - len(failed)


def test_too_many_failures_stop_the_run() -> None:
    meta = {i: {"how": "raise in reset"} for i in range(3)}
    with pytest.raises(RewardsFailedError, match="task, reset: RuntimeError: no world"):
        algorithm(make=Adder, meta=meta).experience(0)
    meta = {0: {"how": "raise in reset"}}
    with pytest.raises(RewardsFailedError, match="4 of 12"):
        algorithm(make=Adder, meta=meta, max_reward_errors=0.2).experience(0)
    metrics = algorithm(make=Adder, meta=meta).experience(0).metrics
    assert metrics["reward_errors"] == 4


class Length(SampleJudge):
    """A reward beside the environment's."""

    name = "length_of_text"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [
            Score(None, error="too short") if not s.text else Score(float(len(s.text)))
            for s in samples
        ]


def test_a_reward_beside_an_environment_is_added_to_the_return() -> None:
    made = algorithm(reward=Length(), max_reward_errors=0.9)
    source = tw.sampled(made)
    rollouts = source.played.rollout(source.prompts, 1.0, seed=0, samples=4)
    for r in rollouts:
        for c, s in zip(r.completions, r.scores, strict=True):
            if not c.text:
                assert s.value is None
                assert s.error == "length_of_text: too short"
            else:
                assert s.value == pytest.approx(c.value + len(c.text))  # type: ignore[attr-defined]
                assert s.parts["task"] == pytest.approx(c.value)  # type: ignore[attr-defined]


class Ranks(Judge):
    """Compares: every response of a group is better than the one after it."""

    name, groupwise = "ranks", True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        self.seen += [len(g.responses) for g in groups]
        return [
            Judgement(self.name, comparisons=tuple(
                Comparison(i, i + 1) for i in range(len(g.responses) - 1)
            ))
            for g in groups
        ]  # fmt: skip


def test_an_episode_that_failed_is_shown_to_no_observer() -> None:
    Fails.count = 0
    source = tw.sampled(algorithm(make=Fails, new_tokens=30, max_reward_errors=0.9))
    ranks = Ranks()
    played = replace(source.played, judge=None, observers=(Length(), ranks))
    rollouts = played.rollout(source.prompts, 1.0, seed=0, samples=4)
    went = [[c.error is None for c in r.completions] for r in rollouts]  # type: ignore[attr-defined]
    assert {True, False} <= {one for row in went for one in row}
    for row, r in zip(went, rollouts, strict=True):
        for name in ("length_of_text", "ranks"):
            scores = r.observed[name].scores
            assert [s.value is None for s in scores] == [not one for one in row]
            assert not any(s.error for s in scores)
        kept = [i for i, one in enumerate(row) if one]
        pairs = [(c.better, c.worse) for c in r.observed["ranks"].comparisons or ()]
        assert pairs == list(itertools.pairwise(kept))
    assert ranks.seen == [sum(row) for row in went if any(row)]


def test_metrics_and_samples_tell_of_episodes() -> None:
    made = algorithm()
    experience = made.experience(0)
    rollouts = tw.sampled(made).rollouts(0)
    episodes: list[Any] = [c for r in rollouts for c in r.completions]
    n = len(episodes)
    wanted = {
        "turns": sum(e.turns for e in episodes) / n,
        "tool_calls": 0.0,
        "tool_errors": 0.0,
        "episode_tokens": sum(len(e.ids) for e in episodes) / n,
        "length": sum(e.written for e in episodes) / n,
        "return": sum(e.value for e in episodes) / n,
        "reward/odd": sum(e.parts.get("odd", 0.0) for e in episodes if e.parts)
        / max(1, sum("odd" in e.parts for e in episodes)),
    }
    for name, value in wanted.items():
        assert experience.metrics[name] == pytest.approx(value), name
    assert wanted["length"] < wanted["episode_tokens"]
    texts = [row["response"] for row in experience.samples]
    assert any("[tool] turn 1 draw" in t and t.startswith("[assistant] ") for t in texts)


def test_held_out_episodes_are_the_same_every_time() -> None:
    made = algorithm()
    first, again = made.evaluate(), made.evaluate()
    assert first == again
    for name in ("eval/reward", "eval/return", "eval/turns", "eval/episode_tokens"):
        assert name in first.metrics


def test_overlong_penalties_and_constants_go_by_the_episodes_budget(tmp_path: Path) -> None:
    """Of a stage in an environment, and not by the tokens of one turn."""
    stage = {
        "name": "rl",
        "algorithm": "dapo",
        "data": "agents:rooms",
        "environment": {"name": "rooms", "max_episode_tokens": 100},
        "rollout": {"samples": 2, "max_new_tokens": 6},
    }
    recipe = tw.make_recipe("tiny", tmp_path, stage)
    opened = open_stage(recipe, recipe.stages[0], RunFolder(recipe), tmp_path)
    assert opened._bench({}, 4).longest_response == 100  # type: ignore[attr-defined]
    made = algorithm("dapo", overlong_buffer=0.5)
    d = tw.Draw(0)
    responses = tuple(d.response(n, reward=0.0, finished=1.0) for n in (6, 50, 75, 100))
    shaped = made.algorithm.shaped([TokenGroup("g", d.ids(2), responses)])  # type: ignore[attr-defined]
    assert shaped.tolist() == pytest.approx([0.0, 0.0, -0.5, -1.0])
    constant = algorithm("dr_grpo")
    groups = groups_of(constant)
    batch = pack(groups)
    loss = constant.loss(batch, tw.step_of(constant, groups)).loss.item()
    logprobs = constant.roles["policy"].logprobs(batch).logprobs
    ratio = torch.exp(logprobs - logprobs.detach())
    own = -(ratio * batch.token["advantages"])[batch.response_mask].sum()
    assert loss == pytest.approx(own.item() / (100 * batch.num_responses), rel=1e-5)


def test_a_scripted_engine_gives_the_groups_it_should() -> None:
    """From text to advantages, by hand: two right answers of four."""
    answers = iter(["3", "4", "3", "5"])

    class Four(Script):
        def _say(self, request: Any, params: Any) -> Any:
            self.turns = (next(answers),)
            return super()._say(request, params)

    settings = {"advantage_scale": "none", "beta": 0.0}
    made = algorithm(make=Adder, prompts=1, new_tokens=90, engine=Four(""), **settings)
    (group,) = groups_of(made)
    found = [float(r.token["advantages"][0]) for r in group.responses]
    assert found == pytest.approx([0.5, -0.5, 0.5, -0.5])


class Even:
    """Two turns; each pays the share of even tokens of its text's code points."""

    def __init__(self) -> None:
        self.tools = ()
        self.seen = 0

    def reset(self, prompt: Any, seed: int) -> None:
        pass

    def step(self, action: Action) -> Observation:
        self.seen += 1
        letters = [ord(c) for c in action.text] or [1]
        pays = sum(c % 2 == 0 for c in letters) / len(letters)
        return Observation((Message("tool", "go on"),), pays, self.seen == 2)

    def close(self) -> None:
        pass


@pytest.mark.learning
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_episodes_are_learned_from(name: str, tmp_path: Path) -> None:
    made = algorithm(name, make=Even, prompts=4, samples=8, iterations=12, new_tokens=8, beta=0.0)
    options = LoopOptions(12, 2e-2, schedule="constant", warmup=0, checkpoint_every=1000, seed=3)
    before = made.evaluate().metrics["eval/reward"]
    Loop(made, options, tmp_path, Progress("test", 12, False)).run(False)
    rewards = [made.experience(100 + i).metrics["reward"] for i in range(3)]
    assert sum(rewards) / 3 > before + 0.3
