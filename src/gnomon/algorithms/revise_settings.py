"""Settings of the ``revise`` stage, which a recipe names where an algorithm is named."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gnomon.algorithms.offline_settings import Settings

REVISE = "revise"
"""The name of this stage in a recipe."""
REVISE_SUMMARY = "have answers criticised and rewritten by a constitution"


class CriticSpec(Settings):
    """Who criticises and rewrites: one of ``local``, ``model``, ``builtin`` and ``function``."""

    local: str | None = Field(None, description="a model in this process: a folder, name or stage")
    model: str | None = Field(
        None, description="a model's name at an endpoint; options has its url"
    )
    builtin: str | None = Field(None, description="a program: tunnel")
    function: str | None = Field(None, description="your Python: `module:name` or `file.py:name`")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="of the endpoint (url, api_key_env, temperature, retries, ...), or keyword "
        "arguments of the program",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> CriticSpec:
        given = [self.local, self.model, self.builtin, self.function]
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of local, model, builtin, function")
        if self.local is not None and self.options:
            raise ValueError("options are for an endpoint or a program; a local model has none")
        return self


class ReviseSettings(Settings):
    """Settings of a revise stage."""

    constitution: str = Field(
        "gnomon",
        description="a file, or the name of one that comes with gnomon; see "
        "[constitutional.md](constitutional.md)",
    )
    categories: list[str] = Field(
        default_factory=list, description="use the principles of these categories alone"
    )
    rounds: int = Field(1, ge=1, le=16, description="revisions of an answer, one after the other")
    critique: bool = Field(True, description="criticise first; else revise at once")
    critic: CriticSpec | None = Field(
        None, description="who criticises and rewrites; null: the policy itself"
    )
    critique_tokens: int = Field(128, ge=1, description="most tokens of a critique")
    revision_tokens: int | None = Field(
        None, ge=1, description="most tokens of a revision; null: as of an answer"
    )
    examples: int = Field(
        2, ge=0, description="examples of the constitution that a language model is shown"
    )
    keep: Literal["revision", "pair"] = Field(
        "revision", description="the last revision, or with it the first answer as the worse one"
    )
    chunk: int = Field(32, ge=1, description="prompts between two saves")

    @field_validator("critic", mode="before")
    @classmethod
    def _policy(cls, value: Any) -> Any:
        """The word ``policy``, and a bare name of a builtin."""
        if value == "policy":
            return None
        return {"builtin": value} if isinstance(value, str) else value
