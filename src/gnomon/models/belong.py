"""Whether a model's configuration, weights and tokenizer belong together, before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from gnomon.errors import ModelError

SIZES = {
    "vocab_size": 10**7,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**3,
    "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5,
    "head_dim": 10**5,
    "max_position_embeddings": 10**9,
}
"""Far beyond any model: a configuration with more is damaged or hostile."""
_PACKED = 16
"""Parameters that one stored number may hold, and more (quantised ones are packed 4 or 8 to one).
"""


def check_sizes(config: PretrainedConfig, folder: Path) -> None:
    """Check that the sizes in a configuration are possible, before anything is made of them.

    Raises:
        ModelError: a size that is not a positive number, or absurdly large.
    """
    text = config.get_text_config()
    for name, most in SIZES.items():
        value = getattr(text, name, None)
        for size in value if isinstance(value, list | tuple) else [value]:
            if size is None:
                continue
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
                raise ModelError(
                    f"{folder / 'config.json'} cannot be used: {name} is {size}, and must be a "
                    f"whole number from 1 to {most:,}. Copy the model's own config.json again"
                )


def check_weights(config: PretrainedConfig, stored: int, folder: Path) -> None:
    """Check that weights of ``stored`` numbers could be a model of this size at all.

    Raises:
        ModelError: they are far too few.
    """
    if at_least(config) > _PACKED * stored:
        raise ModelError(
            f"{folder / 'config.json'} describes a model of at least {at_least(config):,} "
            f"parameters, and the weights next to it hold {stored:,}: they do not belong together. "
            "Copy the model again"
        )


def check_loaded(config: PretrainedConfig, info: Mapping[str, Any], folder: Path) -> None:
    """Check what transformers reports about the weights that it loaded.

    Raises:
        ModelError: weights of another shape, or layers that the configuration leaves out.
    """
    odd = sorted(info["mismatched_keys"])
    if odd:
        key, stored, described = odd[0]
        raise ModelError(
            f"{folder}: config.json and the weights do not belong together: {key} has the shape "
            f"{list(stored)} in the weights and {list(described)} by config.json "
            f"({len(odd)} such weights). Copy the model again"
        )
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    more = [key for key in sorted(info["unexpected_keys"]) if f".layers.{layers}." in f".{key}"]
    if more:
        raise ModelError(
            f"{folder}: config.json has num_hidden_layers {layers}, but the weights hold more "
            f"layers, such as {more[0]}. Copy the model again"
        )


def check_tokenizer(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Check that the model has an embedding for every token of the tokenizer.

    Raises:
        ModelError: it has not.
    """
    size = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(size, int):
        return
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= size)
    if beyond:
        names = ", ".join(repr(token) for _, token in beyond[:3])
        raise ModelError(
            f"{folder}: the tokenizer does not fit the model: its ids go up to {beyond[-1][0]}, "
            f"and the model has embeddings for {size} tokens; {len(beyond)} are beyond it "
            f"({names}). Enlarge the model (model.resize_token_embeddings(len(tokenizer)), then "
            "save it), or give it its own tokenizer"
        )


def at_least(config: PretrainedConfig) -> int:
    """A lower bound on the parameters: the embedding and one matrix of each feed-forward layer."""
    text = config.get_text_config()

    def size(name: str) -> int:
        value = getattr(text, name, None)
        return min(value, default=0) if isinstance(value, list | tuple) else int(value or 0)

    inner = size("intermediate_size") or size("hidden_size")
    embedding = math.prod((size("vocab_size"), size("hidden_size")))
    return embedding + size("num_hidden_layers") * size("hidden_size") * inner
