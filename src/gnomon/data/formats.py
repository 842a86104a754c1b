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
    PROMPT_TEXT,
    PROMPT_TURNS,
    REJECTED,
    RESPONSES,
    Row,
    conversation,
    is_text_list,
    prompt_turns,
    response_turns,
)
from gnomon.data.kinds import judgements
from gnomon.data.pairs import is_verdict, parse_preference, parse_verdict, with_labellers
from gnomon.data.rankings import parse_ranking, ranking_kind
from gnomon.data.scalars import RowError, as_bool, as_flag
from gnomon.data.turns import ROLES, Turn, is_transcript
from gnomon.records import Group, Message, Response


@dataclass(frozen=True)
class Format:
    """A way of writing rows: its name, what it can hold, how to recognise it and how to read it."""

    name: str
    kinds: tuple[Kind, ...]
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[Row, ReadOptions], list[Group]]
    needs: tuple[str, ...]

    def kind(self, data: Mapping[str, Any]) -> Kind:
        """What this row holds."""
        return self.kinds[0] if len(self.kinds) == 1 else ranking_kind(data)


def _has(*alternatives: Iterable[str]) -> Callable[[Mapping[str, Any]], bool]:
    """True where, of every list of synonyms, the row has a field."""
    return lambda data: all(any(data.get(n) is not None for n in names) for names in alternatives)


# --- unpaired ----------------------------------------------------------------------------------


def _is_unpaired(data: Mapping[str, Any]) -> bool:
    """A good/bad flag beside an answer: true, false, 1 or 0.

    Other labels are a class of some task, not a judgement; so are 0 and 1 beside a 2, which is why
    :func:`detect` looks at all rows.
    """
    flag = next((data[n] for n in LABEL if data.get(n) is not None), None)
    answered = _has(PROMPT_TEXT, COMPLETION)(data) or _has(PROMPT_TURNS)(data)
    return as_flag(flag) is not None and answered


def _parse_unpaired(row: Row, options: ReadOptions) -> list[Group]:
    good = as_bool(row.need(*LABEL), row.first(LABEL) or "label")
    judged = _answered_field(row.data, last=True)
    name = row.first(COMPLETION)
    if judged is not None or name is None:
        prompt, answer = _last_answer(prompt_turns(row, (judged,) if judged else PROMPT_TURNS))
    else:
        prompt, answer = prompt_turns(row), response_turns(row.need(name), name)
    response = to_response(answer, meta={"label": good})
    weight = row.weight() * row.confidence()
    return [Group(to_prompt(row, prompt, options), (response,), (), weight)]


def _last_answer(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    if not turns or turns[-1].role != "assistant":
        raise RowError("no assistant turn at the end", "the last turn is the answer being judged")
    return tuple(turns[:-1]), tuple(turns[-1:])


# --- demonstrations ----------------------------------------------------------------------------


def _answered_field(data: Mapping[str, Any], last: bool = False) -> str | None:
    """The field whose conversation has an assistant turn (or ends with one), None without one."""
    return next((n for n in PROMPT_TURNS if _is_answered(data.get(n), last)), None)


def _is_answered(value: Any, last: bool) -> bool:
    turns = value if isinstance(value, list) else []
    said = [m.get("role") or m.get("from") for m in turns if isinstance(m, Mapping)]
    roles = [ROLES.get(str(role).strip().lower()) for role in said]
    return "assistant" in (roles[-1:] if last else roles)


def _parse_messages(row: Row, options: ReadOptions) -> list[Group]:
    """The conversation; a prompt or problem beside it repeats its first turn and goes to meta."""
    name = _answered_field(row.data) or row.first(PROMPT_TURNS)
    if name is None:
        raise row.missing("messages")
    turns = list(prompt_turns(row, (name,)))
    while turns and turns[-1].role != "assistant":  # nothing answers these
        turns.pop()
    first = next((i for i, t in enumerate(turns) if t.role == "assistant"), None)
    if first is None:
        raise RowError("no assistant turn", "a demonstration needs an answer; read it as prompts")
    response = to_response(turns[first:])
    weight = row.weight()
    return [Group(to_prompt(row, turns[:first], options), (response,), (), weight)]


def _completion_of(
    prompts: Sequence[str], completions: Sequence[str]
) -> Callable[[Row, ReadOptions], list[Group]]:
    """Demonstrations whose prompt and answer stand in these fields, the first that a row has."""

    def parse(row: Row, options: ReadOptions) -> list[Group]:
        prompt = prompt_turns(row, prompts)
        if not prompt:
            raise row.missing(prompts[0])
        name = row.first(completions)
        if name is None:
            raise row.missing(completions[0])
        value = row.need(name)
        many = is_text_list(value)
        answers = [response_turns(v, name) for v in (value if many else [value])]
        weight = row.weight()
        base = to_prompt(row, prompt, options)
        return [
            Group(
                replace(base, id=f"{base.id}/{i}") if many else base, (to_response(a),), (), weight
            )
            for i, a in enumerate(answers)
        ]

    return parse


_parse_alpaca = _completion_of(("instruction",), ("output",))


def _parse_instances(row: Row, options: ReadOptions) -> list[Group]:
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
            for group in _parse_alpaca(one, options)
        ]
    for name in row.columns:
        row.see(name)
    return groups


