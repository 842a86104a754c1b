"""Groups as items and labels, and items and labels as groups that any stage can learn from.

A group of a file may hold what several people said: each becomes a label of theirs. In an item the
responses are in an order that tells nothing (:func:`~gnomon.feedback.identity.canonical_order`).
The other way, what labellers said of an item becomes one comparison for each pair (``calibrated``
or ``majority``) or one for each vote (``each``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gnomon.data.fields import LABELLER
from gnomon.data.formats import judgements
from gnomon.feedback.adjudication import decisions, of_labellers, settled
from gnomon.feedback.consensus import (
    Consensus,
    Method,
    believed_groups,
    consensus,
    gold_pairs,
    majority,
)
from gnomon.feedback.identity import canonical_order, digest, make_item
from gnomon.feedback.records import MARGIN, WEIGHT, Item, Label, Queued, Vote, standing, votes
from gnomon.records import (
    Comparison,
    Cost,
    Group,
    Message,
    Response,
    ranks_from_comparisons,
)

Votes = Literal["calibrated", "majority", "each"]
NAMELESS = ""
"""The labeller of a judgement that names none."""


@dataclass(frozen=True)
class Judged:
    """An item and what was said of it; ``places`` are those of the labels among all of a store's,
    and ``queued`` is what its queue was told, as far as its export says."""

    item: Item
    labels: tuple[Label, ...] = ()
    places: tuple[int | None, ...] = ()
    queued: Queued | None = None


# -- from groups ----------------------------------------------------------------------------------


def judged_items(group: Group, campaign: str = "", nameless: str = NAMELESS) -> list[Judged]:
    """A group as items with the labels that it holds.

    A labeller whose comparisons amount to a ranking of all responses gives one label. One who
    compared only some of the pairs gives a label of an item of its own for each pair.

    Args:
        nameless: the labeller of what names none.
    """
    marked = group
    group, about = _without_judging(group)
    origin = {} if group.weight in (0, 1) else {"weight": group.weight}
    item = make_item(group.prompt, group.responses, campaign=campaign, origin=origin)
    if group.weight == 0:  # switched off: the question stays, and nothing is said of it
        return [Judged(item)]
    order = canonical_order(group.responses)
    mark = _mark(marked, order, about.label(item.id, about.name(nameless), Comparison(0, 0)))
    if mark is not None:
        return [Judged(item, (mark,))]
    said = judgements(group)
    if not said:
        return [Judged(item)]
    names = about.names if len(about.names) == len(said) else about.names[:1] * len(said)
    by_name: dict[str, list[Comparison]] = {}
    for comparison, name in zip(said, names or (None,) * len(said), strict=True):
        if comparison.strength == 0:  # switched off
            continue
        by_name.setdefault(nameless if name is None else name, []).append(comparison)
    whole: list[Label] = []
    rest: list[Judged] = []
    for name, own in by_name.items():
        ranks = _ranks(own, len(group.responses))
        if ranks is None and len(group.responses) > 2:
            rest += [_pair(group, c, campaign, about, name) for c in own]
            continue
        shown = about.shown(group, order)
        if ranks is not None:
            told = about.label(item.id, name, own[0])
            whole.append(replace(told, ranks=tuple(ranks[i] for i in order), shown=shown))
            continue
        for one in own:  # of a pair, judged more than once
            told = about.label(item.id, name, one)
            whole.append(replace(told, ranks=_placed(one, order), shown=shown))
    return ([Judged(item, tuple(whole))] if whole or not rest else []) + rest


@dataclass(frozen=True)
class _About:
    """What a row says of its judgement beside the judgement."""

    names: tuple[str | None, ...] = ()
    at: str = ""
    cost: Cost = field(default_factory=Cost)
    guideline: str = ""
    a_first: bool = False

    def name(self, nameless: str) -> str:
        """Who judged the whole row."""
        return nameless if not self.names or self.names[0] is None else self.names[0]

    def label(self, item: str, name: str, said: Comparison) -> Label:
        """A ranking that still lacks its ranks and its id."""
        strength = said.strength
        sure = strength if 0 <= strength < 1 else None
        tags = [f"{MARGIN}{said.margin!r}"] * bool(said.margin)
        tags += [f"{WEIGHT}{strength!r}"] * (strength > 1)
        return Label(
            "", item, name, "ranking", confidence=sure, tags=tuple(tags), at=self.at,
            cost=self.cost, guideline=self.guideline,
        )  # fmt: skip

    def shown(self, group: Group, order: Sequence[int]) -> tuple[int, ...]:
        """The order on the screen, where the row tells it: as the blind A/B writes it."""
        names = [group.responses[i].id for i in order]
        known = self.a_first and sorted(map(str, names)) == ["a", "b"]
        return (names.index("a"), names.index("b")) if known else ()


_BALLOT = ("pair", "time", "seconds", "model_a", "model_b")
"""What a row of ``gnomon view``'s blind A/B has, in which response a was shown first."""


