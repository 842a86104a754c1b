"""Rows whose answers are compared: chosen and rejected, two with a verdict, or a ranking.

gnomon's own form of a ranking, which the feedback store writes, and UltraFeedback-style ratings::

    {"prompt": "...", "responses": [{"id": "a", "text": "...", "rank": 1}, ...]}
    {"prompt": "...", "responses": [{"id": "a", "text": "..."}, ...],
     "comparisons": [{"better": "a", "worse": "b", "confidence": 0.9, "labeller": "kim"},
                     {"better": "b", "worse": "c", "tie": true, "margin": 0.5, "weight": 2}]}
    {"prompt": "...", "responses": [...], "ranking": ["b", ["a", "c"]]}      best first, ties nested
    {"instruction": "...", "completions": [{"response": "...", "overall_score": 7.5}, ...]}
    {"prompt": "...", "responses": ["...", "..."], "scores": [7, 3]}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gnomon.data.fields import (
    CHOSEN,
    LABELLER,
    PREFERENCE,
    PROMPT,
    PROMPT_TEXT,
    REJECTED,
    RESPONSE_A,
    RESPONSE_B,
    RESPONSES,
    ReadOptions,
    Row,
    annotators,
    conversation,
    is_blank,
    is_text_list,
    labeller_of,
    prompt_turns,
    response_turns,
    to_group,
    to_response,
)
from gnomon.data.turns import (
    TRAIN_FLAGS,
    Turn,
    is_trained,
    is_transcript,
    parse_messages,
    split_pair,
)
from gnomon.data.values import (
    RowError,
    as_bool,
    as_confidence,
    as_number,
    as_probability,
    as_weight,
)
from gnomon.data.verdicts import verdict
from gnomon.plugins import did_you_mean, nearest
from gnomon.recipe.schema import Verdict
from gnomon.records import Comparison, Group, Message, Response, comparisons_from_ranks


def _compared(
    row: Row,
    options: ReadOptions,
    prompt: Sequence[Turn],
    responses: Sequence[Response],
    verdicts: Sequence[tuple[int, int, bool]] = ((0, 1, False),),
    labellers: Sequence[str | None] = (),
) -> Group:
    """The row as a group with the judgements ``verdicts``: (better, worse, whether a tie)."""
    sure, margin = row.confidence(), row.number("margin", 0.0)
    comparisons = [Comparison(better, worse, sure, margin, tie) for better, worse, tie in verdicts]
    return with_labellers(to_group(row, prompt, options, responses, comparisons), labellers)


def with_labellers(group: Group, names: Sequence[str | None]) -> Group:
    """The group with who made each of its comparisons in its prompt's meta, where that is known."""
    if not any(names):
        return group
    meta = {**group.prompt.meta, "labellers": tuple(names)}
    return replace(group, prompt=replace(group.prompt, meta=meta))


_Turns = Sequence[Turn]


def _sides(row: Row, *sides: Sequence[str]) -> tuple[_Turns, _Turns, _Turns]:
    """The prompt and two answers: from two whole conversations, or from answers and a prompt."""
    (a, in_a), (b, in_b) = ((row.need(*names), row.name(names)) for names in sides)
    whole_a, whole_b = conversation(a, in_a), conversation(b, in_b)
    if whole_a and whole_b:  # they hold the prompt; a prompt column repeats it
        prompt, rest_a, rest_b = split_pair(whole_a, whole_b)
        return _with_opening(row, prompt), rest_a, rest_b
    if row.first(PROMPT) is None:
        raise row.missing("prompt")
    return prompt_turns(row), response_turns(a, in_a), response_turns(b, in_b)


def _with_opening(row: Row, prompt: _Turns) -> _Turns:
    """What two conversations share, after the turns that a `prompt` of messages has before it.

    Raises:
        RowError: the two are of different prompts.
    """
    name, value = row.first(PROMPT_TEXT), row.take(*PROMPT_TEXT)
    if name is None or not isinstance(value, list):
        return prompt
    said, shared = (
        [(turn.role, turn.message.content.strip()) for turn in turns]
        for turns in (parse_messages(value, name), prompt)
    )
    if said in (shared[: len(said)], shared[-len(said) :]):
        return prompt
    if len(said) > len(shared) and said[-len(shared) :] == shared:
        return (*parse_messages(value, name)[: -len(shared)], *prompt)
    raise RowError(
        f"the turns of {name!r} are not those that chosen and rejected begin with",
        "keep one of the two prompts",
    )


