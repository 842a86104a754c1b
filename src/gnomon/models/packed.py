"""The packed forward: one pass over a batch of groups that computes each prompt once.

An ordinary transformers model runs on all packed tokens as a single row; only its attention is
replaced: by torch's kernels for rows of many lengths on a GPU (:mod:`gnomon.models.varlen`), by
masked blocks elsewhere (:mod:`gnomon.models.attention`). Models that cannot run so fall back, with
a warning, to one padded row per response, behind the same interface.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from gnomon.data.batch import Batch, pack
from gnomon.errors import ModelError
from gnomon.models import fixed_order
from gnomon.models.compiled import CompiledLayers
from gnomon.models.varlen import Attention, Kind, PassPlan
from gnomon.records import TokenGroup, TokenResponse

PACKED_ATTENTION = "gnomon_packed"
_COMPILED = "gnomon_packed_within_compiled_layers"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    attention_plan: Attention | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, H, N, d] in, [1, N, H, d] out."""
    if attention_plan is None:
        raise RuntimeError(
            f"{type(module).__name__} did not pass the attention plan on; use PackedForward"
        )
    out = attention_plan.attend(
        query[0],
        key[0],
        value[0],
        scaling=scaling,
        dropout=dropout,
        window=sliding_window,
        softcap=softcap,
    )
    return out[None], None


def register(name: str = PACKED_ATTENTION, function: Callable[..., Any] = packed_attention) -> None:
    """Make the packed attention known to transformers.

    It is deliberately not given a mask function: transformers builds no mask for an attention that
    has none, and a mask over all packed tokens would cost N^2.
    """
    AttentionInterface.register(name, function)


register()


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Make every attention layer of ``model`` use the registered implementation ``name``.

    ``name`` is a key of transformers' ``ALL_ATTENTION_FUNCTIONS``. The previous choice comes back
    when the block ends, so the same weights can serve packed training, rollouts and plain calls.
    """
    with _attending(_configs(model), name):
        yield


def _configs(model: PreTrainedModel) -> list[Any]:
    """The configurations that a model's attention layers look into, each once."""
    found = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    return list(found.values())


@contextmanager
def _attending(configs: Sequence[Any], name: str) -> Iterator[None]:
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, was in zip(configs, before, strict=True):
            config._attn_implementation = was


_PLANS: weakref.WeakKeyDictionary[Batch, PassPlan] = weakref.WeakKeyDictionary()
"""One plan per batch, shared by every model and epoch that runs it."""

# largest difference, relative to the largest hidden state, that rounding explains
_PROBE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-5}
_PROBE_TOLERANCE_HALF = 4e-2


def plan_of(batch: Batch) -> PassPlan:
    """The batch's attention plan, made on first use and kept as long as the batch."""
    plan = _PLANS.get(batch)
    if plan is None:
        plan = _PLANS[batch] = PassPlan.of(batch)
    return plan


