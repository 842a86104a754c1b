"""Tools: typed Python functions that the model may call, with JSON schemas made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.schema import check_schema, violations


class ToolError(Exception):
    """Raised by a tool for what the model can react to (a division by zero, a locked door).

    The message is shown to the model. Any other exception is the environment's failure.
    """


@dataclass(frozen=True)
class Tool:
    """What the model may call.

    Attributes:
        name: as the model writes it.
        description: one line or more, shown to the model.
        parameters: JSON schema of the arguments, an object.
        function: does the work; None where the environment does it in ``step``.

    Raises:
        ConfigError: the schema cannot be used, with the reason.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"tool {self.name!r}: a tool's name must be a Python identifier")
        properties = self.parameters.get("properties", {})
        if self.parameters.get("type") != "object" or not isinstance(properties, Mapping):
            raise ConfigError(
                f"tool {self.name!r}: its parameters must be a JSON schema of type object with "
                f"properties, not {str(self.parameters)[:80]}"
            )
        unknown = [n for n in self.parameters.get("required", ()) if n not in properties]
        if unknown:
            raise ConfigError(f"tool {self.name!r}: {unknown} required but not in its properties")
        try:
            check_schema(self.parameters)
        except ConfigError as error:
            raise ConfigError(f"tool {self.name!r}: {error}") from error

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool:
        """The tool a function is: its name, its docstring and its type hints.

        Raises:
            ConfigError: an argument without type hint or without a line under ``Args:``.
        """
        from transformers.utils import get_json_schema  # slow to import

        name = getattr(function, "__name__", repr(function))
        try:
            schema = get_json_schema(function)["function"]
        except Exception as error:  # its errors share no base
            raise ConfigError(
                f"tool {name!r}: no JSON schema can be made of the function: {error}. It needs a "
                "docstring, with every argument under Args:, and a type hint for each"
            ) from error
        return cls(schema["name"], schema["description"], _plain(schema["parameters"]), function)

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it: ``{"type": "function", "function": {...}}``."""
        said = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": said}

    @property
    def text_parameters(self) -> frozenset[str]:
        """The arguments that are plain text."""
        properties = self.parameters.get("properties", {})
        return frozenset(k for k, v in properties.items() if v.get("type") == "string")

    def wrong(self, arguments: Mapping[str, Any]) -> str | None:
        """What does not fit the schema, in words; None where all does."""
        strict = {"additionalProperties": False, **self.parameters}
        found = violations(dict(arguments), strict)
        return "; ".join(found) if found else None


def _plain(schema: Any) -> Any:
    """transformers' ``nullable`` as JSON Schema has it: the type null beside the type."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") and "type" in out:
        kinds = out["type"] if isinstance(out["type"], list) else [out["type"]]
        out["type"] = [*kinds, "null"]
    return out
