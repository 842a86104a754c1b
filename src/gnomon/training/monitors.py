"""What every stage that samples watches besides its reward; docs/monitors.md says what to look for.

Three kinds, by what they cost: figures of the rewards (nothing), of the texts (milliseconds), and
of the tokens under a model (a forward pass over a few responses, every few iterations). None of
them draws random numbers or changes what is trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch

from gnomon.algorithms.base import Algorithm, Step
from gnomon.algorithms.metric import Metric, MetricSums, mean, ratio
from gnomon.algorithms.rollouts import Rollout, as_response, written
from gnomon.data.batch import Batch
from gnomon.losses.reduce import masked_sum
from gnomon.models.memory import RoleNeed
from gnomon.recipe.training import MonitorSpec
from gnomon.records import Score, TokenGroup
from gnomon.stats import texts as t
from gnomon.stats.prompts import within_prompt_correlation
from gnomon.stats.refusals import refusal_share

REWARD_MONITORS = ("reward_p05", "reward_p95", "length_reward_corr", "disagreement", "truncated")
TEXT_MONITORS = (
    *("distinct_within", "distinct_across", "self_similarity", "opening_share", "repetition"),
    *("language_share", "refusals"),
)
MODEL_MONITORS = ("kl", "ref_logprob", "entropy", "mismatch")
MONITORS = (*REWARD_MONITORS, *TEXT_MONITORS, *MODEL_MONITORS, "monitor_seconds")
"""What the monitors log."""
REFERENCE = RoleNeed("reference", watches=True)
READ_WORDS = 64
"""Words of an answer that variety is measured on, so that longer answers are not less varied."""
PAIRS = 200
"""Pairs of answers that self-similarity is the mean over."""


class Monitors:
    """The monitors of a stage that samples.

    Args:
        algorithm: the method; what it logs itself is not computed again.
        spec: how often, and on how many responses.
        last: the stage's last iteration, which is always looked at.
    """

    def __init__(self, algorithm: Algorithm, spec: MonitorSpec, last: int) -> None:
        self.spec = spec
        self.last = last
        self.bench = algorithm.bench
        own = set(algorithm.metrics)
        needed = {need.name for need in algorithm.needs(algorithm.settings)}
        has_reference = "reference" in algorithm.bench.roles
        self.reference = has_reference and not ("reference" in needed and "ref_logprob" in own)
        self.policy = not {"entropy", "mismatch"} <= own

    def figures(self, rollouts: Sequence[Rollout], step: Step) -> dict[str, float]:
        """An iteration's figures, and in ``monitor_seconds`` what they took."""
        began = time.perf_counter()
        metrics = reward_monitors(rollouts)
        if self.spec.texts:
            metrics |= text_monitors(texts_of(rollouts, self.spec.texts))
        every = self.spec.every
        if every and (step.iteration % every == 0 or step.iteration == self.last):
            metrics |= self.model_figures(rollouts, step)
        return metrics | {"monitor_seconds": time.perf_counter() - began}

    @torch.no_grad()
    def model_figures(self, rollouts: Sequence[Rollout], step: Step) -> dict[str, float]:
        """Figures of some responses' tokens under the policy and the reference, those that the
        method does not log itself.

        ``kl`` is log(policy / reference) summed over a response, k1, in nats; where the policy's
        log-probs are not computed here, by the sampler's.
        """
        groups = some_tokens(rollouts, self.spec.samples)
        if not groups or not (self.policy or self.reference):
            return {}
        sums = MetricSums()
        for batch in self.bench.batches(groups):
            sums.add(self._seen(batch, step.temperature))
        return sums.values()

    def _seen(self, batch: Batch, temperature: float) -> Mapping[str, Metric]:
        mask, policy = batch.response_mask, batch.token["sampler_logprobs"]
        metrics: dict[str, Metric] = {}
        if self.policy:
            role = self.bench.roles["policy"]
            out = role.logprobs(batch, temperature=temperature, entropy=True, entropy_grad=False)
            assert out.entropy is not None
            metrics["entropy"] = mean(out.entropy, mask)
            metrics["mismatch"] = mean((out.logprobs - policy).abs(), mask)
            policy = out.logprobs
        if self.reference:
            reference = self.bench.roles["reference"].logprobs(batch, temperature=temperature)
            nats = masked_sum(policy - reference.logprobs, mask)
            metrics["kl"] = ratio(nats, batch.num_responses)
            metrics["ref_logprob"] = mean(reference.logprobs, mask)
        return metrics


