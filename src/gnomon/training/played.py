"""How prompts are sampled or played, and who judges what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from gnomon.agents.episodes import Episode, EpisodeRunner
from gnomon.algorithms.rollouts import UNJUDGED, EncodedPrompt, Rollout
from gnomon.judges.protocol import Judge, checked, judged, trainable
from gnomon.recipe.rollout import RolloutSpec
from gnomon.records import Group, Judgement, Score
from gnomon.rollout.protocol import (
    Completion,
    Engine,
    Request,
    SamplingParams,
    sampled_group,
)


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
class Asked:
    """When an observer is asked: every ``every`` iterations, in the last one and at evaluations,
    each time about whole prompts until they have ``samples`` responses (None: all of them)."""

    every: int = 1
    samples: int | None = None

    def due(self, iteration: int, last: int) -> bool:
        """Whether it is asked in ``iteration`` (from 0)."""
        return iteration % self.every == 0 or iteration == last

    def of(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The groups that it is asked about: the first ones, one at least."""
        if self.samples is None:
            return groups
        sizes = accumulate(len(group.responses) for group in groups)
        enough = next((i for i, size in enumerate(sizes, 1) if size >= self.samples), len(groups))
        return groups[:enough]


@dataclass(frozen=True)
class Played:
    """Everything that samples and judges a stage's prompts.

    Attributes:
        engine: samples.
        judge: scores what was sampled; None where the environment's return is the whole reward, or
            the method learns from none.
        environment: plays episodes of several turns, whose return is (part of) the reward.
        observers: judges whose figures are logged, never trained on.
        asked: when those observers are asked, by name, that are not always asked about everything.
        sampling: how rollouts are drawn.
        max_reward_errors: the share of failed rewards in an iteration past which the run stops.
        on_progress: called with (finished, all) responses while they are sampled.
    """

    engine: Engine
    judge: Judge | None
    environment: EpisodeRunner | None = None
    observers: Sequence[Judge] = ()
    asked: Mapping[str, Asked] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    max_reward_errors: float = 0.05
    on_progress: Callable[[int, int], None] | None = None

    def due(self, iteration: int, last: int) -> list[Judge]:
        """The observers that are asked in an iteration of training."""
        always = Asked()
        return [o for o in self.observers if self.asked.get(o.name, always).due(iteration, last)]

    def rollout(
        self,
        prompts: Sequence[EncodedPrompt],
        temperature: float,
        seed: int,
        samples: int,
        observers: Sequence[Judge] | None = None,
    ) -> list[Rollout]:
        """Sample every prompt ``samples`` times and judge what comes back; with an environment,
        play as many episodes of it.

        Args:
            observers: those to ask; None for all.
        """
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
            prompts, completions = play(
                self.environment, self.engine, prompts, requests, params, self.on_progress
            )
        self.engine.rest()
        groups = [
            sampled_group(prompt.prompt, prompt.ids, row)
            for prompt, row in zip(prompts, completions, strict=True)
        ]
        rewards = None if self.judge is None else judged_played(self.judge, groups, completions)
        if self.environment is not None:
            rewards = _with_returns(self.environment.name, completions, rewards)
        if rewards is None:
            rewards = [Judgement(UNJUDGED, tuple(Score(None) for _ in row)) for row in completions]
        observers = self.observers if observers is None else observers
        observed = self._observed(groups, completions, observers)
        return [
            Rollout(
                prompt,
                row,
                replace(rewards[i], scores=tuple(map(trainable, rewards[i].scores))),
                {name: found[i] for name, found in observed.items() if i < len(found)},
            )
            for i, (prompt, row) in enumerate(zip(prompts, completions, strict=True))
        ]

    def _observed(
        self,
        groups: Sequence[Group],
        completions: Sequence[Sequence[Completion]],
        observers: Sequence[Judge],
    ) -> dict[str, list[Judgement]]:
        """By observer, its judgements of the first groups: as many as it is asked about."""
        always = Asked()
        return {
            o.name: judged_played(o, self.asked.get(o.name, always).of(groups), completions)
            for o in observers
        }


def failed(completion: Completion) -> bool:
    """Whether it is an episode that the environment failed: there is no answer to judge."""
    return isinstance(completion, Episode) and completion.error is not None


def judged_played(
    judge: Judge, groups: Sequence[Group], completions: Sequence[Sequence[Completion]]
) -> list[Judgement]:
    """Judgements of the groups (the first ones of ``completions``) as :func:`judged` gives them;
    episodes that failed are not shown to the judge, and have neither a value nor an error of it."""
    places = [
        [i for i, c in enumerate(row) if not failed(c)]
        for _, row in zip(groups, completions, strict=False)
    ]
    shown = [
        replace(group, responses=tuple(group.responses[i] for i in kept))
        for group, kept in zip(groups, places, strict=True)
    ]
    found = iter(judged(judge, [group for group in shown if group.responses]))
    return [
        _spread(next(found) if kept else Judgement(judge.name, version=judge.version), kept, group)
        for kept, group in zip(places, groups, strict=True)
    ]


def _spread(judgement: Judgement, places: Sequence[int], group: Group) -> Judgement:
    """A judgement of some of a group's responses, as one of the whole group."""
    if len(places) == len(group.responses):
        return judgement
    scores = [Score(None)] * len(group.responses)
    for place, score in zip(places, judgement.scores, strict=True):
        scores[place] = score
    compared = judgement.comparisons
    if compared is not None:
        compared = tuple(
            replace(c, better=places[c.better], worse=places[c.worse]) for c in compared
        )
    return replace(judgement, scores=tuple(scores), comparisons=compared)


def play(
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
