"""Groups that the policy writes itself: prompts are sampled, judged and laid out as steps.

prompts -> rollout -> judge -> (the method's credit) -> minibatches
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gnomon.agents.episodes import Episode, EpisodeRunner
from gnomon.algorithms.base import Algorithm, Credit, Evaluation, Step, per_response_sum
from gnomon.algorithms.rollouts import (
    EncodedPrompt,
    Rollout,
    episode_series,
    no_signal,
    rollout_metrics,
    sample_rows,
    score_series,
    token_group,
    written,
)
from gnomon.data.batch import Sampler, epoch_order
from gnomon.errors import ConfigError, RewardsFailedError
from gnomon.judges.protocol import Judge, checked, judged, trainable
from gnomon.judges.tally import Tally
from gnomon.recipe.schema import RolloutSpec
from gnomon.records import Judgement, Score, TokenGroup
from gnomon.rollout.protocol import (
    Completion,
    Engine,
    Request,
    SamplingParams,
    sampled_group,
)
from gnomon.stats.intervals import mean_interval, weighted_proportion
from gnomon.stats.prompts import over_prompts
from gnomon.train.learner import Drawn
from gnomon.train.prefetch import Prefetch
from gnomon.train.rollout_state import pack_rollouts, unpack_rollouts

EVALUATION_SEED = 2**30
"""Rollout seeds of evaluations: the same prompts get the same random numbers every time."""


@dataclass(frozen=True)
class Sampling:
    """How rollouts are drawn: ``samples`` per prompt, annealed to ``final_temperature``, by weights
    that are up to ``max_staleness`` iterations old."""

    params: SamplingParams = field(default_factory=SamplingParams)
    samples: int = 1
    final_temperature: float | None = None
    max_staleness: int = 0

    @classmethod
    def of(cls, spec: RolloutSpec) -> Sampling:
        """As a recipe asks for."""
        params = SamplingParams(
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=spec.top_k,
            min_p=spec.min_p,
            stop=tuple(spec.stop),
        )
        return cls(params, spec.samples, spec.final_temperature, spec.max_staleness)


@dataclass(frozen=True)
class Played:
    """Everything that samples and judges a stage's prompts.

    Attributes:
        engine: samples.
        judge: scores what was sampled; None where the environment's return is the whole reward.
        environment: plays episodes of several turns, whose return is (part of) the reward.
        observers: judges whose figures are logged, never trained on.
        sampling: how rollouts are drawn.
        max_reward_errors: the share of failed rewards in an iteration past which the run stops.
        on_progress: called with (finished, all) responses while they are sampled.
    """

    engine: Engine
    judge: Judge | None
    environment: EpisodeRunner | None = None
    observers: Sequence[Judge] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_reward_errors: float = 0.05
    on_progress: Callable[[int, int], None] | None = None

    def rollout(
        self, prompts: Sequence[EncodedPrompt], temperature: float, seed: int, samples: int
    ) -> list[Rollout]:
        """Sample every prompt ``samples`` times and judge what comes back; with an environment,
        play as many episodes of it."""
        self.engine.sync_weights()
        requests = [
            Request(p.prompt.id, p.ids, samples, seed=(seed * 65_537 + i) % 2**62)
            for i, p in enumerate(prompts)
        ]
        params = replace(self.sampling.params, temperature=temperature)
        if self.environment is None:
            completions: list[Sequence[Completion]]
            completions = [*self.engine.generate(requests, params, self.on_progress)]
        else:
            prompts, completions = _play(
                self.environment, self.engine, prompts, requests, params, self.on_progress
            )
        groups = [
            sampled_group(prompt.prompt, prompt.ids, row)
            for prompt, row in zip(prompts, completions, strict=True)
        ]
        rewards = None if self.judge is None else judged(self.judge, groups)
        if self.environment is not None:
            rewards = _with_returns(self.environment.name, completions, rewards)
        assert rewards is not None
        observed = {o.name: judged(o, groups) for o in self.observers}
        return [
            Rollout(
                prompt,
                row,
                replace(rewards[i], scores=tuple(map(trainable, rewards[i].scores))),
                {name: judgements[i] for name, judgements in observed.items()},
            )
            for i, (prompt, row) in enumerate(zip(prompts, completions, strict=True))
        ]


def _play(
    runner: EpisodeRunner,
    engine: Engine,
    prompts: Sequence[EncodedPrompt],
    requests: Sequence[Request],
    params: SamplingParams,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[EncodedPrompt], list[Sequence[Completion]]]:
    """The requests' episodes, and the openings they were played from."""
    played = runner.run(
        [(p.prompt, p.ids) for p in prompts],
        engine,
        params,
        seeds=[request.seed for request in requests],
        samples=requests[0].n,
        progress=progress,
    )
    return [EncodedPrompt(p.prompt, p.ids) for p in played], [p.episodes for p in played]


