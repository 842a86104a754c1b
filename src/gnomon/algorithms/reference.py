"""The reference that a method is tied to: where its log-probs come from, and when it moves.

For a method whose data is given, the setting ``reference`` says which:

- ``cached``: one pass over the data before training, with the start weights. No second model.
- ``adapter_off``: computed in each step with the LoRA adapter switched off. The same numbers.
- ``live``: computed in each step by a frozen copy of the model (with LoRA: the frozen trunk).
- ``synced``: a reference that follows the policy, every tau steps by

      pi_ref <- alpha pi_theta + (1 - alpha) pi_ref

  (TR-DPO: Gorbatovski et al. 2024, "Learn your reference model", arXiv:2404.09656).

A method that samples computes its reference's log-probs once an iteration, before its updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gnomon.algorithms.base import POLICY, Step, Workbench, responses_of, trained_weights
from gnomon.algorithms.offline_settings import ReferenceSettings
from gnomon.algorithms.on_policy_settings import BaseMixSettings
from gnomon.data.batch import Batch
from gnomon.errors import ConfigError, ModelError
from gnomon.losses.kl import mixed_logprobs
from gnomon.losses.reduce import response_logprobs
from gnomon.models.memory import RoleNeed
from gnomon.models.roles import Role
from gnomon.models.sharded import assign
from gnomon.records import TokenGroup, TokenResponse

REF_SUM, REF_TOKENS = "ref_logprob", "ref_logprobs"
"""Names of a response's reference log-prob in ``scalar``, and per token in ``token``."""


def reference_needs(settings: ReferenceSettings) -> tuple[RoleNeed, ...]:
    """The roles a method with these settings needs: no reference where it is cached."""
    if settings.reference == "cached":
        return (POLICY,)
    synced = settings.reference == "synced"
    averaged = synced and settings.sync_alpha < 1
    return (POLICY, RoleNeed("reference", moves=synced, averaged=averaged))


def base_needs(settings: BaseMixSettings) -> tuple[RoleNeed, ...]:
    """The base model, where the reference is a mixture with it."""
    return (RoleNeed("base", model=settings.base_model),) if settings.base_share else ()


def sampled_reference(
    bench: Workbench, settings: BaseMixSettings, batch: Batch, temperature: float
) -> Tensor:
    """[R] log-probs (nats) of the reference of a method that samples: the role, or its mixture with
    the base model."""
    ref = bench.roles["reference"].logprobs(batch, temperature=temperature).logprobs
    if not settings.base_share:
        return ref
    base = bench.roles["base"].logprobs(batch, temperature=temperature).logprobs
    return mixed_logprobs(ref, base, settings.base_share, settings.base_mix)


class MovingReference:
    """A reference that takes over the policy's weights every so many iterations.

    An average is kept in float32 beside narrower weights: in bfloat16 a small move would be rounded
    away, each time anew.

    Args:
        every: iterations between two moves; 0 for a reference that stays as it is.
        alpha: share of the policy in a move; 1 copies it.

    Raises:
        ConfigError: a reference that is an adapter cannot move part of the way.
    """

    def __init__(self, bench: Workbench, every: int, alpha: float = 1.0) -> None:
        self.roles = bench.roles
        self.every = every
        self.alpha = alpha
        if every and alpha < 1 and bench.roles["reference"].adapter is not None:
            raise ConfigError(
                "a reference that moves with LoRA must copy the adapter (a share of 1): the mean "
                "of two adapters is not the adapter of the mean"
            )
        self.wide = {
            name: weight.detach().float()
            for name, weight in (self._weights() if every and alpha < 1 else {}).items()
            if weight.dtype.itemsize < torch.float32.itemsize
        }

    def _weights(self) -> dict[str, Tensor]:
        return trained_weights(self.roles["reference"])

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Move when it is time."""
        if self.every and (step.iteration + 1) % self.every == 0:
            policy = trained_weights(self.roles["policy"])
            for name, weight in self._weights().items():
                mean = self.wide.get(name, weight)
                weight.copy_(mean.lerp_(policy[name].to(mean), self.alpha))

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of a reference that moves; nothing otherwise."""
        if not self.every:
            return {}
        weights = self._weights() | self.wide
        return {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        if self.every:
            for name, weight in self._weights().items():
                mean = self.wide.get(name, weight)
                assign(mean, state[name])
                weight.copy_(mean)


def check_it_moves(every: int, iterations: int | None, setting: str) -> None:
    """Refuse a reference that should move but would not within ``iterations``.

    Raises:
        ConfigError: it would never move.
    """
    if every and iterations is not None and every > iterations:
        raise ConfigError(
            f"{setting} is {every}, but the stage has only {iterations} iterations in which that "
            "could matter: the reference would never move"
        )


class Reference:
    """The reference of a method whose data is given.

    Args:
        bench: of the stage; the policy must still have its start weights.
        settings: which of the four ways.
        per_token: the method needs log-probs of tokens, not only of responses.

    Raises:
        ConfigError: a role that the way needs is not there, or a reference that never moves.
    """

    def __init__(
        self, bench: Workbench, settings: ReferenceSettings, per_token: bool = False
    ) -> None:
        self.bench = bench
        self.per_token = per_token
        self.cached = settings.reference == "cached"
        if not self.cached and "reference" not in bench.roles:
            raise ConfigError(f"reference: {settings.reference} needs a role 'reference'")
        lora = bench.roles["policy"].adapter is not None
        check_reference(settings, lora, bench.iterations)
        synced = settings.reference == "synced"
        self.moving = MovingReference(
            bench, settings.sync_every if synced else 0, settings.sync_alpha
        )

    def annotate(self, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        """The groups with the reference's log-probs, where those are computed beforehand."""
        if not self.cached or not groups:
            return list(groups)
        store = self.bench.reference_store
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
            tokens = self.bench.roles["reference"].logprobs(batch).logprobs
        return tokens, _sums(tokens, batch)

    def _compute(self, groups: Sequence[TokenGroup]) -> Tensor:
        """[R] log-probs under the start weights, dropout off."""
        return reference_logprobs(self.bench, self.bench.roles["policy"].eval(), groups)


def check_reference(settings: ReferenceSettings, lora: bool, iterations: int | None) -> None:
    """Check that the reference can be computed in the way the settings ask for.

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
    check_it_moves(settings.sync_every, iterations, "sync_every")


def sums_of(groups: Sequence[TokenGroup], values: Tensor) -> Tensor:
    """[S] sums of [R] values over each response's counted tokens."""
    responses = responses_of(groups)
    mask = torch.tensor([m for r in responses for m in r.mask], dtype=torch.bool)
    sizes = torch.tensor([len(r.ids) for r in responses])
    of = torch.repeat_interleave(torch.arange(len(responses)), sizes)
    return response_logprobs(values, mask, of, len(responses))


@torch.no_grad()
def reference_logprobs(bench: Workbench, role: Role, groups: Sequence[TokenGroup]) -> Tensor:
    """[R] log-probs (nats) of all response tokens under a role."""
    columns = bench.columns(groups, lambda batch: {REF_TOKENS: role.logprobs(batch).logprobs})
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
    lengths = [len(r.ids) for r in responses_of(groups)]
    parts = iter(torch.split(values, lengths) if per_token else values.tolist())

    def with_value(response: TokenResponse) -> TokenResponse:
        value = next(parts)
        if isinstance(value, Tensor):
            return replace(response, token={**response.token, REF_TOKENS: value})
        return replace(response, scalar={**response.scalar, REF_SUM: value})

    return [replace(g, responses=tuple(map(with_value, g.responses))) for g in groups]
