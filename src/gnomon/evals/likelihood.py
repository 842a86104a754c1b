"""How likely a model finds given answers: their log-probabilities, each prompt computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gnomon.data.batch import microbatches, pack
from gnomon.data.encode import Encoder
from gnomon.errors import DataError
from gnomon.evals.asking import Unanswered
from gnomon.models.roles import Role
from gnomon.records import Prompt, TokenGroup, TokenResponse

TOKENS = 8192


@torch.no_grad()
def response_logprobs(role: Role, groups: Sequence[TokenGroup]) -> list[list[float]]:
    """[groups][responses] log-probability (nats) of each response's tokens that count."""
    sums: list[float] = []
    for part in microbatches(groups, TOKENS):
        batch = pack(part).to(role.trunk.model.device)
        found = role.logprobs(batch).logprobs.double()
        total = torch.zeros(batch.lengths.numel(), dtype=torch.float64, device=found.device)
        total.index_add_(0, batch.response_of, found * batch.response_mask)
        sums += total.tolist()
    each = iter(sums)
    return [[next(each) for _ in group.responses] for group in groups]


def choice_logprobs(
    role: Role, encoder: Encoder, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
) -> list[list[tuple[float, int]] | Unanswered]:
    """(log-probability in nats, tokens) of each choice right after its prompt.

    A choice has no end of turn: what follows it is open. Its tokens are those that it has where
    they follow the prompt's.
    """
    encoded: list[TokenGroup | Unanswered] = []
    for prompt, texts in zip(prompts, choices, strict=True):
        try:
            ids = encoder.encode_prompt(prompt)
        except DataError as error:
            encoded.append(Unanswered(str(error)))
            continue
        before = role.trunk.tokenizer.decode(ids)
        tokens = [encoder.encode_continuation(before, text) for text in texts]
        if not all(tokens):
            encoded.append(Unanswered(f"prompt {prompt.id}: a choice without a token"))
            continue
        responses = tuple(TokenResponse(t, [True] * len(t)) for t in tokens)
        encoded.append(TokenGroup(prompt.id, ids, responses))
    sums = iter(response_logprobs(role, [g for g in encoded if isinstance(g, TokenGroup)]))
    return [
        group
        if isinstance(group, Unanswered)
        else [(s, len(r.ids)) for s, r in zip(next(sums), group.responses, strict=True)]
        for group in encoded
    ]
