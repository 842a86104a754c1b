"""gnomon's engine as a model provider of inspect_ai, registered in this process as ``gnomon``.

inspect asks for one answer at a time, from many samples at once; what is asked at the same moment
goes to the engine together. Answers are kept by the hash of their request, so a killed eval
continues. What the engine cannot do (images, penalties) is an error that says so; for tools see
:mod:`gnomon.evals.inspect_tools`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

from gnomon.agents.dialogue import CallFormat
from gnomon.agents.environment import Tool
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, DataError
from gnomon.evals.inspect_tools import RAW, Talk, own_tools, said_before
from gnomon.evals.rows import Rows
from gnomon.evals.subject import request_seed
from gnomon.records import Message, Prompt
from gnomon.rollout.protocol import Engine, Request, SamplingParams

PROVIDER = "gnomon"
GATHER_SECONDS = 0.02
"""How long a request waits for others that are asked at the same moment."""
_REFUSED = (
    *("frequency_penalty", "presence_penalty", "logit_bias", "best_of", "logprobs"),
    *("top_logprobs", "prompt_logprobs", "response_schema"),
)
_REASONS: Mapping[str, StopReason] = {"eos": "stop", "stop": "stop", "length": "max_tokens"}


@dataclass
class _Waiting:
    """A request and, once it is there, its answer."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    seed: int
    key: str
    row: Mapping[str, Any] | None = None


@dataclass
class Answerer:
    """Answers what inspect asks.

    Args:
        engine: samples.
        encoder: writes conversations as tokens.
        answers: kept answers, by request.
        window: tokens that a prompt and its answer may take.
        max_new_tokens, temperature: where a task does not say.
        seed: of sampled answers.
        watch: called with (requests answered, requests so far); what it raises stops the eval.
        calls: how tool calls are written, where the chat template does not say.

    Attributes:
        refused: what the engine cannot do, or what stopped it: the eval ends with it.
    """

    engine: Engine
    encoder: Encoder
    answers: Rows
    window: int
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    watch: Callable[[int, int], None] | None = None
    calls: CallFormat | None = None
    refused: BaseException | None = None
    _asked: set[str] = field(default_factory=set)
    _queue: list[_Waiting] = field(default_factory=list)
    _lock: anyio.Lock = field(default_factory=anyio.Lock)
    _drawn: Counter[str] = field(default_factory=Counter)

    async def ask(self, messages: Sequence[Message], config: GenerateConfig) -> _Waiting:
        """The answer to a conversation.

        Raises:
            ConfigError: the engine cannot do what is asked.
            DataError: the prompt does not fit.
        """
        waiting = self._request(messages, config)
        if self.answers.has(waiting.key):
            waiting.row = self.answers.get(waiting.key)
        else:
            self._queue.append(waiting)
        async with self._lock:
            if waiting.row is None:
                await anyio.sleep(GATHER_SECONDS)
                alike = [one for one in self._queue if one.params == waiting.params]
                self._queue = [one for one in self._queue if one.params != waiting.params]
                try:
                    await anyio.to_thread.run_sync(self._generate, alike)
                except BaseException as error:  # no other batch would fare better
                    self.refused = error
                    raise
        return waiting

    def _request(self, messages: Sequence[Message], config: GenerateConfig) -> _Waiting:
        for name in _REFUSED:
            if getattr(config, name, None):
                raise ConfigError(f"gnomon's engine has no {name}, which the inspect task asks for")
        params = SamplingParams(
            max_new_tokens=config.max_tokens or self.max_new_tokens,
            temperature=self.temperature if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=config.top_k or 0,
            stop=tuple(config.stop_seqs or ()),
        )
        room = max(0, self.window - params.max_new_tokens)
        try:
            ids = self.encoder.encode_prompt(Prompt("inspect", tuple(messages)))
        except DataError as error:  # it names settings of training
            raise DataError(
                f"the prompt cannot be shown to the model, which takes {self.window} tokens with "
                f"the answer ({str(error).partition(';')[0]})"
            ) from error
        if len(ids) > room:
            raise DataError(
                f"the prompt has {len(ids)} tokens, and {room} fit beside {params.max_new_tokens} "
                "new ones; lower max_new_tokens"
            )
        asked = json.dumps([list(ids), repr(params), config.seed])
        key = hashlib.sha256(asked.encode()).hexdigest()
        if params.temperature:  # drawn again, as epochs do
            self._drawn[key] += 1
            key = f"{key}-{self._drawn[key]}"
        self._asked.add(key)
        seed = request_seed(self.seed if config.seed is None else config.seed, key)
        return _Waiting(ids, params, seed, key)

    def _generate(self, waiting: Sequence[_Waiting]) -> None:
        """Ask the engine for all of them, each distinct request once."""
        distinct = {one.key: one for one in waiting}
        requests = [Request(k, one.prompt_ids, seed=one.seed) for k, one in distinct.items()]
        drawn = self.engine.generate(requests, waiting[0].params)
        rows = []
        for request, (completion,) in zip(requests, drawn, strict=True):
            row = {"id": request.id, "text": completion.text, "tokens": len(completion.ids)}
            rows.append(
                {**row, "ended": completion.finish_reason, "asked": len(request.prompt_ids)}
            )
        self.answers.add(rows)
        for one in waiting:
            one.row = self.answers.get(one.key)
        if self.watch is not None:
            self.watch(sum(map(self.answers.has, self._asked)), len(self._asked))


