"""Log-probabilities of a model behind an OpenAI-compatible API, for texts that exist already.

A text is sent as token ids to ``/completions`` and its own tokens' log-probs come back: as vLLM's
``prompt_logprobs``, or, from servers that ignore or refuse that, by ``echo`` and ``logprobs``. They
are those of the model itself, at temperature 1.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch
from torch import Tensor

from gnomon.errors import ConfigError, EngineError
from gnomon.files import first_line
from gnomon.records import TokenGroup

PAUSES = (1.0, 5.0, 25.0)
"""Seconds before each further try of a request that the server did not answer."""
_AGAIN = (408, 429, 500, 502, 503, 504)
_REFUSED = (400, 422)


@dataclass
class RemoteModel:
    """A model that scores texts over HTTP.

    Args:
        model: its name there.
        url: of the API (``http://host:8000/v1``).
        tokenizer: whose tokens are sent; the model's has to be the same.
        api_key_env: the environment variable with the key.
        concurrency, timeout_s: requests at the same time, and how long one may take.
        sleep: waits for so many seconds.

    Raises:
        ConfigError: the key is not set, or the url is none.
    """

    model: str
    url: str
    tokenizer: Any
    api_key_env: str | None = None
    concurrency: int = 8
    timeout_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep
    _echo: bool = field(default=False, init=False)
    _same: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url {self.url!r}: it has to begin with http:// or https://")
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else "none"
        if not key:
            raise ConfigError(f"the environment variable {self.api_key_env} is not set (the key)")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"}, timeout=self.timeout_s, trust_env=False
        )

    def logprobs(self, groups: Sequence[TokenGroup]) -> Tensor:
        """[R] log-probs (nats) of all response tokens in order.

        Raises:
            EngineError: the server cannot be reached, or gives something else.
            ConfigError: it knows no such model, or its tokens are not these.
        """
        texts = [(list(g.prompt_ids), list(r.ids)) for g in groups for r in g.responses]
        if not texts:
            return torch.zeros(0)
        first = self._one(*texts[0])  # by itself: it finds out how the server has to be asked
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            rest = list(pool.map(lambda text: self._one(*text), texts[1:]))
        return torch.tensor([value for row in (first, *rest) for value in row])

    def _one(self, prompt: list[int], response: list[int]) -> list[float]:
        """The log-probs of the response's tokens."""
        ids = [*prompt, *response]
        if not self._echo:
            choice = self._ask(ids, {"prompt_logprobs": 0}, may_refuse=True)
            rows = choice.get("prompt_logprobs")
            if rows is not None:
                return self._picked(rows, ids)[len(prompt) :]
            self._echo = True
        told = self._ask(ids, {"echo": True, "logprobs": 1}).get("logprobs")
        if not isinstance(told, dict) or not isinstance(told.get("token_logprobs"), list):
            raise ConfigError(
                f"{self._where} gives no log-probs of a text: it answers neither prompt_logprobs "
                "(vLLM) nor echo with logprobs. Serve the teacher with vLLM, or give its folder"
            )
        values = told["token_logprobs"]
        if not len(ids) <= len(values) <= len(ids) + 1:
            raise self._other_tokens(f"{len(ids)} tokens came back as {len(values)}")
        self._compare(ids, told.get("tokens") or ())
        return [self._finite(value) for value in values[len(prompt) : len(ids)]]

    def _picked(self, rows: Any, ids: Sequence[int]) -> list[float]:
        """Each token's own entry; the first has none, since nothing precedes it."""
        if not isinstance(rows, list) or len(rows) != len(ids):
            raise self._other_tokens(f"{len(ids)} tokens were sent, and other ones came back")
        values, texts = [math.nan], [""]
        for row, token in zip(rows[1:], ids[1:], strict=True):
            own = row.get(str(token)) if isinstance(row, dict) else None
            if not isinstance(own, dict):
                raise self._other_tokens(f"it knows no token {token}")
            values.append(self._finite(own.get("logprob")))
            texts.append(str(own.get("decoded_token") or ""))
        self._compare(ids, texts)
        return values

    def _compare(self, ids: Sequence[int], texts: Sequence[str]) -> None:
        """Check on the first text that its tokens are the same words there."""
        if self._same:
            return
        there = _letters("".join(texts[1 : len(ids)]))
        here = _letters(self.tokenizer.decode(list(ids[1:]), skip_special_tokens=False))
        if there and there != here:
            raise self._other_tokens(f"{here[:40]!r} reads {there[:40]!r} there")
        self._same = True

    def _other_tokens(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._where} has another tokenizer than the policy ({why}), so their probabilities "
            "cannot be compared token by token. Take a teacher with the policy's tokenizer, or let "
            "it write answers and train sft on them"
        )

    def _finite(self, value: Any) -> float:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise EngineError(f"{self._where} gave a log-prob that is no number: {value!r}")
        return float(value)

    @property
    def _where(self) -> str:
        return f"the teacher at {self.url} (model {self.model})"

    def _ask(
        self, ids: Sequence[int], more: Mapping[str, Any], may_refuse: bool = False
    ) -> dict[str, Any]:
        """The answer's one choice; empty where the server does not take the request and may."""
        url = f"{self.url.rstrip('/')}/completions"
        body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0}
        for pause in (*PAUSES, None):
            try:
                reply = self._client.post(url, json={**body, **more})
            except httpx.HTTPError as error:
                problem = f"did not answer: {first_line(error)}"
            else:
                if reply.status_code == 200:
                    return self._choice(reply)
                if may_refuse and reply.status_code in _REFUSED:
                    return {}
                problem = f"answered {reply.status_code}: {reply.text[:200]}"
                if reply.status_code not in _AGAIN:
                    raise ConfigError(f"{self._where} {problem}")
            if pause is not None:
                self.sleep(pause)
        raise EngineError(f"{self._where} {problem}; start it, and resume with --resume")

    def _choice(self, reply: httpx.Response) -> dict[str, Any]:
        try:
            choice = reply.json()["choices"][0]
        except (ValueError, LookupError, TypeError):
            choice = None
        if not isinstance(choice, dict):
            raise EngineError(f"{self._where} answered something else: {reply.text[:200]}")
        return choice


def _letters(text: str) -> str:
    """A text without what decoding token by token changes: spaces, and characters cut in two."""
    return "".join(c for c in text if not c.isspace() and c != "\N{REPLACEMENT CHARACTER}")
