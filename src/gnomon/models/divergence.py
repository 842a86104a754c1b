"""A divergence between two models' whole distributions at each response token, without [N, V].

Rows that predict response tokens are projected on both vocabularies a chunk at a time, and the
backward pass computes each chunk again, so a handful of [chunk, V] tensors exist at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gnomon.data.batch import Batch
from gnomon.models.costs import logits_at_once
from gnomon.models.logprobs import OutputHead
from gnomon.models.roles import Role

_PART = 8
"""A chunk's logits are one part in so many of what a head alone holds at once: autograd keeps as
many tensors of their shape (16 MiB each on a CPU)."""


@dataclass(frozen=True)
class TokenDivergence:
    """Per response token.

    Attributes:
        values: [R] the divergence, with a gradient to the student.
        logprobs, other_logprobs: [R] both models' log-probabilities of the token, constants.
        entropy: [R] of the student's distribution, a constant.
    """

    values: Tensor
    logprobs: Tensor
    other_logprobs: Tensor
    entropy: Tensor


def token_divergence(
    student: Role,
    teacher: Role,
    batch: Batch,
    divergence: Callable[[Tensor, Tensor], Tensor],
    *,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> TokenDivergence:
    """The divergence of the teacher's distribution from the student's at every response token.

    Args:
        divergence: [n] from the log-probabilities [n, V] of student and teacher.
        temperature: both models' logits are divided by it.
        chunk_tokens: rows projected at once; by default as suits the device (models/costs.py).

    Where one vocabulary has more rows (which no token uses), only those of both are compared.
    """

    def compute() -> tuple[Tensor, ...]:
        sides = [role.hidden(batch)[batch.source_index] for role in (student, teacher)]
        heads = [OutputHead.of(role.trunk.model) for role in (student, teacher)]
        vocabulary = min(_rows(head) for head in heads)

        def compare(own: Tensor, other: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            s = heads[0].logits(own, temperature)[:, :vocabulary].log_softmax(-1)
            with torch.no_grad():
                t = heads[1].logits(other, temperature)[:, :vocabulary].log_softmax(-1)
                seen = [x.gather(1, targets[:, None])[:, 0] for x in (s, t)]
                entropy = -(s.exp() * s).sum(-1)
            return divergence(s, t), *seen, entropy

        size = chunk_tokens or max(1, logits_at_once(batch.targets.device) // _PART // vocabulary)
        pieces = zip(*(torch.split(x, size) for x in (*sides, batch.targets)), strict=True)
        parts = [checkpoint(compare, *piece, use_reentrant=False) for piece in pieces]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    found = student.trunk.together(lambda: teacher.trunk.together(compute))
    values, logprobs, other_logprobs, entropy = (t for t in found if t is not None)
    return TokenDivergence(values, logprobs, other_logprobs, entropy)


def _rows(head: OutputHead) -> int:
    """The size of the vocabulary that a head projects on."""
    weight = head.module.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])