_SERVING: dict[str, Answerer] = {}


@contextmanager
def serving(name: str, answerer: Answerer) -> Iterator[str]:
    """Within the block, inspect finds the model; yields the name by which it asks for it."""
    _SERVING[name] = answerer
    try:
        yield f"{PROVIDER}/{name}"
    finally:
        del _SERVING[name]


@modelapi(name=PROVIDER)
class EngineAPI(ModelAPI):
    """A model that is served in this process (see :func:`serving`)."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **unused: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if model_name not in _SERVING:
            raise ConfigError(
                f"no model {model_name!r} is served in this process: run the task with "
                "`gnomon eval MODEL inspect/TASK`"
            )
        self._answerer = _SERVING[model_name]

    def max_tokens(self) -> int | None:
        return self._answerer.max_new_tokens

    def max_connections(self) -> int:
        return 64

    def connection_key(self) -> str:
        return f"{PROVIDER}/{self.model_name}"

    def should_retry(self, ex: BaseException) -> bool:
        return False

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        answerer = self._answerer
        if answerer.refused is not None:
            raise answerer.refused
        name = f"{PROVIDER}/{self.model_name}"
        try:
            given = own_tools(tools, tool_choice)
            talk = self._talk(input, given)
            turns = (
                [Message(one.role, one.text) for one in input]
                if talk is None
                else talk.turns(input, given)
            )
            found = await answerer.ask(turns, config)
        except ConfigError as error:  # the same for every sample
            answerer.refused = error
            raise
        row = cast(Mapping[str, Any], found.row)
        calls = talk.calls(str(row["text"]), given, found.key) if talk is not None else []
        return _output(name, row, calls, talk)

    def _talk(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> Talk | None:
        """How tools are called in a conversation; None where there are none.

        Raises:
            ConfigError: it holds more than text, or tools that the model's template does not know.
        """
        for message in messages:
            _check_text(message)
        used = any(m.role == "tool" or getattr(m, "tool_calls", None) for m in messages)
        if not (tools or used):
            return None
        answerer = self._answerer
        return Talk.of(answerer.encoder, answerer.calls, self.model_name)


def _check_text(message: ChatMessage) -> None:
    if isinstance(message.content, list):
        other = [part.type for part in message.content if part.type not in ("text", "reasoning")]
        if other:
            raise ConfigError(f"the inspect task shows the model {other[0]}; it reads text alone")


def _output(
    model: str, row: Mapping[str, Any], calls: Sequence[ToolCall], talk: Talk | None
) -> ModelOutput:
    text = str(row["text"])
    said = said_before(text, talk.how) if calls and talk is not None else text
    message = ChatMessageAssistant(
        content=said,
        model=model,
        source="generate",
        tool_calls=list(calls) or None,
        metadata={RAW: text} if calls else None,
    )
    reason: StopReason = "tool_calls" if calls else _REASONS[str(row["ended"])]
    asked, tokens = int(row["asked"]), int(row["tokens"])
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
        usage=ModelUsage(input_tokens=asked, output_tokens=tokens, total_tokens=asked + tokens),
    )
