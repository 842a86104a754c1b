"""What a recipe's parts and the algorithms' settings have in common."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST = 2**53
"""Beyond it, whole numbers are no longer exact as floats; nothing in a recipe is that large."""


class Checked(BaseModel):
    """Unknown keys are refused, and so are numbers that are none: true and false, infinity, nan,
    and whole numbers beyond 2^53."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            taken = _types(cls.model_fields[str(info.field_name)].annotation)
            if taken & {int, float} and not taken & {bool, Any}:
                raise ValueError("a number belongs here, not true or false")
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError("a number beyond 2^53 is too large")
        return value


def _types(annotation: Any) -> set[Any]:
    """The plain types that an annotation takes, alone or in a union."""
    arguments = [a for a in get_args(annotation) if a is not NoneType]
    if not arguments or isinstance(annotation, type):
        return {annotation}
    return set().union(*(_types(a) for a in arguments if not isinstance(a, str)))
