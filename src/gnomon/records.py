"""The records of gnomon: a prompt, its responses, and how they compare.

Every method in the field looks at one prompt and K responses to it, so there is one record, the
:class:`Group`. A demonstration is a group with K = 1, a preference pair one with K = 2, a ranking
one with K = 4..9, a rollout one with K = 1..64.

Text-level records (:class:`Group`) are what readers produce and people write; token-level records
(:class:`TokenGroup`) are what packing, training and rollouts pass on. Everything is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record came from: a file and its 1-based row, for error messages."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``role`` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """What the model is asked.

    Either ``messages`` (rendered by the tokenizer's chat template with a generation prompt) or, for
    base models and plain text, ``text`` (tokenised as it is).

    Attributes:
        id: unique within a data set; stable across runs.
        messages: the conversation up to the response; empty when ``text`` is given.
        text: a raw prompt without a template, or None.
        source: where it was read.
        category: a label results are broken down by (task, domain), or None.
        meta: anything a reward needs (the reference answer, say); never shown to the model.
        row: of a prompt read from a file, all that its row held, as it was written; for rewards
            that are called with columns.
        conversational: the row had messages and not a text; for rewards that want it as it was.
    """

    id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    source: Source | None = None
    category: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    conversational: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Response:
    """One answer to a prompt.

    ``messages`` starts with the assistant's turn; later user or tool turns may follow (multi-turn
    demonstrations) and are context, never trained on. ``rank`` is 1 for the best; equal ranks tie.
    A sampled response has the very tokens that the policy wrote (``ids``), and ``finished`` is
    False where it was cut off at the length limit; ``logprobs`` [T] are the sampler's of these
    tokens (nats), where they are kept.
    """

    messages: tuple[Message, ...]
    id: str | None = None
    rank: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[int] = ()
    finished: bool = True
    logprobs: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The assistant's words, turns joined by a newline."""
        return "\n".join(m.content for m in self.messages if m.role == "assistant")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One judgement between two responses of a group, by their indices in it.

    Attributes:
        better, worse: indices into ``Group.responses`` (for a tie the order means nothing).
        weight: how much this judgement counts (labeller confidence, say); 0 removes it.
        margin: by how much ``better`` should win, in units of reward (Llama 2's margin).
        tie: the labeller called them equal.
        probability: that ``better`` is the better one, by a judge that gives more than a verdict:
            from 0.5 to 1. It says nothing of a tie.
    """

    better: int
    worse: int
    weight: float = 1.0
    margin: float = 0.0
    tie: bool = False
    probability: float = 1.0

    @property
    def strength(self) -> float:
        """What it counts for where one side wins all: weight x (2 probability - 1); of a tie, its
        weight.

        At equal rewards the gradient of the loss with soft labels, p log s(d) + (1 - p) log s(-d),
        is that of the loss with hard ones times 2p - 1.
        """
        return self.weight * (1.0 if self.tie else 2.0 * self.probability - 1.0)


def comparisons_from_ranks(ranks: Sequence[float], weight: float = 1.0) -> tuple[Comparison, ...]:
    """All K(K-1)/2 comparisons that a ranking implies (1 = best; equal ranks give ties)."""
    out: list[Comparison] = []
    for i in range(len(ranks)):
        for j in range(i + 1, len(ranks)):
            better, worse = (i, j) if ranks[i] <= ranks[j] else (j, i)
            out.append(Comparison(better, worse, weight=weight, tie=ranks[i] == ranks[j]))
    return tuple(out)


def ranks_from_comparisons(comparisons: Sequence[Comparison], count: int) -> list[float] | None:
    """The ranks of ``count`` responses that imply just these comparisons, whatever they weigh; None
    where none do."""
    ranks = [1.0 + sum(c.worse == i and not c.tie for c in comparisons) for i in range(count)]
    pairs = {frozenset((c.better, c.worse)) for c in comparisons}
    agree = all(
        ranks[c.better] == ranks[c.worse] if c.tie else ranks[c.better] < ranks[c.worse]
        for c in comparisons
    )
    whole = len(pairs) == len(comparisons) == count * (count - 1) // 2
    return ranks if agree and whole else None


@dataclass(frozen=True)
class Group:
    """One prompt, K responses, and what is known of how they compare.

    ``prompt_ids`` are the very tokens that the policy saw, where the responses were sampled.
    ``judgement`` is what a judge said of the responses, where it is kept with them.
    """

    prompt: Prompt
    responses: tuple[Response, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    weight: float = 1.0
    prompt_ids: Sequence[int] = ()
    judgement: Judgement | None = None

    @property
    def rewards(self) -> list[float | None]:
        """The judge's score of each response; None where judging it failed, or nobody judged."""
        if self.judgement is None:
            return [None] * len(self.responses)
        return [score.value for score in self.judgement.scores]


@dataclass(frozen=True)
class Score:
    """A response's reward with its named parts, or the error that took its place.

    Attributes:
        value: the reward, or None when ``error`` is set or nothing judged.
        parts: named components (of a mixture, of an ensemble), for the metrics.
        error: what went wrong with this one response, or None.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a judgement took: ``seconds`` by the clock, ``tokens`` of a model, ``money`` (euros)."""

    seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """A judge's answer for one group: a score for each response, or comparisons, or both.

    Attributes:
        judge, version: who judged.
        scores: one for each response, in order; empty where the judge only compares.
        comparisons: which responses the judge compared, and how; None where it only scores.
        cost: of this group.
        reason: why, in the judge's words, where it gives any.
        error: what went wrong with the whole group; an answer that is missing is never a zero.
        principle: of a constitution or rubric that it was judged by, as ``name@version``.
    """

    judge: str
    scores: tuple[Score, ...] = ()
    comparisons: tuple[Comparison, ...] | None = None
    version: str = ""
    cost: Cost = Cost()
    reason: str | None = None
    error: str | None = None
    principle: str = ""


@dataclass(frozen=True)
class TokenResponse:
    """A response as tokens.

    Attributes:
        ids: the T tokens after the prompt, the closing EOS included when the turn ended.
        mask: T flags, True where the token counts in a loss (the assistant's own tokens, EOS
            included; never later user turns or tool output).
        token: named per-token values, each a float tensor of shape [T]: ``sampler_logprobs``,
            ``old_logprobs``, ``ref_logprobs``, ``advantages``, ``returns``, ``old_values``...
        scalar: named per-response numbers: ``rank``, ``reward``, ``ref_logprob``...
    """

    ids: Sequence[int]
    mask: Sequence[bool]
    token: Mapping[str, Tensor] = field(default_factory=dict)
    scalar: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.mask):
            raise ValueError(f"{len(self.ids)} ids but {len(self.mask)} mask flags")


@dataclass(frozen=True)
class TokenGroup:
    """A group as tokens: the prompt once, and its K responses.

    ``prompt_ids`` holds at least one token (a BOS, or a plain text's first token), since the first
    response token is predicted from the prompt's last. With ``trained`` False the group is not
    computed, but still counts in its step's normalisers.
    """

    id: str
    prompt_ids: Sequence[int]
    responses: tuple[TokenResponse, ...]
    comparisons: tuple[Comparison, ...] = ()
    weight: float = 1.0
    source: Source | None = None
    category: str | None = None
    trained: bool = True

    def __post_init__(self) -> None:
        if not len(self.prompt_ids):
            raise ValueError(f"group {self.id}: a prompt needs at least one token")

    def num_tokens(self, shared: bool = True) -> int:
        """Tokens the forward pass computes: the prompt once (shared) or once per response."""
        copies = 1 if shared else len(self.responses)
        return copies * len(self.prompt_ids) + sum(len(r.ids) for r in self.responses)
