"""What an environment is: it is reset to a task, takes the model's actions, and answers them. One
object plays one episode. Its tools are typed Python functions with JSON schemas made from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.schema import check_schema, violations, with_integers
from gnomon.records import Message, Prompt
from gnomon.usercode import settled


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
            _check(self.parameters)
        except ConfigError as error:
            raise ConfigError(f"tool {self.name!r}: {error}") from error

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool:
        """A tool made of a function: its name, its docstring and its type hints.

        Raises:
            ConfigError: an argument without type hint or without a line under ``Args:``.
        """
        name = getattr(function, "__name__", repr(function))
        try:
            schema = _schema_of(function)
        except Exception as error:  # its errors have no common base
            raise ConfigError(
                f"tool {name!r}: no JSON schema can be made of the function: {error}. It needs a "
                "docstring, with every argument under Args:, and a type hint for each"
            ) from error
        return cls(schema["name"], schema["description"], _plain(schema["parameters"]), function)

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it: ``{"type": "function", "function": {...}}``."""
        body = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": body}

    @property
    def text_parameters(self) -> frozenset[str]:
        """The arguments that are plain text."""
        properties = self.parameters.get("properties", {})
        return frozenset(
            k for k, v in properties.items() if isinstance(v, Mapping) and v.get("type") == "string"
        )

    def wrong(self, arguments: Mapping[str, Any]) -> str | None:
        """What does not fit the schema, in words; None if everything fits."""
        found = violations(dict(arguments), self._strict) or _no_json(arguments)
        return "; ".join(found) if found else None

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arguments that fit the schema, as the function gets them: 1 for 1.0 where it says integer
        (as deep as it does)."""
        whole: Mapping[str, Any] = with_integers(dict(arguments), self._strict)
        return whole

    @property
    def _strict(self) -> dict[str, Any]:
        return {"additionalProperties": False, **self.parameters}


def _no_json(arguments: Mapping[str, Any]) -> list[str]:
    """Why arguments that a schema lets through cannot be written as JSON: NaN, a Python set, half a
    character."""
    try:
        json.dumps(dict(arguments), allow_nan=False, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return ["a text holds half a character (a lone surrogate)"]
    except ValueError:
        return ["a number is not finite"]
    except TypeError as error:
        return [str(error)]
    return []


# Every episode has its own environment, and every environment makes its tools: what a thousand
# episodes have in common is worked out once.

_OF_METHODS: WeakKeyDictionary[Callable[..., Any], Mapping[str, Any]] = WeakKeyDictionary()
"""The schemas of functions, by those whose methods they are."""


def _schema_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """What transformers reads off a function's docstring and type hints."""
    from transformers.utils import get_json_schema  # slow to import

    method = getattr(function, "__func__", None)  # the same for every object of its class
    if method is not None and method in _OF_METHODS:
        return _OF_METHODS[method]
    schema: Mapping[str, Any] = get_json_schema(function)["function"]
    if method is not None:
        _OF_METHODS[method] = schema
    return schema


def _check(parameters: Mapping[str, Any]) -> None:
    try:
        written = json.dumps(parameters)
    except (TypeError, ValueError):  # no JSON: the check says where
        check_schema(parameters)
    else:
        _check_written(written)


@lru_cache(maxsize=1024)
def _check_written(schema: str) -> None:
    check_schema(json.loads(schema))


def _plain(schema: Any) -> Any:
    """transformers' ``nullable`` in JSON Schema's form: null is one of the types."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") and "type" in out:
        kinds = out["type"] if isinstance(out["type"], list) else [out["type"]]
        out["type"] = [*kinds, "null"]
    return out


@dataclass(frozen=True)
class ToolCall:
    """A call the model wrote: a tool that exists, with arguments that fit its schema."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """One turn of the model.

    Attributes:
        text: what it wrote, calls included.
        calls: the tool calls in it, in order; empty where it called nothing.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Observation:
    """What an action led to.

    Attributes:
        messages: shown to the model (roles tool, user or system); needed unless ``done``.
        reward: of this action; the episode's return is the sum.
        done: the environment ends the episode.
        parts: named figures of this step, summed over the episode and logged under
            ``reward/NAME``. A part ``correct`` tells right answers (pass@k).
        tool_errors: how many of the action's calls failed for reasons the model can react to.
    """

    messages: Sequence[Message] = ()
    reward: float = 0.0
    done: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)
    tool_errors: int = 0