def _without_judging(group: Group) -> tuple[Group, _About]:
    """The group without what its row says of the judging, which is a label's, and that."""
    meta = dict(group.prompt.meta)
    names = meta.pop("labellers", None)
    alone = [_name(meta.pop(n)) for n in LABELLER if isinstance(meta.get(n), str | int | float)]
    about = _About(tuple(alone[:1] if names is None else names))
    models: dict[str | None, Any] = {}
    if all(name in meta for name in _BALLOT):
        at, seconds, guideline = (meta.pop(n, None) for n in ("time", "seconds", "guideline"))
        about = _About(about.names, str(at), Cost(float(seconds)), guideline or "", True)
        models = {"a": meta.pop("model_a"), "b": meta.pop("model_b")}
    responses = []
    for r in group.responses:
        kept = {k: v for k, v in r.meta.items() if k not in ("label", "score")}
        kept |= {"model": models[r.id]} if r.id in models else {}
        responses.append(replace(r, meta=kept))
    prompt = replace(group.prompt, meta=meta)
    return replace(group, prompt=prompt, responses=tuple(responses)), about


def _name(value: str | float) -> str:
    """A labeller's name; a column of numbers with a gap holds 1.0 where 1 was meant."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _mark(group: Group, order: Sequence[int], told: Label) -> Label | None:
    """Good or bad, or a rating, of each response as a label; None where the group compares."""
    responses = [group.responses[i] for i in order]
    metas = [r.meta for r in responses]
    if group.comparisons or not metas:
        return None
    if any("label" in meta for meta in metas):
        given = tuple(bool(m["label"]) if "label" in m else None for m in metas)
        return replace(told, kind="approval", approvals=given)
    if not all("score" in meta for meta in metas):
        return None
    scores = tuple(float(m["score"]) for m in metas)
    best_first = sorted(set(scores), reverse=True)
    ranks = [1.0 + best_first.index(score) for score in scores]
    own = [r.rank for r in responses]
    return (
        replace(told, kind="rating", ratings=scores) if own in (ranks, [None] * len(own)) else None
    )


def _ranks(own: Sequence[Comparison], count: int) -> list[float] | None:
    """The ranks that imply just these comparisons, equally strong; None where none do."""
    alike = len({(c.strength, c.margin) for c in own}) == 1
    return ranks_from_comparisons(own, count) if alike else None


def _pair(group: Group, said: Comparison, campaign: str, about: _About, name: str) -> Judged:
    """One comparison as an item of the two responses."""
    two = (group.responses[said.better], group.responses[said.worse])
    pair, order = replace(group, responses=two), canonical_order(two)
    origin = {} if group.weight == 1 else {"weight": group.weight}
    item = make_item(group.prompt, two, campaign=campaign, origin=origin)
    ranks = _placed(replace(said, better=0, worse=1), order)
    told = about.label(item.id, name, said)
    return Judged(item, (replace(told, ranks=ranks, shown=about.shown(pair, order)),))


def _placed(said: Comparison, order: Sequence[int]) -> tuple[float, ...]:
    """The ranks of a pair in the item's order."""
    return tuple(1.0 if said.tie or i == said.better else 2.0 for i in order)


def numbered(judged: Iterable[Judged]) -> Iterator[Judged]:
    """The labels with ids that depend on what they say: the same file read again, or what a killed
    import had stored, gives the same ids. Labels that say the same are counted."""
    seen: dict[str, int] = {}
    for one in judged:
        labels = []
        for label in one.labels:
            said = (
                label.item, label.labeller, label.kind, label.ranks, label.ratings,
                label.approvals, label.edit, label.confidence, label.tags, label.at,
            )  # fmt: skip
            key = digest(*said)
            seen[key] = seen.get(key, 0) + 1
            own = key if seen[key] == 1 else digest(key, seen[key])
            labels.append(label if label.id else replace(label, id=own))
        yield Judged(one.item, tuple(labels))


# -- to groups ------------------------------------------------------------------------------------


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
