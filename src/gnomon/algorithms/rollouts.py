"""What was sampled and judged: as groups of tokens, as metrics, and as rows of samples.parquet."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnomon.agents.episodes import Episode
from gnomon.algorithms.base import Step
from gnomon.records import Judgement, Prompt, Score, TokenGroup, TokenResponse
from gnomon.rollout.protocol import Completion
from gnomon.stats.prompts import pass_at_k

CORRECT = "correct"
"""The observer (or part of a reward) whose values above 0.5 count as right answers."""
UNJUDGED = ""
"""The judge's name where the method learns from no reward; its scores have no value."""
GROUP_METRICS = (
    *("reward_std_in_group", "solved", "unsolved", "length_correct", "length_incorrect"),
    "pass@1",
)
ROLLOUT_METRICS = (
    *("reward", "reward_std", "length", "finished", "reward_errors", "temperature"),
    *("staleness", "rollout_wait"),
    *("return", "turns", "tool_calls", "tool_errors", "episode_tokens"),
)
"""What every stage that samples logs."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its tokens, generation prompt included."""

    prompt: Prompt
    ids: Sequence[int]


@dataclass(frozen=True)
class Rollout:
    """One prompt's completions, their judgement, and by name those of the observers that were
    asked about them."""

    prompt: EncodedPrompt
    completions: Sequence[Completion]
    judgement: Judgement
    observed: Mapping[str, Judgement]

    @property
    def scores(self) -> Sequence[Score]:
        """The judge's score of each completion."""
        return self.judgement.scores

    @property
    def judgements(self) -> list[Judgement]:
        """The reward's, where there is one, and the observers'."""
        own = [] if self.judgement.judge == UNJUDGED else [self.judgement]
        return [*own, *self.observed.values()]

    @property
    def rewards(self) -> list[float]:
        """The rewards of the completions whose reward did not fail."""
        return [s.value for s in self.scores if s.value is not None]


# -- as groups ------------------------------------------------------------------------------------


def token_groups(rollouts: Sequence[Rollout], step: Step) -> list[TokenGroup]:
    """An iteration's rollouts as groups, without what cannot be learned from."""
    made = (token_group(r, f"{step.iteration}:{i}") for i, r in enumerate(rollouts))
    return [group for group in made if group is not None]


def token_group(rollout: Rollout, group_id: str) -> TokenGroup | None:
    """A rollout as a group; responses whose reward failed are left out (None when all are)."""
    responses = tuple(
        as_response(c, reward=float(s.value), finished=float(c.finished))
        for c, s in zip(rollout.completions, rollout.scores, strict=True)
        if s.value is not None and len(c.ids)
    )
    if not responses:
        return None
    prompt = rollout.prompt
    return TokenGroup(
        group_id,
        prompt.ids,
        responses,
        source=prompt.prompt.source,
        category=prompt.prompt.category,
    )


def as_response(completion: Completion, **scalar: float) -> TokenResponse:
    """A completion as a response; an environment's messages in it count in no loss."""
    token: dict[str, Tensor] = {"sampler_logprobs": completion.logprobs.float().cpu()}
    if not isinstance(completion, Episode):
        return TokenResponse(completion.ids, [True] * len(completion.ids), token, scalar)
    token["turn_rewards"] = completion.turn_rewards
    return TokenResponse(completion.ids, list(completion.mask), token, scalar)


def written(completion: Completion) -> int:
    """Tokens that the model wrote."""
    return completion.written if isinstance(completion, Episode) else len(completion.ids)


def shown(completion: Completion) -> str:
    """The text for people: an episode's whole transcript, with who said what."""
    return completion.shown if isinstance(completion, Episode) else completion.text


# -- as metrics -----------------------------------------------------------------------------------


