"""What every part of a recipe is checked by."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

LARGEST = 2**53
"""Beyond it, whole numbers are no longer exact as floats; nothing in a recipe is that large."""


class Checked(BaseModel):
    """Base of recipes and settings: refuses unknown keys, and true, false, infinity, nan and whole
    numbers beyond 2^53 where a number belongs."""

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


class Spec(Checked):
    """Base of every part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(populate_by_name=True, coerce_numbers_to_str=True)


def listed_by(key: str) -> BeforeValidator:
    """One item or several; a bare string is the item's ``key``."""

    def listed(value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        return [{key: item} if isinstance(item, str) else item for item in items]

    return BeforeValidator(listed)