def _parse_transcript(row: Row, options: ReadOptions) -> list[Group]:
    value = row.need("text")
    if not is_transcript(value):
        return _parse_text(row, options)
    turns = conversation(value, "text") or ()
    _last_answer(turns)
    first = next(i for i, t in enumerate(turns) if t.role == "assistant")
    prompt, answer = turns[:first], turns[first:]
    weight = row.weight()
    return [Group(to_prompt(row, prompt, options), (to_response(answer),), (), weight)]


def _parse_text(row: Row, options: ReadOptions) -> list[Group]:
    """Plain text to train on as a whole: an empty plain prompt, the text as the response."""
    text = row.text("text")
    weight = row.weight()
    prompt = to_prompt(row, (Turn(Message("user", "")),), ReadOptions(as_text=True))
    return [Group(prompt, (Response((Message("assistant", text),)),), (), weight)]


def _parse_prompts(row: Row, options: ReadOptions) -> list[Group]:
    turns = prompt_turns(row)
    if not turns:
        raise row.missing("prompt")
    weight = row.weight()
    return [Group(to_prompt(row, turns, options), weight=weight)]


def _parse_ranking(row: Row, options: ReadOptions) -> list[Group]:
    prompt = prompt_turns(row)
    if not prompt:
        raise row.missing("prompt")
    ranked = parse_ranking(row)
    responses = tuple(
        to_response(t, id=i, rank=r, meta=m)
        for t, i, r, m in zip(ranked.turns, ranked.ids, ranked.ranks, ranked.metas, strict=True)
    )
    weight, confidence = row.weight(), row.confidence()
    group = Group(to_prompt(row, prompt, options), responses, ranked.comparisons, weight)
    if confidence != 1:
        sure = tuple(replace(c, weight=c.weight * confidence) for c in judgements(group))
        group = replace(group, comparisons=sure)
    return [with_labellers(group, ranked.labellers)]


_PAIR_FIELDS = _has(CHOSEN, REJECTED)

FORMATS: tuple[Format, ...] = (
    Format(
        "gnomon",
        ("rankings", "preferences", "unpaired", "demonstrations"),
        _has(RESPONSES),
        _parse_ranking,
        ("prompt", "responses"),
    ),
    Format(
        "verdict",
        ("preferences",),
        is_verdict,
        parse_verdict,
        ("prompt", "response_a", "response_b", "preference"),
    ),
    Format(
        "hh-rlhf",
        ("preferences",),
        lambda d: _PAIR_FIELDS(d) and any(is_transcript(d.get(n)) for n in CHOSEN),
        parse_preference,
        ("chosen", "rejected"),
    ),
    Format(
        "chosen-rejected",
        ("preferences",),
        _PAIR_FIELDS,
        parse_preference,
        ("prompt", "chosen", "rejected"),
    ),
    Format("kto", ("unpaired",), _is_unpaired, _parse_unpaired, ("prompt", "completion", "label")),
    Format(
        "sharegpt",
        ("demonstrations",),
        lambda d: _answered_field(d) == "conversations",
        _parse_messages,
        ("conversations",),
    ),
    Format(
        "messages",
        ("demonstrations",),
        lambda d: _answered_field(d) is not None,
        _parse_messages,
        ("messages",),
    ),
    Format(
        "alpaca",
        ("demonstrations",),
        _has(("instruction",), ("output",)),
        _parse_alpaca,
        ("instruction", "output"),
    ),
    Format(
        "self-instruct",
        ("demonstrations",),
        _has(("instruction",), ("instances",)),
        _parse_instances,
        ("instruction", "instances"),
    ),
    Format(
        "question-answer",
        ("demonstrations",),
        _has(("question",), ("answer",)),
        _completion_of(("question",), ("answer",)),
        ("question", "answer"),
    ),
    Format(
        "prompt-completion",
        ("demonstrations",),
        _has((*PROMPT_TEXT, *PROMPT_TURNS), COMPLETION),
        _completion_of((*PROMPT_TEXT, *PROMPT_TURNS), COMPLETION),
        ("prompt", "completion"),
    ),
    Format("text", ("demonstrations",), _has(("text",)), _parse_transcript, ("text",)),
    Format(
        "prompts",
        ("prompts",),
        _has((*PROMPT_TEXT, *PROMPT_TURNS)),
        _parse_prompts,
        ("prompt",),
    ),
)

BY_NAME = {f.name: f for f in FORMATS}


def detect(rows: Sequence[Mapping[str, Any]]) -> tuple[Format, Kind] | None:
    """The format and kind that most of these rows show, or None if no row looks like any."""
    known = [f for f in FORMATS if f.name != "kto" or _labels_are_flags(rows)]
    votes: Counter[tuple[str, Kind]] = Counter()
    for data in rows:
        found = next((f for f in known if f.matches(data)), None)
        if found is not None:
            votes[found.name, found.kind(data)] += 1
    if not votes:
        return None
    (name, kind), _count = votes.most_common(1)[0]
    return BY_NAME[name], kind


def _labels_are_flags(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every label says good or bad: one that is 2, or a word, makes 0 and 1 classes."""
    labels = [data[n] for data in rows for n in LABEL if data.get(n) is not None]
    return all(as_flag(label) is not None for label in labels)
