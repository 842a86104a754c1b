"""Rows with one answer, or none: demonstrations, answers judged good or bad, documents, prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gnomon.data.fields import (
    COMPLETION,
    LABEL,
    PROMPT_TURNS,
    ReadOptions,
    Row,
    answered_field,
    conversation,
    is_text_list,
    prompt_turns,
    response_turns,
    to_group,
    to_response,
)
from gnomon.data.turns import Turn, is_transcript
from gnomon.data.values import RowError, as_bool, as_text
from gnomon.records import Group, Message, Response


def parse_unpaired(row: Row, options: ReadOptions) -> list[Group]:
    good = as_bool(row.need(*LABEL), row.first(LABEL) or "label")
    judged = answered_field(row.data, last=True)
    name = row.first(COMPLETION)
    if judged is not None or name is None:
        prompt, answer = _last_answer(prompt_turns(row, (judged,) if judged else PROMPT_TURNS))
    else:
        prompt, answer = prompt_turns(row), response_turns(row.need(name), name)
    sure = row.confidence()
    group = to_group(row, prompt, options, [to_response(answer, meta={"label": good})])
    return [replace(group, weight=group.weight * sure)]


def _last_answer(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    if not turns or turns[-1].role != "assistant":
        raise RowError("no assistant turn at the end", "the last turn is the answer being judged")
    return tuple(turns[:-1]), tuple(turns[-1:])


def parse_messages(row: Row, options: ReadOptions) -> list[Group]:
    """The conversation; a prompt or problem next to it repeats its first turn and goes to meta."""
    name = answered_field(row.data) or row.first(PROMPT_TURNS)
    if name is None:
        raise row.missing("messages")
    turns = list(prompt_turns(row, (name,)))
    while turns and turns[-1].role != "assistant":  # nothing answers these
        turns.pop()
    first = next((i for i, t in enumerate(turns) if t.role == "assistant"), None)
    if first is None:
        raise RowError("no assistant turn", "a demonstration needs an answer; read it as prompts")
    return [to_group(row, turns[:first], options, [to_response(turns[first:])])]


def completion_of(
    prompts: Sequence[str], completions: Sequence[str]
) -> Callable[[Row, ReadOptions], list[Group]]:
    """A parser of demonstrations with the prompt and the answer in the first of these fields."""

    def parse(row: Row, options: ReadOptions) -> list[Group]:
        prompt = prompt_turns(row, prompts)
        if not prompt:
            raise row.missing(prompts[0])
        value, name = row.need(*completions), row.first(completions) or ""
        many = is_text_list(value)
        answers = [to_response(response_turns(v, name)) for v in (value if many else [value])]
        group = to_group(row, prompt, options, answers)
        return _numbered(group) if many else [group]

    return parse


def _numbered(group: Group) -> list[Group]:
    """A group for each answer, its number in the prompt's id."""
    prompt = group.prompt
    return [
        replace(group, prompt=replace(prompt, id=f"{prompt.id}/{i}"), responses=(answer,))
        for i, answer in enumerate(group.responses)
    ]


parse_alpaca = completion_of(("instruction",), ("output",))


def parse_instances(row: Row, options: ReadOptions) -> list[Group]:
    """One instruction with several inputs and their outputs, as in Self-Instruct's seed tasks."""
    instances = row.take("instances")
    if not isinstance(instances, list) or not all(isinstance(i, Mapping) for i in instances):
        raise RowError("field 'instances' is not a list of objects", 'write [{"output": "..."}]')
    shared = {k: v for k, v in row.data.items() if k != "instances"}
    groups: list[Group] = []
    for number, instance in enumerate(instances):
        one = Row({**shared, **instance}, row.source, row.default_id, row.aside, row.columns)
        groups += [
            replace(group, prompt=replace(group.prompt, id=f"{group.prompt.id}/{number}"))
            for group in parse_alpaca(one, options)
        ]
    for name in row.columns:
        row.take(name, keep=True)
    return groups


def parse_transcript(row: Row, options: ReadOptions) -> list[Group]:
    value = row.need("text")
    if not is_transcript(value):
        return parse_text(row, options)
    turns = conversation(value, "text") or ()
    _last_answer(turns)
    first = next(i for i, t in enumerate(turns) if t.role == "assistant")
    return [to_group(row, turns[:first], options, [to_response(turns[first:])])]


def parse_text(row: Row, options: ReadOptions) -> list[Group]:
    """Plain text to train on as a whole: an empty plain prompt, the text as the response."""
    text = Response((Message("assistant", as_text(row.need("text"), "text")),))
    return [to_group(row, (Turn(Message("user", "")),), ReadOptions(as_text=True), [text])]


def parse_prompts(row: Row, options: ReadOptions) -> list[Group]:
    turns = prompt_turns(row)
    if not turns:
        raise row.missing("prompt")
    return [to_group(row, turns, options)]