class PackedForward:
    """Hidden states of packed batches from an ordinary transformers model.

    Args:
        model: a transformers model with or without a head, or a PEFT model around one. It is not
            changed; adapters, train or eval mode and gradient checkpointing are honoured as they
            are set at each call.
        probe: run two small groups both ways and compare, to find out whether the model can share
            prompts. Without it, a model that declares support for custom attention is trusted.
        compiled: run the trunk's layers compiled.
        attention: "blocks" (with masks), "varlen" (torch's kernels without them), or "auto": varlen
            on a GPU that can, else blocks; see :class:`gnomon.models.varlen.Attention`.
        deterministic: on a GPU, add attention's gradients up in a fixed order, which models that
            cannot share prompts do not.

    Attributes:
        model: the model as given.
        trunk: the part below the head that is run.
        shares_prefix: True when prompts are computed once per group.
        fallback_reason: why not, or None.

    Raises:
        ModelError: a PEFT method that adds virtual tokens to the prompt, or "varlen" where that
            cannot be.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        *,
        probe: bool = True,
        attention: Kind = "auto",
        compiled: bool = False,
        deterministic: bool = False,
    ) -> None:
        self.model = model
        self.attention = attention
        self.deterministic = deterministic
        self._compiled: CompiledLayers | None = None
        whole = plain_model(model)
        self.trunk: PreTrainedModel = whole.base_model
        self._configs = _configs(self.trunk)  # once: each recomputed layer changes them
        self._checkpoints = [
            m for m in self.trunk.modules() if hasattr(m, "gradient_checkpointing")
        ]
        self.fallback_reason = self._reason_not_to_share(whole, probe)
        self.shares_prefix = self.fallback_reason is None
        if compiled and self.shares_prefix:
            plain = torch.compiler.disable(packed_attention)  # type: ignore[no-untyped-call]
            register(_COMPILED, plain)
            self._compiled = CompiledLayers(self.trunk)
        if self.fallback_reason is not None:
            warnings.warn(
                f"{type(whole).__name__} cannot share prompts among responses: "
                f"{self.fallback_reason}. Each response is computed with its own copy of the "
                "prompt, which is slower and needs more memory."
                + " On a GPU its attention adds gradients up in any order."
                * deterministic,
                stacklevel=2,
            )

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states [N, H] of all packed tokens: what the model's head would be given.

        Gradients flow unless the caller switched them off. The batch must be on the model's device.
        """
        return self._shared(batch) if self.shares_prefix else self._padded(batch)

    def planned(self, input_ids: Tensor, position_ids: Tensor, plan: PassPlan) -> Tensor:
        """Final hidden states [N, H] of packed tokens that attend to each other as ``plan`` says.

        Only for models that share prefixes (:attr:`shares_prefix`).
        """
        layers = self._compiled.enabled() if self._compiled else nullcontext()
        if self.deterministic:
            fixed_order.reset()  # where whoever asked for the last gradients caught a failure
        with self._packed_attention(), layers:
            out = self.trunk(
                input_ids=input_ids[None],
                position_ids=position_ids[None],
                use_cache=False,
                attention_plan=Attention(plan, self.attention, self.deterministic),
            )
        return out[0][0]  # type: ignore[no-any-return]

    @property
    def _implementation(self) -> str:
        return _COMPILED if self._compiled else PACKED_ATTENTION

    def _shared(self, batch: Batch) -> Tensor:
        return self.planned(batch.input_ids, batch.position_ids, plan_of(batch))

    def _padded(self, batch: Batch) -> Tensor:
        """One row per response, prompt included, scattered back to the packed positions."""
        rows = _rows(batch)
        width = max(len(row) for row in rows)
        index = torch.tensor([row + row[-1:] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        # the first slot of each packed position: a shared prompt is read from its first copy
        slots = torch.full((batch.num_tokens,), index.numel())
        real = mask.flatten().nonzero().flatten()
        slots.scatter_reduce_(0, index.flatten()[real], real, "amin")
        device = batch.input_ids.device
        out = self.trunk(
            input_ids=batch.input_ids[index.to(device)],
            attention_mask=mask.to(device),
            use_cache=False,
        )
        return out[0].flatten(0, 1).index_select(0, slots.to(device))  # type: ignore[no-any-return]

    @contextmanager
    def _packed_attention(self) -> Iterator[None]:
        """Use the packed attention now, and again whenever a checkpointed layer is recomputed.

        Gradient checkpointing runs layers a second time in the backward pass, after this block has
        ended; the checkpoint functions are therefore wrapped so that what they recompute runs under
        the packed attention as well.
        """
        wrapped: list[tuple[Any, Callable[..., Any]]] = []
        try:
            for module in self._checkpoints:
                function = module.__dict__.get("_gradient_checkpointing_func")
                if function is not None:
                    wrapped.append((module, function))
                    module._gradient_checkpointing_func = self._recomputing(function)
            with _attending(self._configs, self._implementation):
                yield
        finally:
            for module, function in wrapped:
                module._gradient_checkpointing_func = function

    def _recomputing(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        def run(layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def packed_layer(*inner: Any, **named: Any) -> Any:
                with _attending(self._configs, self._implementation):
                    return layer(*inner, **named)

            return checkpoint(packed_layer, *args, **kwargs)

        return run

    def _reason_not_to_share(self, whole: PreTrainedModel, probe: bool) -> str | None:
        if not getattr(whole, "_supports_attention_backend", False):
            return "its attention cannot be replaced (no attention backend support)"
        return self._probe() if probe else None

    def _probe(self) -> str | None:
        """Compare packed and padded hidden states of two small groups; None when they agree."""
        batch = _probe_batch(self.trunk)
        with measuring(self.trunk):
            expected = self._padded(batch).double()
            try:
                found = self._shared(batch)
            except Exception as error:  # whatever a foreign model raises means it cannot
                if self.attention == "varlen":
                    raise ModelError(
                        f"attention='varlen' cannot run {type(self.trunk).__name__} here: {error}"
                    ) from error
                return f"its packed forward fails ({type(error).__name__}: {error})"
        gap = (found.double() - expected).abs().max() / expected.abs().max()
        tolerance = _PROBE_TOLERANCE.get(found.dtype, _PROBE_TOLERANCE_HALF)
        if torch.is_autocast_enabled(found.device.type):
            tolerance = _PROBE_TOLERANCE_HALF
        if not gap <= tolerance:  # NaN is a failure too
            return f"packed and separate results differ by {float(gap):.1e} of the largest value"
        return None


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def plain_model(model: PreTrainedModel | nn.Module) -> PreTrainedModel:
    """The transformers model itself, under PEFT's wrapper if there is one (adapters stay active).

    Raises:
        ModelError: not a transformers model, or PEFT with virtual prompt tokens.
    """
    configs = getattr(model, "peft_config", None)
    if not isinstance(model, PreTrainedModel) and configs is not None:
        for name, config in configs.items():
            if config.is_prompt_learning:
                raise ModelError(
                    f"adapter {name!r} ({config.peft_type.value}) puts virtual tokens before the "
                    "prompt, which packed batches cannot hold; use LoRA or another weight adapter"
                )
        model = model.get_base_model()  # type: ignore[operator]
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"{type(model).__name__} is not a transformers model")
    return model


def _rows(batch: Batch) -> list[list[int]]:
    """Packed positions of each response's whole conversation (the prompt alone when K = 0)."""
    rows: list[list[int]] = []
    for segment in batch.segments:
        prompt = list(range(*segment.prompt))
        rows.extend([*prompt, *range(*r)] for r in segment.responses)
        if not segment.responses:
            rows.append(prompt)
    return rows


def _probe_batch(trunk: PreTrainedModel) -> Batch:
    """Two groups of random tokens, drawn from a generator of their own."""
    embeddings = trunk.get_input_embeddings().weight
    draw = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        ids: list[int] = torch.randint(embeddings.shape[0], (n,), generator=draw).tolist()
        return ids

    def group(name: str, prompt: int, *responses: int) -> TokenGroup:
        answers = tuple(TokenResponse(tokens(n), [True] * n) for n in responses)
        return TokenGroup(name, tokens(prompt), answers)

    return pack([group("a", 5, 3, 4), group("b", 2, 6)]).to(embeddings.device)
