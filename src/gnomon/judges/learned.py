"""A trained reward model as a judge; a prompt is computed once for all its responses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from gnomon.data.batch import microbatches, pack
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.judges.protocol import Judge, Sample, Score, samples_of
from gnomon.models.heads import RewardNormaliser
from gnomon.models.roles import Role, Trunk
from gnomon.records import (
    Cost,
    Group,
    Judgement,
    Message,
    Response,
    TokenGroup,
    TokenResponse,
)

_ADAPTER = ".lora_"
Encode = Callable[[Sample], tuple[Sequence[int], Sequence[int]]]


class LearnedReward(Judge):
    """Scores with a reward model, or with an ensemble of them.

    Args:
        members: roles with scalar heads; a head with n outputs counts as n members.
        normaliser: puts raw scores on the scale where demonstrations average zero.
        ensemble: how members become one number: their mean, their minimum (Coste et al. 2023,
            "Reward model ensembles help mitigate overoptimization", worst-case optimisation), or
            mean - std_coef * std or variance over the members (uncertainty-weighted; the paper's
            UWO has the variance; both are the population's).
        encode: turns a sample into (prompt ids, response ids) for a reward model whose tokenizer is
            not the policy's; by default the very tokens the policy saw and wrote are scored.

    Raises:
        ConfigError: no members, an unknown ensemble, or a std_coef that is not finite.
    """

    def __init__(
        self,
        members: Sequence[Role],
        normaliser: RewardNormaliser,
        *,
        name: str = "reward_model",
        ensemble: Literal["mean", "min", "mean-std", "mean-var"] = "mean",
        std_coef: float = 1.0,
        tokens_per_microbatch: int = 8192,
        encode: Encode | None = None,
    ) -> None:
        if not members:
            raise ConfigError(f"{name}: a learned reward needs a reward model")
        if ensemble not in ("mean", "min", "mean-std", "mean-var"):
            raise ConfigError(
                f"{name}: ensemble is mean, min, mean-std or mean-var, not {ensemble!r}"
            )
        if not math.isfinite(std_coef):
            raise ConfigError(f"{name}: std_coef is {std_coef}, not a number")
        self.members = list(members)
        self.normaliser = normaliser
        self.name = name
        self.version = _version(self.members)
        self.ensemble = ensemble
        self.std_coef = std_coef
        self.tokens_per_microbatch = tokens_per_microbatch
        self.encode = encode or (lambda sample: (sample.prompt_ids, sample.response_ids))

    @property
    def parameters(self) -> int:
        """Of the largest member."""
        return max(map(size_of, self.members))

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Score every response; a judgement's cost counts the tokens that all members computed."""
        encoded = [self._tokens(group) for group in groups]
        scores = self.member_scores([tokens for parts in encoded for tokens in parts])
        values = iter(self._combined(scores))
        return [
            Judgement(
                self.name,
                tuple(next(values) for _ in group.responses),
                version=self.version,
                cost=Cost(tokens=len(self.members) * sum(t.num_tokens() for t in parts)),
            )
            for group, parts in zip(groups, encoded, strict=True)
        ]

    def _tokens(self, group: Group) -> list[TokenGroup]:
        """The group as the reward model reads it: one, or more where it cuts prompts differently
        (to make room for responses of different lengths)."""
        encoded = [self.encode(sample) for sample in samples_of(group)]
        return [
            TokenGroup(
                group.prompt.id,
                prompt_ids,
                tuple(TokenResponse(ids, [True] * len(ids)) for _, ids in items),
            )
            for prompt_ids, items in groupby(encoded, key=lambda item: tuple(item[0]))
        ]

    def _combined(self, scores: Tensor) -> list[Score]:
        """One score for each row of [S, members]."""
        mean, spread = scores.mean(1), scores.std(1, correction=0)
        if self.ensemble == "min":
            value = scores.min(1).values
        elif self.ensemble == "mean-std":
            value = mean - self.std_coef * spread
        elif self.ensemble == "mean-var":
            value = mean - self.std_coef * spread.square()
        else:
            value = mean
        several = scores.shape[1] > 1
        return [
            Score(v, {"mean": m, "std": s} if several else {})
            for v, m, s in zip(value.tolist(), mean.tolist(), spread.tolist(), strict=True)
        ]

    @torch.no_grad()
    def member_scores(self, groups: Sequence[TokenGroup]) -> Tensor:
        """[S, members] normalised scores of all responses in order, on the CPU in float32."""
        device = self.members[0].trunk.model.device
        parts: list[Tensor] = []
        for part in microbatches(groups, self.tokens_per_microbatch):
            batch = pack(part).to(device)
            columns = [role.scores(batch) for role in self.members]
            scores = torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)
            parts.append(self.normaliser.apply(scores, batch.lengths).float().cpu())
        return torch.cat(parts)


def size_of(role: Role) -> int:
    """Numbers in a role's model, adapters left out; tied ones once."""
    named = role.trunk.model.named_parameters()
    return sum(p.numel() for name, p in named if _ADAPTER not in name)


def _version(members: Sequence[Role]) -> str:
    """A fingerprint of the members: their trunks' as loaded, and the weights of their heads."""
    digest = hashlib.sha256()
    for role in members:
        digest.update(role.trunk.fingerprint.encode())
        for weights in role.head.state_dict().values() if role.head is not None else ():
            digest.update(weights.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def reads_tokens_of(tokenizer: Any, policys: Any) -> bool:
    """Whether every token of the policy has the same id in ``tokenizer``."""
    vocabulary = tokenizer.get_vocab()
    return all(vocabulary.get(token) == i for token, i in policys.get_vocab().items())


def own_encoding(trunk: Trunk, tokenizer: Any) -> Encode | None:
    """How a reward model tokenises samples of a policy with another tokenizer; None for the same.

    The same means that every token of the policy has the same id (a padding token more is no
    difference).
    """
    return None if reads_tokens_of(trunk.tokenizer, tokenizer) else text_encoding(trunk)


def text_encoding(trunk: Trunk) -> Encode:
    """How a reward model tokenises the texts of samples, whoever wrote them."""
    window = getattr(trunk.model.config.get_text_config(), "max_position_embeddings", None)
    encoder = Encoder(trunk.tokenizer, max_length=window or 1_000_000, truncation="left")

    def encode(sample: Sample) -> tuple[Sequence[int], Sequence[int]]:
        answer = Response((Message("assistant", sample.text),))
        group = encoder.encode_group(Group(sample.prompt, (answer,)), empty_ok=True)
        ids, mask = list(group.responses[0].ids), group.responses[0].mask
        if not sample.finished:  # a cut-off answer must not look finished
            while len(ids) > 1 and (not mask[len(ids) - 1] or ids[-1] in encoder.stop_ids):
                ids.pop()
        return group.prompt_ids, ids

    return encode
