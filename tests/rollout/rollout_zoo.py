"""Tiny models, a byte-level tokenizer, and a naive oracle for the rollout tests."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_WINDOWED = {
    "head_dim": 8,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
}
FAMILIES = {
    "llama": _SHAPE,
    "qwen2": _SHAPE,
    "qwen3": _SHAPE | {"head_dim": 8},
    "mistral": _SHAPE | {"sliding_window": 6},
    "gemma2": _SHAPE | _WINDOWED | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3_text": _SHAPE | _WINDOWED | {"query_pre_attn_scalar": 8},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, some of two bytes ("ab", "cd", "th"), then <eos> and <pad>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    merges = [("a", "b"), ("c", "d"), ("t", "h")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def _sharpened(model: PreTrainedModel) -> PreTrainedModel:
    """Scale the weights up so that attention and the next token truly depend on the prompt."""
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.dim() == 2:
                weight.mul_(6.0)
    return model.eval()


def family_model(family: str, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(11)
    config = AutoConfig.for_model(family, vocab_size=vocabulary, **FAMILIES[family])
    return _sharpened(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


def alibi_model(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(11)
    config = BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4)
    return _sharpened(BloomForCausalLM(config))


def state_space_model(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(11)
    config = MambaConfig(
        vocab_size=vocabulary, hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=None
    )
    return _sharpened(MambaForCausalLM(config))


@torch.no_grad()
def naive_logprobs(
    model: PreTrainedModel, prompt: list[int], response: tuple[int, ...], temperature: float = 1.0
) -> Tensor:
    """[T] log-probabilities of ``response`` from one full forward without any cache."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    table = (logits / temperature).log_softmax(-1)
    return table.gather(1, torch.tensor(response)[:, None])[:, 0]


@torch.no_grad()
def next_distribution(model: PreTrainedModel, prompt: list[int], temperature: float) -> Tensor:
    """[V] exact next-token probabilities."""
    logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    return (logits.double() / temperature).softmax(-1)