def _with_returns(
    name: str,
    completions: Sequence[Sequence[Completion]],
    judgements: Sequence[Judgement] | None,
) -> list[Judgement]:
    """Judgements of episodes: the return, plus the judge's score where the stage has a judge too.

    An error of either is the response's error.
    """
    out: list[Judgement] = []
    for i, row in enumerate(completions):
        extra = [None] * len(row) if judgements is None else list(judgements[i].scores)
        scores = tuple(_with_return(name, c, e) for c, e in zip(row, extra, strict=True))
        judge = Judgement(name) if judgements is None else judgements[i]
        out.append(replace(judge, scores=scores))
    return out


def _with_return(name: str, completion: Completion, extra: Score | None) -> Score:
    assert isinstance(completion, Episode)
    own = checked(name, Score(completion.value, completion.parts, completion.error))
    if extra is None or own.value is None:
        return own
    if extra.value is None:
        return extra
    parts = {**own.parts, name: own.value, **extra.parts}
    return checked(name, Score(own.value + extra.value, parts))


class SampledSource:
    """What the policy writes to a stage's prompts, judged.

    Args:
        algorithm: whose settings say how many epochs and minibatches an iteration has.
        prompts, held_out: to train on, and to evaluate on.
        played: samples and judges them.

    Raises:
        ConfigError: fewer samples than the method compares, or sampling ahead that it, the judge
            or the engine does not allow.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        prompts: Sequence[EncodedPrompt],
        played: Played,
        held_out: Sequence[EncodedPrompt] = (),
    ) -> None:
        self.algorithm = algorithm
        self.settings = algorithm.settings
        self.bench = algorithm.bench
        self.prompts = prompts
        self.held_out = held_out
        self.played = played
        self.sampling = played.sampling
        least = algorithm.least_samples(algorithm.settings)
        if self.sampling.samples < least:
            raise ConfigError(
                f"{self.bench.method} compares responses to the same prompt: set rollout.samples "
                f"to at least {least} (it is {self.sampling.samples})"
            )
        self.within_groups = least > 1  # only differences within a prompt teach anything
        size, seed = self.bench.batch_size, self.bench.seed
        self.sampler = Sampler(len(prompts), size, seed)
        self.more_prompts = Sampler(len(prompts), size, seed + 2)
        self.prefetch = self._prefetch()
        self.tally = Tally()
        self._warned_of_no_signal = False

    def step(self, iteration: int) -> Step:
        """The iteration, with its sampling temperature: annealed linearly over the run."""
        start, end = self.sampling.params.temperature, self.sampling.final_temperature
        if end is None or self.bench.iterations < 2:
            return Step(iteration, start)
        share = min(1.0, iteration / (self.bench.iterations - 1))
        return Step(iteration, start + (end - start) * share)

    def draw(self, step: Step) -> Drawn:
        iteration = step.iteration
        if self.played.judge is not None:
            self.played.judge.begin(iteration + 1)
        ahead: dict[str, float] = {}
        if self.prefetch is None:
            rollouts, written_by = self.rollouts(iteration), iteration
        else:
            taken = self.prefetch.take(iteration)
            rollouts, written_by = taken.rollouts, taken.weights
            ahead = {"staleness": float(iteration - written_by), "rollout_wait": taken.seconds}
        self.tally.add((j for r in rollouts for j in r.judgements), iteration)
        self._check_errors(rollouts, iteration)
        self._warn_of_no_signal(rollouts, iteration)
        metrics = rollout_metrics(rollouts) | {"temperature": step.temperature, **ahead}
        rows = [{**row, "policy_iteration": written_by} for row in sample_rows(rollouts)]
        return Drawn(rollouts, metrics, rows)

    def rollouts(self, iteration: int) -> list[Rollout]:
        """The iteration's prompts, sampled and judged; others too, in place of wasted ones, for as
        many rounds as the method wants."""
        temperature, samples = self.step(iteration).temperature, self.sampling.samples
        seed = self.bench.seed * 1_000_003 + iteration
        prompts = [self.prompts[i] for i in self.sampler.batch(iteration)]
        rollouts = self.played.rollout(prompts, temperature, seed, samples)
        rounds = self.algorithm.spare_rounds()
        missing = sum(map(self.algorithm.is_wasted, rollouts)) if rounds else 0
        for k in range(rounds):
            if not missing:
                break
            places = self.more_prompts.batch(iteration * rounds + k)[:missing]
            more = [self.prompts[i] for i in places]
            fresh = self.played.rollout(more, temperature, seed + (k + 1) * 2**32, samples)
            missing -= sum(not self.algorithm.is_wasted(r) for r in fresh)
            rollouts = [*rollouts, *fresh]
        return rollouts

    def split(self, credit: Credit, step: Step) -> list[tuple[int, Sequence[TokenGroup]]]:
        """The groups in random order, in ``minibatches`` steps, ``epochs`` times over.

        Where nothing is left to learn from there is one empty step, so that steps are counted.
        """
        groups, epochs = credit.groups, self.settings.epochs
        count = min(self.settings.minibatches, len(groups))
        out: list[tuple[int, Sequence[TokenGroup]]] = []
        for epoch in range(epochs):
            order = epoch_order(len(groups), self.bench.seed * 7_919 + step.iteration, epoch)
            for m in range(count):
                number = (step.iteration * epochs + epoch) * count + m
                out.append((number, [groups[i] for i in order[m::count]]))
        return out or [(step.iteration, [])]

    def evaluate(self) -> Evaluation:
        """Sample each held-out prompt once with fixed seeds; means with 95% intervals.

        Raises:
            RewardsFailedError: every held-out reward failed: there is no mean to report.
        """
        if not self.held_out:
            return Evaluation()
        temperature = self.sampling.params.temperature

        def answers() -> list[Rollout]:
            return self.played.rollout(self.held_out, temperature, EVALUATION_SEED, samples=1)

        rollouts = answers() if self.prefetch is None else self.prefetch.alone(answers)
        self.tally.add(j for r in rollouts for j in r.judgements)
        self._check_held_out_errors(rollouts)
        groups = [g for i, r in enumerate(rollouts) if (g := token_group(r, f"eval:{i}"))]
        scores = score_series(rollouts)
        completions = [c for r in rollouts for c in r.completions]
        series = {"length": [float(written(c)) for c in completions]}
        series |= episode_series(completions)
        if "return" in series:
            scores["return"] = series.pop("return")
        finished = [c.finished for c in completions]
        if groups and "reference" in self.bench.roles:
            series["kl"] = self._response_kl(groups, temperature).tolist()
        intervals = {name: mean_interval(v, method="t") for name, v in series.items() if v}
        intervals |= {name: over_prompts([[x] for x in v]) for name, v in scores.items() if v}
        intervals["finished"] = weighted_proportion(finished)
        metrics = {f"eval/{name}": interval.value for name, interval in intervals.items()}
        details = {name: interval.to_dict() for name, interval in intervals.items()}
        return Evaluation(metrics, {"held-out prompts": details}, sample_rows(rollouts))

    @torch.no_grad()
    def _response_kl(self, groups: Sequence[TokenGroup], temperature: float) -> Tensor:
        """[S] sum of log(policy / reference) over each response, in nats (estimator k1)."""
        parts: list[Tensor] = []
        for batch in self.bench.batches(groups):
            policy, reference = (
                self.bench.roles[name].logprobs(batch, temperature=temperature).logprobs
                for name in ("policy", "reference")
            )
            parts.append(per_response_sum((policy - reference) * batch.response_mask, batch))
        return torch.cat(parts)

    # -- sampling ahead (max_staleness) -----------------------------------------------------------

    def _prefetch(self) -> Prefetch[list[Rollout]] | None:
        if not self.sampling.max_staleness:
            return None
        problem = self.algorithm.refuses_older_weights(self.settings)
        if self.played.environment is not None:
            problem = "episodes are not sampled ahead of training"
        if self.played.judge is not None and self.played.judge.in_rounds:
            problem = "people judge in rounds, which cannot run ahead"
        if problem is not None:
            raise ConfigError(f"rollout.max_staleness: {problem}")
        staleness = self.sampling.max_staleness
        return Prefetch(self.played.engine, self.rollouts, staleness, self.bench.iterations)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"judges": self.tally.state_dict()}
        if self.prefetch is not None:
            state["ahead"] = self.prefetch.state(lambda r: pack_rollouts(r, self.prompts))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "judges" in state:  # not in checkpoints of earlier versions
            self.tally.load_state_dict(state["judges"])
        if self.prefetch is not None:
            self.prefetch.restore(state["ahead"], lambda s: unpack_rollouts(s, self.prompts))

    def can_draw_again(self) -> bool:
        return self.prefetch is None

    def close(self) -> None:
        """Stop what samples ahead; the source is of no use afterwards."""
        if self.prefetch is not None:
            self.prefetch.close()

    # -- what is wrong with rewards ---------------------------------------------------------------

    def _check_errors(self, rollouts: Sequence[Rollout], iteration: int) -> None:
        failed, total = _failures(rollouts)
        allowed = self.played.max_reward_errors
        if len(failed) == total or len(failed) > allowed * total:
            raise RewardsFailedError(
                f"iteration {iteration + 1}: {len(failed)} of {total} rewards failed, more than "
                f"the {allowed:.0%} allowed (max_reward_errors). {_what_to_do(failed[0])}",
                sample_rows(rollouts),
            )

    def _check_held_out_errors(self, rollouts: Sequence[Rollout]) -> None:
        """Stop where no held-out reward is left; say so where the mean is over too few of them."""
        failed, total = _failures(rollouts)
        if len(failed) == total:
            raise RewardsFailedError(
                f"the evaluation: all {total} rewards of the held-out prompts failed. "
                f"{_what_to_do(failed[0])}",
                sample_rows(rollouts),
            )
        if len(failed) > self.played.max_reward_errors * total:
            warnings.warn(
                f"the evaluation: {len(failed)} of {total} rewards of the held-out prompts failed; "
                f"eval/reward is the mean of the others. The first: {failed[0]}",
                stacklevel=2,
            )

    def _warn_of_no_signal(self, rollouts: Sequence[Rollout], iteration: int) -> None:
        """Say, the first time it happens, that an iteration's rewards teach nothing."""
        if self._warned_of_no_signal:
            return
        problem = no_signal(rollouts, within_groups=self.within_groups)
        if problem is not None:
            self._warned_of_no_signal = True
            warnings.warn(
                f"iteration {iteration + 1}: {problem}, so the policy learns nothing from its "
                "reward here. If that continues, look at samples.parquet: the reward may not tell "
                "answers apart, or the prompts may be too easy or too hard, or the temperature "
                "too low. (Warned once; the metric zero_spread keeps counting.)",
                stacklevel=2,
            )


def _failures(rollouts: Sequence[Rollout]) -> tuple[list[str], int]:
    """What went wrong with the rewards that failed, and how many rewards there are."""
    failed = [s.error for r in rollouts for s in r.scores if s.error is not None]
    return failed, sum(len(r.scores) for r in rollouts)


def _what_to_do(first: str) -> str:
    return (
        f"The first: {first}\nAll of them are in samples.parquet, column error. Fix the reward "
        "and resume with --resume; nothing saved is lost."
    )
