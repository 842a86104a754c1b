"""Several responses in one row: ranks, scores, a ranking by id, or single comparisons.

gnomon's own form, which the feedback store writes, and UltraFeedback-style ratings::

    {"prompt": "...", "responses": [{"id": "a", "text": "...", "rank": 1}, ...]}
    {"prompt": "...", "responses": [{"id": "a", "text": "..."}, ...],
     "comparisons": [{"better": "a", "worse": "b", "confidence": 0.9, "labeller": "kim"},
                     {"better": "b", "worse": "c", "tie": true, "margin": 0.5, "weight": 2}]}
    {"prompt": "...", "responses": [...], "ranking": ["b", ["a", "c"]]}      best first, ties nested
    {"instruction": "...", "completions": [{"response": "...", "overall_score": 7.5}, ...]}
    {"prompt": "...", "responses": ["...", "..."], "scores": [7, 3]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gnomon.data.fields import RESPONSES, Row, did_you_mean, response_turns
from gnomon.data.scalars import RowError, as_bool, as_confidence, as_number, as_weight
from gnomon.data.turns import TRAIN_FLAGS, Turn, is_trained
from gnomon.records import Comparison

TEXT = ("text", "content", "response", "completion", "output", "messages")
SCORE = ("score", "overall_score", "rating", "reward")


@dataclass(frozen=True)
class Ranked:
    """What a row says of its K responses; ``labellers`` runs along ``comparisons``."""

    turns: list[tuple[Turn, ...]]
    ids: list[str]
    ranks: list[float | None]
    metas: list[dict[str, Any]]
    comparisons: tuple[Comparison, ...]
    labellers: tuple[str | None, ...]


def ranking_kind(
    data: Mapping[str, Any],
) -> Literal["demonstrations", "preferences", "rankings", "unpaired"]:
    """One response is a demonstration (or, with a label, a judgement); several are a ranking."""
    items = next((data[n] for n in RESPONSES if data.get(n) is not None), None)
    if isinstance(items, list) and len(items) == 1:
        labelled = isinstance(items[0], Mapping) and items[0].get("label") is not None
        return "unpaired" if labelled else "demonstrations"
    return "preferences" if isinstance(items, list) and len(items) == 2 else "rankings"


def parse_ranking(row: Row) -> Ranked:
    """The responses of a row and how they compare.

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
    turns, ids, metas = [], [], []
    for i, item in enumerate(items):
        body, own_id, meta = _response(item, f"{name}[{i}]")
        if scores is not None:
            meta["score"] = as_number(scores[i], f"scores[{i}]")
        turns.append(body)
        ids.append(str(i) if own_id is None else own_id)
        metas.append(meta)
    if len(set(ids)) < len(ids):
        raise RowError("two responses have the same id", "give each response its own id")
    comparisons, labellers = _comparisons(row, ids)
    ranks = _ranks(row, ids, metas, needed=len(items) > 1 and not comparisons)
    return Ranked(turns, ids, ranks, metas, comparisons, labellers)


def _response(item: Any, where: str) -> tuple[tuple[Turn, ...], str | None, dict[str, Any]]:
    if not isinstance(item, Mapping):
        return response_turns(item, where), None, {}
    field = next((n for n in TEXT if item.get(n) is not None), None)
    if field is None:
        close = next((hint for k in item if (hint := did_you_mean(str(k), TEXT))), "")
        raise RowError(f"{where} has no 'text'", close or "write the answer under 'text'")
    apart = (field, "id", "role", *TRAIN_FLAGS)
    meta = {k: v for k, v in item.items() if k not in apart and v is not None}
    if "label" in meta:
        meta["label"] = as_bool(meta["label"], f"{where}.label")
    own_id = item.get("id")
    turns = response_turns(item[field], where)
    if not is_trained(item, where):
        turns = tuple(replace(turn, train=False) for turn in turns)
    return turns, None if own_id is None else str(own_id), meta


def _ranks(
    row: Row, ids: Sequence[str], metas: Sequence[dict[str, Any]], needed: bool
) -> list[float | None]:
    """Ranks from `ranking`, else from each response's `rank`, else from scores (higher is better).

    Equal scores share a rank.
    """
    ranking = row.take("ranking")
    if ranking is not None:
        return _ranks_of_list(ranking, ids)
    has_rank = ["rank" in m for m in metas]
    if any(has_rank):
        if not all(has_rank):
            raise RowError(f"response {ids[has_rank.index(False)]!r} has no rank", "rank them all")
        return [as_number(m.pop("rank"), "rank") for m in metas]
    score_of = [next((m[n] for n in SCORE if n in m), None) for m in metas]
    scored = [s is not None for s in score_of]
    if all(scored):
        values = [as_number(s, "score") for s in score_of]
        order = sorted(set(values), reverse=True)
        for meta, value in zip(metas, values, strict=True):
            meta["score"] = value
        return [1.0 + order.index(v) for v in values]
    if any(scored):
        raise RowError(f"response {ids[scored.index(False)]!r} has no score", "score them all")
    if needed:
        raise RowError(
            "nothing says which response is better", "give each a rank or score, or add comparisons"
        )
    return [None] * len(ids)


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
        hint = did_you_mean(str(name), ids) or f"the responses are {', '.join(ids)}"
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
            hint = next((h for k in item if (h := did_you_mean(str(k), ("better", "worse")))), "")
            raise RowError(f"{where} has no 'better' or no 'worse'", hint or "name both by id")
        better, worse = _index(item["better"], ids), _index(item["worse"], ids)
        if better == worse:
            raise RowError(f"{where} compares a response with itself", "name two responses")
        given = {"weight": 1.0, "confidence": 1.0, "margin": 0.0, "tie": False}
        given |= {k: v for k, v in item.items() if v is not None}
        weight = as_weight(given["weight"], f"{where}.weight")
        confidence = as_confidence(given["confidence"], f"{where}.confidence")
        margin = as_number(given["margin"], f"{where}.margin")
        tie = as_bool(given["tie"], f"{where}.tie")
        out.append(Comparison(better, worse, weight * confidence, margin, tie))
    names = (item.get("labeller", item.get("labeler")) for item in items)
    return tuple(out), tuple(None if n is None else str(n) for n in names)
