"""What was sampled and how it was judged: as groups, as metrics, and as rows of samples.parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.algorithms.base import EncodedPrompt
from gnomon.algorithms.episodes import as_response, episode_series, shown, written
from gnomon.records import Comparison, Score, TokenGroup
from gnomon.rollout.protocol import Completion


@dataclass(frozen=True)
class Rollout:
    """One prompt's completions with their scores, and how the judge compared them where it did; an
    observer's scores lie under its name."""

    prompt: EncodedPrompt
    completions: Sequence[Completion]
    scores: Sequence[Score]
    observed: Mapping[str, Sequence[Score]]
    comparisons: Sequence[Comparison] | None = None


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
        for observer, scores in rollout.observed.items():
            for score in scores:
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
    rewards = [s.value for r in rollouts for s in r.scores if s.value is not None]
    mean = sum(rewards) / max(1, len(rewards))
    metrics["reward_std"] = math.sqrt(sum((x - mean) ** 2 for x in rewards) / max(1, len(rewards)))
    metrics["length"] = sum(written(c) for c in completions) / len(completions)
    metrics |= {k: sum(v) / len(v) for k, v in episode_series(completions).items() if v}
    metrics["finished"] = sum(c.finished for c in completions) / len(completions)
    metrics["reward_errors"] = float(sum(s.error is not None for r in rollouts for s in r.scores))
    for name in rollouts[0].observed:
        errors = sum(s.error is not None for r in rollouts for s in r.observed[name])
        metrics[f"{name}_errors"] = float(errors)
    return metrics


def spread_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How rewards differ within prompts: means over prompts of the best and the worst reward, and
    the share of prompts whose rewards are all the same (or fewer than two)."""
    values = [[s.value for s in r.scores if s.value is not None] for r in rollouts]
    known = [v for v in values if v]
    return {
        "reward_best": sum(max(v) for v in known) / max(1, len(known)),
        "reward_worst": sum(min(v) for v in known) / max(1, len(known)),
        "zero_spread": sum(len(set(v)) < 2 for v in values) / max(1, len(values)),
    }


def sample_rows(rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
    """Rows of samples.parquet."""
    rows: list[dict[str, Any]] = []
    for rollout in rollouts:
        prompt = rollout.prompt.prompt
        text = (
            prompt.text
            if prompt.text is not None
            else "\n".join(
                m.content if m.role == "user" else f"[{m.role}] {m.content}"
                for m in prompt.messages
            )
        )
        for i, (completion, score) in enumerate(
            zip(rollout.completions, rollout.scores, strict=True)
        ):
            observed = {name: scores[i].value for name, scores in rollout.observed.items()}
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
                }
            )
    return rows