def some_tokens(rollouts: Sequence[Rollout], count: int) -> list[TokenGroup]:
    """``count`` responses as groups, of as many prompts as there are; the first of each."""
    each = max(1, math.ceil(count / max(1, len(rollouts))))
    groups: list[TokenGroup] = []
    left = count
    for i, rollout in enumerate(rollouts):
        taken = [c for c in rollout.completions[: min(each, left)] if len(c.ids)]
        left -= len(taken)
        if taken:
            responses = tuple(as_response(c) for c in taken)
            groups.append(TokenGroup(f"monitor:{i}", rollout.prompt.ids, responses))
    return groups


# -- rewards --------------------------------------------------------------------------------------


def reward_monitors(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Tails of the rewards, their correlation with length within prompts, how far an ensemble's
    members disagree, and the share of responses that were cut off; what there is of them."""
    metrics: dict[str, float] = {}
    rewards = [value for r in rollouts for value in r.rewards]
    if rewards:
        low, high = np.percentile(rewards, [5, 95]).tolist()
        metrics |= {"reward_p05": low, "reward_p95": high}
    correlation = within_prompt_correlation(
        [[float(written(c)) for c in r.completions] for r in rollouts],
        [[s.value for s in r.scores] for r in rollouts],
    )
    if not math.isnan(correlation):
        metrics["length_reward_corr"] = correlation
    spread = disagreement(rollouts)
    if spread is not None:
        metrics["disagreement"] = spread
    finished = [c.finished for r in rollouts for c in r.completions]
    metrics["truncated"] = 1.0 - fmean(finished)
    return metrics


def disagreement(rollouts: Sequence[Rollout]) -> float | None:
    """The mean over responses of the standard deviation of an ensemble's members: the trained
    reward's, or else that of an observed one; None without an ensemble."""
    trained = [score for r in rollouts for score in r.scores]
    observed = [score for r in rollouts for j in r.observed.values() for score in j.scores]
    for scores in (trained, observed):
        found = [spread for score in scores if (spread := _members_std(score)) is not None]
        if found:
            return fmean(found)
    return None


def _members_std(score: Score) -> float | None:
    """The part ``std`` of an ensemble, which has ``mean`` beside it; of several, their mean."""
    found = [
        value
        for name, value in score.parts.items()
        if name.rpartition("/")[2] == "std" and f"{name[: -len('std')]}mean" in score.parts
    ]
    return fmean(found) if found else None


# -- texts ----------------------------------------------------------------------------------------


def texts_of(rollouts: Sequence[Rollout], count: int) -> list[list[str]]:
    """[prompts][samples] what the policy wrote, of whole prompts, until there are ``count``."""
    rows: list[list[str]] = []
    for rollout in rollouts:
        rows.append([c.text for c in rollout.completions])
        if sum(map(len, rows)) >= count:
            break
    return rows


def text_monitors(rows: Sequence[Sequence[str]]) -> dict[str, float]:
    """Figures of the texts of several prompts' answers; those that cannot be had are left out.

    Variety within prompts is over all answers to a prompt, variety across them over the first
    answer to each.
    """
    every = [text for row in rows for text in row]
    starts = [[t.opening(text, READ_WORDS) for text in row] for row in rows]
    firsts = [row[0] for row in starts if row]
    several = [t.distinct(row) for row in starts if len(row) > 1]
    figures = {
        "distinct_within": t.mean_known(several),
        "distinct_across": t.distinct(firsts) if len(firsts) > 1 else math.nan,
        "self_similarity": t.self_similarity(firsts, pairs=PAIRS),
        "opening_share": t.opening_share(every),
        "repetition": t.mean_known([t.repetition(text) for text in every]),
        "language_share": t.commonest_share(every)[1],
        "refusals": refusal_share(every),
    }
    return {name: value for name, value in figures.items() if not math.isnan(value)}
