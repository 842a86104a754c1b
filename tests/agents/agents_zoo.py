"""Environments, a scripted engine and a tiny policy for the tests of agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import torch

import tiny_world as tw
from gnomon.agents.dialogue import Dialogue
from gnomon.agents.environment import Action, Observation, Tool, ToolEnvironment, ToolError
from gnomon.agents.episodes import EpisodeRunner
from gnomon.algorithms.base import Workbench
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.encode import Encoder
from gnomon.models.roles import Role
from gnomon.records import Message, Prompt
from gnomon.rollout.protocol import Completion, Engine, Request, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Learner
from gnomon.training.sampled import Played, Sampling

ENDS = (tw.EOS, *range(8, 60))
"""Tokens that end a turn of the untrained tiny model, so that turns end."""


def prompt(name: str = "p", text: str = "Add 1 and 2.", **meta: Any) -> Prompt:
    return Prompt(name, (Message("user", text),), meta=meta)


def encoder(template: str | None = None, max_prompt: int = 150) -> Encoder:
    return Encoder(tw.tokenizer(), max_length=250, max_prompt_length=max_prompt, template=template)


class Adder(ToolEnvironment):
    """A tool, an answer, and every way to misbehave, by the prompt's meta."""

    made: ClassVar[list[Adder]] = []

    def __init__(self, how: str = "") -> None:
        super().__init__(self.add)
        self.how = how
        self.seen: list[Action] = []
        self.closed = 0
        Adder.made.append(self)

    def add(self, a: int, b: int = 1) -> str:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        if a == 13:
            raise ToolError("13 brings bad luck")
        if a == 14:
            raise KeyError("broken")
        return str(a + b)

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        self.how = prompt.meta.get("how", self.how)
        if self.how == "raise in reset":
            raise RuntimeError("no world")
        if self.how == "opening":
            return [Message("user", f"Room {Random(seed).randrange(100)}.")]
        return None

    def answer(self, text: str) -> float | Observation:
        if self.how == "raise in step":
            raise RuntimeError("the floor fell in")
        if self.how == "nan":
            return float("nan")
        if self.how == "none":
            return None  # type: ignore[return-value]
        return float("3" in text)

    def step(self, action: Action) -> Observation:
        self.seen.append(action)
        if self.how == "silent":
            return Observation()
        if self.how == "no parts":
            return Observation(done=True, parts=None)  # type: ignore[arg-type]
        if self.how == "no count":
            return Observation(done=True, tool_errors=None)  # type: ignore[arg-type]
        if self.how == "wrong role":
            return Observation((Message("assistant", "I am the model"),))
        return super().step(action)

    def close(self) -> None:
        self.closed += 1
        if self.how == "raise in close":
            raise OSError("stuck")


class Chatter:
    """No tools: pays 0.5 for a turn with an even number of tokens written so far, ends after 3."""

    def __init__(self, turns: int = 3) -> None:
        self.tools: Sequence[Tool] = ()
        self.turns = turns
        self.seen = 0

    def reset(self, prompt: Prompt, seed: int) -> None:
        self.random = Random(seed)

    def step(self, action: Action) -> Observation:
        self.seen += 1
        done = self.seen == self.turns
        told = Message("tool", f"turn {self.seen} draw {self.random.randrange(50)}")
        pays = 0.5 * (len(action.text) % 2 == 0) + 0.1 * self.seen
        return Observation((told,), pays, done, {"odd": float(len(action.text) % 2)})

    def close(self) -> None:
        pass


class Script(Engine):
    """An engine that says what it is told to, turn after turn, and notes what it was asked."""

    def __init__(self, *turns: str | Sequence[int], finish: str = "eos") -> None:
        self.turns = turns
        self.finish = finish
        self.asked: list[Request] = []
        self.params: list[SamplingParams] = []
        self._told: dict[tuple[int, ...], int] = {}

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, progress: Any = None
    ) -> list[list[Completion]]:
        self.asked += requests
        self.params.append(params)
        return [[self._say(r, params) for _ in range(r.n)] for r in requests]

    def _say(self, request: Request, params: SamplingParams) -> Completion:
        history = tuple(request.prompt_ids)
        turn = max((t for h, t in self._told.items() if history[: len(h)] == h), default=0)
        said = self.turns[turn % len(self.turns)]
        ids = said if not isinstance(said, str) else tw.tokenizer()(said).input_ids
        ids = [*ids, tw.EOS] if self.finish == "eos" else list(ids)
        cut = len(ids) > params.max_new_tokens
        ids = ids[: params.max_new_tokens]
        self._told[(*history, *ids)] = turn + 1
        text = tw.tokenizer().decode(ids, skip_special_tokens=True)
        finish: Any = "length" if cut or self.finish == "length" else self.finish
        return Completion(tuple(ids), -0.5 - torch.arange(len(ids)) / 10, finish, text)

    def sync_weights(self) -> None:
        pass

    def rest(self) -> None:
        pass


def runner(
    make: Callable[[], Any] = Adder,
    *,
    template: str | None = None,
    calls: Any = "hermes",
    show_tools: bool = False,
    max_prompt: int = 150,
    **settings: Any,
) -> EpisodeRunner:
    dialogue = Dialogue(
        encoder(template, max_prompt), tools=make().tools, calls=calls, show_tools=show_tools
    )
    settings = {"max_turns": 4, "max_episode_tokens": 100, "window": 250} | settings
    return EpisodeRunner("task", make, dialogue, calls=calls, **settings)


def algorithm(
    name: str = "grpo",
    *,
    make: Callable[[], Any] = Chatter,
    samples: int = 4,
    prompts: int = 3,
    iterations: int = 4,
    max_reward_errors: float = 0.5,
    reward: Any = None,
    meta: dict[int, dict[str, Any]] | None = None,
    runner_settings: dict[str, Any] | None = None,
    new_tokens: int = 6,
    seed: int = 0,
    engine: Any = None,
    **settings: Any,
) -> Learner:
    """A method of the registry on the tiny policy, in an environment."""
    trunk = tw.trunk(seed)
    policy = Role("policy", trunk, trainable=True)
    roles: dict[str, Any] = {"policy": policy}
    for role in tw.role_names(name, **settings):
        if role == "reference":
            roles[role] = Role("reference", tw.trunk(seed + 1))
        if role == "value_model":
            roles[role] = Role("value_model", tw.trunk(seed + 2), head=tw.head(1), trainable=True)
    played = runner(make, **(runner_settings or {}))
    asked = [prompt(f"p{i}", f"question {i}", **(meta or {}).get(i, {})) for i in range(prompts)]
    tokens = played.dialogue
    encoded = [EncodedPrompt(p, tokens.encode(p)) for p in asked]
    bench = Workbench(
        roles,
        seed=seed + 11,
        batch_size=prompts,
        iterations=iterations,
        tokens_per_microbatch=100_000,
    )
    given = Played(
        engine or TorchEngine(trunk.model, tw.tokenizer(), eos_token_ids=ENDS),
        reward,
        environment=played,
        sampling=Sampling(SamplingParams(max_new_tokens=new_tokens), samples),
        max_reward_errors=max_reward_errors,
    )
    return tw.on_prompts(name, bench, given, settings, prompts=encoded, held_out=encoded[:2])
