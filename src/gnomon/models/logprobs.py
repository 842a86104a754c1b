"""Log-probabilities and entropies of response tokens, without the [N, V] logits.

Hidden states are gathered at the positions that predict response tokens, and only those rows are
projected on the vocabulary, a chunk at a time. The backward pass recomputes each chunk (or keeps
the only chunk, when there is one), so at most about two [chunk, V] tensors exist at any moment.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from gnomon.data.batch import Batch
from gnomon.errors import ModelError
from gnomon.models.costs import logits_at_once
from gnomon.models.gather import take
from gnomon.models.packed import measuring, plain_model
from gnomon.models.precision import Float32Linear

_CHECKED: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
"""Models whose logits were found to be what their OutputHead computes."""

# logits worked on at once on a CPU: 1 MiB of them stays in a core's cache from one pass to the next
_CACHED_LOGITS = 2**18


@dataclass(frozen=True)
class TokenLogprobs:
    """Per response token, in nats.

    Attributes:
        logprobs: [R] log-probability of each response token given what precedes it.
        entropy: [R] entropy of the distribution it was drawn from, or None when not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None = None


@dataclass(frozen=True)
class OutputHead:
    """The map from hidden states to logits: cap * tanh(scale * (W h + b) / cap).

    Attributes:
        module: the model's output embeddings; a plain ``nn.Linear`` takes the fast path, anything
            else (one with an adapter, say) is called as it is.
        scale: a factor on the logits (1 for most models).
        softcap: Gemma 2's bound on the logits, or None.
    """

    module: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel | nn.Module) -> OutputHead:
        """The head of a causal language model, with or without PEFT around it.

        The first time a model is seen, its own logits for two tokens are compared with these.

        Raises:
            ModelError: the model has no language-model head, or its logits are computed in some
                other way than this class knows.
        """
        whole = plain_model(model)
        module = whole.get_output_embeddings()
        if module is None:
            raise ModelError(
                f"{type(whole).__name__} has no language-model head; load it as a causal LM"
            )
        config = whole.config.get_text_config()
        scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
        head = cls(module, scale, getattr(config, "final_logit_softcapping", None))
        if whole not in _CHECKED:
            _check_head(whole, head)
            _CHECKED.add(whole)
        return head

    def logits(self, rows: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits [n, V] of hidden states [n, H], at least float32, over ``temperature``."""
        z = _upcast(self.module(rows)) * self.scale
        if self.softcap is not None:
            z = self.softcap * torch.tanh(z / self.softcap)
        return z / temperature


def trust_head(model: PreTrainedModel) -> None:
    """Take the model's head for understood: another process has seen that it is."""
    _CHECKED.add(plain_model(model))


def token_logprobs(
    hidden: Tensor,
    head: OutputHead,
    batch: Batch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    entropy_grad: bool = True,
    chunk_tokens: int | None = None,
) -> TokenLogprobs:
    """Log-probabilities and entropies of the response tokens from final hidden states.

    Args:
        hidden: [N, H] from :meth:`PackedForward.hidden`.
        head: the model's head, ``OutputHead.of(model)``.
        batch: the batch ``hidden`` was computed from.
        temperature: logits are divided by it; use the sampler's to compare with its log-probs.
        entropy: compute entropies as well.
        entropy_grad: whether they have a gradient; one that is only logged saves the memory.
        chunk_tokens: rows projected at once; by default as suits the device (models/costs.py).

    Returns:
        values in float32 (float64 for float64 hidden states) with gradients to ``hidden`` and to
        the head's weight and bias where these require them.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need it above 0")
    rows = take(hidden, batch.source_index)
    compute = _linear_head if type(head.module) in (nn.Linear, Float32Linear) else _any_head
    options = (temperature, entropy, entropy_grad, chunk_tokens)
    return TokenLogprobs(*compute(rows, head, batch.targets, *options))


def _linear_head(
    rows: Tensor,
    head: OutputHead,
    targets: Tensor,
    temperature: float,
    entropy: bool,
    entropy_grad: bool,
    chunk_tokens: int | None,
) -> tuple[Tensor, Tensor | None]:
    weight: Tensor = head.module.weight  # type: ignore[assignment]
    bias: Tensor | None = head.module.bias  # type: ignore[assignment]
    kind = rows.device.type
    dtype = _head_type(head.module, rows)
    rows, weight = rows.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    chunk = chunk_tokens or _default_chunk(weight.shape[0], rows.device)
    with torch.autocast(kind, enabled=False):
        values, entropies = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
            rows,
            weight,
            bias,
            targets,
            head.scale,
            head.softcap,
            temperature,
            entropy,
            entropy_grad,
            chunk,
        )
    return values, entropies if entropy else None


def _any_head(
    rows: Tensor,
    head: OutputHead,
    targets: Tensor,
    temperature: float,
    entropy: bool,
    entropy_grad: bool,
    chunk_tokens: int | None,
) -> tuple[Tensor, Tensor | None]:
    """The same through autograd, each chunk checkpointed: for heads that are not plain matrices."""

    def chunk_values(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logp = head.logits(h, temperature).log_softmax(-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_grad):
            plogp = -(logp.exp() * logp).sum(-1) if entropy else logp.new_zeros(len(t))
        return logp.gather(1, t[:, None])[:, 0], plogp

    chunk = chunk_tokens or _default_chunk(_vocabulary(head.module, rows), rows.device)
    parts = [
        checkpoint(chunk_values, h, t, use_reentrant=False)
        for h, t in zip(torch.split(rows, chunk), torch.split(targets, chunk), strict=True)
    ]
    values = torch.cat([p[0] for p in parts])
    return values, torch.cat([p[1] for p in parts]) if entropy else None


def _check_head(model: PreTrainedModel, head: OutputHead) -> None:
    """Compare the model's own logits with the head's, given what the model gave its head."""
    given: list[Tensor] = []
    hook = head.module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        with measuring(model):
            ids = torch.tensor([[0, 1]], device=model.get_input_embeddings().weight.device)
            own = model(input_ids=ids, use_cache=False).logits[0]
            found, expected = _upcast(own), head.logits(given[0][0])
    finally:
        hook.remove()
    exact = own.dtype in (torch.float32, torch.float64)
    if not (found - expected).abs().max() <= (1e-4 if exact else 5e-2) * expected.abs().max():
        raise ModelError(
            f"{type(model).__name__} transforms its logits in a way gnomon does not know, so "
            "log-probabilities from its hidden states would be wrong; use another model class"
        )


def _vocabulary(module: nn.Module, rows: Tensor) -> int:
    with torch.no_grad():
        return int(module(rows[:1]).shape[-1])


def _default_chunk(vocabulary: int, device: torch.device) -> int:
    return max(64, logits_at_once(device) // vocabulary)


def _head_type(module: nn.Module, rows: Tensor) -> torch.dtype:
    """What a head multiplies in."""
    kind = rows.device.type
    if isinstance(module, Float32Linear):
        return torch.promote_types(rows.dtype, torch.float32)
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


def _upcast(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


class _LinearLogprobs(torch.autograd.Function):
    """Chunked log-softmax of a linear head.

    With z the logits after scale, softcap and temperature, p = softmax(z) and H the entropy:
    d log p_t / dz_j = [j = t] - p_j and dH / dz_j = -p_j (log p_j + H). Without the second, and
    without a softcap, the backward pass of logits that were kept is the two matrix products alone:
    what they lack is one factor for each row, which the smaller sides of the products are given.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        temperature: float,
        entropy: bool,
        entropy_grad: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        R = rows.shape[0]
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        values = torch.empty(R, dtype=dtype, device=rows.device)
        lse, total, entropies = (torch.empty_like(values) for _ in range(3))
        plain = softcap is None and not (entropy and entropy_grad)
        keep = chunk >= R and any(ctx.needs_input_grad)
        kept, space = None, _space(weight, min(chunk, R), dtype)
        for a in range(0, R, chunk):
            part = slice(a, a + chunk)
            z = _scaled_logits(rows[part], weight, bias, scale, softcap, temperature, space)
            kept = z if keep else None
            found = _exponentials(z.clone() if keep and not plain else z, targets[part], entropy)
            values[part], lse[part], total[part], entropies[part] = found
        ctx.save_for_backward(rows, weight, bias, targets, lse, total, entropies, kept)
        ctx.settings = (scale, softcap, temperature, chunk, plain)
        ctx.entropy = entropy and entropy_grad
        if not ctx.entropy:
            ctx.mark_non_differentiable(entropies)
        return values, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):  # whoever calls backward()
            return _LinearLogprobs._gradients(ctx, *grads)

    @staticmethod
    def _gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, bias, targets, lse, total, entropies, kept = ctx.saved_tensors
        scale, softcap, temperature, chunk, plain = ctx.settings
        g, e = grads
        want_rows, want_weight, want_bias = ctx.needs_input_grad[:3]
        d_rows = torch.empty_like(rows) if want_rows else None
        d_weight: Tensor | None = None
        d_bias = torch.zeros_like(bias, dtype=lse.dtype) if want_bias else None
        space = _space(weight, min(chunk, len(rows)), lse.dtype) if kept is None else kept
        for a in range(0, len(rows), chunk):
            part = slice(a, a + chunk)
            z = kept
            if z is None:
                z = _scaled_logits(rows[part], weight, bias, scale, softcap, temperature, space)
            factor = torch.full_like(g[part], scale / temperature)  # what dz lacks, row by row
            if plain:
                if kept is None:
                    z.sub_(lse[part, None]).exp_()
                    z.scatter_add_(1, targets[part, None], -torch.ones_like(factor)[:, None])
                elif rows.dtype != z.dtype:  # half precision has no room for sums over a vocabulary
                    z = torch.div(z, total[part, None], out=torch.empty_like(z, dtype=rows.dtype))
                else:
                    factor /= total[part]
                dz, factor = z, -g[part] * factor
            else:
                log_p = z - lse[part, None]
                if ctx.entropy:
                    p = log_p.exp()
                    dz = log_p.add_(entropies[part, None]).mul_(e[part, None]).add_(g[part, None])
                    dz.mul_(p).neg_()
                    del p
                else:
                    dz = log_p.exp_().mul_(-g[part, None])
                del log_p
                dz.scatter_add_(1, targets[part, None], g[part, None])
                if softcap is not None:  # d cap*tanh(x/cap) / dx = 1 - tanh^2
                    dz.mul_((z * (temperature / softcap)).square_().neg_().add_(1))
            dz, factor = dz.to(rows.dtype), factor.to(rows.dtype)
            if d_rows is not None:
                d_rows[part] = (dz @ weight).mul_(factor[:, None])
            if want_weight:
                d_weight = _add_product(d_weight, dz, rows[part] * factor[:, None], lse.dtype)
            if d_bias is not None:
                d_bias += factor @ dz
            del z, dz  # before there is a next one
        return (
            d_rows,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            *(None,) * 7,
        )


