"""The formats people have, each as two small functions: does a row look like it, what does it say.

``FORMATS`` is in order of detection: the more telling fields come first (a row with `chosen` and
`messages` is a preference, not a demonstration). Adding a format is one function and one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gnomon.data.build import Kind, ReadOptions, to_prompt, to_response
from gnomon.data.fields import (
    CHOSEN,
    COMPLETION,
    LABEL,
    PREFERENCE,
    PROMPT_TEXT,
    PROMPT_TURNS,
    REJECTED,
    RESPONSE_A,
    RESPONSE_B,
    RESPONSES,
    Row,
    as_bool,
    conversation,
    is_text_list,
    prompt_turns,
    response_turns,
)
from gnomon.data.pairs import parse_preference, parse_verdict
from gnomon.data.rankings import parse_ranking, ranking_kind
from gnomon.data.records import Group, Message, Response
from gnomon.data.turns import RowError, Turn, is_transcript


@dataclass(frozen=True)
class Format:
    """A way of writing rows: its name, how to recognise it and how to read it."""

    name: str
    kind: Callable[[Mapping[str, Any]], Kind]
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[Row, ReadOptions], list[Group]]
    needs: tuple[str, ...]


def _has(*alternatives: Iterable[str]) -> Callable[[Mapping[str, Any]], bool]:
    """True where, of every list of synonyms, the row has a field."""
    return lambda data: all(any(data.get(n) is not None for n in names) for names in alternatives)


# --- unpaired ----------------------------------------------------------------------------------


def _is_unpaired(data: Mapping[str, Any]) -> bool:
    """A good/bad flag beside an answer. A text label is a class of some task, not a judgement."""
    flag = next((data[n] for n in LABEL if data.get(n) is not None), None)
    flagged = isinstance(flag, bool) or (
        isinstance(flag, str) and flag.strip().lower() in ("true", "false")
    )
    if isinstance(flag, int) and data.get("kto_tag") is not None:
        flagged = True
    return flagged and (_has(PROMPT_TEXT, COMPLETION)(data) or _has(PROMPT_TURNS)(data))


def _parse_unpaired(row: Row, options: ReadOptions) -> list[Group]:
    good = as_bool(row.need(*LABEL), row.first(LABEL) or "label")
    completion_name = row.first(COMPLETION)
    prompt = prompt_turns(row)
    if completion_name is None:
        prompt, answer = _last_answer(prompt)
    else:
        answer = response_turns(row.need(completion_name), completion_name)
    response = to_response(answer, meta={"label": good})
    weight = row.number("weight", 1.0)
    return [Group(to_prompt(row, prompt, options), (response,), (), weight)]


def _last_answer(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    if not turns or turns[-1].role != "assistant":
        raise RowError("no assistant turn at the end", "the last turn is the answer being judged")
    return tuple(turns[:-1]), tuple(turns[-1:])


# --- demonstrations ----------------------------------------------------------------------------


def _has_answer(data: Mapping[str, Any]) -> bool:
    value: list[Any] = next((data[n] for n in PROMPT_TURNS if isinstance(data.get(n), list)), [])
    roles = {str(m.get("role") or m.get("from")).lower() for m in value if isinstance(m, Mapping)}
    return bool(roles & {"assistant", "gpt", "chatgpt", "bot", "model", "function_call"})


def _parse_messages(row: Row, options: ReadOptions) -> list[Group]:
    row.need(*PROMPT_TURNS)
    turns = list(prompt_turns(row))
    while turns and turns[-1].role != "assistant":  # nothing answers these
        turns.pop()
    first = next((i for i, t in enumerate(turns) if t.role == "assistant"), None)
    if first is None:
        raise RowError("no assistant turn", "a demonstration needs an answer; read it as prompts")
    response = to_response(turns[first:])
    weight = row.number("weight", 1.0)
    return [Group(to_prompt(row, turns[:first], options), (response,), (), weight)]


def _parse_completion(row: Row, options: ReadOptions) -> list[Group]:
    prompt = prompt_turns(row)
    if not prompt:
        raise row.missing("prompt")
    name = row.first(COMPLETION) or COMPLETION[0]
    value = row.need(name)
    many = is_text_list(value)
    answers = [response_turns(v, name) for v in (value if many else [value])]
    weight = row.number("weight", 1.0)
    base = to_prompt(row, prompt, options)
    return [
        Group(replace(base, id=f"{base.id}/{i}") if many else base, (to_response(a),), (), weight)
        for i, a in enumerate(answers)
    ]


def _parse_transcript(row: Row, options: ReadOptions) -> list[Group]:
    value = row.need("text")
    if not is_transcript(value):
        return _parse_text(row, options)
    turns = conversation(value, "text") or ()
    prompt, answer = _last_answer(turns)
    first = next(i for i, t in enumerate(turns) if t.role == "assistant")
    prompt, answer = tuple(turns[:first]), tuple(turns[first:])
    return [Group(to_prompt(row, prompt, options), (to_response(answer),))]


def _parse_text(row: Row, options: ReadOptions) -> list[Group]:
    """Plain text to train on as a whole: an empty plain prompt, the text as the response."""
    text = row.text("text")
    weight = row.number("weight", 1.0)
    prompt = to_prompt(row, (Turn(Message("user", "")),), ReadOptions(as_text=True))
    return [Group(prompt, (Response((Message("assistant", text),)),), (), weight)]


def _parse_prompts(row: Row, options: ReadOptions) -> list[Group]:
    turns = prompt_turns(row)
    if not turns:
        raise row.missing("prompt")
    return [Group(to_prompt(row, turns, options))]


def _always(kind: Kind) -> Callable[[Mapping[str, Any]], Kind]:
    return lambda _data: kind


def _parse_ranking(row: Row, options: ReadOptions) -> list[Group]:
    prompt = prompt_turns(row)
    if not prompt:
        raise row.missing("prompt")
    ranked = parse_ranking(row)
    responses = tuple(
        to_response(t, id=i, rank=r, meta=m)
        for t, i, r, m in zip(ranked.turns, ranked.ids, ranked.ranks, ranked.metas, strict=True)
    )
    weight = row.number("weight", 1.0)
    group = Group(to_prompt(row, prompt, options), responses, ranked.comparisons, weight)
    if any(ranked.labellers):
        meta = {**group.prompt.meta, "labellers": ranked.labellers}
        group = replace(group, prompt=replace(group.prompt, meta=meta))
    return [group]


_PAIR_FIELDS = _has(CHOSEN, REJECTED)
_DEMO_FIELDS = _has(PROMPT_TEXT, COMPLETION)

FORMATS: tuple[Format, ...] = (
    Format("gnomon", ranking_kind, _has(RESPONSES), _parse_ranking, ("prompt", "responses")),
    Format(
        "verdict",
        _always("preferences"),
        _has(RESPONSE_A, RESPONSE_B, PREFERENCE),
        parse_verdict,
        ("prompt", "response_a", "response_b", "preference"),
    ),
    Format(
        "hh-rlhf",
        _always("preferences"),
        lambda d: _PAIR_FIELDS(d) and any(is_transcript(d.get(n)) for n in CHOSEN),
        parse_preference,
        ("chosen", "rejected"),
    ),
    Format(
        "chosen-rejected",
        _always("preferences"),
        _PAIR_FIELDS,
        parse_preference,
        ("prompt", "chosen", "rejected"),
    ),
    Format(
        "kto", _always("unpaired"), _is_unpaired, _parse_unpaired, ("prompt", "completion", "label")
    ),
    Format(
        "sharegpt",
        _always("demonstrations"),
        lambda d: isinstance(d.get("conversations"), list) and _has_answer(d),
        _parse_messages,
        ("conversations",),
    ),
    Format("messages", _always("demonstrations"), _has_answer, _parse_messages, ("messages",)),
    Format(
        "alpaca",
        _always("demonstrations"),
        _has(("instruction",), ("output",)),
        _parse_completion,
        ("instruction", "output"),
    ),
    Format(
        "question-answer",
        _always("demonstrations"),
        _has(("question",), ("answer",)),
        _parse_completion,
        ("question", "answer"),
    ),
    Format(
        "prompt-completion",
        _always("demonstrations"),
        _DEMO_FIELDS,
        _parse_completion,
        ("prompt", "completion"),
    ),
    Format("text", _always("demonstrations"), _has(("text",)), _parse_transcript, ("text",)),
    Format(
        "prompts",
        _always("prompts"),
        _has((*PROMPT_TEXT, *PROMPT_TURNS)),
        _parse_prompts,
        ("prompt",),
    ),
)

BY_NAME = {f.name: f for f in FORMATS}


def detect(rows: Sequence[Mapping[str, Any]]) -> tuple[Format, Kind] | None:
    """The format and kind that most of these rows show, or None if no row looks like any."""
    votes: Counter[tuple[str, Kind]] = Counter()
    for data in rows:
        found = next((f for f in FORMATS if f.matches(data)), None)
        if found is not None:
            votes[found.name, found.kind(data)] += 1
    if not votes:
        return None
    (name, kind), _count = votes.most_common(1)[0]
    return BY_NAME[name], kind
