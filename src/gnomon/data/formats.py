"""The formats people have, each as two small functions: does a row look like it, what does it say.

``FORMATS`` is in order of detection: the more telling fields come first (a row with `chosen` and
`messages` is a preference, not a demonstration). Adding a format is one function and one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
    prompt_turns,
    response_turns,
)
from gnomon.data.rankings import parse_ranking, ranking_kind
from gnomon.data.records import Comparison, Group, Message, Prompt, Response
from gnomon.data.turns import RowError, Turn, is_transcript, split_pair

Kind = Literal["demonstrations", "preferences", "rankings", "unpaired", "prompts"]
Verdict = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class ReadOptions:
    """Choices that change what a row means.

    Attributes:
        as_text: prompts are plain text for a base model, not chat turns.
        labels: what the values of a `preference` column mean, e.g. {0: "a", 1: "b", 2: "tie"}.
        good_from: scores at or above this are good, below it bad (ratings read as unpaired).
    """

    as_text: bool = False
    labels: Mapping[Any, Verdict] = field(default_factory=dict)
    good_from: float | None = None


@dataclass(frozen=True)
class Format:
    """A way of writing rows: its name, how to recognise it and how to read it."""

    name: str
    kind: Callable[[Mapping[str, Any]], Kind]
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[Row, ReadOptions], list[Group]]
    needs: tuple[str, ...]


def to_response(turns: Sequence[Turn], **known: Any) -> Response:
    """A response of these turns; turns switched off for training are noted in ``meta['train']``."""
    messages = tuple(t.message for t in turns)
    meta = dict(known.pop("meta", {}))
    if not all(t.train for t in turns if t.role == "assistant"):
        meta["train"] = tuple(t.train for t in turns)
    return Response(messages, meta=meta, **known)


def to_prompt(row: Row, turns: Sequence[Turn], options: ReadOptions, suffix: str = "") -> Prompt:
    """The row's prompt, with every unused field in its meta. Call it after all other fields."""
    category = row.take("category")
    own_id = row.take("id")
    extra = row.take("meta")
    meta = {**(extra if isinstance(extra, Mapping) else {}), **row.rest()}
    messages: tuple[Message, ...] = tuple(t.message for t in turns)
    text = None
    if options.as_text:
        if len(messages) != 1:
            raise RowError(
                f"a conversation of {len(messages)} turns cannot be read as plain text",
                "read it as chat (as_text=False)",
            )
        text, messages = messages[0].content, ()
    return Prompt(
        id=(row.default_id if own_id is None else str(own_id)) + suffix,
        messages=messages,
        text=text,
        source=row.source,
        category=None if category is None else str(category),
        meta=meta,
    )


def _has(*alternatives: Iterable[str]) -> Callable[[Mapping[str, Any]], bool]:
    """True where, of every list of synonyms, the row has a field."""
    return lambda data: all(any(data.get(n) is not None for n in names) for names in alternatives)


# --- preferences -------------------------------------------------------------------------------


def _pair(row: Row, options: ReadOptions, prompt: Sequence[Turn], pair: list[Response]) -> Group:
    confidence, margin = row.number("confidence", 1.0), row.number("margin", 0.0)
    comparison = Comparison(0, 1, weight=confidence, margin=margin)
    weight = row.number("weight", 1.0)
    return Group(to_prompt(row, prompt, options), tuple(pair), (comparison,), weight)


def _parse_preference(row: Row, options: ReadOptions) -> list[Group]:
    chosen, rejected = row.need(*CHOSEN), row.need(*REJECTED)
    if _string_lists(chosen) or _string_lists(rejected):
        return [_many_sided(row, options, chosen, rejected)]
    whole = conversation(chosen, "chosen"), conversation(rejected, "rejected")
    if whole[0] and whole[1]:  # the conversations hold the prompt; a prompt column repeats it
        row.take(*PROMPT_TEXT)
        prompt, good, bad = split_pair(whole[0], whole[1])
    elif row.first((*PROMPT_TEXT, *PROMPT_TURNS)):
        prompt = prompt_turns(row)
        good, bad = response_turns(chosen, "chosen"), response_turns(rejected, "rejected")
    elif isinstance(chosen, str) and isinstance(rejected, str):
        return [_shared_text(row, chosen, rejected)]
    else:
        raise row.missing("prompt")
    pair = [to_response(good, id="chosen", rank=1.0), to_response(bad, id="rejected", rank=2.0)]
    return [_pair(row, options, prompt, pair)]