def parse_preference(row: Row, options: ReadOptions) -> list[Group]:
    """chosen and rejected as strings, messages, whole conversations or lists of answers."""
    chosen, rejected = row.need(*CHOSEN), row.need(*REJECTED)
    if is_text_list(chosen) or is_text_list(rejected):
        return [_many_sided(row, options, chosen, rejected)]
    texts = isinstance(chosen, str) and isinstance(rejected, str)
    transcripts = is_transcript(chosen) and is_transcript(rejected)
    if texts and not transcripts and row.first(PROMPT) is None:
        return [_shared_text(row, chosen, rejected)]
    prompt, good, bad = _sides(row, CHOSEN, REJECTED)
    pair = [to_response(good, id="chosen", rank=1.0), to_response(bad, id="rejected", rank=2.0)]
    return [_compared(row, options, prompt, pair)]


def _many_sided(row: Row, options: ReadOptions, chosen: Any, rejected: Any) -> Group:
    """Lists of good and of bad answers: each good one beats each bad one."""
    sides = [v if isinstance(v, list) else [v] for v in (chosen, rejected)]
    responses = [
        to_response(response_turns(text, name), id=f"{name}-{i}", rank=rank)
        for rank, name, side in ((1.0, "chosen", sides[0]), (2.0, "rejected", sides[1]))
        for i, text in enumerate(side)
    ]
    good, total = len(sides[0]), len(responses)
    verdicts = [(i, j, False) for i in range(good) for j in range(good, total)]
    return _compared(row, options, prompt_turns(row), responses, verdicts)


def _shared_text(row: Row, chosen: str, rejected: str) -> Group:
    """TRL's implicit prompt in plain strings: the common opening, cut back to a word's end."""
    if chosen == rejected:
        raise RowError("chosen and rejected are the same", "a pair needs two different answers")
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - the characters are meant
    match = re.search(r"\s+\S*$", shared)
    prompt = chosen[: match.start()] if match else ""
    if not prompt.strip():
        raise RowError(
            "chosen and rejected share no prompt", "add a 'prompt' column or a shared opening"
        )
    pair = [
        to_response(response_turns(text.removeprefix(prompt), name), id=name, rank=rank)
        for name, text, rank in (("chosen", chosen, 1.0), ("rejected", rejected, 2.0))
    ]
    return _compared(row, ReadOptions(as_text=True), (Turn(Message("user", prompt)),), pair)


#: What the values of PandaLM's annotator1, annotator2, ... mean for response1 and response2.
PANDALM: Mapping[Any, Verdict] = {0: "tie", 1: "a", 2: "b"}


def parse_verdict(row: Row, options: ReadOptions) -> list[Group]:
    """Two responses with one verdict (the better comes first in the group), or with one verdict of
    each labeller (responses in the file's order, verdicts as comparisons)."""
    field = row.first((*PREFERENCE, "label"))
    voters = [] if row.first(PREFERENCE) else annotators(row.data)
    if voters:
        labels = options.labels or (PANDALM if row.name(RESPONSE_A).endswith("1") else {})
        votes = [verdict(row.take(name), labels) for name in voters]
        prompt, a, b = _sides(row, RESPONSE_A, RESPONSE_B)
        pair = [to_response(a, id="a"), to_response(b, id="b")]
        verdicts = [(int(vote == "b"), int(vote != "b"), vote == "tie") for vote in votes]
        return [_compared(row, options, prompt, pair, verdicts, voters)]
    if field is None and options.judged:
        raise row.missing("preference")
    vote = "tie" if field is None else verdict(row.take(field), options.labels)
    prompt, a, b = _sides(row, RESPONSE_A, RESPONSE_B)
    ranks = {"a": (1.0, 2.0), "b": (2.0, 1.0), "tie": (1.0, 1.0)}[vote]
    pair = [to_response(a, id="a", rank=ranks[0]), to_response(b, id="b", rank=ranks[1])]
    if vote == "b":
        pair.reverse()
    labeller = row.take(*LABELLER, keep=True)
    who = () if labeller is None else (str(labeller),)
    return [_compared(row, options, prompt, pair, [(0, 1, vote == "tie")], who)]


