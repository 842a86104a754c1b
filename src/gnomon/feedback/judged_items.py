"""Groups as items and labels.

A group of a file may hold what several people said: each becomes a label of theirs. In an item the
responses are in an order that tells nothing (:func:`~gnomon.feedback.identity.canonical_order`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gnomon.data.fields import LABELLER, labeller_of
from gnomon.data.formats import judgements
from gnomon.feedback.identity import canonical_order, digest, make_item
from gnomon.feedback.records import MARGIN, WEIGHT, Item, Label, Queued
from gnomon.records import Comparison, Cost, Group, ranks_from_comparisons

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
    alone = labeller_of(meta)
    for name in LABELLER:
        if isinstance(meta.get(name), str | int | float):
            del meta[name]
    about = _About(((alone,) if alone else ()) if names is None else tuple(names))
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
