"""Tool calls as models write them, in three formats, and how each is asked for.

| format | a call |
|---|---|
| hermes | ``<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>`` (Qwen, SmolLM2) |
| llama | ``{"name": "add", "parameters": {"a": 1}}``, several joined by ``;`` (Llama 3) |
| python | ``add(a=1)`` on a line of its own; text needs no quotes: ``say(hello)`` |

Nothing is evaluated: arguments are JSON, or Python literals.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gnomon.agents.protocol import ToolCall
from gnomon.agents.tools import Tool
from gnomon.data.turns import Turn, with_tools
from gnomon.records import Message

CallFormat = Literal["hermes", "llama", "python"]
LONGEST = 20_000
"""Characters of a turn that are searched for calls."""

MODEL_TEXT = "model-text"
warnings.filterwarnings("ignore", category=SyntaxWarning, module=MODEL_TEXT)

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_PYTHON = re.compile(r"\s*([A-Za-z_]\w*)\((.*)\)\s*\Z", re.DOTALL)
_BEGUN = re.compile(r"\s*([A-Za-z_]\w*)\(")


@dataclass(frozen=True)
class Parsed:
    """The calls of a turn, or what is wrong with them (then nothing is run)."""

    calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()


def format_of(template: str | None) -> CallFormat:
    """The format a chat template writes; hermes where it knows no tools."""
    if template and "<tool_call>" not in template and '"parameters"' in template:
        return "llama"
    return "hermes"


def parse_calls(text: str, how: CallFormat, tools: Sequence[Tool]) -> Parsed:
    """The tool calls in a turn, checked against the tools; never raises."""
    by_name = {tool.name: tool for tool in tools}
    if not by_name:
        return Parsed()
    reader = {"hermes": _hermes, "llama": _llama, "python": _python}[how]
    calls, errors = reader(text[:LONGEST], by_name)
    for call in calls:
        tool = by_name.get(call.name)
        if tool is None:
            errors.append(f"there is no tool {call.name!r}; there are {', '.join(by_name)}")
        elif (wrong := tool.wrong(call.arguments)) is not None:
            errors.append(f"{call.name}: {wrong}")
    return Parsed((), tuple(errors)) if errors else Parsed(tuple(calls))


_Read = tuple[list[ToolCall], list[str]]


def _hermes(text: str, tools: Mapping[str, Tool]) -> _Read:
    calls: list[ToolCall] = []
    errors: list[str] = []
    for body in _HERMES.findall(text):
        try:
            calls.append(_json_call(json.loads(body)))
        except (ValueError, RecursionError) as error:
            errors.append(f"the tool call is not valid: {error}")
    return calls, errors


def _llama(text: str, tools: Mapping[str, Tool]) -> _Read:
    rest = text.strip().removeprefix("<|python_tag|>").strip()
    calls: list[ToolCall] = []
    while rest.startswith("{"):
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
            if not calls and "name" not in value:
                return [], []  # JSON that is no call is an answer
            calls.append(_json_call(value))
        except (ValueError, RecursionError) as error:
            return calls, [f"the tool call is not valid: {error}"]
        rest = rest[end:].strip().removeprefix(";").strip()
    return calls, []


def _json_call(value: Any) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError('write {"name": ..., "arguments": {...}}')
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("the arguments are not a JSON object")
    return ToolCall(value["name"], arguments)


def _python(text: str, tools: Mapping[str, Tool]) -> _Read:
    calls: list[ToolCall] = []
    errors: list[str] = []
    for line in text.splitlines():
        whole, begun = _PYTHON.match(line), _BEGUN.match(line)
        if whole is None:
            if begun is not None and begun[1] in tools:
                errors.append(f"the call of {begun[1]} is not closed")
            continue
        name, inside = whole[1], whole[2]
        try:
            calls.append(ToolCall(name, _python_arguments(inside, tools.get(name))))
        except ValueError as error:
            errors.append(f"{name}: {error}")
    return calls, errors


def _python_arguments(inside: str, tool: Tool | None) -> dict[str, Any]:
    if tool is None:
        return {}  # reported as unknown
    names, plain = list(tool.parameters.get("properties", {})), tool.text_parameters
    source = f"f({inside})"
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if not isinstance(tree, ast.Call) or tree.func.end_col_offset != 1:
        if len(names) == 1 and names[0] in plain and inside.strip():
            return {names[0]: inside.strip()}  # one argument of text: its words as they stand
        raise ValueError("the arguments cannot be read")
    if len(tree.args) > len(names):
        raise ValueError(f"{len(tree.args)} arguments, but it takes {len(names)}")
    given = list(zip(names, tree.args, strict=False))
    for keyword in tree.keywords:
        if keyword.arg is None or keyword.arg in dict(given):
            raise ValueError("** or an argument given twice")
        given.append((keyword.arg, keyword.value))
    return {name: _literal(node, source, name in plain) for name, node in given}


def parsed(source: str) -> ast.expr:
    """The syntax tree of an expression, without Python's own remarks on its style.

    Raises:
        SyntaxError, ValueError, MemoryError, RecursionError: it is none.
    """
    return ast.parse(source, filename=MODEL_TEXT, mode="eval").body


def _literal(node: ast.expr, source: str, plain: bool) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if not plain:
            raise ValueError(f"{_said(node, source)!r} is not a literal") from None
        return _said(node, source)
    return value if not plain or isinstance(value, str) else _said(node, source)


def _said(node: ast.expr, source: str) -> str:
    return ast.get_source_segment(source, node) or ""


def write_call(call: ToolCall, how: CallFormat) -> str:
    """The call as a model writes it; :func:`parse_calls` reads it back."""
    if how == "python":
        inside = ", ".join(f"{k}={v!r}" for k, v in call.arguments.items())
        return f"{call.name}({inside})"
    key = "arguments" if how == "hermes" else "parameters"
    body = json.dumps({"name": call.name, key: dict(call.arguments)}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>" if how == "hermes" else body


def describe_tools(
    messages: Sequence[Message], tools: Sequence[Tool], how: CallFormat
) -> tuple[Message, ...]:
    """The conversation with the tools listed in its system turn, and how to call them.

    The hermes text is the one that :mod:`gnomon.data.turns` writes for data with tools.
    """
    if not tools:
        return tuple(messages)
    if how == "hermes":
        turns = with_tools([Turn(m) for m in messages], [tool.schema for tool in tools])
        return tuple(turn.message for turn in turns)
    if how == "llama":
        listing = json.dumps([tool.schema for tool in tools], ensure_ascii=False)
        note = (
            f"You may call these tools:\n{listing}\n"
            'To call one, answer with {"name": ..., "parameters": {...}} and nothing else.'
        )
    else:
        lines = "\n".join(f"{_signature(tool)}  {tool.description}" for tool in tools)
        note = f"You may call these tools, one call a line:\n{lines}"
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{note}"), *messages[1:])
    return (Message("system", note), *messages)


def _signature(tool: Tool) -> str:
    return f"{tool.name}({', '.join(tool.parameters.get('properties', {}))})"