def parse_responses(row: Row, options: ReadOptions) -> list[Group]:
    """Any number of responses, ranked, scored or compared."""
    if row.first(PROMPT) is None:
        raise row.missing("prompt")
    prompt, ranked = prompt_turns(row), parse_ranking(row, options.judged)
    sure = row.confidence()
    verdicts = tuple(replace(c, weight=c.weight * sure) for c in ranked.comparisons)
    if sure != 1 and not verdicts and len(ranked.ranks) > 1:
        verdicts = comparisons_from_ranks(ranked.ranks, sure)
    group = to_group(row, prompt, options, ranked.responses, verdicts)
    return [with_labellers(group, ranked.labellers)]


TEXT = ("text", "content", "response", "completion", "output", "messages")
SCORE = ("score", "overall_score", "rating", "reward")


@dataclass(frozen=True)
class Ranked:
    """A row's K responses and how they compare; one of ``labellers`` for each comparison."""

    responses: tuple[Response, ...]
    comparisons: tuple[Comparison, ...]
    labellers: tuple[str | None, ...]

    @property
    def ranks(self) -> list[float]:
        """The responses' ranks; empty where there are none."""
        return [r.rank for r in self.responses if r.rank is not None]


def parse_ranking(row: Row, judged: bool = True) -> Ranked:
    """The responses of a row and how they compare.

    Args:
        judged: whether it must say that.

    Raises:
        RowError: no responses, a response without text, some ranked and some not, unknown ids.
    """
    name = row.first(RESPONSES) or "responses"
    items = row.need(name)
    if not isinstance(items, list) or not items:
        raise RowError(f"field {name!r} is not a list of responses", "list at least one response")
    scores = row.take("scores")
    if scores is not None and (not isinstance(scores, list) or len(scores) != len(items)):
        raise RowError(f"'scores' does not match {name!r}", f"give {len(items)} scores, in order")
    found = [_response(item, f"{name}[{i}]") for i, item in enumerate(items)]
    ids = [str(i) if own is None else own for i, (_, own, _) in enumerate(found)]
    metas = [meta for _, _, meta in found]
    for i, score in enumerate(scores or ()):
        metas[i]["score"] = as_number(score, f"scores[{i}]")
    if len(set(ids)) < len(ids):
        raise RowError("two responses have the same id", "give each response its own id")
    comparisons, labellers = _comparisons(row, ids)
    ranks = _ranks(row, ids, metas, needed=judged and len(items) > 1 and not comparisons)
    responses = (
        to_response(turns, id=i, rank=rank, meta=meta)
        for (turns, _, meta), i, rank in zip(found, ids, ranks, strict=True)
    )
    return Ranked(tuple(responses), comparisons, labellers)


def _response(item: Any, where: str) -> tuple[tuple[Turn, ...], str | None, dict[str, Any]]:
    if not isinstance(item, Mapping):
        return response_turns(item, where), None, {}
    field = next((n for n in TEXT if item.get(n) is not None), None)
    if field is None:
        close = next((hint for k in item if (hint := nearest(str(k), TEXT))), "")
        raise RowError(f"{where} has no 'text'", close or "write the answer under 'text'")
    apart = (field, "id", "role", *TRAIN_FLAGS)
    meta = {k: v for k, v in item.items() if k not in apart and v is not None}
    if "label" in meta:
        meta["label"] = as_bool(meta["label"], f"{where}.label")
    own_id = item.get("id")
    turns = response_turns(item[field], where)
    if not is_trained(item, where):
        turns = tuple(replace(turn, train=False) for turn in turns)
    return turns, None if is_blank(own_id) else str(own_id), meta


