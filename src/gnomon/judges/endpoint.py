"""A judge's model behind an OpenAI-compatible endpoint: a provider's, vLLM's, llama.cpp's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError
from gnomon.files import first_line
from gnomon.judges.answers import Answerer, Done, Reply
from gnomon.judges.prompting import (
    Position,
    Question,
    read_choice,
    read_probabilities,
    shortened,
)

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
DEAD_AFTER = 3
"""Questions in a row that find no endpoint before the others are not asked."""
_TOP = 20
_SHORT = 8


@dataclass
class Endpoint(Answerer):
    """Asks a chat model over HTTP.

    Args:
        model: its name there.
        url: of the API; OpenAI's where None.
        api_key_env: the environment variable with the key.
        temperature, seed, max_tokens: of its answers; ``max_tokens`` of one with a reason.
        logprobs: "auto" asks for them until the endpoint refuses.
        timeout_s, retries: of one request.
        concurrency: requests at the same time.
        price_input, price_output: for a million tokens.
        extra: more of the request's body; None takes a key out of it.

    Raises:
        ConfigError: the openai package or the key is missing.
    """

    model: str
    url: str | None = None
    api_key_env: str | None = None
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 512
    logprobs: str = "auto"
    timeout_s: float = 60.0
    retries: int = 3
    concurrency: int = 8
    price_input: float = 0.0
    price_output: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if find_spec("openai") is None:
            raise ConfigError(
                "an AI judge behind an endpoint needs the openai package: pip install openai"
            )
        self._key = self._read_key()
        self._with_logprobs = self.logprobs != "no"
        self._lock = threading.Lock()
        self._dead = ""
        self._missed = 0

    def _read_key(self) -> str:
        name = self.api_key_env or KEY
        key = os.environ.get(name, "")
        if not key and (self.api_key_env or self.url is None):
            raise ConfigError(
                f"the AI judge's key: the environment variable {name} is not set. Set it, name "
                "another one (api_key_env), or give the url of an endpoint that needs no key"
            )
        return key or "none"

    def settings(self) -> Mapping[str, Any]:
        return {
            "url": self.url or OPENAI,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "logprobs": self.logprobs,
            "extra": dict(self.extra),
        }

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(
            base_url=self.url or OPENAI,
            api_key=self._key,
            timeout=self.timeout_s,
            max_retries=self.retries,
        )

    def answer(self, questions: Sequence[Question], done: Done) -> None:
        """Ask, several at a time; where the endpoint is gone, the rest is not asked."""
        _ = self._client  # made here, not in several threads
        self._dead, self._missed = "", 0
        pool = ThreadPoolExecutor(max_workers=min(self.concurrency, len(questions)))
        try:
            asked = [pool.submit(self._one, i, q, done) for i, q in enumerate(questions)]
            for future in asked:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, place: int, question: Question, done: Done) -> None:
        done(place, self._ask(question))

    def _ask(self, question: Question) -> Reply:
        from openai import (
            APIConnectionError,
            APIStatusError,
            AuthenticationError,
            BadRequestError,
            NotFoundError,
            OpenAIError,
            PermissionDeniedError,
            UnprocessableEntityError,
        )

        if self._dead:
            return Reply(error=self._dead, came=False)
        began = time.perf_counter()
        where = f"{self.url or OPENAI}, model {self.model}"
        try:
            found = self._request(question)
        except (BadRequestError, UnprocessableEntityError) as error:
            if self._with_logprobs and self.logprobs == "auto" and "logprob" in str(error).lower():
                self._with_logprobs = False
                return self._ask(question)
            return Reply(error=f"{where} refused the question: {first_line(error)}", came=False)
        except (AuthenticationError, PermissionDeniedError, NotFoundError) as error:
            self._dead = f"{where}: {first_line(error)}"
            return Reply(error=self._dead, came=False)
        except (OpenAIError, ValueError) as error:
            reason = f"{where} did not answer: {_reason(error)}"
            gone = isinstance(error, APIConnectionError | APIStatusError)
            return Reply(error=self._missing(reason, gone), came=False)
        with self._lock:
            self._missed = 0
        return self._read(found, question, time.perf_counter() - began)

    def _missing(self, reason: str, gone: bool) -> str:
        """Count questions in a row that found no endpoint."""
        with self._lock:
            self._missed += gone
            if self._missed >= DEAD_AFTER and not self._dead:
                self._dead = f"{reason} ({self._missed} times in a row; the rest was not asked)"
        return reason

    def _request(self, question: Question) -> Any:
        messages = [{"role": "user", "content": question.user}]
        if question.system:
            messages.insert(0, {"role": "system", "content": question.system})
        body: dict[str, Any] = {
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens if question.reason else _SHORT,
        }
        if self._with_logprobs:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        body |= self.extra
        own = {key: value for key, value in body.items() if value is not None}
        return self._client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            extra_body=own,
        )

    def _read(self, found: Any, question: Question, seconds: float) -> Reply:
        usage = getattr(found, "usage", None)
        used = [int(getattr(usage, n, 0) or 0) for n in ("prompt_tokens", "completion_tokens")]
        money = (used[0] * self.price_input + used[1] * self.price_output) / 1e6
        reply = Reply(seconds=seconds, tokens=sum(used), money=money)
        first = next(iter(getattr(found, "choices", None) or ()), None)
        message = getattr(first, "message", None)
        if message is None:
            return replace(reply, error="the endpoint's answer holds no message")
        text = str(message.content or "")
        reply = replace(reply, text=text)
        choice = read_choice(text, question)
        if choice is None:
            finish = getattr(first, "finish_reason", None)
            return replace(reply, error=_unreadable(text, message, finish, question))
        positions = _positions(getattr(first, "logprobs", None))
        told = read_probabilities(positions, choice[1], question.choices) if positions else None
        if told is None and self.logprobs == "yes":
            return replace(reply, error="the endpoint gave no log-probs of its verdict")
        return replace(reply, choice=choice[0], probabilities=told)


def _reason(error: Exception) -> str:
    cause = error.__cause__
    return first_line(error) + (f" ({first_line(cause)})" if cause is not None else "")


def _unreadable(text: str, message: Any, finish: str | None, question: Question) -> str:
    refusal = getattr(message, "refusal", None)
    if refusal:
        return f"the judge refused: {shortened(str(refusal))}"
    if finish == "length" and question.reason:
        return f"cut off at max_tokens before its verdict: {shortened(text)}"
    return f"not an answer in the form asked for: {shortened(text)}"


def _positions(logprobs: Any) -> list[Position]:
    content = getattr(logprobs, "content", None) or []
    return [
        Position(
            str(item.token),
            {str(top.token): float(top.logprob) for top in item.top_logprobs or ()}
            or {str(item.token): float(item.logprob)},
        )
        for item in content
    ]
