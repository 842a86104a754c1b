"""Playing episodes: all that are alive take their turns together.

    reset -> [sample a turn -> parse its calls -> step -> show the result] ... -> close

An episode's tokens are the model's own, as sampled, and between them the environment's messages,
which no loss counts. It always ends with a turn of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gnomon.agents.dialogue import CallFormat, Dialogue, parse_calls
from gnomon.agents.environment import (
    OBSERVER_ROLES,
    Action,
    Environment,
    Observation,
    checked_messages,
    checked_observation,
)
from gnomon.agents.guard import StepError, guarded
from gnomon.errors import GnomonError, RunError
from gnomon.records import Message, Prompt
from gnomon.rollout.protocol import (
    Completion,
    Engine,
    FinishReason,
    Progress,
    Request,
    SamplingParams,
)

SHOWN = 50_000
"""Characters of an environment's message that are kept for people."""


@dataclass(frozen=True)
class Episode(Completion):
    """A whole episode, as the completion of its opening.

    ``ids`` are all T tokens after the opening, the environment's messages included; their
    ``logprobs`` are 0. ``finish_reason`` is "eos" where the environment ended the episode, and
    "length" where a budget of turns or tokens did. ``text`` is what the model wrote, turns joined
    by a newline.

    Attributes:
        mask: T flags, True for the tokens that the model sampled.
        turn_rewards: [T] each step's reward, on the last token of its turn.
        transcript: the turns after the opening, as text.
        turns, tool_calls: how many; calls are counted when they could be run.
        tool_errors: turns whose calls could not be read, and calls that failed.
        value: the return (the sum of the steps' rewards); None when ``error`` is set.
        parts: named figures from the steps, summed.
        error: what went wrong in the environment, or None.
    """

    mask: tuple[bool, ...]
    turn_rewards: Tensor
    transcript: tuple[Message, ...]
    turns: int
    tool_calls: int
    tool_errors: int
    value: float | None
    parts: dict[str, float]
    error: str | None = None

    @property
    def written(self) -> int:
        """How many tokens the model wrote."""
        return sum(self.mask)

    @property
    def shown(self) -> str:
        """The transcript, each turn after its role."""
        return "\n".join(f"[{m.role}] {m.content}" for m in self.transcript)


@dataclass(frozen=True)
class EpisodeGroup:
    """One prompt's episodes; ``prompt`` and ``ids`` are the opening that all of them share."""

    prompt: Prompt
    ids: Sequence[int]
    episodes: tuple[Episode, ...]


@dataclass
class _Live:
    """An episode in progress."""

    env: Environment | None = None
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rewards: dict[int, float] = field(default_factory=dict)
    transcript: list[Message] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    error: str | None = None
    end: FinishReason | None = None
    hung: bool = False

    def fail(self, what: str, error: object) -> None:
        self.error = self.error or f"{what}: {error}"
        self.end = self.end or "length"
        self.hung = self.hung or (isinstance(error, StepError) and error.hung)

    def episode(self) -> Episode:
        rewards = torch.zeros(len(self.ids))
        for place, reward in self.rewards.items():
            rewards[place] += reward
        answers = [m.content for m in self.transcript if m.role == "assistant"]
        return Episode(
            ids=tuple(self.ids),
            logprobs=torch.tensor(self.logprobs, dtype=torch.float32),
            finish_reason=self.end or "length",
            text="\n".join(answers),
            mask=tuple(self.mask),
            turn_rewards=rewards,
            transcript=tuple(self.transcript),
            turns=self.turns,
            tool_calls=self.tool_calls,
            tool_errors=self.tool_errors,
            value=None if self.error else math.fsum(self.rewards.values()),
            parts=dict(self.parts),
            error=self.error,
        )


