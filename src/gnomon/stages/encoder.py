"""How a recipe's rows become tokens: the window, what is cut, the chat's template."""

from __future__ import annotations

from typing import Any

from gnomon.data.chat import resolve_template
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.models.load import LoadedModel
from gnomon.recipe.schema import Recipe

LENGTH = 1024
"""``max_length`` where the recipe gives none and the model takes as many."""


def context_of(config: Any) -> int | None:
    """The most tokens a model takes, by its configuration."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)


def recipe_encoder(
    recipe: Recipe, tokenizer: Any, *, context: int | None = None, new_tokens: int = 0
) -> Encoder:
    """The encoder a recipe asks for.

    Args:
        context: the model's own window, which ``max_length`` cannot exceed.
        new_tokens: what a rollout may add to a prompt; together they stay within the window.

    Raises:
        ConfigError: ``max_length`` is beyond the model's window, or the new tokens leave no room
            for a prompt.
    """
    window = recipe.max_length or min(LENGTH, context or LENGTH)
    if context is not None and window > context:
        raise ConfigError(
            f"max_length is {window}, and the model takes {context} tokens "
            f"(max_position_embeddings in its config.json); set max_length: {context}, or less"
        )
    longest = window - new_tokens
    if longest < 1:
        raise ConfigError(
            f"rollout.max_new_tokens, or environment.max_episode_tokens ({new_tokens}), leaves no "
            f"room for a prompt in the {window} tokens of max_length and the model's window"
        )
    limits = [n for n in (recipe.max_prompt_length, longest if new_tokens else None) if n]
    return Encoder(
        tokenizer,
        max_length=window,
        max_prompt_length=min(limits) if limits else None,
        template=recipe.template,
        truncation=recipe.truncation,
        train_on=recipe.train_on,
        merge=recipe.merge,
    )


def keep_template(loaded: LoadedModel, encoder: Encoder) -> None:
    """Save the chat format with the model: its tokenizer gets the template that the recipe names,
    and generation stops where the template's turns end."""
    if encoder.template != resolve_template(loaded.tokenizer, None):
        loaded.tokenizer.chat_template = encoder.template
    config = loaded.model.generation_config
    ends = config.eos_token_id
    known = [] if ends is None else list(ends) if isinstance(ends, list) else [ends]
    more = [i for i in encoder.stop_ids if i not in known]
    if more:
        config.eos_token_id = [*known, *more]
