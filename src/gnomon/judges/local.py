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
from gnomon.data.chat import broken_up
from gnomon.data.encode import Encoder
from gnomon.data.values import RowError
from gnomon.errors import ConfigError, DataError
from gnomon.judges.answers import Answerer, Done, Reply
from gnomon.judges.budget import Budget
from gnomon.judges.prompting import Question
from gnomon.losses.reduce import response_logprobs
from gnomon.models.load import fetch, fingerprint, load_causal_lm
from gnomon.models.roles import Role, Trunk
from gnomon.records import Cost, Message, Prompt, TokenGroup, TokenResponse


@dataclass
class LocalModel(Answerer):
    """Computes the probability of each choice as the model's next words; samples nothing.

    Args:
        model: a folder or a name, as a recipe's ``model``; its weights are read when it is first
            asked.
        dtype, device: as a recipe's.
        cap: what answers may cost; questions beyond it are not asked.
        tokens_per_microbatch: packed tokens of one forward pass.

    Raises:
        ModelError: there is no such model.
    """

    model: str
    dtype: str = "float32"
    device: str = "cpu"
    tokens_per_microbatch: int = 8192
    cap: Budget | None = None

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
            if question.reason or question.form != "choice":
                raise ConfigError(
                    "a model in this process chooses one of several words; it writes nothing"
                )
            try:
                groups.append(self._group(place, question))
            except DataError as error:
                why = error.__cause__  # a row's cure is for data; a question has another
                reason = (
                    f"{why.reason}; ask a model with a longer window, or about shorter texts"
                    if isinstance(why, RowError)
                    else error
                )
                done(place, Reply(error=f"{self.model} cannot be asked: {reason}", came=False))
        for part in microbatches(groups, self.tokens_per_microbatch):
            most = Cost(0.0, sum(group.num_tokens() for group in part))
            if self.cap is not None and not self.cap.reserve(most):
                reason = f"not asked: the budget is spent ({self.cap})"
                for group in part:
                    done(int(group.id), Reply(error=reason, came=False, over=True))
                continue
            self._pass(part, questions, done)
            if self.cap is not None:
                self.cap.settle(most, most)

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
            spellings = choice_probabilities(ids, own)
            words = [word for word, _ in self._spellings(questions[place].choices)]
            shares = dict.fromkeys(words, 0.0)
            for word, share in zip(words, spellings, strict=True):
                shares[word] += share
            n = group.num_tokens()
            best = max(shares, key=lambda word: shares[word])
            done(place, Reply("", shares, best, seconds=seconds * n / total, tokens=n))

    def _group(self, place: int, question: Question) -> TokenGroup:
        """The prompt once, and each spelling of each choice as a response to it."""
        messages = [("system", question.system), ("user", question.user)]
        turns = tuple(
            Message(role, broken_up(text, self._encoder.tokenizer))
            for role, text in messages
            if text
        )
        prompt = self._encoder.encode_prompt(Prompt(str(place), turns))
        spelt = self._spellings(question.choices)
        responses = tuple(TokenResponse(ids, [True] * len(ids)) for _, ids in spelt)
        return TokenGroup(str(place), prompt, responses)

    def _spellings(self, choices: Sequence[str]) -> list[tuple[str, list[int]]]:
        """Each choice with its tokens, without a space before it and with one (a word also with a
        capital), where they differ: which a model writes depends on its tokenizer and template."""
        found: dict[tuple[int, ...], str] = {}
        for choice in choices:
            words = (choice, choice.capitalize()) if len(choice) > 1 else (choice,)
            for text in (t for word in words for t in (word, f" {word}")):
                ids = self._encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
                found.setdefault(tuple(ids), choice)
        return [(choice, list(ids)) for ids, choice in found.items()]


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