def _ranks(
    row: Row, ids: Sequence[str], metas: Sequence[dict[str, Any]], needed: bool
) -> list[float | None]:
    """Ranks from `ranking`, else from each response's `rank`, else from scores (higher is better).

    Equal scores share a rank.
    """
    ranking = row.take("ranking")
    if ranking is not None:
        return _ranks_of_list(ranking, ids)
    ranks = _all_or_none([m.pop("rank", None) for m in metas], ids, "rank")
    if ranks:
        return list(ranks)
    scores = _all_or_none(
        [next((m[n] for n in SCORE if n in m), None) for m in metas], ids, "score"
    )
    if scores:
        order = sorted(set(scores), reverse=True)
        for meta, score in zip(metas, scores, strict=True):
            meta["score"] = score
        return [1.0 + order.index(score) for score in scores]
    if needed:
        raise RowError(
            "nothing says which response is better", "give each a rank or score, or add comparisons"
        )
    return [None] * len(ids)


def _all_or_none(values: Sequence[Any], ids: Sequence[str], what: str) -> list[float]:
    """Each response's rank or score; empty where none has one."""
    absent = [name for name, value in zip(ids, values, strict=True) if value is None]
    if len(absent) == len(ids):
        return []
    if absent:
        raise RowError(f"response {absent[0]!r} has no {what}", f"{what} them all")
    return [as_number(value, what) for value in values]


def _ranks_of_list(ranking: Any, ids: Sequence[str]) -> list[float | None]:
    if not isinstance(ranking, list):
        raise RowError("field 'ranking' is not a list", "list the ids, best first")
    ranks: dict[int, float] = {}
    for place, entry in enumerate(ranking, start=1):
        for one in entry if isinstance(entry, list) else [entry]:
            ranks[_index(one, ids)] = float(place)
    absent = [name for i, name in enumerate(ids) if i not in ranks]
    if absent:
        raise RowError(f"the ranking leaves out {absent[0]!r}", "rank every response")
    return [ranks[i] for i in range(len(ids))]


def _index(name: Any, ids: Sequence[str]) -> int:
    try:
        return ids.index(str(name))
    except ValueError:
        hint = did_you_mean(str(name), ids, "the responses are", 0.7)
        raise RowError(f"the ranking names an unknown response {name!r}", hint) from None


def _comparisons(
    row: Row, ids: Sequence[str]
) -> tuple[tuple[Comparison, ...], tuple[str | None, ...]]:
    """Single judgements by id. A labeller's confidence multiplies the judgement's weight."""
    items = row.take("comparisons")
    if items is None:
        return (), ()
    if not isinstance(items, list) or not all(isinstance(c, Mapping) for c in items):
        raise RowError(
            "field 'comparisons' is not a list of judgements",
            'write [{"better": id, "worse": id}, ...]',
        )
    out: list[Comparison] = []
    for i, item in enumerate(items):
        where = f"comparisons[{i}]"
        if item.get("better") is None or item.get("worse") is None:
            hint = next((h for k in item if (h := nearest(str(k), ("better", "worse")))), "")
            raise RowError(f"{where} has no 'better' or no 'worse'", hint or "name both by id")
        better, worse = _index(item["better"], ids), _index(item["worse"], ids)
        if better == worse:
            raise RowError(f"{where} compares a response with itself", "name two responses")
        given = {"weight": 1.0, "confidence": 1.0, "margin": 0.0, "tie": False, "probability": 1.0}
        given |= {k: v for k, v in item.items() if v is not None}
        weight = as_weight(given["weight"], f"{where}.weight")
        confidence = as_confidence(given["confidence"], f"{where}.confidence")
        margin = as_number(given["margin"], f"{where}.margin")
        tie = as_bool(given["tie"], f"{where}.tie")
        likely = as_probability(given["probability"], f"{where}.probability")
        out.append(Comparison(better, worse, weight * confidence, margin, tie, likely))
    return tuple(out), tuple(map(labeller_of, items))
