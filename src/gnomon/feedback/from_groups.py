"""Groups whose comparisons were made by several labellers, as votes, and back with what they say.

Rows of one question belong together whoever judged them and in whichever order its responses stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gnomon.data.fields import LABELLER, ReadOptions, labeller_of
from gnomon.data.formats import convert, judgements
from gnomon.data.values import RowError, Skipped
from gnomon.errors import DataError
from gnomon.feedback.believed import believed
from gnomon.feedback.consensus import believed_groups, consensus
from gnomon.feedback.identity import canonical_order, make_item
from gnomon.feedback.records import Item, Vote
from gnomon.recipe.schema import Kind
from gnomon.records import Comparison, Group
from gnomon.runs.labels import Believed

Votes = Literal["majority", "calibrated"]


@dataclass(frozen=True)
class Voted:
    """What groups hold: each question once, and the votes on it.

    Attributes:
        items: in the order of the first group of each.
        votes: in the order of the groups.
        weights: by item, the mean weight of its groups that count.
    """

    items: tuple[Item, ...]
    votes: tuple[Vote, ...]
    weights: dict[str, float]


def voted(groups: Iterable[Group]) -> Voted:
    """Read groups as votes. A comparison's weight and confidence are not used, but 0 removes it;
    of a judge's probability the likelier side is the vote.

    Raises:
        DataError: a group that is compared, but by nobody known.
    """
    items: dict[str, Item] = {}
    votes: list[Vote] = []
    weights: dict[str, list[float]] = {}
    for group in groups:
        item = make_item(group.prompt, group.responses)
        items.setdefault(item.id, item)
        weights.setdefault(item.id, []).extend([group.weight] * (group.weight > 0))
        place = {old: new for new, old in enumerate(canonical_order(group.responses))}
        compared = judgements(group)
        for c, who in zip(compared, _labellers(group, compared), strict=True):
            if c.strength == 0 or group.weight == 0:
                continue
            a, b = sorted((place[c.better], place[c.worse]))
            won = 0.5 if c.tie else float(place[c.better] == a)
            votes.append(Vote(item.id, who, a, b, won))
    means = {key: sum(every) / len(every) if every else 0.0 for key, every in weights.items()}
    return Voted(tuple(items.values()), tuple(votes), means)


def _labellers(group: Group, compared: Sequence[Comparison]) -> list[str]:
    """Who made each comparison of a group."""
    meta = group.prompt.meta
    named = meta.get("labellers") or ()
    if len(named) != len(compared):
        row = labeller_of(meta)
        named = [row if row is not None else next(iter(named), None)] * len(compared)
    unknown = next((i for i, name in enumerate(named) if name is None or not str(name).strip()), -1)
    if unknown >= 0:
        raise DataError(
            f"{group.prompt.source or group.prompt.id}: nothing says who made comparison "
            f"{unknown + 1}; name the labeller of each, in a column {' or '.join(LABELLER[:2])} or "
            "annotator1, annotator2, ..., or in each of its comparisons"
        )
    return [str(name) for name in named]


def settled(groups: Sequence[Group], votes: Votes) -> tuple[list[Group], Believed | None]:
    """Each question once, with what its labellers say together, and how far they were believed.

    Raises:
        DataError: a group that is compared, but by nobody known; no votes at all.
    """
    found = voted(groups)
    if not found.votes:
        raise DataError("nothing is compared, so there are no votes to settle")
    said = consensus(found.votes, "auto" if votes == "calibrated" else "majority")
    compared = {item for item, _, _ in said.beliefs}
    kept = [item for item in found.items if item.id in compared]
    out = believed_groups(kept, said)
    weighted = [replace(g, weight=found.weights[i.id]) for g, i in zip(out, kept, strict=True)]
    return weighted, believed(found.items, (), said, votes=found.votes)


def read_as(
    groups: Iterable[Group], kind: Kind, options: ReadOptions
) -> tuple[list[Group], list[Skipped]]:
    """Settled groups as another kind of data; those that do not hold it are left out."""
    kept: list[Group] = []
    skipped: list[Skipped] = []
    for group in groups:
        try:
            kept += convert(group, kind, options)
        except RowError as error:
            skipped.append(error.skip(group.prompt.source))
    return kept, skipped
