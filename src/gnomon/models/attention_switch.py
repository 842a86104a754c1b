"""Run a transformers model with another attention function for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Make every attention layer of ``model`` use the registered implementation ``name``.

    ``name`` is a key of transformers' ``ALL_ATTENTION_FUNCTIONS``. The previous choice comes back
    when the block ends, so the same weights can serve packed training, rollouts and plain calls.
    """
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
