"""Two sides: chosen and rejected in all their spellings, or two responses and a verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnomon.data.build import ReadOptions, Verdict, to_prompt, to_response
from gnomon.data.fields import (
    ANNOTATOR,
    CHOSEN,
    LABELLER,
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
from gnomon.data.scalars import RowError, shown
from gnomon.data.turns import Turn, split_pair
from gnomon.records import Comparison, Group, Message, Response


def _pair(row: Row, options: ReadOptions, prompt: Sequence[Turn], pair: list[Response]) -> Group:
    comparison = Comparison(0, 1, weight=row.confidence(), margin=row.number("margin", 0.0))
    weight = row.weight()
    return Group(to_prompt(row, prompt, options), tuple(pair), (comparison,), weight)


def parse_preference(row: Row, options: ReadOptions) -> list[Group]:
    """chosen and rejected as strings, messages, whole conversations or lists of answers."""
    chosen, rejected = row.need(*CHOSEN), row.need(*REJECTED)
    names = row.name(CHOSEN), row.name(REJECTED)
    if is_text_list(chosen) or is_text_list(rejected):
        return [_many_sided(row, options, chosen, rejected)]
    whole = conversation(chosen, names[0]), conversation(rejected, names[1])
    if whole[0] and whole[1]:  # the conversations hold the prompt; a prompt column repeats it
        row.take(*PROMPT_TEXT)
        prompt, good, bad = split_pair(whole[0], whole[1])
    elif row.first((*PROMPT_TEXT, *PROMPT_TURNS)):
        prompt = prompt_turns(row)
        good, bad = response_turns(chosen, names[0]), response_turns(rejected, names[1])
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
    confidence, margin = row.confidence(), row.number("margin", 0.0)
    pairs = tuple(
        Comparison(i, j, weight=confidence, margin=margin)
        for i in range(good)
        for j in range(good, len(responses))
    )
    weight = row.weight()
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


#: What PandaLM's annotator1, annotator2, ... say of response1 and response2.
PANDALM: Mapping[Any, Verdict] = {0: "tie", 1: "a", 2: "b"}
_A_OR_B = re.compile(r"(?:model|output|response)?[_ -]?([ab])\b(?!\w)", re.IGNORECASE)


def verdict(value: Any, labels: Mapping[Any, Verdict]) -> Verdict:
    """Which of two responses a `preference` value names.

    Words are understood (a, model_b, "a-is-better", tie); numbers are not guessed, since 0, 1 and 2
    mean different things in different sets: they need ``labels``.
    """
    for key, meaning in labels.items():
        if value == key or _plain(value) == _plain(key):
            return meaning
    if isinstance(value, str) and not labels:
        if "tie" in value.lower():
            return "tie"
        match = _A_OR_B.match(value.strip().replace("-is-", " is "))
        if match:
            return "a" if match.group(1).lower() == "a" else "b"
    if isinstance(value, float) and not value.is_integer():
        raise RowError(
            "the preference is a grade between two verdicts",
            "round it to one, and put how sure it is (0 to 1) into 'confidence'",
        )
    raise RowError(
        f"the preference {shown(value)} is not understood",
        "say what each value means: labels={0: 'a', 1: 'b', 2: 'tie'} (--labels 0=a,1=b,2=tie)",
    )


def _plain(value: Any) -> str:
    """A label's value whatever wrote it: 1, 1.0 and "1" are the same."""
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _annotators(data: Mapping[str, Any]) -> list[str]:
    """The columns of single labellers: annotator1, annotator2, ..."""
    return [k for k, v in data.items() if ANNOTATOR.fullmatch(str(k)) and v is not None]


def is_verdict(data: Mapping[str, Any]) -> bool:
    """Two responses, and a verdict on them or the verdicts of several labellers."""
    has_both = all(any(data.get(n) is not None for n in side) for side in (RESPONSE_A, RESPONSE_B))
    judged = any(data.get(n) is not None for n in (*PREFERENCE, "label"))
    return has_both and (judged or bool(_annotators(data)))


def parse_verdict(row: Row, options: ReadOptions) -> list[Group]:
    """Two responses and who says which is better: one verdict (better first in the group), or one
    of each labeller (in the file's order, as comparisons)."""
    said = row.first((*PREFERENCE, "label"))
    voters = [] if row.first(PREFERENCE) else _annotators(row.data)
    if voters:
        said = None
    elif said is None:
        raise row.missing("preference")
    only = None if said is None else verdict(row.take(said), options.labels)
    a, b = row.need(*RESPONSE_A), row.need(*RESPONSE_B)
    names = row.name(RESPONSE_A), row.name(RESPONSE_B)
    whole = conversation(a, names[0]), conversation(b, names[1])
    if whole[0] and whole[1]:
        prompt, turns_a, turns_b = split_pair(whole[0], whole[1])
    else:
        prompt = prompt_turns(row)
        turns_a, turns_b = response_turns(a, names[0]), response_turns(b, names[1])
    if only is None:
        labels = options.labels or (PANDALM if names[0].endswith("1") else {})
        votes = {name: verdict(row.take(name), labels) for name in voters}
        pair = [to_response(turns_a, id="a"), to_response(turns_b, id="b")]
        return [_voted(_pair(row, options, prompt, pair), votes)]
    ranks = {"a": (1.0, 2.0), "b": (2.0, 1.0), "tie": (1.0, 1.0)}[only]
    pair = [
        to_response(turns_a, id="a", rank=ranks[0]),
        to_response(turns_b, id="b", rank=ranks[1]),
    ]
    group = _pair(row, options, prompt, pair if only != "b" else pair[::-1])
    ties = tuple(replace(c, tie=only == "tie") for c in group.comparisons)
    labeller = row.see(*LABELLER)
    who = () if labeller is None else (str(labeller),)
    return [with_labellers(replace(group, comparisons=ties), who)]


def _voted(group: Group, votes: Mapping[str, Verdict]) -> Group:
    """A pair with one comparison for each labeller."""
    (base,) = group.comparisons
    comparisons = tuple(
        replace(base, better=int(vote == "b"), worse=int(vote != "b"), tie=vote == "tie")
        for vote in votes.values()
    )
    return with_labellers(replace(group, comparisons=comparisons), tuple(votes))


def with_labellers(group: Group, names: Sequence[str | None]) -> Group:
    """The group with who made each of its comparisons in its prompt's meta, where that is known."""
    if not any(names):
        return group
    meta = {**group.prompt.meta, "labellers": tuple(names)}
    return replace(group, prompt=replace(group.prompt, meta=meta))
