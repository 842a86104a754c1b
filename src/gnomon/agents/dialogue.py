"""How a model and an environment talk: tool calls as text, and the tokens of an episode.

| format | a call |
|---|---|
| hermes | ``<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>`` (Qwen, SmolLM2) |
| llama | ``{"name": "add", "parameters": {"a": 1}}``, several joined by ``;`` (Llama 3) |
| python | ``add(a=1)`` on a line of its own; text needs no quotes: ``say(hello)`` |

Nothing is evaluated: arguments are JSON, or Python literals.

Token in, token out: what the model sampled stays as it was sampled. Only the
environment's messages are tokenised, as the chat template writes them after an assistant's turn.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gnomon.agents.environment import Tool, ToolCall
from gnomon.data.encode import Encoder
from gnomon.data.template import ChatTemplate
from gnomon.data.turns import Turn, with_tools
from gnomon.data.values import RowError
from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt

CallFormat = Literal["hermes", "llama", "python"]
LONGEST = 20_000
"""Characters of a python call that are read."""

MODEL_TEXT = "model-text"
warnings.filterwarnings("ignore", category=SyntaxWarning, module=MODEL_TEXT)

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_PYTHON = re.compile(r"\s*([A-Za-z_]\w*)\((.*)\)\s*\Z", re.DOTALL)
_BEGUN = re.compile(r"\s*([A-Za-z_]\w*)\(")


@dataclass(frozen=True)
class ParsedCalls:
    """The calls of a turn, or what is wrong with them (then none is run)."""

    calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()


def format_of(template: str | None) -> CallFormat:
    """The format that a chat template writes; hermes where it has no tools."""
    if template and "<tool_call>" not in template and '"parameters"' in template:
        return "llama"
    return "hermes"


def parse_calls(text: str, how: CallFormat, tools: Sequence[Tool]) -> ParsedCalls:
    """The tool calls in a turn, checked against the tools; never raises."""
    by_name = {tool.name: tool for tool in tools}
    if not by_name:
        return ParsedCalls()
    reader = {"hermes": _hermes, "llama": _llama, "python": _python}[how]
    read, errors = reader(text, by_name)
    calls: list[ToolCall] = []
    for call in read:
        tool = by_name.get(call.name)
        if tool is None:
            errors.append(f"there is no tool {call.name!r}; there are {', '.join(by_name)}")
            continue
        try:
            if (wrong := tool.wrong(call.arguments)) is not None:
                errors.append(f"{call.name}: {wrong}")
            else:
                calls.append(replace(call, arguments=tool.taken(call.arguments)))
        except RecursionError:
            errors.append(f"{call.name}: the arguments are nested too deep")
    return ParsedCalls((), tuple(errors)) if errors else ParsedCalls(tuple(calls))


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
                return [], []  # JSON that is not a call is an answer
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
    if len(source) > LONGEST:
        raise ValueError(f"the call has more than {LONGEST} characters")
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if not isinstance(tree, ast.Call) or tree.func.end_col_offset != 1:
        if len(names) == 1 and names[0] in plain and inside.strip():
            return {names[0]: inside.strip()}  # one argument of text: its words unchanged
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
    """The syntax tree of an expression, without Python's own warnings about its style.

    Raises:
        SyntaxError, ValueError, MemoryError, RecursionError: it cannot be parsed.
    """
    return ast.parse(source, filename=MODEL_TEXT, mode="eval").body


def _literal(node: ast.expr, source: str, plain: bool) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if not plain:
            raise ValueError(f"{_source_of(node, source)!r} is not a literal") from None
        return _source_of(node, source)
    return value if not plain or isinstance(value, str) else _source_of(node, source)


def _source_of(node: ast.expr, source: str) -> str:
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


_QUESTION = Message("user", "hello")
_PROBE = "gnomon probe"


class Dialogue:
    """A tokenizer's chat template, as episodes need it.

    Args:
        encoder: the stage's, whose prompt limit leaves room for an episode.
        role: the role that tool output is written in; "user" for templates without a tool role.
        tools, calls: listed in the opening's system turn when ``show_tools``.

    Raises:
        ConfigError: the template cannot write a tool's output after an answer.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        role: Literal["tool", "user"] = "tool",
        tools: Sequence[Tool] = (),
        calls: CallFormat = "hermes",
        show_tools: bool = True,
    ) -> None:
        if encoder.template is None:
            raise ConfigError(
                "an environment needs a chat template and the tokenizer has none: set the recipe's "
                "template (chatml, plain)"
            )
        self._encoder = encoder
        self._template = ChatTemplate(encoder.tokenizer, encoder.template)
        self._role = role
        self._tools = tuple(tools) if show_tools else ()
        self._calls = calls
        self._stops = frozenset(encoder.stop_ids)
        added = encoder.tokenizer.added_tokens_decoder.values()
        self._special = sorted({str(t) for t in added if t.special} - {""}, key=len, reverse=True)
        self._widest = max(map(len, encoder.tokenizer.get_vocab()))
        self.continuation(None, [Message("tool", "7")])

    def opening(self, prompt: Prompt, messages: Sequence[Message] | None = None) -> Prompt:
        """The prompt the model sees: ``messages`` in place of its own, if given, and the tools.

        Raises:
            ConfigError: a plain-text prompt.
        """
        shown = tuple(messages) if messages else prompt.messages
        if not shown:
            raise ConfigError(
                f"prompt {prompt.id} is plain text, and an environment needs a conversation: leave "
                "as_text out, and set template: plain for a model without one"
            )
        if not self._listed(shown):
            shown = describe_tools(shown, self._tools, self._calls)
        return replace(prompt, messages=shown, text=None)

    def _listed(self, messages: Sequence[Message]) -> bool:
        """Whether the tools are listed already, as where ``reset`` extends the prompt's turns."""
        notes = describe_tools((), self._tools, self._calls)
        return all(any(note.content in m.content for m in messages) for note in notes)

    def encode(self, prompt: Prompt) -> list[int]:
        """The opening's tokens, generation prompt included.

        Raises:
            DataError: it leaves no room for the episode's budget.
        """
        return self._encoder.encode_prompt(prompt)

    def continuation(self, last: int | None, messages: Sequence[Message]) -> list[int]:
        """The tokens between the model's last token and its next turn.

        Args:
            last: the token the turn ended with; where that does not end a turn (a stop string),
                the end of turn is put first.
            messages: what the environment says, in roles of ``OBSERVER_ROLES``.

        Raises:
            ConfigError: the template refuses them.
        """
        turns = self._as_template(messages)
        try:
            closed = self._template.render((_QUESTION, Message("assistant", _PROBE)))
            text = self._template.render(
                (_QUESTION, Message("assistant", _PROBE), *turns), generation_prompt=True
            )
        except RowError as error:
            raise ConfigError(
                f"{error.reason}; if it has no {turns[0].role if turns else 'tool'} role, set "
                "environment.observation_role: user"
            ) from error
        cut = closed.rfind(_PROBE) + len(_PROBE)
        if not text.startswith(closed[:cut]):
            raise ConfigError(
                "the chat template rewrites the assistant's turn when others follow; give one that "
                "does not (template: chatml)"
            )
        tail = text[cut:]
        if last in self._stops:
            tail = self._template.ends.after(tail)
        return self._encoder.encode_continuation(text.removesuffix(tail), tail)

    def surely_more(self, messages: Sequence[Message], room: int) -> bool:
        """Whether the messages are longer than ``room`` tokens, by their characters alone: what a
        tool writes may have any size, and tokenising megabytes takes minutes."""
        return sum(len(m.content) for m in messages) > room * self._widest

    def _as_template(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in the roles that the template takes, without forged special tokens.

        Where tool output is written in the user's role, successive outputs are one turn: templates
        without a tool role often want user and assistant to take turns.
        """
        turns: list[Message] = []
        for m in messages:
            role = self._role if m.role == "tool" else m.role
            said = self._harmless(m.content)
            if turns and role == turns[-1].role == self._role == "user":
                said = f"{turns.pop().content}\n{said}"
            turns.append(Message(role, said))
        return turns

    def text(self, ids: Sequence[int]) -> str:
        """Sampled tokens as text, without special tokens."""
        return str(
            self._encoder.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _harmless(self, content: str) -> str:
        """Tool output with its special tokens broken up, so that it cannot forge a turn."""
        for token in self._special:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content
