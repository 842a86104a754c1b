"""Driving an ordinary transformers model with packed passes over the engine's own KV cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gnomon.models.packed import attention_implementation
from gnomon.rollout.kv import IMPLEMENTATION, KVCache, Segment, Step

_PROBE = ((5, 3, 7, 2, 6), (4, 6, 3))  # two short prompts for the self-check
_ATTENDING = {"full_attention", "sliding_attention"}


@contextmanager
def sampling_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off and no graph inside the block; each module's own mode comes back after it."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def packed_pass(
    model: PreTrainedModel,
    cache: KVCache,
    tokens: Sequence[int],
    lengths: Sequence[int],
    prompts: Sequence[Sequence[int]],
) -> tuple[Tensor, Step]:
    """Feed one token to each decoding row and whole prompts to the cache rows after them.

    Args:
        model: a causal language model under the engine's attention implementation.
        cache: with room for ``max(lengths) + 1`` positions and for every prompt.
        tokens: B token ids, one for each of the cache's first B rows.
        lengths: B numbers of tokens already cached.
        prompts: S prompts; prompt s goes to cache row B + s.

    Returns:
        ([B + S, V] logits of the last position of each row and prompt, what the pass did).
    """
    device = model.get_input_embeddings().weight.device
    ids, positions, last, segments = list(tokens), list(lengths), list(range(len(tokens))), []
    for row, prompt in enumerate(prompts, start=len(tokens)):
        segments.append(Segment(row, len(ids), len(prompt)))
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        last.append(len(ids) - 1)
    step = Step(
        cache=cache,
        lengths=torch.tensor(lengths, dtype=torch.long, device=device),
        longest=max(lengths, default=0),
        shortest=min(lengths, default=0),
        segments=segments,
    )
    output = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        logits_to_keep=torch.tensor(last, device=device) if prompts else 0,
        rollout=step,
    )
    logits: Tensor = output.logits[0]
    return logits, step


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Why packed passes would be wrong for ``model``; None when they reproduce its own forward.

    Compares two packed passes (prefill, then a decoding step) with the model's forward.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    odd = sorted(set(kinds or ()) - _ATTENDING)
    if odd:
        return f"it has layers of kind {', '.join(odd)}"
    cache = KVCache(rows=len(_PROBE), limit=16)
    cache.reserve(8)
    try:
        with warnings.catch_warnings(), attention_implementation(model, IMPLEMENTATION):
            warnings.simplefilter("ignore")
            _, step = packed_pass(model, cache, [], [], [prompt[:-1] for prompt in _PROBE])
            lengths = [len(prompt) - 1 for prompt in _PROBE]
            packed, _ = packed_pass(model, cache, [p[-1] for p in _PROBE], lengths, [])
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        return f"its forward does not take packed passes ({type(error).__name__}: {error})"
    if len(step.calls) != config.num_hidden_layers:
        return "its layers do not use the attention interface of transformers"
    windowed = [kind == "sliding_attention" for kind in kinds or ()]
    if any(flag != (step.windows[i] is not None) for i, flag in enumerate(windowed)):
        return "its sliding-window layers do not say their window"
    device = packed.device
    own = torch.stack(
        [
            model(input_ids=torch.tensor([prompt], device=device), use_cache=False).logits[0, -1]
            for prompt in _PROBE
        ]
    )
    tolerance = 1e-3 if own.dtype == torch.float32 else 0.1
    gap = float((packed.float() - own.float()).norm() / own.float().norm().clamp(min=1e-6))
    if not gap <= tolerance:
        return f"packed passes differ from its own forward by {gap:.1e} (relative)"
    return None
