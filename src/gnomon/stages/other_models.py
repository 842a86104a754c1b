"""Other models than the one a stage starts from: a teacher, a base model, the policies that the
comparison sets side by side. What their tokens are has to fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, ModelError
from gnomon.judges.learned import reads_tokens_of
from gnomon.models.load import fetch, read_model, weight_files
from gnomon.models.memory import RoleNeed
from gnomon.plugins import nearest
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.stages.names import origin_of, other_model, produces
from gnomon.stages.roles import check_same_tokens
from gnomon.stages.stage import Stage


def check_other_models(stage: Stage) -> None:
    """Check that they are there, or earlier stages' policies, that they have the policy's tokens,
    and that they are not what the stage starts from anyway.

    Raises:
        ConfigError, ModelError: one cannot be used.
    """
    for need in stage.needs():
        if need.model is not None:
            check_model(stage, need, need.model)


def check_model(stage: Stage, need: RoleNeed, model: str) -> None:
    """Check one of them; see :func:`check_other_models`."""
    recipe = stage.recipe
    names = [s.name for s in recipe.stages]
    place = other_model(recipe, stage.run, stage.base, model)
    if model in names:
        named = recipe.stages[names.index(model)]
        if names.index(model) >= names.index(stage.spec.name):
            raise ConfigError(f"{need.name} {model!r} is this stage or a later one")
        if produces(named, stage.base) != "policy":
            raise ConfigError(
                f"{need.name} {model!r} is a stage that makes no policy (it is {named.algorithm})"
            )
    else:
        try:
            folder = fetch(place)
        except ModelError as error:
            near = nearest(model, (*names, "model"), cutoff=0.5)
            raise ConfigError(f"{need.name} {model!r}: {near or error}") from error
        weight_files(folder)
        check_same_tokens(need.name, model, read_model(folder)[1], read_model(stage.origin)[1])
    if place == stage.start_model() and _adds_nothing(stage, need):
        raise ConfigError(
            f"{need.name} {model!r} is what the stage starts from, so it would change nothing: "
            "name another model, or start from another one (from: ...)"
        )


def _adds_nothing(stage: Stage, need: RoleNeed) -> bool:
    """Whether the start model teaches nothing in this role: as its own teacher, or mixed with a
    reference that stays the start model."""
    fixed = any(n.name == "reference" and not n.moves for n in stage.needs())
    return need.name == "teacher" or (need.name == "base" and fixed)


def check_compared_tokens(
    recipe: Recipe, policies: Sequence[StageSpec], tokenizer: Any, base: Path
) -> None:
    """Check that the policies read the tokens that the comparison gives to all of them, in turns
    that they know.

    Raises:
        ConfigError: one has another tokenizer, or another chat template.
    """
    for stage in policies:
        origin = origin_of(recipe, stage, base)
        own = tokenizer if origin == recipe.model else read_model(origin)[1]
        if not (reads_tokens_of(own, tokenizer) or reads_tokens_of(tokenizer, own)):
            raise ConfigError(
                f"stage {stage.name!r} comes from {origin!r}, which has another tokenizer than the "
                f"recipe's model, {recipe.model!r}: the comparison gives all the same tokens and "
                "measures their KL. Take one model for all, or leave compare out and compare "
                "what they write: an eval stage, or gnomon eval RUN --suite win_rate"
            )
        templates = [getattr(t, "chat_template", None) for t in (own, tokenizer)]
        if recipe.template is None and all(templates) and templates[0] != templates[1]:
            raise ConfigError(
                f"stage {stage.name!r} comes from {origin!r}, which has another chat template than "
                f"the recipe's model, {recipe.model!r}: the comparison asks all in the same turns. "
                "Say which (template: ...), or leave compare out"
            )
