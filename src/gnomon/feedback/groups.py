"""Items and labels as groups that any stage can learn from.

What labellers said of an item becomes one comparison for each pair (``calibrated`` or ``majority``)
or one for each vote (``each``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from gnomon.feedback.adjudication import decisions, of_labellers, settled
from gnomon.feedback.consensus import (
    Consensus,
    Method,
    believed_groups,
    consensus,
    gold_pairs,
    majority,
)
from gnomon.feedback.records import MARGIN, WEIGHT, Item, Label, Vote, standing, votes
from gnomon.records import Comparison, Group, Message, Response

Votes = Literal["calibrated", "majority", "each"]


def learned_groups(
    items: Iterable[Item],
    labels: Sequence[Label],
    how: Votes = "calibrated",
    *,
    method: Method = "auto",
    marks: bool = False,
    good: bool = False,
    tell: Callable[[Consensus], None] = lambda found: None,
) -> list[Group]:
    """Groups with what labellers said: comparisons, ratings (the mean, as ``meta["score"]``),
    approvals (``meta["label"]``) and edits (a response more, better than all others).

    Items that nobody judged are left out. Gold questions are known, and not learnt from. An
    adjudicator's decision stands for all labels of its item, and says nothing of who can be
    believed.

    Args:
        how: ``calibrated`` weighs labellers by how far they can be believed and gives each pair a
            probability; ``majority`` gives each pair one verdict; ``each`` keeps every vote, with
            who gave it in the prompt's ``meta["labellers"]``.
        method: of ``calibrated``; see :func:`~gnomon.feedback.consensus.consensus`.
        marks: where responses were called good or bad ("all bad" calls all of them bad), take that
            and not how they compare.
        good: mark the responses that are believed bad (``meta["label"]``), which are no
            demonstrations.
        tell: is told what weighed the comparisons, and what weighed the marks.
    """
    known = {item.id: item for item in items}
    said = [label for label in standing(labels) if label.item in known]
    by_item: dict[str, list[Label]] = {}
    for label in settled(said):
        by_item.setdefault(label.item, []).append(label)
    plain = [item for item in known.values() if item.gold is None and item.id in by_item]
    compared = (
        {} if how == "each" else compared_groups(list(known.values()), said, how, method, tell)
    )
    bars = _bars(plain, said, how, method, tell)
    out: list[Group] = []
    for item in plain:
        own = by_item[item.id]
        weight = float(item.origin.get("weight", 1.0))
        marked = [replace(g, weight=g.weight * weight) for g in bars.get(item.id, ())]
        group = _each(item, own) if how == "each" else compared.get(item.id)
        whole = _with_more(item, group or Group(item.prompt, item.responses), own)
        if good:
            whole = _without_praise(whole, marked)
        if whole.comparisons and not (marks and marked):
            marked = []
        rated = any("score" in r.meta for r in whole.responses)
        if not marked and (whole.comparisons or rated):
            out.append(replace(whole, weight=weight))
        out += marked
    return out


def compared_groups(
    items: Sequence[Item],
    labels: Iterable[Label],
    how: Votes,
    method: Method = "auto",
    tell: Callable[[Consensus], None] = lambda found: None,
) -> dict[str, Group]:
    """The groups of the items that somebody compared, by their ids, with one comparison for each
    pair: an adjudicator's, where one decided, else what the labellers say together.

    Args:
        how: ``calibrated`` or ``majority``.
    """
    own = standing(labels)
    decided = decisions(own)
    gold = gold_pairs(items)
    found = _consensus(votes(of_labellers(own)), how, method, gold)
    if found.beliefs:
        tell(found)
    groups = _by_item(items, found)
    certain = _by_item(items, majority(votes(decided.values())))
    return {id: group for id, group in groups.items() if id not in decided} | certain


def _by_item(items: Sequence[Item], found: Consensus) -> dict[str, Group]:
    compared = {item for item, _, _ in found.beliefs}
    ids = [item.id for item in items if item.id in compared]
    return dict(zip(ids, believed_groups(items, found), strict=True))


def _consensus(given: Sequence[Vote], how: Votes, method: Method, gold: Any = None) -> Consensus:
    return majority(given) if how == "majority" else consensus(given, method, gold=gold)


def _without_praise(group: Group, marked: Sequence[Group]) -> Group:
    """The group with what is believed bad marked so."""
    net: dict[str, float] = {}
    for one in marked:
        (response,) = one.responses
        sign = 1.0 if response.meta["label"] else -1.0
        net[response.text] = net.get(response.text, 0.0) + sign * one.weight
    return replace(
        group,
        responses=tuple(
            replace(r, meta={**r.meta, "label": False}) if net.get(r.text, 0.0) < 0 else r
            for r in group.responses
        ),
    )


def _each(item: Item, labels: Sequence[Label]) -> Group:
    """Every vote as a comparison, with who gave it."""
    comparisons: list[Comparison] = []
    names: list[str] = []
    for label in labels:
        kept = dict(tag.split("=", 1) for tag in label.tags if tag.startswith((MARGIN, WEIGHT)))
        sure = 1.0 if label.confidence is None else label.confidence
        weight, margin = float(kept.get("weight", sure)), float(kept.get("margin", 0.0))
        for vote in votes([label]):
            better, worse = (vote.a, vote.b) if vote.won >= 0.5 else (vote.b, vote.a)
            comparisons.append(Comparison(better, worse, weight, margin, vote.won == 0.5))
            names.append(label.labeller)
    meta = {**item.prompt.meta, "labellers": tuple(names)} if names else item.prompt.meta
    return Group(replace(item.prompt, meta=meta), item.responses, tuple(comparisons))


def _with_more(item: Item, group: Group, labels: Sequence[Label]) -> Group:
    """The group with its ratings and edits."""
    responses, comparisons = list(group.responses), list(group.comparisons)
    for i, response in enumerate(responses):
        given = {label.labeller: label.ratings[i] for label in labels if label.kind == "rating"}
        scores = [score for score in given.values() if score is not None]
        if scores:
            meta = {**response.meta, "score": sum(scores) / len(scores)}
            responses[i] = replace(response, meta=meta)
    for label in labels:
        if label.kind == "edit" and label.edit is not None:
            comparisons += [Comparison(len(responses), i) for i in range(len(item.responses))]
            responses.append(Response((Message("assistant", label.edit),), f"edit-{label.id}"))
    prompt = group.prompt
    if names := prompt.meta.get("labellers"):  # edits are the last comparisons, in their order
        more = [
            label.labeller
            for label in labels
            if label.kind == "edit" and label.edit is not None
            for _ in item.responses
        ]
        prompt = replace(prompt, meta={**prompt.meta, "labellers": (*names, *more)})
    return replace(group, prompt=prompt, responses=tuple(responses), comparisons=tuple(comparisons))


def _bars(
    items: Sequence[Item],
    labels: Sequence[Label],
    how: Votes,
    method: Method,
    tell: Callable[[Consensus], None],
) -> dict[str, list[Group]]:
    """A group for each response that was called good or bad; with ``each``, for each time.

    A mark is a vote between the response and a bar. The weight is 1 where the response is surely
    good or surely bad, and 0 where it is as likely either.
    """
    by_id = {item.id: item for item in items}
    decided = decisions(labels)
    given = _marks(by_id, (label for label in of_labellers(labels) if label.item not in decided))
    certain = _marks(by_id, decided.values())
    shares = [(vote.item, vote.won, {"labellers": (vote.labeller,)}) for vote in given + certain]
    if how != "each":
        chosen: Method = "dawid_skene" if method == "auto" else method
        found = _consensus(given, how, chosen)
        if found.beliefs:
            tell(found)
        beliefs = {**found.beliefs, **majority(certain).beliefs}
        shares = [(key, belief.probability, {}) for (key, _, _), belief in beliefs.items()]
    out: dict[str, list[Group]] = {}
    for key, share, more in shares:
        name, _, place = key.rpartition("/")
        if share == 0.5:
            continue
        item, weight = by_id[name], 1.0 if how == "majority" else abs(2 * share - 1)
        response = item.responses[int(place)]
        marked = replace(response, meta={**response.meta, "label": share > 0.5})
        prompt = replace(item.prompt, meta={**item.prompt.meta, **more})
        out.setdefault(name, []).append(Group(prompt, (marked,), weight=weight))
    return out


def _marks(items: Mapping[str, Item], labels: Iterable[Label]) -> list[Vote]:
    """Good or bad of each response, as votes between it and a bar; "all bad" is bad of each."""
    given: list[Vote] = []
    for label in labels:
        marks = label.approvals if label.kind == "approval" else ()
        if label.kind == "all_bad" and label.item in items:
            marks = (False,) * len(items[label.item].responses)
        for i, mark in enumerate(marks if label.item in items else ()):
            if mark is not None:
                given.append(Vote(f"{label.item}/{i}", label.labeller, 0, 1, float(mark)))
    return given
