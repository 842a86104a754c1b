"""Groups that the policy writes itself: prompts are sampled, judged and laid out as steps.

prompts -> rollout -> judge -> (the method's credit) -> minibatches
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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
from gnomon.judges.protocol import is_skipped
from gnomon.judges.tally import Tally
from gnomon.models.counting import TokenCounts
from gnomon.recipe.training import MonitorSpec
from gnomon.records import TokenGroup
from gnomon.stats.intervals import mean_interval, weighted_proportion
from gnomon.stats.prompts import over_prompts
from gnomon.training.learner import Drawn
from gnomon.training.monitors import Monitors
from gnomon.training.played import Played as Played
from gnomon.training.played import Sampling as Sampling
from gnomon.training.prefetch import Prefetch
from gnomon.training.rollout_state import pack_rollouts, unpack_rollouts

EVALUATION_SEED = 2**30
"""Rollout seeds of evaluations: the same prompts get the same random numbers every time."""


class SampledSource:
    """What the policy writes to a stage's prompts, judged.

    Args:
        algorithm: whose settings say how many epochs and minibatches an iteration has.
        prompts, held_out: to train on, and to evaluate on.
        played: samples and judges them.
        monitor: what is watched besides the reward, and how often.

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
        monitor: MonitorSpec | None = None,
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
        self.last = self.bench.iterations - 1
        self.monitors = Monitors(algorithm, monitor or MonitorSpec(), self.last)
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
            self._check_errors(rollouts, iteration)
        else:
            taken = self.prefetch.take(iteration)
            rollouts, written_by = taken.rollouts, taken.weights
            ahead = {"staleness": float(iteration - written_by), "rollout_wait": taken.seconds}
        self.tally.add((j for r in rollouts for j in r.judgements), iteration)
        self._warn_of_no_signal(rollouts, iteration)
        metrics = rollout_metrics(rollouts) | {"temperature": step.temperature, **ahead}
        metrics |= self.monitors.figures(rollouts, step)
        rows = [{**row, "policy_iteration": written_by} for row in sample_rows(rollouts)]
        return Drawn(rollouts, metrics, rows, sampled_tokens(rollouts))

    def rollouts(self, iteration: int) -> list[Rollout]:
        """The iteration's prompts, sampled and judged; others too, in place of wasted ones, for as
        many rounds as the method wants."""
        temperature, samples = self.step(iteration).temperature, self.sampling.samples
        seed = self.bench.seed * 1_000_003 + iteration
        prompts = [self.prompts[i] for i in self.sampler.batch(iteration)]
        due = self.played.due(iteration, self.last)
        rollouts = self.played.rollout(prompts, temperature, seed, samples, due)
        rounds = self.algorithm.spare_rounds()
        missing = sum(map(self.algorithm.is_wasted, rollouts)) if rounds else 0
        for k in range(rounds):
            if not missing:
                break
            places = self.more_prompts.batch(iteration * rounds + k)[:missing]
            more = [self.prompts[i] for i in places]
            fresh = self.played.rollout(more, temperature, seed + (k + 1) * 2**32, samples, due)
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
        scores = score_series(rollouts)
        completions = [c for r in rollouts for c in r.completions]
        series = {"length": [float(written(c)) for c in completions]}
        series |= episode_series(completions)
        if "return" in series:
            scores["return"] = series.pop("return")
        finished = [c.finished for c in completions]
        rows = sample_rows(rollouts)
        if "reference" in self.bench.roles:
            distances = self._from_reference(rollouts, temperature)
            series |= {name: [v for v in x if v is not None] for name, x in distances.items()}
            for name, values in distances.items():
                rows = [{**row, name: v} for row, v in zip(rows, values, strict=True)]
        intervals = {name: mean_interval(v, method="t") for name, v in series.items() if v}
        intervals |= {name: over_prompts([[x] for x in v]) for name, v in scores.items() if v}
        intervals["finished"] = weighted_proportion(finished)
        metrics = {f"eval/{name}": interval.value for name, interval in intervals.items()}
        details = {name: interval.to_dict() for name, interval in intervals.items()}
        return Evaluation(metrics, {"held-out prompts": details}, rows)

    @torch.no_grad()
    def _from_reference(
        self, rollouts: Sequence[Rollout], temperature: float
    ) -> dict[str, list[float | None]]:
        """By name, for every response: ``kl``, log(policy / reference) summed over it (nats, the
        estimator k1), and ``ref_logprob``, its mean log-prob under the reference (nats a token).
        None for a response without a token, or whose reward failed."""
        found: dict[str, list[float | None]] = {"kl": [], "ref_logprob": []}
        scored = [token_group(r, f"eval:{i}") for i, r in enumerate(rollouts)]
        figures: list[Tensor] = []
        for batch in self.bench.batches([group for group in scored if group is not None]):
            policy, reference = (
                self.bench.roles[name].logprobs(batch, temperature=temperature).logprobs
                for name in ("policy", "reference")
            )
            mask = batch.response_mask
            sums = [
                per_response_sum(x * mask, batch)
                for x in (policy - reference, reference, torch.ones_like(policy))
            ]
            figures.append(torch.stack([sums[0], sums[1] / sums[2].clamp(min=1)], dim=1))
        rows = iter(torch.cat(figures).tolist() if figures else [])
        for group in scored:
            pair = (None, None) if group is None else next(rows)
            found["kl"].append(pair[0])
            found["ref_logprob"].append(pair[1])
        return found

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
        return Prefetch(self.played.engine, self._usable, staleness, self.bench.iterations)

    def _usable(self, iteration: int) -> list[Rollout]:
        """The iteration's rollouts; where too many rewards failed they count as not sampled, so
        that a resumed run asks again."""
        rollouts = self.rollouts(iteration)
        self._check_errors(rollouts, iteration)
        return rollouts

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

    def close(self) -> None:
        """Stop what samples ahead; the source is of no use afterwards."""
        if self.prefetch is not None:
            self.prefetch.close()

    # -- what is wrong with rewards ---------------------------------------------------------------

    def _check_errors(self, rollouts: Sequence[Rollout], iteration: int) -> None:
        failed, total = failures(rollouts)
        allowed = self.played.max_reward_errors
        if len(failed) == total or len(failed) > allowed * total:
            raise RewardsFailedError(
                f"iteration {iteration + 1}: {len(failed)} of {total} rewards failed, more than "
                f"the {allowed:.0%} allowed (max_reward_errors). {_what_to_do(failed[0])}",
                sample_rows(rollouts),
            )

    def _check_held_out_errors(self, rollouts: Sequence[Rollout]) -> None:
        """Stop where no held-out reward is left; say so where the mean is over too few of them."""
        failed, total = failures(rollouts)
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


SAMPLER = "sampler"
"""The policy as it samples, in counts of tokens."""


def sampled_tokens(rollouts: Iterable[Rollout]) -> TokenCounts:
    """What sampling computes: each prompt once, each response's tokens once."""
    counts = TokenCounts()
    for rollout in rollouts:
        written = sum(len(completion.ids) for completion in rollout.completions)
        counts.forward[SAMPLER] += len(rollout.prompt.ids) + written
    return counts


def failures(rollouts: Sequence[Rollout]) -> tuple[list[str], int]:
    """What went wrong with the rewards that failed, and how many rewards there are. What people
    skipped has not failed, unless nothing else is left."""
    errors = [s.error for r in rollouts for s in r.scores]
    asked = [error for error in errors if not is_skipped(error)] or errors
    return [error for error in asked if error is not None], len(asked)


def _what_to_do(first: str) -> str:
    return (
        f"The first: {first}\nAll of them are in samples.parquet, column error. Fix the reward "
        "and resume with --resume; nothing saved is lost."
    )
