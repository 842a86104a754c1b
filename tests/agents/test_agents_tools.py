"""Tools, their schemas, and calls as models write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agents_zoo import Adder
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import get_json_schema

from gnomon.agents.dialogue import (
    CallFormat,
    describe_tools,
    format_of,
    parse_calls,
    write_call,
)
from gnomon.agents.environment import Tool, ToolCall
from gnomon.data.turns import Turn, with_tools
from gnomon.errors import ConfigError
from gnomon.records import Message

FORMATS: tuple[CallFormat, ...] = ("hermes", "llama", "python")


def say(text: str, times: int = 1, loud: bool = False, tags: list[str] | None = None) -> str:
    """Say something.

    Args:
        text: what
        times: how often
        loud: or not
        tags: none or some
    """
    return text * times


SAY = Tool.of(say)
ADD = Adder().tools[0]


def call_of(text: str, how: CallFormat = "hermes") -> ToolCall:
    parsed = parse_calls(text, how, [SAY, ADD])
    assert not parsed.errors
    (call,) = parsed.calls
    return call


# -- schemas --------------------------------------------------------------------------------------


def test_the_schema_is_the_one_transformers_makes() -> None:
    theirs = get_json_schema(Adder().add)["function"]
    assert ADD.schema["function"] == {k: theirs[k] for k in ("name", "description", "parameters")}


def test_an_optional_argument_may_be_null() -> None:
    assert SAY.wrong({"text": "a", "tags": None}) is None
    assert "tags" in str(SAY.wrong({"text": "a", "tags": 3}))


def test_functions_without_hints_or_docstring_are_refused_by_name() -> None:
    def bare(x):  # type: ignore[no-untyped-def]
        return x

    def undocumented(x: int) -> int:
        """Do.

        Args:
            y: another
        """
        return x

    for function in (bare, undocumented):
        with pytest.raises(ConfigError, match=rf"tool '{function.__name__}'.*type hint for each"):
            Tool.of(function)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"type": "array"}, "type object"),
        ({"type": "object", "properties": [1]}, "type object"),
        ({"type": "object", "properties": {}, "required": ["x"]}, "required but not"),
        ({"type": "object", "properties": {"x": {"type": "strnig"}}}, "no type 'strnig'"),
        ({"type": "object", "properties": {"x": {"patern": "a"}}}, "patern"),
    ],
)
def test_a_malformed_schema_is_named(parameters: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"tool 'mine'.*{message}"):
        Tool("mine", "", parameters)


# -- calls ----------------------------------------------------------------------------------------


def test_calls_in_the_three_formats() -> None:
    body = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
    wanted = ToolCall("add", {"a": 1, "b": 2})
    assert call_of(f"Let me see.\n<tool_call>\n{body}\n</tool_call>") == wanted
    assert call_of(f"<tool_call>{body}") == wanted  # cut before a stop string
    assert call_of('{"name": "add", "parameters": {"a": 1, "b": 2}}', "llama") == wanted
    assert call_of("add(1, b=2)", "python") == wanted
    two = f"<tool_call>{body}</tool_call><tool_call>{body}</tool_call>"
    assert parse_calls(two, "hermes", [ADD]).calls == (wanted, wanted)
    joined = '{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 2}}'
    assert len(parse_calls(joined, "llama", [ADD]).calls) == 2


def test_python_text_needs_no_quotes() -> None:
    one = [Tool("say", "", {"type": "object", "properties": {"text": {"type": "string"}}})]
    for written, meant in (
        ("say(hello)", "hello"),
        ("say( 12 x (3 + 4))", "12 x (3 + 4)"),
        ("say(12 * 3)", "12 * 3"),
        ("say(17)", "17"),
        ("say('a, b')", "a, b"),
        ("say(blue key)", "blue key"),
    ):
        assert parse_calls(written, "python", one).calls[0].arguments == {"text": meant}


def test_a_call_counts_however_much_was_thought_before_it() -> None:
    thoughts = "Let me think it over.\n" * 5_000
    for how, call in (
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'),
        ("python", "add(1)"),
    ):
        assert call_of(thoughts + call, how) == ToolCall("add", {"a": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("how", FORMATS)
def test_words_without_a_call_are_an_answer(how: CallFormat) -> None:
    for text in ("", "The answer is 3.", "I would add(1) to it", '{"answer": 3}'):
        parsed = parse_calls(text, how, [SAY, ADD])
        assert not parsed.calls
        assert not parsed.errors


@pytest.mark.parametrize(
    ("how", "text", "message"),
    [
        ("hermes", "<tool_call>{add: 1}</tool_call>", "not valid"),
        ("hermes", '<tool_call>{"name": 3}</tool_call>', "not valid"),
        ("hermes", '<tool_call>["add"]</tool_call>', "not valid"),
        ("hermes", '<tool_call>{"name": "ad", "arguments": {}}</tool_call>', "no tool 'ad'"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "1"}}</tool_call>', "a"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}}</tool_call>', "a"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1, "c": 2}}</tool_call>', "c"),
        ("hermes", '<tool_call>{"name": "add", "arguments": "[]"}</tool_call>', "not valid"),
        ("llama", '{"name": "add", "parameters": {"a": 1', "not valid"),
        ("python", "add(1", "not closed"),
        ("python", "add(x + y)", "not a literal"),
        ("python", "add(1, 2, 3)", "takes 2"),
        ("python", "add(1, a=2)", "twice"),
        ("python", "add(1)(2)", "cannot be read"),
        ("python", "sub(1)", "no tool 'sub'"),
        ("python", "add(*[1])", "literal"),
        ("python", "add(" + "1 + " * 9_000 + "1)", "more than 20000 characters"),
        ("python", "nested(any={1, 2})", "set"),
        ("python", "nested(any=b'1')", "bytes"),
        ("python", "nested(any={(1, 2): 3})", "tuple"),
        ("hermes", r'<tool_call>{"name": "nested", "arguments": {"any": "\ud83d"}}', "half"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(how: CallFormat, text: str, message: str) -> None:
    parsed = parse_calls(text, how, [SAY, ADD, NESTED])
    assert not parsed.calls
    assert message in "; ".join(parsed.errors)


def page(number: int, also: list[int], by: dict[str, int] | None = None, size: float = 1) -> str:
    """Turn to a page.

    Args:
        number: which
        also: more of them
        by: and by name
        size: how large
    """
    return f"page {number} " + "x" * number


PAGE = Tool.of(page)
NESTED = Tool(
    "nested",
    "",
    {
        "type": "object",
        "$defs": {"n": {"type": "integer"}},
        "properties": {
            "at": {"type": "array", "prefixItems": [{"$ref": "#/$defs/n"}, {"type": "number"}]},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "any": {},
            "both": {"type": ["integer", "number"]},
            "deep": {"type": "object", "additionalProperties": {"items": {"type": "integer"}}},
        },
    },
)


def exactly(call: ToolCall) -> str:
    return repr(dict(call.arguments))


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("hermes", '<tool_call>{"name": "page", "arguments": %s}</tool_call>'),
        ("llama", '{"name": "page", "parameters": %s}'),
        ("python", "page(%s)"),
    ],
)
def test_a_whole_number_is_an_int_where_the_schema_says_integer(how: CallFormat, text: str) -> None:
    given: dict[str, Any] = {"number": 1.0, "also": [2.0, 3], "by": {"a": 4.0}, "size": 5.0}
    named = ", ".join(f"{name}={value!r}" for name, value in given.items())
    inside = named if how == "python" else json.dumps(given)
    (call,) = parse_calls(text % inside, how, [PAGE]).calls
    assert exactly(call) == "{'number': 1, 'also': [2, 3], 'by': {'a': 4}, 'size': 5.0}"
    assert page(**call.arguments) == "page 1 x"


def test_only_what_must_be_an_integer_becomes_one() -> None:
    given = {
        "at": [1.0, 1.0, 1.0],
        "either": 2.0,
        "any": [3.0],
        "both": 4.0,
        "deep": {"a": [5.0, 6], "b": []},
    }
    text = json.dumps({"name": "nested", "arguments": given})
    (call,) = parse_calls(f"<tool_call>{text}</tool_call>", "hermes", [NESTED]).calls
    assert exactly(call) == (
        "{'at': [1, 1.0, 1.0], 'either': 2, 'any': [3.0], 'both': 4.0,"
        " 'deep': {'a': [5, 6], 'b': []}}"
    )


@pytest.mark.parametrize("number", ["1.5", "NaN", "Infinity", "1e999", "true", '"1"', "[1.0]"])
def test_what_is_no_whole_number_stays_wrong(number: str) -> None:
    for body in (f'"number": {number}, "also": []', f'"number": 1, "also": [{number}]'):
        text = f'<tool_call>{{"name": "page", "arguments": {{{body}}}}}</tool_call>'
        assert parse_calls(text, "hermes", [PAGE]).errors


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "[1, [1e999]]", '{"a": NaN}'])
def test_numbers_that_json_does_not_have_are_refused(number: str) -> None:
    text = f'<tool_call>{{"name": "nested", "arguments": {{"any": {number}}}}}</tool_call>'
    assert parse_calls(text, "hermes", [NESTED]).errors == ("nested: a number is not finite",)
    assert parse_calls("nested(any=1e999)", "python", [NESTED]).errors


def test_arguments_nested_deep_are_an_error_or_a_call() -> None:
    for depth in (50, 200, 400, 600, 800, 950):
        text = f'{{"name": "nested", "arguments": {{"any": {"[" * depth}1.0{"]" * depth}}}}}'
        parsed = parse_calls(f"<tool_call>{text}</tool_call>", "hermes", [NESTED])
        assert bool(parsed.calls) != bool(parsed.errors)


def test_one_bad_call_stops_the_others() -> None:
    good = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert not parse_calls(good + "<tool_call>{</tool_call>", "hermes", [ADD]).calls


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = TEXT.filter(lambda t: "tool_call>" not in t and "\n" not in t and "\r" not in t)


@settings(max_examples=60, deadline=None)
@given(
    text=PLAIN,
    times=st.integers(-(10**12), 10**12),
    loud=st.booleans(),
    tags=st.none() | st.lists(PLAIN, max_size=3),
    how=st.sampled_from(FORMATS),
)
def test_a_written_call_is_read_back(
    text: str, times: int, loud: bool, tags: list[str] | None, how: CallFormat
) -> None:
    arguments = {"text": text, "times": times, "loud": loud, "tags": tags}
    call = ToolCall("say", arguments)
    assert parse_calls(write_call(call, how), how, [SAY, ADD]).calls == (call,)


PIECES = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        '"name"',
        ":",
        "add(",
        ")",
        "'",
        '"',
        "\n",
        ",",
        "[",
        "\\",
    ]
)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(PIECES | TEXT, max_size=12).map("".join), how=st.sampled_from(FORMATS))
def test_no_text_makes_the_parser_raise(text: str, how: CallFormat) -> None:
    parsed = parse_calls(text, how, [SAY, ADD])
    assert not (parsed.calls and parsed.errors)
    for call in parsed.calls:
        assert {"say": SAY, "add": ADD}[call.name].wrong(call.arguments) is None


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    for how, text in (
        ("hermes", "<tool_call>" + "[" * 9000),
        ("llama", '{"name": ' + "[" * 9000),
        ("python", "add(" + "(" * 9000 + ")"),
    ):
        assert parse_calls(text, how, [ADD]).errors  # type: ignore[arg-type]


# -- asking for them ------------------------------------------------------------------------------


def test_hermes_tools_are_listed_as_in_data_with_tools() -> None:
    messages = (Message("system", "Be brief."), Message("user", "1 + 1?"))
    ours = describe_tools(messages, [ADD], "hermes")
    theirs = with_tools([Turn(m) for m in messages], [ADD.schema])
    assert ours == tuple(t.message for t in theirs)
    assert json.dumps(ADD.schema) in ours[0].content


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_lists_the_tools_in_the_system_turn(how: CallFormat) -> None:
    for messages in ((Message("user", "hi"),), (Message("system", "S."), Message("user", "hi"))):
        shown = describe_tools(messages, [ADD], how)
        assert shown[0].role == "system"
        assert "add" in shown[0].content
        assert shown[1:] == messages[-1:]
        assert describe_tools(messages, [], how) == messages


def test_the_format_is_the_templates() -> None:
    assert format_of(None) == "hermes"
    assert format_of("... <tool_call> ...") == "hermes"
    assert format_of('{{ \'{"name": ..., "parameters": \' }}') == "llama"
