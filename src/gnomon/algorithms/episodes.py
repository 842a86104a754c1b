"""Episodes where on-line methods have completions: their scores, their tokens, their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gnomon.agents.episodes import Episode, EpisodeGroup, EpisodeRunner
from gnomon.algorithms.base import EncodedPrompt
from gnomon.judges.guard import checked
from gnomon.judges.protocol import Score
from gnomon.records import TokenResponse
from gnomon.rollout.protocol import Completion, Engine, Request, SamplingParams


def play(
    runner: EpisodeRunner,
    engine: Engine,
    prompts: Sequence[EncodedPrompt],
    requests: Sequence[Request],
    params: SamplingParams,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[EncodedPrompt], list[Sequence[Completion]]]:
    """The requests' episodes, and the openings they were played from."""
    played: list[EpisodeGroup] = runner.run(
        [(p.prompt, p.ids) for p in prompts],
        engine,
        params,
        seeds=[request.seed for request in requests],
        samples=requests[0].n,
        progress=progress,
    )
    return [EncodedPrompt(p.prompt, p.ids) for p in played], [p.episodes for p in played]


def with_returns(
    name: str, completions: Sequence[Completion], scores: Sequence[Score] | None
) -> list[Score]:
    """Scores of episodes: the return, plus the reward's score where the stage has a reward too.

    An error of either is the sample's error.
    """
    out: list[Score] = []
    for i, completion in enumerate(completions):
        assert isinstance(completion, Episode)
        own = checked(name, Score(completion.value, completion.parts, completion.error))
        extra = None if scores is None else scores[i]
        if extra is None or own.value is None:
            out.append(own)
        elif extra.value is None:
            out.append(extra)
        else:
            parts = {**own.parts, name: own.value, **extra.parts}
            out.append(checked(name, Score(own.value + extra.value, parts)))
    return out


def as_response(completion: Completion, **scalar: float) -> TokenResponse:
    """What was sampled as a response; what an episode's model was told counts in no loss."""
    token: dict[str, Tensor] = {"sampler_logprobs": completion.logprobs.float().cpu()}
    if not isinstance(completion, Episode):
        return TokenResponse(completion.ids, [True] * len(completion.ids), token, scalar)
    token["turn_rewards"] = completion.turn_rewards
    return TokenResponse(completion.ids, list(completion.mask), token, scalar)


def remaining_reward(score: Tensor, turn_rewards: Tensor, response_of: Tensor) -> Tensor:
    """[S] what of a response's score is not in its turns' rewards [R]: for its last token."""
    paid = torch.zeros_like(score).index_add(0, response_of, turn_rewards.to(score.dtype))
    return score - paid


def written(completion: Completion) -> int:
    """Tokens that the model wrote."""
    return completion.written if isinstance(completion, Episode) else len(completion.ids)


def shown(completion: Completion) -> str:
    """The text for people: an episode's whole transcript, with who said what."""
    return completion.shown if isinstance(completion, Episode) else completion.text


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