def _add_product(total: Tensor | None, dz: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """total + dz^T rows, accumulated in ``dtype``; 0 + dz^T rows where there is no total yet."""
    if total is None:
        return (dz.T @ rows).to(dtype)
    return total.addmm_(dz.T, rows) if dtype == rows.dtype else total.add_(dz.T @ rows)


def _exponentials(
    z: Tensor, targets: Tensor, entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn logits [n, V], in place, into what the gradient of log p_t needs of them.

    That is exp(z_j - max), less their sum at j = t: times -1 / sum it is d log p_t / dz_j, exact
    too where p_t is nearly 1. On a CPU a few rows are done at a time, which stay in its cache.

    Returns:
        log p_t, log sum exp(z), sum exp(z - max), the entropy (0 if not asked for); each [n].
    """
    step = len(z) if z.is_cuda else max(1, _CACHED_LOGITS // z.shape[1])
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for part, t in zip(torch.split(z, step), torch.split(targets[:, None], step), strict=True):
        top = part.amax(-1, keepdim=True)
        chosen = part.sub_(top).gather(1, t)
        shifted = part.clone() if entropy else part
        total = part.exp_().sum(-1, keepdim=True)
        log_total, spread = total.log(), torch.zeros_like(total)
        if entropy:
            spread = log_total - shifted.mul_(part).sum(-1, keepdim=True) / total
        part.scatter_add_(1, t, -total)
        found.append((chosen - log_total, log_total + top, total, spread))
    value, lse, total, spread = (torch.cat(each)[:, 0] for each in zip(*found, strict=True))
    return value, lse, total, spread


def _space(weight: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Room for the logits [rows, V] of one chunk after the other: fresh memory for each would have
    to be mapped by the system first, which takes a fifth of the product's time on a CPU."""
    return torch.empty(rows, weight.shape[0], dtype=dtype, device=weight.device)


def _scaled_logits(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    temperature: float,
    space: Tensor,
) -> Tensor:
    """Logits [n, V] after scale, softcap and temperature, in ``space``, which is float32 (float64
    for float64)."""
    z = space[: len(rows)]
    if z.dtype != rows.dtype:
        z.copy_(nn.functional.linear(rows, weight, bias))
    elif bias is None:
        torch.mm(rows, weight.t(), out=z)
    else:
        torch.addmm(bias, rows, weight.t(), out=z)
    if softcap is not None:
        return z.mul_(scale / softcap).tanh_().mul_(softcap / temperature)
    factor = scale / temperature
    return z if factor == 1 else z.mul_(factor)
