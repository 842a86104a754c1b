"""Where a preference method's reference log-probs come from.

- ``cached``: one pass over the data before training, with the start weights. No second model.
- ``adapter_off``: computed in each step with the LoRA adapter switched off. The same numbers.
- ``live``: computed in each step by a frozen copy of the model (with LoRA: the frozen trunk).
- ``synced``: a reference that follows the policy, every tau steps by

      pi_ref <- alpha pi_theta + (1 - alpha) pi_ref

  (TR-DPO: Gorbatovski et al. 2024, "Learn your reference model", arXiv:2404.09656).

On-line methods have a :class:`RoundReference`: once per round, before the round's updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gnomon.algorithms.base import Ingredients
from gnomon.algorithms.offline_settings import ReferenceSettings
from gnomon.algorithms.token_columns import annotate_tokens
from gnomon.data.batch import Batch
from gnomon.errors import ConfigError, ModelError
from gnomon.losses.reduce import response_logprobs
from gnomon.models.roles import Role
from gnomon.records import TokenGroup, TokenResponse

REF_SUM, REF_TOKENS = "ref_logprob", "ref_logprobs"
"""Names of a response's reference log-prob in ``scalar``, and per token in ``token``."""


class ReadsReference(Protocol):
    """Anything that knows the reference's log-probs of a micro-batch."""

    def logprobs(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """([R] or None where only sums are at hand, [S]) log-probs in nats; constants."""
        ...


def reference_roles(settings: ReferenceSettings) -> tuple[str, ...]:
    """The roles a method with these settings needs: no reference where it is cached."""
    return ("policy",) if settings.reference == "cached" else ("policy", "reference")


class Reference:
    """The reference of one training stage.

    Args:
        ingredients: of the stage; the policy must still have its start weights.
        settings: which of the four ways.
        per_token: the method needs log-probs of tokens, not only of responses.

    Raises:
        ConfigError: a reference role that the way needs is not there, or a sync that never comes.
    """

    def __init__(
        self, ingredients: Ingredients, settings: ReferenceSettings, per_token: bool = False
    ) -> None:
        self.ingredients = ingredients
        self.settings = settings
        self.per_token = per_token
        self.cached = settings.reference == "cached"
        if not self.cached and "reference" not in ingredients.roles:
            raise ConfigError(f"reference: {settings.reference} needs a role 'reference'")
        lora = ingredients.roles["policy"].adapter is not None
        check_reference(settings, lora, ingredients.iterations)

    def annotate(self, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        """The groups with what the reference says of them, where it is computed beforehand."""
        if not self.cached or not groups:
            return list(groups)
        store = self.ingredients.reference_store
        if store is not None:
            values = store.fetch(groups, self.per_token, self._compute)
        else:
            values = self._compute(groups)
            values = values if self.per_token else sums_of(groups, values)
        return attach_reference(groups, values, self.per_token)

    def logprobs(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """([R] or None where only sums are cached, [S]) log-probs in nats; constants."""
        if self.cached:
            return attached_reference(batch)
        with torch.no_grad():
            tokens = self.ingredients.roles["reference"].logprobs(batch).logprobs
        return tokens, _sums(tokens, batch)

    @torch.no_grad()
    def after_iteration(self, iteration: int) -> None:
        """Sync with the policy when it is time; ``iteration`` counts from 0."""
        s = self.settings
        if s.reference == "synced" and (iteration + 1) % s.sync_every == 0:
            moving, policy = self._weights("reference"), self._weights("policy")
            for name, weight in moving.items():
                weight.lerp_(policy[name], s.sync_alpha)

    def state_dict(self) -> dict[str, Any]:
        """The weights of a reference that moves; nothing otherwise."""
        if self.settings.reference != "synced":
            return {}
        return {"reference": {k: v.detach().clone() for k, v in self._weights("reference").items()}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.settings.reference == "synced":
            for name, weight in self._weights("reference").items():
                weight.copy_(state["reference"][name])

    def _compute(self, groups: Sequence[TokenGroup]) -> Tensor:
        """[R] log-probs under the start weights, dropout off."""
        return token_logprobs(self.ingredients, self.ingredients.roles["policy"].eval(), groups)

    def _weights(self, role: str) -> dict[str, Tensor]:
        """What training moves, under names that policy and reference share."""
        return trained_weights(self.ingredients.roles[role])


class RoundReference:
    """The reference of an on-line method: its log-probs are computed once a round.

    Args:
        refresh_every: rounds after which the policy becomes the reference. 1: in each round the
            policy of the round's start, with no second model; 0: never, the start weights.
        per_token: the loss needs log-probs of tokens, not only of responses.

    Raises:
        ConfigError: a reference that would never be refreshed.
    """

    def __init__(self, ingredients: Ingredients, refresh_every: int, per_token: bool) -> None:
        if refresh_every > 1 and refresh_every >= ingredients.iterations:
            raise ConfigError(
                f"refresh_reference is {refresh_every}, but the stage has only "
                f"{ingredients.iterations} rounds: the reference would never be refreshed"
            )
        self.ingredients = ingredients
        self.refresh_every = refresh_every
        self.per_token = per_token

    def annotate(self, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        """The groups with what the reference of this round says of them."""
        if not groups:
            return []
        roles = self.ingredients.roles
        role = roles["policy"] if self.refresh_every == 1 else roles["reference"]
        values = token_logprobs(self.ingredients, role, groups)
        values = values if self.per_token else sums_of(groups, values)
        return attach_reference(groups, values, self.per_token)

    def logprobs(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """([R] or None where only sums are at hand, [S]) log-probs in nats; constants."""
        return attached_reference(batch)

    @property
    def moves(self) -> bool:
        """Whether it has weights of its own that change."""
        return self.refresh_every > 1

    @torch.no_grad()
    def after_round(self, iteration: int) -> None:
        """Take over the policy's weights when it is time; ``iteration`` counts from 0."""
        if self.moves and (iteration + 1) % self.refresh_every == 0:
            policy = trained_weights(self.ingredients.roles["policy"])
            for name, weight in trained_weights(self.ingredients.roles["reference"]).items():
                weight.copy_(policy[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of a reference that moves; nothing otherwise."""
        if not self.moves:
            return {}
        weights = trained_weights(self.ingredients.roles["reference"])
        return {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.moves:
            for name, weight in trained_weights(self.ingredients.roles["reference"]).items():
                weight.copy_(state[name])


def check_reference(settings: ReferenceSettings, lora: bool, iterations: int | None) -> None:
    """Whether the reference can be had as asked.

    Args:
        lora: whether the policy is an adapter on a frozen model.
        iterations: of the stage, where they are known.

    Raises:
        ConfigError: it cannot, or it would never move.
    """
    if settings.reference == "adapter_off" and not lora:
        raise ConfigError("reference: adapter_off needs LoRA (lora: {}); or take cached")
    if settings.reference != "synced":
        return
    if lora and settings.sync_alpha < 1:
        raise ConfigError(
            "a reference synced with LoRA must copy the adapter (sync_alpha: 1): the mean of two "
            "adapters is not the adapter of the mean"
        )
    if iterations is not None and settings.sync_every > iterations:
        raise ConfigError(
            f"sync_every is {settings.sync_every}, but the stage has only {iterations} steps: the "
            "reference would never move"
        )


def trained_weights(role: Role) -> dict[str, Tensor]:
    """A role's adapter, or all its weights where it has none."""
    if role.adapter is not None:
        return dict(role.trunk.adapter_parameters(role.adapter))
    return dict(role.trunk.model.named_parameters())


def sums_of(groups: Sequence[TokenGroup], values: Tensor) -> Tensor:
    """[S] sums of [R] values over each response's counted tokens."""
    responses = [r for g in groups for r in g.responses]
    mask = torch.tensor([m for r in responses for m in r.mask], dtype=torch.bool)
    of = torch.repeat_interleave(
        torch.arange(len(responses)), torch.tensor([len(r.ids) for r in responses])
    )
    return response_logprobs(values, mask, of, len(responses))


@torch.no_grad()
def token_logprobs(ingredients: Ingredients, role: Role, groups: Sequence[TokenGroup]) -> Tensor:
    """[R] log-probs (nats) of all response tokens under a role."""
    columns = annotate_tokens(
        groups,
        lambda batch: {REF_TOKENS: role.logprobs(batch).logprobs},
        ingredients.tokens_per_microbatch,
        ingredients.device,
    )
    return columns[REF_TOKENS]


def attached_reference(batch: Batch) -> tuple[Tensor | None, Tensor]:
    """What :func:`attach_reference` left with the responses: ([R] or None, [S])."""
    if REF_TOKENS not in batch.token:
        return None, batch.scalar[REF_SUM]
    tokens = batch.token[REF_TOKENS]
    return tokens, _sums(tokens, batch)


def _sums(tokens: Tensor, batch: Batch) -> Tensor:
    return response_logprobs(tokens, batch.response_mask, batch.response_of, batch.num_responses)


def attach_reference(
    groups: Sequence[TokenGroup], values: Tensor, per_token: bool
) -> list[TokenGroup]:
    """The groups with the reference's log-probs: [R] with their tokens, or [S] with the responses.

    Raises:
        ModelError: they are not finite.
    """
    if not torch.isfinite(values).all():
        raise ModelError(
            "the reference gives log-probs that are not finite: its weights are broken, or "
            "dtype is too narrow for them"
        )
    lengths = [len(r.ids) for g in groups for r in g.responses]
    parts = iter(torch.split(values, lengths) if per_token else values.tolist())

    def with_value(response: TokenResponse) -> TokenResponse:
        value = next(parts)
        if isinstance(value, Tensor):
            return replace(response, token={**response.token, REF_TOKENS: value})
        return replace(response, scalar={**response.scalar, REF_SUM: value})

    return [replace(g, responses=tuple(map(with_value, g.responses))) for g in groups]