def score_series(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """Every reward, its parts and the observers', as flat lists without the failed ones."""
    series: dict[str, list[float]] = {"reward": []}
    for rollout in rollouts:
        for score in rollout.scores:
            if score.value is None:
                continue
            series["reward"].append(score.value)
            for name, part in score.parts.items():
                series.setdefault(f"reward/{name}", []).append(part)
        for observer, judgement in rollout.observed.items():
            for score in judgement.scores:
                if score.value is None:
                    continue
                series.setdefault(observer, []).append(score.value)
                for name, part in score.parts.items():
                    series.setdefault(f"{observer}/{name}", []).append(part)
    return series


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over an iteration's responses."""
    metrics = {k: sum(v) / len(v) for k, v in score_series(rollouts).items() if v}
    completions = [c for r in rollouts for c in r.completions]
    rewards = [value for r in rollouts for value in r.rewards]
    mean = sum(rewards) / max(1, len(rewards))
    metrics["reward_std"] = math.sqrt(sum((x - mean) ** 2 for x in rewards) / max(1, len(rewards)))
    metrics["length"] = sum(written(c) for c in completions) / len(completions)
    metrics |= {k: sum(v) / len(v) for k, v in episode_series(completions).items() if v}
    metrics["finished"] = sum(c.finished for c in completions) / len(completions)
    metrics["reward_errors"] = float(sum(s.error is not None for r in rollouts for s in r.scores))
    for name in dict.fromkeys(name for r in rollouts for name in r.observed):
        asked = [r.observed[name] for r in rollouts if name in r.observed]
        metrics[f"{name}_errors"] = float(sum(s.error is not None for j in asked for s in j.scores))
    return metrics


def spread_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How rewards differ within prompts: means over prompts of the best and the worst reward, and
    the share of prompts whose rewards are all the same (or fewer than two)."""
    values = [r.rewards for r in rollouts]
    known = [v for v in values if v]
    return {
        "reward_best": sum(max(v) for v in known) / max(1, len(known)),
        "reward_worst": sum(min(v) for v in known) / max(1, len(known)),
        "zero_spread": sum(len(set(v)) < 2 for v in values) / max(1, len(values)),
    }


def episode_series(completions: Sequence[Completion]) -> dict[str, list[float]]:
    """The episodes' figures, as flat lists; empty without episodes."""
    episodes = [c for c in completions if isinstance(c, Episode)]
    if not episodes:
        return {}
    return {
        "return": [e.value for e in episodes if e.value is not None],
        "turns": [float(e.turns) for e in episodes],
        "tool_calls": [float(e.tool_calls) for e in episodes],
        "tool_errors": [float(e.tool_errors) for e in episodes],
        "episode_tokens": [float(len(e.ids)) for e in episodes],
    }


def group_metrics(rollouts: Sequence[Rollout], by_reward: bool = True) -> dict[str, float]:
    """Means over an iteration's groups; those of right answers only where it is known which are
    right (``by_reward``: see :func:`right_answers`).

    ``reward_std_in_group`` (unbiased; groups of two and more), ``pass@1``, ``pass@K`` for groups
    of K, ``solved`` and ``unsolved`` (shares of prompts with every answer right, or none), and
    ``length_correct`` and ``length_incorrect`` in tokens.
    """
    metrics: dict[str, float] = {}
    rewards = [r.rewards for r in rollouts]
    stds = [statistics.stdev(values) for values in rewards if len(values) > 1]
    if stds:
        metrics["reward_std_in_group"] = sum(stds) / len(stds)
    right = right_answers(rollouts, by_reward)
    if right is None:
        return metrics
    judged = [[v for v in row if v is not None] for row in right]
    judged = [row for row in judged if row]
    if judged:
        metrics["solved"] = sum(all(row) for row in judged) / len(judged)
        metrics["unsolved"] = sum(not any(row) for row in judged) / len(judged)
        largest = max(len(row) for row in right)
        for k in sorted({1, largest}):
            found = [pass_at_k(len(row), sum(row), k) for row in judged if len(row) >= k]
            if found:
                metrics[f"pass@{k}"] = sum(found) / len(found)
    for name, wanted in (("length_correct", True), ("length_incorrect", False)):
        lengths = [
            written(c)
            for r, row in zip(rollouts, right, strict=True)
            for c, v in zip(r.completions, row, strict=True)
            if v is wanted
        ]
        if lengths:
            metrics[name] = sum(lengths) / len(lengths)
    return metrics


def reward_spread(rewards: Tensor, sizes: Sequence[int]) -> float:
    """The standard deviation of the rewards [S] within a prompt, pooled, of groups of these sizes;
    0 where no prompt has two answers, since it is not known then."""
    groups = [values.double() for values in torch.split(rewards, list(sizes)) if len(values) > 1]
    squares = sum(float((values - values.mean()).square().sum()) for values in groups)
    return math.sqrt(squares / sum(len(values) - 1 for values in groups)) if groups else 0.0


def kl_price(beta: float, spread: float) -> dict[str, float]:
    """The metric ``kl_price``: what a nat of KL from the reference costs a response, in standard
    deviations (``spread``) of what it is paid. Empty where that spread is 0, or not known; a KL
    that costs nothing has no need of it."""
    if beta == 0:
        return {"kl_price": 0.0}
    return {"kl_price": beta / spread} if spread > 0 else {}


def right_answers(
    rollouts: Sequence[Rollout], by_reward: bool = True
) -> list[list[bool | None]] | None:
    """For each response of each group whether it is right (None: it was not, or could not be,
    judged).

    Taken from the observer ``correct``, else from the reward's part ``correct``, else from the
    reward itself if it gave nothing but 0 and 1. None if none of these is there.

    Args:
        by_reward: whether the reward may say it; not where the observer does in other iterations,
            since a curve would then mean now one thing, now another.
    """
    if observed_right(rollouts):
        values = [
            [s.value for s in r.observed[CORRECT].scores]
            if CORRECT in r.observed
            else [None] * len(r.completions)
            for r in rollouts
        ]
    elif not by_reward:
        return None
    elif any(CORRECT in s.parts for r in rollouts for s in r.scores):
        values = [[s.parts.get(CORRECT) for s in r.scores] for r in rollouts]
    else:
        values = [[s.value for s in r.scores] for r in rollouts]
        if not {v for row in values for v in row if v is not None} <= {0.0, 1.0}:
            return None
    return [[None if v is None else v > 0.5 for v in row] for row in values]


def observed_right(rollouts: Sequence[Rollout]) -> bool:
    """Whether the observer ``correct`` was asked about any of them."""
    return any(CORRECT in r.observed for r in rollouts)


def no_signal(rollouts: Sequence[Rollout], *, within_groups: bool) -> str | None:
    """Why an iteration's rewards teach nothing, in words; None where they teach something.

    Args:
        within_groups: only differences between responses to the same prompt count.
    """
    rewards = [r.rewards for r in rollouts]
    values = [v for row in rewards for v in row]
    if len(values) < 2 or (_differ(values) and not within_groups):
        return None
    if within_groups and any(map(_differ, rewards)):
        return None
    if len(set(values)) == 1:
        return f"all {len(values)} rewards are {values[0]:g}"
    if all(len(set(row)) < 2 for row in rewards):
        return "the rewards of each prompt's responses are all equal"
    return f"the rewards (around {values[0]:g}) differ by less than float32 can tell apart"


def _differ(values: Sequence[float]) -> bool:
    """Whether the values differ in float32, which they are trained on in."""
    return len(set(np.asarray(values, dtype=np.float32).tolist())) > 1


# -- as rows --------------------------------------------------------------------------------------


def sample_rows(rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
    """Rows of samples.parquet."""
    rows: list[dict[str, Any]] = []
    for rollout in rollouts:
        prompt = rollout.prompt.prompt
        turns = (
            m.content if m.role == "user" else f"[{m.role}] {m.content}" for m in prompt.messages
        )
        text = "\n".join(turns) if prompt.text is None else prompt.text
        reason = _reason(rollout)
        for i, (completion, score) in enumerate(
            zip(rollout.completions, rollout.scores, strict=True)
        ):
            observed = {name: j.scores[i].value for name, j in rollout.observed.items()}
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "category": prompt.category,
                    "prompt": text,
                    "response": shown(completion),
                    "reward": score.value,
                    "parts": json.dumps({**score.parts, **observed}),
                    "error": score.error,
                    "length": written(completion),
                    "finished": completion.finished,
                    **reason,
                }
            )
    return rows


def _reason(rollout: Rollout) -> dict[str, str]:
    """Why its judges judged as they did; nothing where none says."""
    said = [j for j in rollout.judgements if j.reason]
    text = "\n".join(f"{j.judge}: {j.reason}" if len(said) > 1 else str(j.reason) for j in said)
    return {"reason": text} if text else {}
