"""Two sides: chosen and rejected in all their spellings, or two responses and a verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnomon.data.build import ReadOptions, Verdict, to_prompt, to_response
from gnomon.data.fields import (
    CHOSEN,
    PREFERENCE,
    PROMPT_TEXT,
    PROMPT_TURNS,
    REJECTED,
    RESPONSE_A,
    RESPONSE_B,
    Row,
    conversation,
    is_text_list,
    prompt_turns,
    response_turns,
)
from gnomon.data.records import Comparison, Group, Message, Response
from gnomon.data.turns import RowError, Turn, split_pair


def _pair(row: Row, options: ReadOptions, prompt: Sequence[Turn], pair: list[Response]) -> Group:
    confidence, margin = row.number("confidence", 1.0), row.number("margin", 0.0)
    comparison = Comparison(0, 1, weight=confidence, margin=margin)
    weight = row.number("weight", 1.0)
    return Group(to_prompt(row, prompt, options), tuple(pair), (comparison,), weight)


def parse_preference(row: Row, options: ReadOptions) -> list[Group]:
    """chosen and rejected as strings, messages, whole conversations or lists of answers."""
    chosen, rejected = row.need(*CHOSEN), row.need(*REJECTED)
    if is_text_list(chosen) or is_text_list(rejected):
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


def parse_verdict(row: Row, options: ReadOptions) -> list[Group]:
    """Two responses and a field that says which is better (better first in the group)."""
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
