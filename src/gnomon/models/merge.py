"""Plain weights from a trunk and one of its adapters, without touching either."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from gnomon.errors import ModelError
from gnomon.models.sharded import local


def merged_state(model: PreTrainedModel, adapter: str | None) -> dict[str, Tensor]:
    """The state dict that a plain model would have with the adapter's B A added to its weights.

    Tensors without an adapter are the model's own, not copies. The live weights stay as they are.
    """
    state = {
        key.replace(".base_layer.", "."): tensor.detach()
        for key, tensor in _saved(model)
        if ".lora_" not in key
    }
    if adapter is None:
        return state
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
            weight = state[f"{name}.weight"]
            delta = layer.get_delta_weight(adapter).detach()
            merged = (weight.float() + delta.float()).to(weight.dtype)
            state[f"{name}.weight"] = merged.cpu()  # a GPU has no room for a second model
    return state


def _saved(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What ``state_dict`` has, in its order; which would spread weights again that are gathered."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        yield from ((dot + k, p) for k, p in module._parameters.items() if p is not None)
        kept = set(module._buffers) - module._non_persistent_buffers_set
        yield from ((dot + k, module._buffers[k]) for k in module._buffers if k in kept)


@torch.no_grad()
def average_with_start(
    trained: Mapping[str, Tensor], start: Mapping[str, Tensor], share: float
) -> None:
    """Move trained weights back towards where training started, in place.

        w = (1 - share) * w_trained + share * w_start

    Wortsman et al. 2022 (WiSE-FT, arXiv:2109.01903); for RLHF's alignment tax, Lin et al. 2023
    (arXiv:2309.06256). Of a LoRA adapter the product B A is averaged, not B and A: it started at
    zero, so B is scaled, and the merged weights are the average exactly.

    Args:
        trained: the trained parameters by name.
        start: the same before training, on any device; those of adapters are not needed.
        share: the start's share, from 0 (nothing changes) to 1 (the start).

    Raises:
        ValueError: share lies outside [0, 1].
        KeyError: a parameter that is no adapter's is not in ``start``.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    for name, weight in trained.items():
        if ".lora_B." in name:
            weight.mul_(1.0 - share)
        elif ".lora_A." not in name:
            before = start[name].to(weight.device, torch.float32)
            weight.copy_(torch.lerp(weight.float(), before, share))


def plain_config(model: PreTrainedModel) -> PretrainedConfig:
    """A copy of the configuration that can be saved: weights in memory are never quantised."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def reward_state(
    model: PreTrainedModel, state: dict[str, Tensor], score: Tensor, target: PreTrainedModel
) -> dict[str, Tensor]:
    """The weights below the vocabulary head and the scalar head, under ``target``'s names.

    Args:
        model, state: the trunk and its merged weights.
        score: [n, H] the scalar head.
        target: the (empty) sequence classification model they are for.
    """
    headless = model.base_model is model
    here = "" if headless else model.base_model_prefix + "."
    there = target.base_model_prefix + "."
    renamed = {
        there + key.removeprefix(here): tensor
        for key, tensor in state.items()
        if key.startswith(here)
    }
    renamed["score.weight"] = score
    wanted = set(target.state_dict())
    if wanted != renamed.keys():
        odd = sorted(wanted ^ renamed.keys())
        raise ModelError(
            f"{type(target).__name__} has other weights than {type(model).__name__} ({odd[0]}), "
            "so this architecture cannot be saved as a plain reward model"
        )
    return renamed


def padding_for_pooling(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos: set[int]
) -> tuple[PreTrainedTokenizerBase, int]:
    """A tokenizer whose padding can never be a response's last token, and the rows it needs.

    transformers reads a reward at the last token that is not padding. Where pad is EOS it would
    skip the EOS that the reward was trained to be read at, so another token is chosen: an unused
    one the vocabulary has already, else a new one.

    Args:
        vocabulary: rows of the embedding.
        eos: ids that end a response.

    Returns:
        a copy of the tokenizer that pads on the right, and how many embedding rows it needs.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"
    taken = eos | {tokenizer.eos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return tokenizer, vocabulary
    spare = [t for t in (tokenizer.unk_token,) if t is not None]
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    spare += [t for t, _ in added if any(w in t.lower() for w in ("pad", "reserved", "unused"))]
    for token in spare:
        if tokenizer.convert_tokens_to_ids(token) not in taken:
            tokenizer.pad_token = token
            return tokenizer, vocabulary
    tokenizer.add_special_tokens({"pad_token": "<|gnomon_pad|>"})
    return tokenizer, max(vocabulary, int(tokenizer.pad_token_id) + 1)


def grow_embedding(model: PreTrainedModel, state: dict[str, Tensor], rows: int) -> None:
    """Add rows of zeros to the input embedding in ``state`` up to ``rows``."""
    table = model.get_input_embeddings()
    key = next(n for n, m in model.named_modules() if m is table) + ".weight"
    weight = state[key]
    extra = weight.new_zeros(rows - weight.shape[0], weight.shape[1])
    state[key] = torch.cat([weight, extra])


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(local(tensor)).all()):
            return name
    return None
