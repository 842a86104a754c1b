"""A language model as a judge: it compares answers two at a time, in both orders, or scores them.

What it says is soft: the probabilities of its verdicts, where log-probs are there. A judgement
averages both orders (Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena",
section 3.4), so that a judge who always prefers the first answer calls everything a tie. How far it
agrees with people is for ``gnomon calibrate`` to measure.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, model_validator

from gnomon.judges.answers import AnswerBook, Answerer, Reply
from gnomon.judges.endpoint import Endpoint
from gnomon.judges.prompting import (
    LETTERS,
    Mode,
    Principle,
    Question,
    Template,
    conversation,
)
from gnomon.judges.protocol import Judge, total_cost
from gnomon.recipe.load import validate_as
from gnomon.recipe.spec import Spec
from gnomon.records import Comparison, Cost, Group, Judgement, Prompt, Score


class AIOptions(Spec):
    """The options of ``builtin: ai``."""

    model: str | None = Field(None, description="the model's name at the endpoint")
    url: str | None = Field(None, description="of an OpenAI-compatible API; OpenAI's by default")
    local: str | None = Field(
        None, description="a model in this process instead: a folder or name, as a recipe's model"
    )
    api_key_env: str | None = Field(
        None, description="environment variable with the key; OPENAI_API_KEY by default"
    )
    mode: Mode = Field("pairs", description="compare answers in pairs, or score each from 1 to 10")
    template: str | None = Field(None, description="file with a prompt of your own")
    rubric: str = Field("", description="criteria, put into the prompt")
    ties: bool = Field(True, description="whether it may call two answers equal")
    reason: bool = Field(False, description="have it say why before its verdict (costs tokens)")
    pairs: int | None = Field(None, ge=1, description="pairs of a group; all of them by default")
    seed: int = Field(0, description="of the fences' marks, the pairs, and the model's sampling")
    temperature: float = Field(0.0, ge=0, description="of the model's answers")
    max_tokens: int = Field(512, ge=16, description="of an answer with a reason")
    max_chars: int | None = Field(
        None, ge=1, description="a longer question is an error: servers may cut it silently"
    )
    logprobs: Literal["auto", "yes", "no"] = Field(
        "auto", description="soft verdicts: where the endpoint gives them, always, never"
    )
    timeout_s: float = Field(60.0, gt=0, description="seconds for one request")
    retries: int = Field(3, ge=0, description="of one request")
    concurrency: int = Field(8, ge=1, le=256, description="requests at the same time")
    price_input: float = Field(0.0, ge=0, description="euros for a million tokens read")
    price_output: float = Field(0.0, ge=0, description="euros for a million tokens written")
    extra: dict[str, Any] = Field(
        default_factory=dict, description="more of the request's body; null takes a key out"
    )
    dtype: str = Field("float32", description="of a model in this process")
    device: str = Field("cpu", description="of a model in this process")
    cache: str | None = Field(None, description="folder in which its answers are kept")

    @model_validator(mode="after")
    def _one_model(self) -> AIOptions:
        if (self.model is None) == (self.local is None):
            raise ValueError("give model (at an endpoint, with its url) or local, one of them")
        if self.local is not None:
            given = {"url", "api_key_env", "price_input", "price_output", "extra", "temperature"}
            unused = sorted(given & self.model_fields_set)
            if unused:
                raise ValueError(f"{', '.join(unused)}: only for a model at an endpoint")
            if self.reason:
                raise ValueError("a model in this process gives no reasons: set reason: false")
        if self.mode == "score" and self.pairs is not None:
            raise ValueError("pairs are for mode: pairs")
        return self


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, by their texts, and the principle that they are judged by; the
    judge's own for the prompt where it is None."""

    prompt: Prompt
    a: str
    b: str
    principle: Principle | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge says of two answers in one order: probabilities that add up to 1.

    Attributes:
        first, second: that the answer shown first, or second, is better.
        tie: that neither is.
    """

    first: float
    second: float
    tie: float = 0.0

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Verdict:
        """From the probabilities of A, B and C."""
        return cls(*(float(shares.get(letter, 0.0)) for letter in LETTERS))

    @property
    def swapped(self) -> Verdict:
        """The same with the other answer first."""
        return Verdict(self.second, self.first, self.tie)

    @property
    def win(self) -> float:
        """What the first answer won: ties are half."""
        return self.first + self.tie / 2

    @property
    def word(self) -> str:
        """``first``, ``second`` or ``tie``: the likeliest."""
        if self.tie >= max(self.first, self.second) or self.first == self.second:
            return "tie"
        return "first" if self.first > self.second else "second"


@dataclass(frozen=True)
class Compared:
    """What a judge says of a pair, in each order it was asked in.

    Attributes:
        forward: with ``a`` shown first; None where it was not asked, or has no order.
        backward: with ``b`` shown first (``first`` is ``b``).
        mean: both together, ``first`` for ``a``; None where something failed.
        reason: in the judge's words.
        error: what failed.
    """

    forward: Verdict | None = None
    backward: Verdict | None = None
    reason: str | None = None
    error: str | None = None
    cost: Cost = field(default_factory=Cost)

    @property
    def mean(self) -> Verdict | None:
        turned = None if self.backward is None else self.backward.swapped
        known = [v for v in (self.forward, turned) if v is not None]
        if self.error is not None or not known:
            return None
        n = len(known)
        return Verdict(*(sum(getattr(v, k) for v in known) / n for k in ("first", "second", "tie")))

    def comparison(self, i: int, j: int) -> Comparison:
        """As a record, ``a`` being response ``i`` and ``b`` response ``j``.

        Raises:
            ValueError: it failed.
        """
        verdict = self.mean
        if verdict is None:
            raise ValueError(self.error or "nothing was asked")
        if verdict.word == "tie":
            return Comparison(i, j, tie=True)
        win = min(1.0, max(verdict.win, 1.0 - verdict.win))
        better, worse = (i, j) if verdict.word == "first" else (j, i)
        return Comparison(better, worse, probability=win)


class Principles(Protocol):
    """A constitution, as a judge sees it.

    Attributes:
        version: of its text, and of how principles are drawn: part of the judge's own version.
    """

    version: str

    def __call__(self, prompt: Prompt) -> Principle | None:
        """What a prompt's answers are judged by, always the same for the same prompt; None where
        nothing but the judge's own template says it."""
        ...