def _string_lists(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _many_sided(row: Row, options: ReadOptions, chosen: Any, rejected: Any) -> Group:
    """Lists of good and of bad answers: each good one beats each bad one, nothing else is said."""
    sides = [v if isinstance(v, list) else [v] for v in (chosen, rejected)]
    responses = [
        to_response(response_turns(text, name), id=f"{name}-{i}", rank=rank)
        for rank, name, side in ((1.0, "chosen", sides[0]), (2.0, "rejected", sides[1]))
        for i, text in enumerate(side)
    ]
    good = len(sides[0])
    pairs = tuple(Comparison(i, j) for i in range(good) for j in range(good, len(responses)))
    weight = row.number("weight", 1.0)
    prompt = to_prompt(row, prompt_turns(row), options)
    return Group(prompt, tuple(responses), pairs, weight)


def _shared_text(row: Row, chosen: str, rejected: str) -> Group:
    """TRL's implicit prompt in plain strings: the common opening, cut back to a word's end."""
    if chosen == rejected:
        raise RowError("chosen and rejected are the same", "a pair needs two different answers")
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    match = re.search(r"\s+\S*$", chosen[:common])
    cut = match.start() if match else 0
    if not chosen[:cut].strip():
        raise RowError(
            "chosen and rejected share no prompt", "add a 'prompt' column or a shared opening"
        )
    pair = [
        to_response(response_turns(text[cut:], name), id=name, rank=rank)
        for name, text, rank in (("chosen", chosen, 1.0), ("rejected", rejected, 2.0))
    ]
    turns = (Turn(Message("user", chosen[:cut])),)
    return _pair(row, ReadOptions(as_text=True), turns, pair)


# --- two responses and a verdict ---------------------------------------------------------------

_A_OR_B = re.compile(r"(?:model|output|response)?[_ -]?([ab])\b(?!\w)", re.IGNORECASE)


def verdict(value: Any, labels: Mapping[Any, Verdict]) -> Verdict:
    """Which of two responses a `preference` value names.

    Words are understood (a, model_b, "a-is-better", tie); numbers are not guessed, since 0, 1 and 2
    mean different things in different sets: they need ``labels``.
    """
    for key, meaning in labels.items():
        if value == key or str(value) == str(key):
            return meaning
    if isinstance(value, str) and not labels:
        if "tie" in value.lower():
            return "tie"
        match = _A_OR_B.match(value.strip().replace("-is-", " is "))
        if match:
            return "a" if match.group(1).lower() == "a" else "b"
    raise RowError(
        f"the preference {value!r} is not understood",
        "say what each value means: labels={0: 'a', 1: 'b', 2: 'tie'}",
    )


def _parse_verdict(row: Row, options: ReadOptions) -> list[Group]:
    said = verdict(row.need(*PREFERENCE), options.labels)
    a, b = row.need(*RESPONSE_A), row.need(*RESPONSE_B)
    whole = conversation(a, "response_a"), conversation(b, "response_b")
    if whole[0] and whole[1]:
        prompt, turns_a, turns_b = split_pair(whole[0], whole[1])
    else:
        prompt = prompt_turns(row)
        turns_a, turns_b = response_turns(a, "response_a"), response_turns(b, "response_b")
    ranks = {"a": (1.0, 2.0), "b": (2.0, 1.0), "tie": (1.0, 1.0)}[said]
    pair = [
        to_response(turns_a, id="a", rank=ranks[0]),
        to_response(turns_b, id="b", rank=ranks[1]),
    ]
    group = _pair(row, options, prompt, pair if said != "b" else pair[::-1])
    ties = tuple(replace(c, tie=said == "tie") for c in group.comparisons)
    return [replace(group, comparisons=ties)]


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
    many = _string_lists(value)
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


def _preference_name(data: Mapping[str, Any]) -> bool:
    return any(is_transcript(data.get(n)) for n in CHOSEN)


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
        _parse_verdict,
        ("prompt", "response_a", "response_b", "preference"),
    ),
    Format(
        "hh-rlhf",
        _always("preferences"),
        lambda d: _PAIR_FIELDS(d) and _preference_name(d),
        _parse_preference,
        ("chosen", "rejected"),
    ),
    Format(
        "chosen-rejected",
        _always("preferences"),
        _PAIR_FIELDS,
        _parse_preference,
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
