"""Tiny models of several families, a tokenizer and batches for the tests of roles and saving."""

from __future__ import annotations

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from gnomon.data.batch import Batch, pack
from gnomon.models.logprobs import OutputHead, TokenLogprobs, token_logprobs
from gnomon.models.packed import PackedForward
from gnomon.models.roles import Trunk
from gnomon.records import TokenGroup, TokenResponse

V, H, EOS, PAD = 64, 32, 1, 2
COMMON = {
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": EOS,
}
FAMILIES = {
    "llama": lambda: tf.LlamaConfig(**COMMON),
    "qwen2-tied": lambda: tf.Qwen2Config(**COMMON, tie_word_embeddings=True),
    "gemma": lambda: tf.GemmaConfig(**COMMON),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=V,
        n_embd=H,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    ),
}


def model(family: str = "llama", seed: int = 0, **changes: object) -> tf.PreTrainedModel:
    config = FAMILIES[family]()
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    return tf.AutoModelForCausalLM.from_config(config).eval()


def tokenizer(pad: str | None = "<pad>", unk: str | None = None) -> tf.PreTrainedTokenizerFast:
    words = ["<bos>", "<eos>", "<pad>", *(f"w{i}" for i in range(3, V))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token=pad, unk_token=unk
    )


def trunk(family: str = "llama", **kwargs: object) -> Trunk:
    return Trunk(model(family), tokenizer(), fingerprint=f"base-{family}", **kwargs)


def batch(seed: int = 1) -> Batch:
    """Two groups of 2 and 3 responses that end in EOS, with one masked token."""
    draw = torch.Generator().manual_seed(seed)

    def ids(n: int) -> list[int]:
        return torch.randint(3, V, (n,), generator=draw).tolist()

    def response(n: int) -> TokenResponse:
        return TokenResponse([*ids(n), EOS], [n != 4] + [True] * n)

    return pack(
        [
            TokenGroup("a", ids(5), (response(3), response(6))),
            TokenGroup("b", ids(2), (response(1), response(4), response(2))),
        ]
    )


def rows(packed: Batch) -> list[list[int]]:
    """Each response with its own prompt, as plain token lists."""
    out = []
    for segment in packed.segments:
        prompt = packed.input_ids[slice(*segment.prompt)].tolist()
        out += [prompt + packed.input_ids[slice(*r)].tolist() for r in segment.responses]
    return out


def shake(parameters: dict[str, torch.nn.Parameter], seed: int = 5, size: float = 0.2) -> None:
    """Move parameters away from where they are, as training would."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.data.add_(size * torch.randn(parameter.shape, generator=draw))


def logprobs(packed: PackedForward, batch: Batch, **options: object) -> TokenLogprobs:
    """Log-probabilities of a batch's response tokens under ``packed.model``."""
    return token_logprobs(packed.hidden(batch), OutputHead.of(packed.model), batch, **options)
