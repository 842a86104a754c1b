"""What every on-line method shares: prompts are sampled, scored and laid out as groups.

    prompts -> rollout -> reward -> (log-probs, values, advantages) -> minibatches

A method gives ``annotate`` (what each token carries into the loss) and ``loss``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    Algorithm,
    EncodedPrompt,
    Evaluation,
    Experience,
    Ingredients,
    Minibatch,
)
from gnomon.algorithms.episodes import (
    episode_series,
    play,
    with_returns,
    written,
)
from gnomon.algorithms.group_metrics import no_signal
from gnomon.algorithms.prefetch import Prefetch
from gnomon.algorithms.rollout_state import pack_rollouts, unpack_rollouts
from gnomon.algorithms.rollouts import (
    Rollout,
    rollout_metrics,
    sample_rows,
    score_series,
    token_group,
)
from gnomon.algorithms.token_columns import per_response_sum
from gnomon.data.batch import Sampler, epoch_order
from gnomon.errors import ConfigError, RewardsFailedError
from gnomon.judges.guard import score_safely, trainable
from gnomon.judges.human import Rounds
from gnomon.judges.protocol import Sample
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import Completion, Request
from gnomon.stats.intervals import mean_interval, weighted_proportion
from gnomon.stats.prompts import over_prompts

EVALUATION_SEED = 2**30
"""Rollout seeds of evaluations: the same prompts get the same random numbers every time."""


class OnPolicy(Algorithm):
    """Base of the methods that learn from what the policy itself writes."""

    data: ClassVar = "prompts"
    dropout: ClassVar[bool] = False  # old and new log-probs must differ by the update alone
    min_samples: ClassVar[int] = 1  # responses to a prompt that the method cannot do without

    def __init__(self, ingredients: Ingredients, settings: Any) -> None:
        super().__init__(ingredients, settings)
        if ingredients.sampling.samples < self.min_samples:
            raise ConfigError(
                f"{self.name} compares responses to the same prompt: set rollout.samples to at "
                f"least {self.min_samples} (it is {ingredients.sampling.samples})"
            )
        self.sampler = Sampler(len(ingredients.prompts), ingredients.batch_size, ingredients.seed)
        self.on_progress: Callable[[int, int], None] | None = None
        self.prefetch = self._prefetch()
        self._warned_of_no_signal = False

    # -- what a method gives ----------------------------------------------------------------------

    @abstractmethod
    def annotate(self, groups: Sequence[TokenGroup], temperature: float) -> Annotated:
        """Add what the loss needs to each token (``token``) and say what was seen (``metrics``)."""

    def learnable(self, rollouts: Sequence[Rollout], iteration: int) -> Annotated:
        """What of the rollouts is learned from, before :meth:`annotate`; all that was scored."""
        groups = (token_group(r, f"{iteration}:{i}") for i, r in enumerate(rollouts))
        return Annotated([g for g in groups if g is not None], {})

    # -- the shared path --------------------------------------------------------------------------

    def temperature(self, iteration: int) -> float:
        """The sampling temperature, annealed linearly over the run."""
        start = self.ingredients.sampling.params.temperature
        end = self.ingredients.sampling.final_temperature
        if end is None or self.ingredients.iterations < 2:
            return start
        return start + (end - start) * min(1.0, iteration / (self.ingredients.iterations - 1))

    def experience(self, iteration: int) -> Experience:
        temperature = self.temperature(iteration)
        if isinstance(self.ingredients.reward, Rounds):
            self.ingredients.reward.open_round(iteration + 1)
        ahead: dict[str, float] = {}
        if self.prefetch is None:
            rollouts, written_by = self._rollouts(iteration), iteration
        else:
            taken = self.prefetch.take(iteration)
            rollouts, written_by = taken.rollouts, taken.weights
            ahead = {"staleness": float(iteration - written_by), "rollout_wait": taken.seconds}
        self._check_errors(rollouts, iteration)
        self._warn_of_no_signal(rollouts, iteration)
        learned = self.learnable(rollouts, iteration)
        annotated = self.annotate(learned.groups, temperature)
        metrics = rollout_metrics(rollouts) | dict(learned.metrics) | dict(annotated.metrics)
        metrics |= {"temperature": temperature, **ahead}
        rows = [{**row, "policy_iteration": written_by} for row in sample_rows(rollouts)]
        return Experience(self._minibatches(annotated.groups, iteration), metrics, rows)

    def _rollouts(self, iteration: int) -> list[Rollout]:
        prompts = [self.ingredients.prompts[i] for i in self.sampler.batch(iteration)]
        return self.sampled(prompts, self.temperature(iteration), iteration)

    # -- sampling ahead (max_staleness) -----------------------------------------------------------

    @classmethod
    def stale_problem(cls, settings: Any) -> str | None:
        """Why the method cannot learn from what older weights wrote; None where it can, which a
        method has to say of itself."""
        return f"{cls.name} is not made to learn from responses of older weights"

    def _prefetch(self) -> Prefetch[list[Rollout]] | None:
        given = self.ingredients
        if not given.sampling.max_staleness:
            return None
        problem = self.stale_problem(self.settings)
        if given.environment is not None:
            problem = "episodes are not sampled ahead of training"
        if isinstance(given.reward, Rounds):
            problem = "people judge in rounds, which cannot run ahead"
        if problem is not None:
            raise ConfigError(f"rollout.max_staleness: {problem}")
        return Prefetch(
            given.engine, self._rollouts, given.sampling.max_staleness, given.iterations
        )

    def state_dict(self) -> dict[str, Any]:
        if self.prefetch is None:
            return {}
        prompts = self.ingredients.prompts
        return {"ahead": self.prefetch.state(lambda rollouts: pack_rollouts(rollouts, prompts))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.prefetch is not None:
            prompts = self.ingredients.prompts
            self.prefetch.restore(state["ahead"], lambda s: unpack_rollouts(s, prompts))

    def close(self) -> None:
        """Stop what samples ahead; the algorithm is of no use afterwards."""
        if self.prefetch is not None:
            self.prefetch.close()

    @property
    def can_gather_again(self) -> bool:
        return self.prefetch is None

    def why_idle(self, metrics: Mapping[str, float]) -> str | None:
        if metrics.get("zero_spread") == 1.0:
            return (
                f"all responses to each prompt have the same reward (its mean is "
                f"{metrics.get('reward', 0.0):g}), so none is better than another; look at the "
                "reward, raise rollout.samples, or take prompts that are neither too easy nor too "
                "hard"
            )
        if metrics.get("prompts_used") == 0.0:
            return "no response was one to learn from (see the threshold, and what is cut off)"
        return super().why_idle(metrics)

    @property
    def longest_response(self) -> int:
        """The most tokens a response may have: an episode's budget where there is one."""
        environment = self.ingredients.environment
        if environment is not None:
            return environment.max_episode_tokens
        return self.ingredients.sampling.params.max_new_tokens

    def sampled(
        self, prompts: Sequence[EncodedPrompt], temperature: float, iteration: int
    ) -> list[Rollout]:
        """The iteration's rollouts; a method that wants more of them overrides this."""
        seed = self.ingredients.seed * 1_000_003 + iteration
        return self.rollout(prompts, temperature, seed, self.ingredients.sampling.samples)

    def rollout(
        self, prompts: Sequence[EncodedPrompt], temperature: float, seed: int, samples: int
    ) -> list[Rollout]:
        """Sample every prompt ``samples`` times and score what comes back; with an environment,
        play as many episodes of it."""
        engine, reward = self.ingredients.engine, self.ingredients.reward
        environment = self.ingredients.environment
        if engine is None or (reward is None and environment is None):
            raise ConfigError(f"{self.name} samples its own responses: give the stage a reward")
        engine.sync_weights()
        n = samples
        requests = [
            Request(p.prompt.id, p.ids, n, seed=(seed * 65_537 + i) % 2**62)
            for i, p in enumerate(prompts)
        ]
        params = replace(self.ingredients.sampling.params, temperature=temperature)
        completions: list[Sequence[Completion]]
        if environment is None:
            completions = [*engine.generate(requests, params, self.on_progress)]
        else:
            prompts, completions = play(
                environment, engine, prompts, requests, params, self.on_progress
            )
        finished = [
            Sample(p.prompt, c.text, p.ids, c.ids, c.finished)
            for p, row in zip(prompts, completions, strict=True)
            for c in row
        ]
        scores = [] if reward is None else score_safely(reward, finished)
        if environment is not None:
            flat = [c for row in completions for c in row]
            scores = with_returns(environment.name, flat, None if reward is None else scores)
        scores = [trainable(score) for score in scores]
        observed = {o.name: score_safely(o, finished) for o in self.ingredients.observers}
        out: list[Rollout] = []
        for i, (prompt, row) in enumerate(zip(prompts, completions, strict=True)):
            part = slice(i * n, (i + 1) * n)
            out.append(
                Rollout(prompt, row, scores[part], {k: v[part] for k, v in observed.items()})
            )
        return out

    def evaluate(self, iteration: int, final: bool) -> Evaluation:
        """Sample each held-out prompt once with fixed seeds; means with 95% intervals."""
        prompts = self.ingredients.eval_prompts
        if not prompts:
            return Evaluation()
        temperature = self.ingredients.sampling.params.temperature

        def answers() -> list[Rollout]:
            return self.rollout(prompts, temperature, EVALUATION_SEED, samples=1)

        rollouts = answers() if self.prefetch is None else self.prefetch.alone(answers)
        groups = [g for i, r in enumerate(rollouts) if (g := token_group(r, f"eval:{i}"))]
        scores = score_series(rollouts)
        completions = [c for r in rollouts for c in r.completions]
        series = {"length": [float(written(c)) for c in completions]}
        series |= episode_series(completions)
        if "return" in series:
            scores["return"] = series.pop("return")
        finished = [c.finished for c in completions]
        if groups and "reference" in self.roles:
            series["kl"] = self.response_kl(groups, temperature).tolist()
        intervals = {name: mean_interval(v, method="t") for name, v in series.items() if v}
        intervals |= {name: over_prompts([[x] for x in v]) for name, v in scores.items() if v}
        intervals["finished"] = weighted_proportion(finished)
        metrics = {f"eval/{name}": interval.value for name, interval in intervals.items()}
        details = {name: interval.to_dict() for name, interval in intervals.items()}
        return Evaluation(metrics, {"held-out prompts": details}, sample_rows(rollouts))

    @torch.no_grad()
    def response_kl(self, groups: Sequence[TokenGroup], temperature: float) -> Tensor:
        """[S] sum of log(policy / reference) over each response, in nats (estimator k1)."""
        parts: list[Tensor] = []
        for batch in self.batches(groups):
            policy = self.roles["policy"].logprobs(batch, temperature=temperature).logprobs
            reference = self.roles["reference"].logprobs(batch, temperature=temperature).logprobs
            parts.append(per_response_sum((policy - reference) * batch.response_mask, batch))
        return torch.cat(parts)

    def _check_errors(self, rollouts: Sequence[Rollout], iteration: int) -> None:
        failed = [s.error for r in rollouts for s in r.scores if s.error is not None]
        total = sum(len(r.scores) for r in rollouts)
        if len(failed) == total or len(failed) > self.ingredients.max_reward_errors * total:
            raise RewardsFailedError(
                f"iteration {iteration + 1}: {len(failed)} of {total} rewards failed, more than "
                f"the {self.ingredients.max_reward_errors:.0%} allowed (max_reward_errors). The "
                f"first: {failed[0]}\nAll of them are in samples.parquet, column error. Mend the "
                "reward and go on with --resume; nothing saved is lost.",
                sample_rows(rollouts),
            )

    @property
    def compares_within_groups(self) -> bool:
        """Whether only differences between responses to the same prompt teach anything."""
        return self.min_samples > 1

    def _warn_of_no_signal(self, rollouts: Sequence[Rollout], iteration: int) -> None:
        """Say, the first time it happens, that an iteration's rewards teach nothing."""
        if self._warned_of_no_signal:
            return
        problem = no_signal(rollouts, within_groups=self.compares_within_groups)
        if problem is not None:
            self._warned_of_no_signal = True
            warnings.warn(
                f"iteration {iteration + 1}: {problem}, so the policy learns nothing from its "
                "reward here. If that goes on, look at samples.parquet: the reward may not tell "
                "answers apart, or the prompts may be too easy or too hard, or the temperature "
                "too low. (Said once; the metric zero_spread counts on.)",
                stacklevel=2,
            )

    def _minibatches(self, groups: Sequence[TokenGroup], iteration: int) -> list[Minibatch]:
        count = min(self.settings.minibatches, len(groups))
        out: list[Minibatch] = []
        for epoch in range(self.settings.epochs):
            seed = self.ingredients.seed * 7_919 + iteration
            order = epoch_order(len(groups), seed, epoch)
            for m in range(count):
                step = (iteration * self.settings.epochs + epoch) * count + m
                out.append(Minibatch([groups[i] for i in order[m::count]], self.text_for(step)))
        return out


@dataclass(frozen=True)
class Annotated:
    """Groups that carry what the loss needs, and what was seen while computing it."""

    groups: Sequence[TokenGroup]
    metrics: Mapping[str, float]