class EpisodeRunner:
    """Plays episodes of one kind of environment.

    Args:
        name: in metrics and errors.
        make: makes an environment; called once per episode.
        dialogue: the tokens.
        calls: how the model writes tool calls.
        max_turns: turns of the model.
        max_episode_tokens: tokens after the opening, the environment's messages included.
        window: tokens the model takes in all.
        step_timeout_s: seconds that reset, step and close may take each; None for no limit.
        workers: environments stepped at the same time.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Environment],
        dialogue: Dialogue,
        *,
        calls: CallFormat = "hermes",
        max_turns: int = 8,
        max_episode_tokens: int = 512,
        window: int = 1 << 30,
        step_timeout_s: float | None = 60.0,
        workers: int = 1,
    ) -> None:
        self.name = name
        self.dialogue = dialogue
        self.max_turns = max_turns
        self.max_episode_tokens = max_episode_tokens
        self._make = make
        self._calls = calls
        self._window = window
        self._timeout_s = step_timeout_s
        self._workers = workers

    def run(
        self,
        prompts: Sequence[tuple[Prompt, Sequence[int]]],
        engine: Engine,
        params: SamplingParams,
        *,
        seeds: Sequence[int],
        samples: int,
        progress: Progress | None = None,
    ) -> list[EpisodeGroup]:
        """``samples`` episodes of each prompt.

        Args:
            prompts: with their tokens (generation prompt included).
            params: of a turn; ``max_new_tokens`` is the turn's own budget.
            seeds: one per prompt; with the prompt they fix its episodes, whatever else is played.
            progress: called with (episodes over, all episodes).
        """
        groups = [
            _LiveGroup(prompt, list(ids), seed, [_Live() for _ in range(samples)])
            for (prompt, ids), seed in zip(prompts, seeds, strict=True)
        ]
        everyone = [live for group in groups for live in group.lives]
        try:
            self._reset(groups)
            with engine.keeping():  # a turn's prompt begins with all of the turns before
                for turn in range(self.max_turns):
                    if all(live.end for live in everyone):
                        break
                    self._sample(groups, engine, params, turn)
                    self._step([live for live in everyone if not live.end], turn)
                    self._close([live for live in everyone if live.end])
                    if progress is not None:
                        progress(sum(live.end is not None for live in everyone), len(everyone))
        finally:
            self._close(everyone)
        return [
            EpisodeGroup(g.prompt, g.ids, tuple(live.episode() for live in g.lives)) for g in groups
        ]

    def _guarded(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        return guarded(jobs, self._timeout_s, self._workers)

    # -- reset and close --------------------------------------------------------------------------

    def _reset(self, groups: Sequence[_LiveGroup]) -> None:
        pairs = [(group, live) for group in groups for live in group.lives]
        made = self._guarded([self._make for _ in pairs])
        for (_, live), env in zip(pairs, made, strict=True):
            if isinstance(env, StepError):
                live.fail(f"{self.name} could not be made", env)
            else:
                live.env = env
        begun = [(g, live, live.env) for g, live in pairs if live.env is not None]
        opened = self._guarded([partial(env.reset, g.prompt, g.seed) for g, _, env in begun])
        openings: dict[int, list[tuple[_Live, Any]]] = {}
        for (group, live, _), opening in zip(begun, opened, strict=True):
            if isinstance(opening, StepError):
                live.fail(f"{self.name}, reset", opening)
            else:
                openings.setdefault(id(group), []).append((live, opening))
        for group in groups:
            self._open(group, openings.get(id(group), []))

    def _open(self, group: _LiveGroup, openings: Sequence[tuple[_Live, Any]]) -> None:
        """Replace the group's prompt by the opening, which its environments must share."""
        first: tuple[Message, ...] | None = None
        for live, opening in openings:
            try:
                messages = checked_messages(opening or (), "reset", (*OBSERVER_ROLES, "assistant"))
            except TypeError as error:
                live.fail(self.name, error)
                continue
            if first is None:
                first = messages
            elif messages != first:
                live.fail(
                    f"{self.name}, reset",
                    "the opening differs from the first sample's, for one prompt and seed; draw "
                    "what is random from the seed",
                )
        if first:
            try:
                group.prompt = self.dialogue.opening(group.prompt, first)
                group.ids = self.dialogue.encode(group.prompt)
            except GnomonError as error:
                for live in group.lives:
                    live.fail(f"{self.name}, reset", error)

    def _close(self, lives: Sequence[_Live]) -> None:
        """Close once; one that hangs in a step is left alone."""
        open_ = [(live, live.env) for live in lives if live.env is not None]
        for live, _ in open_:
            live.env = None
        closing = [(live, env) for live, env in open_ if not live.hung]
        results = self._guarded([env.close for _, env in closing])
        for (live, _), result in zip(closing, results, strict=True):
            if isinstance(result, StepError):
                live.fail(f"{self.name}, close", result)

    # -- a turn -----------------------------------------------------------------------------------

    def _sample(
        self, groups: Sequence[_LiveGroup], engine: Engine, params: SamplingParams, turn: int
    ) -> None:
        """Sample the next turn of every live episode."""
        if turn == 0:  # one request for the samples of a prompt, which is computed once
            asked = [g for g in groups if not all(live.end for live in g.lives)]
            params = replace(
                params, max_new_tokens=min(params.max_new_tokens, self.max_episode_tokens)
            )
            requests = [Request(g.prompt.id, g.ids, len(g.lives), seed=g.seed) for g in asked]
            for group, row in zip(asked, engine.generate(requests, params), strict=True):
                for live, completion in zip(group.lives, row, strict=True):
                    self._extend(live, completion, params.stop)
            return
        batches: dict[int, list[tuple[_Live, Request]]] = {}
        for group in groups:
            for k, live in enumerate(group.lives):
                if live.end:
                    continue
                history = [*group.ids, *live.ids]
                request = Request(group.prompt.id, history, 1, seed=_seed(group.seed, k, turn))
                most = min(params.max_new_tokens, self._window - len(history))
                if most < 1:
                    live.end = "length"
                    continue
                batches.setdefault(most, []).append((live, request))
        for most, batch in batches.items():
            part = replace(params, max_new_tokens=most)
            rows = engine.generate([request for _, request in batch], part)
            for (live, _), row in zip(batch, rows, strict=True):
                self._extend(live, row[0], params.stop)

    def _extend(self, live: _Live, completion: Completion, stop: Sequence[str]) -> None:
        """Add a sampled turn, cut where the episode's tokens are spent.

        Sampling does not depend on what comes later, so the tokens up to the cut are those that a
        shorter limit would have given.
        """
        if live.end:
            return
        left = self.max_episode_tokens - len(live.ids)
        ids, text, finished = completion.ids[:left], completion.text, completion.finished
        if len(ids) < len(completion.ids):
            text, finished = self.dialogue.text(ids), False
        live.ids += ids
        live.mask += [True] * len(ids)
        live.logprobs += completion.logprobs[: len(ids)].tolist()
        live.transcript.append(Message("assistant", text))
        live.turns += 1
        if not finished:
            live.end = "length"

    def _step(self, lives: Sequence[_Live], turn: int) -> None:
        """Have the environments answer the turns, and append their messages."""
        acting: list[_Live] = []
        jobs: list[Callable[[], Observation]] = []
        for live in lives:
            assert live.env is not None
            text = live.transcript[-1].content
            parsed = parse_calls(text, self._calls, live.env.tools)
            if parsed.errors:
                live.tool_errors += 1
                message = Message("tool", "error: " + "; ".join(parsed.errors))
                self._tell(live, Observation((message,)), turn)
                continue
            live.tool_calls += len(parsed.calls)
            acting.append(live)
            jobs.append(partial(live.env.step, Action(text, parsed.calls)))
        for live, result in zip(acting, self._guarded(jobs), strict=True):
            if isinstance(result, StepError):
                live.fail(f"{self.name}, step {turn + 1}", result)
                continue
            try:
                self._tell(live, checked_observation(result), turn)
            except RunError:
                raise
            except (TypeError, ValueError, GnomonError) as error:
                live.fail(f"{self.name}, step {turn + 1}", error)

    def _tell(self, live: _Live, seen: Observation, turn: int) -> None:
        live.rewards[len(live.ids) - 1] = float(seen.reward)
        live.tool_errors += seen.tool_errors
        for name, part in seen.parts.items():
            live.parts[name] = live.parts.get(name, 0.0) + float(part)
        if seen.done:
            live.transcript += map(_kept, seen.messages)
            live.end = "eos"
            return
        if not seen.messages:
            raise ValueError("not done, but without a message: the model has nothing to answer")
        live.transcript += map(_kept, seen.messages)
        room = self.max_episode_tokens - len(live.ids)
        last = turn + 1 == self.max_turns or self.dialogue.surely_more(seen.messages, room)
        observed = [] if last else self.dialogue.continuation(live.ids[-1], seen.messages)
        if last or len(observed) >= room:
            live.end = "length"
            return
        live.ids += observed
        live.mask += [False] * len(observed)
        live.logprobs += [0.0] * len(observed)


@dataclass
class _LiveGroup:
    """One prompt's episodes in progress."""

    prompt: Prompt
    ids: list[int]
    seed: int
    lives: list[_Live]


def _kept(message: Message) -> Message:
    """A message as the transcript keeps it: what nobody reads to its end is cut."""
    more = len(message.content) - SHOWN
    if more <= 0:
        return message
    return replace(message, content=f"{message.content[:SHOWN]} [{more} characters more]")


def _seed(seed: int, sample: int, turn: int) -> int:
    """The seed of a later turn: a function of the prompt's, the sample and the turn alone."""
    digest = hashlib.sha256(f"{seed}/{sample}/{turn}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
