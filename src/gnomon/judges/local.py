"""A judge's model in this process: the log-probs of each choice after one pass of the prompt."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from gnomon.data.batch import microbatches, pack
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, DataError
from gnomon.judges.answers import Answerer, Done, Reply
from gnomon.judges.prompting import Question
from gnomon.losses.reduce import response_logprobs
from gnomon.models.load import fetch, fingerprint, load_causal_lm
from gnomon.models.roles import Role, Trunk
from gnomon.records import Message, Prompt, TokenGroup, TokenResponse


@dataclass
class LocalModel(Answerer):
    """Computes the probability of each choice as the model's next words; samples nothing.

    Args:
        model: a folder or a name, as a recipe's ``model``; its weights are read when it is first
            asked.
        dtype, device: as a recipe's.
        tokens_per_microbatch: packed tokens of one forward pass.

    Raises:
        ModelError: there is no such model.
    """

    model: str
    dtype: str = "float32"
    device: str = "cpu"
    tokens_per_microbatch: int = 8192

    def __post_init__(self) -> None:
        self._folder = fetch(self.model)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._folder)

    def settings(self) -> Mapping[str, Any]:
        return {"weights": self._fingerprint, "dtype": self.dtype}

    @cached_property
    def _role(self) -> Role:
        loaded = load_causal_lm(self._folder, dtype=self.dtype, device=self.device)
        return Role("judge", Trunk.from_loaded(loaded))

    @cached_property
    def _encoder(self) -> Encoder:
        config = self._role.trunk.model.config.get_text_config()
        window = getattr(config, "max_position_embeddings", None) or 1_000_000
        return Encoder(self._role.trunk.tokenizer, max_length=window, max_prompt_length=window - 4)

    def answer(self, questions: Sequence[Question], done: Done) -> None:
        """Compute them; one that is longer than the model's window is an error."""
        groups: list[TokenGroup] = []
        for place, question in enumerate(questions):
            if question.reason:
                raise ConfigError("a model in this process gives no reasons: set reason: false")
            try:
                groups.append(self._group(place, question))
            except DataError as error:
                done(place, Reply(error=f"{self.model} cannot be asked: {error}", came=False))
        for part in microbatches(groups, self.tokens_per_microbatch):
            self._pass(part, questions, done)

    @torch.no_grad()
    def _pass(self, part: Sequence[TokenGroup], questions: Sequence[Question], done: Done) -> None:
        """One forward pass over several questions."""
        began = time.perf_counter()
        batch = pack(part).to(self._role.trunk.model.device)
        tokens = self._role.logprobs(batch).logprobs
        sums = response_logprobs(
            tokens, batch.response_mask, batch.response_of, batch.num_responses
        ).tolist()
        seconds, total = time.perf_counter() - began, sum(g.num_tokens() for g in part)
        for group in part:
            place = int(group.id)
            own, sums = sums[: len(group.responses)], sums[len(group.responses) :]
            ids = [tuple(r.ids) for r in group.responses]
            shares = choice_probabilities(ids, own)
            choices = questions[place].choices
            best = max(range(len(shares)), key=shares.__getitem__)
            n = group.num_tokens()
            done(
                place,
                Reply(
                    probabilities=dict(zip(choices, shares, strict=True)),
                    choice=choices[best],
                    seconds=seconds * n / total,
                    tokens=n,
                ),
            )

    def _group(self, place: int, question: Question) -> TokenGroup:
        """The prompt once, and each choice as a response to it."""
        messages = [Message("system", question.system), Message("user", question.user)]
        prompt = Prompt(str(place), tuple(m for m in messages if m.content))
        responses = []
        for choice in question.choices:
            ids = self._encoder.tokenizer(choice, add_special_tokens=False)["input_ids"]
            responses.append(TokenResponse(ids, [True] * len(ids)))
        return TokenGroup(str(place), self._encoder.encode_prompt(prompt), tuple(responses))


def choice_probabilities(ids: Sequence[Sequence[int]], logprobs: Sequence[float]) -> list[float]:
    """The probability of each choice among all of them.

    Args:
        ids: the tokens of each.
        logprobs: of each one's tokens together, in nats. Of a choice whose tokens begin another's
            (1 and 10, where digits are tokens) the other's probability is taken off.

    Raises:
        ValueError: two choices have the same tokens, so nothing tells them apart.
    """
    if len(set(map(tuple, ids))) < len(ids):
        raise ValueError("two choices have the same tokens")
    top = max(logprobs)
    mass = [math.exp(p - top) for p in logprobs]
    own = [
        max(
            0.0,
            m - sum(n for other, n in zip(ids, mass, strict=True) if _begins(mine, other)),
        )
        for mine, m in zip(ids, mass, strict=True)
    ]
    total = sum(own)
    return [m / total for m in own]


def _begins(short: Sequence[int], longer: Sequence[int]) -> bool:
    return len(short) < len(longer) and tuple(longer[: len(short)]) == tuple(short)