@runtime_checkable
class Environment(Protocol):
    """A task the model works on in turns. Anything it raises is kept as its sample's error.

    Attributes:
        tools: what the model may call; may be empty (then an action is its text).
    """

    tools: Sequence[Tool]

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        """Begin the task of ``prompt``; its ``meta`` holds the row's other fields.

        The samples of a prompt are reset with the same seed and must begin the same way: draw what
        is random from the seed.

        Returns:
            the opening conversation, or None (or nothing) for the prompt's own messages.
        """
        ...

    def step(self, action: Action) -> Observation:
        """Take the model's turn."""
        ...

    def close(self) -> None:
        """Free what the episode holds; called once, however it ended."""
        ...


class ToolEnvironment:
    """Runs the tools the model calls; a turn without a call is its answer.

    A subclass gives its functions (or ready :class:`Tool` objects with one) to ``__init__``, sets
    its state up in ``reset`` and judges the final answer in ``answer``. What tools return is
    shown to the model as text; a :class:`ToolError` as ``error: ...``.
    """

    def __init__(self, *functions: Callable[..., Any] | Tool) -> None:
        self.tools: Sequence[Tool] = tuple(
            f if isinstance(f, Tool) else Tool.of(f) for f in functions
        )

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        """Begin the task; see :class:`~gnomon.agents.environment.Environment`."""
        return None

    def answer(self, text: str) -> float | Observation:
        """Judge a turn without a call: the final reward, or an observation to continue with."""
        raise NotImplementedError(f"{type(self).__name__} has no answer() to judge the last turn")

    def step(self, action: Action) -> Observation:
        """Run the calls, or judge the answer."""
        if not action.calls:
            judged = self.answer(action.text)
            return judged if isinstance(judged, Observation) else Observation((), judged, True)
        by_name = {tool.name: tool for tool in self.tools}
        seen = Observation()
        for call in action.calls:
            function = by_name[call.name].function
            if function is None:
                raise TypeError(f"tool {call.name!r} has no function, and step() is not overridden")
            try:
                output, failed = settled(function(**call.arguments)), 0
            except ToolError as error:
                output, failed = f"error: {error}", 1
            messages = (*seen.messages, Message("tool", str(output)))
            seen = replace(seen, messages=messages, tool_errors=seen.tool_errors + failed)
        return seen

    def close(self) -> None:
        """Nothing to free."""


def opened_with(prompt: Prompt, first: str) -> tuple[Message, ...]:
    """An opening: the prompt's messages, the user's last one with the first observation."""
    messages = list(prompt.messages)
    if not first:
        return prompt.messages
    if messages and messages[-1].role == "user":
        first = f"{messages.pop().content}\n\n{first}"
    return (*messages, Message("user", first))


# -- checking what an environment returns ----------------------------------------------------------

OBSERVER_ROLES = ("tool", "user", "system")
"""The roles that an environment may speak in."""


def checked_messages(found: Any, where: str, roles: Sequence[str]) -> tuple[Message, ...]:
    """The messages, or TypeError with what is wrong with them."""
    if isinstance(found, str | Message) or not isinstance(found, Sequence):
        raise TypeError(f"{where} gave a {type(found).__name__}, not a list of Messages")
    for message in found:
        if not isinstance(message, Message) or not isinstance(message.content, str):
            raise TypeError(f"{where} gave {str(message)[:80]!r} among its messages")
        if message.role not in roles:
            raise TypeError(
                f"{where} gave a message of role {message.role!r}; use {', '.join(roles)}"
            )
    return tuple(replace(m, content=_whole(m.content)) for m in found)


def _whole(text: str) -> str:
    """Text that can be tokenised and written: a lone surrogate, as a file's odd bytes or a cut
    ``\\ud83d`` leave it, is a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def checked_observation(seen: Any) -> Observation:
    """The observation, or TypeError or ValueError with what is wrong with it."""
    if not isinstance(seen, Observation):
        raise TypeError(f"step gave a {type(seen).__name__}, not an Observation")
    if not isinstance(seen.parts, Mapping):
        raise TypeError(f"the parts are a {type(seen.parts).__name__}, not figures by name")
    numbers = {"reward": seen.reward, **{f"part {k!r}": v for k, v in seen.parts.items()}}
    numbers["tool_errors"] = seen.tool_errors
    for name, number in numbers.items():
        try:
            finite = math.isfinite(float(number))
        except (TypeError, ValueError):
            raise TypeError(f"the {name} is {number!r}, not a number") from None
        if not finite:
            raise ValueError(f"the {name} is {number}")
    return replace(seen, messages=checked_messages(seen.messages, "step", OBSERVER_ROLES))
