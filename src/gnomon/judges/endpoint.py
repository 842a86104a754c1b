"""A judge's model behind an OpenAI-compatible endpoint: a provider's, vLLM's, llama.cpp's."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError
from gnomon.files import first_line
from gnomon.judges.answers import Answerer, Done, Reply
from gnomon.judges.budget import Budget, Pace
from gnomon.judges.lines import FIRST_PAUSE, LONGEST_PAUSE, Line, Lines
from gnomon.judges.prompting import Question
from gnomon.judges.reading import (
    UNREAD,
    Position,
    read_choice,
    read_object,
    read_order,
    read_positions,
    read_probabilities,
    shortened,
    write_order,
)
from gnomon.records import Cost

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
DEAD_AFTER = 3
"""Questions in a row that find no endpoint before the others are not asked."""
_TOP = 20
_TOKENS_PER_CHARACTER = 0.5
"""What a question is taken to have before any was answered: twice what English has."""


@dataclass
class Endpoint(Answerer):
    """Asks a chat model over HTTP.

    Args:
        model: its name there.
        url: of the API; OpenAI's where None. Several serve the same model, and share the questions.
        api_key_env: the environment variable with the key.
        temperature, seed, max_tokens: of its answers; ``max_tokens`` of one with a reason, or of
            free text.
        logprobs: "auto" asks for them until the endpoint refuses.
        timeout_s, retries: of one request.
        concurrency: requests at the same time.
        price_input, price_output: for a million tokens.
        requests_per_minute, tokens_per_minute: what it may be asked at most.
        patience_s: how long an endpoint that is gone is waited for, from its last answer on.
        extra: more of the request's body; None takes a key out of it.
        cap: what answers may cost; questions beyond it are not asked.
        tell: hears that the endpoint is waited for.
        sleep: waits for so many seconds.

    Raises:
        ConfigError: the openai package or the key is missing.
    """

    model: str
    url: str | Sequence[str] | None = None
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
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    patience_s: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    cap: Budget | None = None
    tell: Callable[[str], None] = lambda text: None
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if find_spec("openai") is None:
            raise ConfigError(
                "an AI judge behind an endpoint needs the openai package: pip install openai"
            )
        urls = [self.url or OPENAI] if not self.url or isinstance(self.url, str) else self.url
        self._lines = Lines([str(url) for url in urls])
        self._key = self._read_key()
        self._with_logprobs = self.logprobs != "no"
        self._with_schema = True
        self._pace = Pace(self.requests_per_minute, self.tokens_per_minute, sleep=self.sleep)
        self._lock = threading.Lock()
        self._dead = ""
        self._lasting = False
        self._missed = 0
        self._ratio: float | None = None

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
            "url": self._lines.every[0].url if len(self._lines.every) == 1 else "several",
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "logprobs": self.logprobs,
            "extra": dict(self.extra),
        }

    def _client(self, url: str) -> OpenAI:
        from openai import DefaultHttpxClient, OpenAI

        paced = {"request": [lambda request: self._pace.request()]}  # each try of a question
        return OpenAI(
            base_url=url,
            api_key=self._key,
            timeout=self.timeout_s,
            max_retries=self.retries,
            http_client=DefaultHttpxClient(event_hooks=paced),
        )

    def answer(self, questions: Sequence[Question], done: Done) -> None:
        """Ask, several at a time. Where every endpoint is gone, the rest is not asked before one is
        back; after ``patience_s`` without an answer it is not asked at all."""
        for line in self._lines.every:  # made here, not in several threads
            line.client = line.client or self._client(line.url)
        left, waited, pause = list(enumerate(questions)), 0.0, FIRST_PAUSE
        while left:
            missed = self._ask_all(left, done)
            if len(missed) < len(left):
                waited, pause = 0.0, FIRST_PAUSE
            if self._lasting or not missed or waited >= self.patience_s:
                for place, reply in missed.items():
                    done(place, reply)
                return
            pause = min(pause, self.patience_s - waited)
            first = next(iter(missed.values())).error
            self.tell(f"{first}; {len(missed)} questions are asked again in {pause:.0f} s")
            self.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)
            left = [(place, question) for place, question in left if place in missed]

    def _ask_all(self, asked: Sequence[tuple[int, Question]], done: Done) -> dict[int, Reply]:
        """Ask once; gives what found no endpoint, tells the others."""
        self._dead, self._lasting, self._missed = "", False, 0
        self._lines.forgive()
        missed: dict[int, Reply] = {}

        def one(place: int, question: Question) -> None:
            reply = self._ask(question)
            if reply.gone:
                missed[place] = reply
            else:
                done(place, reply)

        pool = ThreadPoolExecutor(max_workers=min(self.concurrency, len(asked)))
        try:
            for future in [pool.submit(one, place, question) for place, question in asked]:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return dict(sorted(missed.items()))

    def _ask(self, question: Question) -> Reply:
        """The answer, within the budget and the pace."""
        if self._dead:
            return Reply(error=self._dead, came=False, gone=True)
        most = self._most(question)
        if self.cap is not None and not self.cap.reserve(most):
            reason = f"not asked: the budget is spent ({self.cap})"
            return Reply(error=reason, came=False, over=True)
        reply = Reply(error="stopped", came=False)
        try:
            self._pace.read(most.tokens)
            reply = self._once(question)
        finally:
            self._pace.settle(most.tokens, reply.tokens)
            if self.cap is not None:
                self.cap.settle(most, reply.cost)
        return reply

    def _most(self, question: Question) -> Cost:
        """What a question takes at most, as far as that is known before it is asked."""
        ratio = _TOKENS_PER_CHARACTER if self._ratio is None else 1.1 * self._ratio
        read = 32 + round(ratio * (len(question.system) + len(question.user)))
        written = self._longest(question)
        return Cost(0.0, read + written, self._price(read, written))

    def _longest(self, question: Question) -> int:
        free = question.reason or not question.choices
        return self.max_tokens if free else question.tokens

    def _price(self, read: int, written: int) -> float:
        return (read * self.price_input + written * self.price_output) / 1e6

    def _once(self, question: Question) -> Reply:
        """The answer of the first endpoint that is there."""
        tried: list[Line] = []
        line, why = self._lines.take(()), self._dead or self._lines.every[0].refuses
        reply = Reply(error=why, came=False, gone=True)
        while line is not None:
            reply = self._asked(question, line)
            news = self._lines.back(line, reply.gone)
            if not reply.gone:
                return reply
            tried.append(line)
            line = self._lines.take(tried)
            if line is not None and news:
                warnings.warn(f"{reply.error}; the other endpoints are asked", stacklevel=2)
        if all(line.refuses for line in self._lines.every):
            self._lasting, self._dead = True, reply.error or self._dead
        elif tried:
            self._missing(reply.error or "")
        return reply

    def _asked(self, question: Question, line: Line) -> Reply:
        from openai import (
            APIConnectionError,
            APIStatusError,
            APITimeoutError,
            AuthenticationError,
            BadRequestError,
            NotFoundError,
            OpenAIError,
            PermissionDeniedError,
            UnprocessableEntityError,
        )

        began, where = time.perf_counter(), f"{line.url}, model {self.model}"
        logprobs, schema = self._with_logprobs, self._with_schema
        try:
            found = self._request(question, line, logprobs, schema)
        except (BadRequestError, UnprocessableEntityError) as error:
            if self._does_without(question, str(error).lower(), logprobs, schema):
                return self._asked(question, line)
            reason = f"{where} refused the question: {first_line(error)}"
            return Reply(error=reason, came=False)
        except (AuthenticationError, PermissionDeniedError, NotFoundError) as error:
            more = line.served() if isinstance(error, NotFoundError) else ""
            line.refuses = f"{where}: {first_line(error)}{more}"
            return Reply(error=line.refuses, came=False, gone=True)
        except (OpenAIError, ValueError) as error:
            reason = f"{where} did not answer: {_reason(error)}"
            if isinstance(error, APITimeoutError):
                reason += f"; timeout_s is {self.timeout_s:g}: raise it, or lower concurrency"
            gone = isinstance(error, APIConnectionError | APIStatusError)
            return Reply(error=reason, came=False, gone=gone)
        with self._lock:
            self._missed = 0
        return self._read(found, question, time.perf_counter() - began)

    def _does_without(self, question: Question, problem: str, logprobs: bool, schema: bool) -> bool:
        """Whether the endpoint refused what a question can do without, which is then left out.

        Args:
            problem: what it said.
            logprobs, schema: whether it was asked for them: others may have been refused meanwhile.
        """
        if logprobs and self.logprobs == "auto" and "logprob" in problem:
            self._with_logprobs = False
            return True
        named = any(word in problem for word in ("response_format", "schema", "grammar"))
        if question.form == "object" and schema and named:
            self._with_schema = False
            return True
        return False

    def _missing(self, reason: str) -> None:
        """Count questions in a row that found no endpoint."""
        with self._lock:
            self._missed += 1
            if self._missed >= DEAD_AFTER and not self._dead:
                self._dead = f"{reason} ({self._missed} times in a row; the rest was not asked)"

    def _request(self, question: Question, line: Line, logprobs: bool, schema: bool) -> Any:
        messages = [{"role": "user", "content": question.user}]
        if question.system:
            messages.insert(0, {"role": "system", "content": question.system})
        body: dict[str, Any] = {
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self._longest(question),
        }
        if question.form == "object" and schema:
            body["response_format"] = _schema(question)
        if logprobs and question.choices:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        body |= self.extra
        own = {key: value for key, value in body.items() if value is not None}
        return line.client.chat.completions.create(
            model=self.model,
            messages=messages,
            extra_body=own,
        )

    def _read(self, found: Any, question: Question, seconds: float) -> Reply:
        usage = getattr(found, "usage", None)
        used = [int(getattr(usage, n, 0) or 0) for n in ("prompt_tokens", "completion_tokens")]
        if used[0]:
            ratio = used[0] / max(1, len(question.system) + len(question.user))
            self._ratio = max(ratio, self._ratio or 0.0)
        reply = Reply(seconds=seconds, tokens=sum(used), money=self._price(*used))
        first = next(iter(getattr(found, "choices", None) or ()), None)
        message = getattr(first, "message", None)
        if message is None:
            return replace(reply, error="the endpoint's answer holds no message")
        text = str(message.content or "")
        reply = replace(reply, text=text)
        finish = getattr(first, "finish_reason", None)
        positions = read_positions(getattr(first, "logprobs", None))
        if finish == "content_filter":
            return replace(
                reply, error=f"the endpoint's content filter stopped it: {shortened(text)}"
            )
        if question.form == "object":
            return self._read_object(reply, question, positions, finish, message)
        if question.form == "order":
            order = read_order(text, question)
            if order is None:
                return replace(reply, error=_unreadable(text, message, finish, question))
            return replace(reply, choice=write_order(order))
        if not question.choices:
            refusal = getattr(message, "refusal", None)
            error = f"the model refused: {shortened(str(refusal))}" if refusal else None
            return replace(reply, error=error, finished=finish != "length")
        choice = read_choice(text, question)
        if choice is None:
            return replace(reply, error=_unreadable(text, message, finish, question))
        told = read_probabilities(positions, choice[1], question.choices, text)
        if told is None and self.logprobs == "yes":
            return replace(reply, error="the endpoint gave no log-probs of its verdict")
        return replace(reply, choice=choice[0], probabilities=told)

    def _read_object(
        self,
        reply: Reply,
        question: Question,
        positions: Sequence[Position],
        finish: str | None,
        message: Any,
    ) -> Reply:
        found = read_object(reply.text, question)
        if isinstance(found, str):
            problem = _unreadable(reply.text, message, finish, question)
            return replace(reply, error=f"{found}: {problem}")
        yes, told = question.choices[0], {}
        for key, (word, at) in found.items():
            shares = None
            if positions and at >= 0:
                shares = read_probabilities(positions, at, question.choices, reply.text)
            if shares is None and self.logprobs == "yes":
                return replace(reply, error="the endpoint gave no log-probs of its verdicts")
            told[key] = float(word == yes) if shares is None else shares[yes]
        return replace(reply, probabilities=told)


def _reason(error: Exception) -> str:
    cause = error.__cause__
    return first_line(error) + (f" ({first_line(cause)})" if cause is not None else "")


def _unreadable(text: str, message: Any, finish: str | None, question: Question) -> str:
    refusal = getattr(message, "refusal", None)
    if refusal:
        return f"the judge refused: {shortened(str(refusal))}"
    if finish == "length" and (question.reason or question.form != "choice"):
        return f"cut off at max_tokens before its verdict: {shortened(text)}"
    return f"{UNREAD}: {shortened(text)}"


def _schema(question: Question) -> dict[str, Any]:
    """The object that is to be written, as OpenAI's ``response_format``."""
    one: dict[str, Any] = {"type": "string", "enum": list(question.choices)}
    properties: dict[str, Any] = {"reason": {"type": "string"}} if question.reason else {}
    properties |= dict.fromkeys(question.keys, one)
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    named = {"name": "verdicts", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": named}