class _NoPrinciples(Principles):
    version = ""

    def __call__(self, prompt: Prompt) -> Principle | None:
        return None


class AIJudge(Judge):
    """Asks a language model; see :class:`AIOptions`.

    ``mode: pairs`` gives comparisons, and as scores the share of its pairs that an answer won, in
    [0, 1]; ``mode: score`` gives scores from 1 to 10, the mean under the model's probabilities.
    Where it fails on any part of a group the judgement is an error, never a zero or a tie.

    Args:
        base: the folder that relative files start from.
        answers: where its answers are kept, unless ``cache`` says otherwise.
        answerer: the model; made from the options by default.
        principles: a constitution, which gives each prompt the principle to judge by.
        options: see :class:`AIOptions`.

    Attributes:
        model: its name.
        prompt_sha256: of the template's file.

    Raises:
        ConfigError: options or a template that cannot be used, a missing key or package.
    """

    paid = True

    def __init__(
        self,
        *,
        base: Path | None = None,
        answers: Path | None = None,
        answerer: Answerer | None = None,
        principles: Principles | None = None,
        **options: Any,
    ) -> None:
        self.name = "ai"
        self.options = spec = validate_as(AIOptions, options, "ai judge")
        self.groupwise = spec.mode == "pairs"
        folder = base or Path()
        self.template = Template.read(
            None if spec.template is None else folder / spec.template,
            spec.mode,
            rubric=spec.rubric.strip(),
            ties=spec.ties,
            reason=spec.reason,
            seed=spec.seed,
        )
        self.answerer = answerer or _answerer(spec)
        kept = None if spec.cache is None else folder / spec.cache
        self.book = AnswerBook(kept or answers)
        self.principles = principles or _NoPrinciples()
        self.model = self.answerer.model
        self.prompt_sha256 = self.template.sha256

    @property
    def version(self) -> str:  # type: ignore[override]
        """The model, the SHA-256 of its template, and a hash of all else that decides verdicts
        (where the endpoint is does not)."""
        spec = self.options
        own = {key: v for key, v in self.answerer.settings().items() if key != "url"}
        said = [spec.mode, spec.rubric.strip(), spec.ties, spec.reason, own]
        said += [self.principles.version] if self.principles.version else []
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        return f"{self.model} prompt={self.prompt_sha256} settings={digest.hexdigest()[:8]}"

    # -- judging ----------------------------------------------------------------------------------

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        if self.options.mode == "score":
            return self._scored(groups)
        plans = [self._plan(group) for group in groups]
        asked = [
            Pair(group.prompt, group.responses[i].text, group.responses[j].text)
            for group, plan in zip(groups, plans, strict=True)
            for i, j in plan
        ]
        found = iter(self.compare(asked))
        return [
            self._judged(group, plan, [next(found) for _ in plan])
            for group, plan in zip(groups, plans, strict=True)
        ]

    def compare(self, pairs: Sequence[Pair]) -> list[Compared]:
        """Ask about pairs in both orders; two equal texts are a tie without being asked about."""
        questions: list[Question] = []
        for pair in pairs:
            if pair.a != pair.b:
                text, by = conversation(pair.prompt), pair.principle or self.principles(pair.prompt)
                for two in ((pair.a, pair.b), (pair.b, pair.a)):
                    questions.append(self.template.question(text, *two, principle=by))
        replies = iter(self._ask(questions))
        return [
            _compared(next(replies), next(replies), self.options.reason)
            if pair.a != pair.b
            else Compared(Verdict(0, 0, 1), Verdict(0, 0, 1), "the answers are the same text")
            for pair in pairs
        ]

    def _ask(self, questions: Sequence[Question]) -> list[Reply]:
        limit = self.options.max_chars
        sizes = [len(q.system) + len(q.user) for q in questions]
        fits = [limit is None or size <= limit for size in sizes]
        some = [q for q, ok in zip(questions, fits, strict=True) if ok]
        found = iter(self.book.ask(self.answerer, some) if some else ())
        return [
            next(found)
            if ok
            else Reply(error=f"the question has {size} characters, more than max_chars ({limit})")
            for size, ok in zip(sizes, fits, strict=True)
        ]

    def _plan(self, group: Group) -> list[tuple[int, int]]:
        """The pairs of a group to compare: all, or the ``pairs`` nearest ones on a ring in an order
        drawn from the seed, so that every answer is in about as many."""
        count, limit = len(group.responses), self.options.pairs
        every = list(combinations(range(count), 2))
        if limit is None or limit >= len(every):
            return every
        order = list(range(count))
        random.Random(f"{self.options.seed}/{group.prompt.id}").shuffle(order)
        ring = [
            (order[i], order[(i + step) % count])
            for step in range(1, count // 2 + 1)
            for i in range(count)
        ]
        distinct = dict.fromkeys((min(pair), max(pair)) for pair in ring)
        return sorted(list(distinct)[:limit])

    def _judged(
        self, group: Group, plan: Sequence[tuple[int, int]], found: Sequence[Compared]
    ) -> Judgement:
        cost = total_cost(c.cost for c in found)
        error = next((c.error for c in found if c.error is not None), None)
        by = _named(self.principles(group.prompt))
        count = len(group.responses)
        if count < 2:
            error = "it compares answers to the same prompt, and there is only one (mode: score?)"
        elif {i for pair in plan for i in pair} != set(range(count)):
            error = f"pairs: {len(plan)} leaves answers out; {count} answers need {count - 1}"
        if error is not None:
            return Judgement(self.name, version=self.version, cost=cost, error=error, principle=by)
        won: list[list[float]] = [[] for _ in group.responses]
        for (i, j), compared in zip(plan, found, strict=True):
            verdict = compared.mean
            assert verdict is not None
            won[i].append(verdict.win)
            won[j].append(1.0 - verdict.win)
        reasons = [
            f"{i + 1} against {j + 1}: {c.reason}"
            for (i, j), c in zip(plan, found, strict=True)
            if c.reason
        ]
        return Judgement(
            self.name,
            tuple(Score(sum(points) / len(points)) for points in won),
            tuple(c.comparison(i, j) for (i, j), c in zip(plan, found, strict=True)),
            version=self.version,
            cost=cost,
            reason="\n".join(reasons) or None,
            principle=by,
        )

    def _scored(self, groups: Sequence[Group]) -> list[Judgement]:
        questions = [
            self.template.question(
                conversation(group.prompt), response.text, principle=self.principles(group.prompt)
            )
            for group in groups
            for response in group.responses
        ]
        replies = iter(self._ask(questions))
        out = []
        for group in groups:
            own = [next(replies) for _ in group.responses]
            reasons = [f"{i}: {r.text}" for i, r in enumerate(own, start=1) if self._says_why(r)]
            out.append(
                Judgement(
                    self.name,
                    tuple(map(_score, own)),
                    version=self.version,
                    cost=total_cost(r.cost for r in own),
                    reason="\n".join(reasons) or None,
                    principle=_named(self.principles(group.prompt)),
                )
            )
        return out

    def _says_why(self, reply: Reply) -> bool:
        return self.options.reason and reply.error is None and bool(reply.text)


def _named(principle: Principle | None) -> str:
    return "" if principle is None else str(principle)


def _score(reply: Reply) -> Score:
    """The mean of the scores under their probabilities."""
    if reply.error is not None:
        return Score(None, error=reply.error)
    return Score(sum(int(choice) * p for choice, p in reply.shares.items()))


def _compared(forward: Reply, backward: Reply, why: bool) -> Compared:
    """The replies to a pair in both orders."""
    cost = total_cost([forward.cost, backward.cost])
    error = forward.error or backward.error
    if error is not None:
        return Compared(error=error, cost=cost)
    reason = None
    if why:
        reason = f"{forward.text.strip()} | The other way round: {backward.text.strip()}"
    return Compared(Verdict.of(forward.shares), Verdict.of(backward.shares), reason, cost=cost)


def _answerer(spec: AIOptions) -> Answerer:
    if spec.local is not None:
        from gnomon.judges.local import LocalModel  # the only one with torch

        return LocalModel(spec.local, spec.dtype, spec.device)
    names = Endpoint.__dataclass_fields__
    return Endpoint(**{key: value for key, value in spec if key in names})
