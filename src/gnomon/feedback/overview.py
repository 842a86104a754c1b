"""What somebody who runs a collection of labels wants to know of it, from its items and labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from gnomon.errors import ConfigError, DataError
from gnomon.feedback.adjudication import decisions, of_labellers
from gnomon.feedback.agreement import alpha, rating_units, vote_units
from gnomon.feedback.consensus import Ability, consensus, gold_pairs, majority
from gnomon.feedback.flags import Sign, flags
from gnomon.feedback.labellers import gold_accuracy
from gnomon.feedback.records import Item, Label, Vote, standing, votes
from gnomon.judges.protocol import total_cost
from gnomon.records import Cost
from gnomon.stats.intervals import Interval

ENOUGH = 12
"""Labels from which on somebody is flagged by their ability."""
WAITING, ASSIGNED, DONE = "waiting", "assigned", "done"


@dataclass(frozen=True)
class Prices:
    """What people are paid, in euros: for a label, and for an hour of work.

    A label whose money is recorded costs that, and no more.
    """

    label: float = 0.0
    hour: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Prices:
        """From a campaign's settings: ``price_label`` and ``price_hour``.

        Raises:
            DataError: one of them is no amount.
        """
        found = {}
        for name in ("label", "hour"):
            value = settings.get(f"price_{name}", 0.0)
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            if not fits or not 0 <= value < math.inf:
                raise DataError(f"price_{name} is {value!r}; give euros, 0 or more")
            found[name] = float(value)
        return cls(**found)

    def money(self, label: Label) -> float:
        """What a label cost."""
        if label.cost.money or label.kind == "skip":
            return label.cost.money
        return self.label + self.hour * label.cost.seconds / 3600


@dataclass(frozen=True)
class Flag:
    """Something about a labeller that is worth a look: no score, and no verdict on them.

    Attributes:
        name: a kind of :class:`~gnomon.feedback.flags.Sign`, ``against`` or ``guessing``.
        words: what was seen, with its figure.
    """

    name: str
    words: str


@dataclass(frozen=True)
class Quality:
    """How one labeller works.

    Attributes:
        labels, skips: standing ones, skips not among the labels.
        seconds: of a label, typically; NaN where nothing counted.
        gold: share of comparisons on gold questions that are right.
        others: how often they side with the majority of the others.
        ability: how often they name the better side, as all labels together say.
        first: what the answer shown first wins; 1/2 is without position bias.
        drift: agreement with the others in the later half of their labels less the earlier half,
            from -2 to 2.
        money: what their labels cost.
    """

    labeller: str
    labels: int
    skips: int
    seconds: float
    gold: Interval
    others: Interval
    ability: Interval
    first: Interval
    drift: Interval
    money: float
    flags: Sequence[Flag] = ()


@dataclass(frozen=True)
class State:
    """One item in the queue.

    Attributes:
        state: ``waiting`` for people, ``assigned`` (somebody has it open), or ``done``.
        labels, skips: people who judged it, and who skipped it.
        needs: how many are wanted.
        apart: how far people disagree: the mean distance of two people's verdicts, from 0 to 1;
            None where fewer than two compared the same.
        decided: whether an adjudicator settled it.
        flags: what people say is wrong with it.
    """

    item: str
    state: str
    labels: int
    skips: int
    needs: int
    gold: bool
    apart: float | None
    decided: bool
    flags: Sequence[str] = ()

    @property
    def disputed(self) -> bool:
        """Whether people contradict each other and nobody has decided yet."""
        return bool(self.apart) and not self.decided


@dataclass(frozen=True)
class Overview:
    """A campaign at one moment.

    Attributes:
        states: every item, by its id.
        overlap: how many items have so many labels; gold questions are not among them.
        labels: standing ones without skips.
        alpha: Krippendorff's, of labellers (not of decisions); NaN without overlap.
        quality: of every labeller, by name.
        cost: of all labels ever given, those taken back too: they were paid.
        each: euros for a label that stands.
        notes: what a reader should know, in words.
    """

    states: Mapping[str, State]
    overlap: Mapping[int, int]
    labels: int
    skips: int
    alpha: Interval
    quality: Sequence[Quality]
    cost: Cost
    each: float
    notes: Sequence[str] = field(default_factory=tuple)

    def count(self, state: str) -> int:
        """Items in a state; gold questions do not count."""
        return sum(s.state == state and not s.gold for s in self.states.values())

    @property
    def items(self) -> int:
        return sum(not s.gold for s in self.states.values())

    @property
    def gold(self) -> int:
        return len(self.states) - self.items

    @property
    def disputed(self) -> list[State]:
        """Items to settle: where people are furthest apart first, then where most were asked."""
        found = [s for s in self.states.values() if s.disputed]
        return sorted(found, key=lambda s: (-(s.apart or 0.0), -s.labels, s.item))


def overview(
    items: Iterable[Item],
    labels: Sequence[Label],
    *,
    overlap: int = 1,
    overlaps: Mapping[str, int] | None = None,
    held: Collection[str] = (),
    prices: Prices | None = None,
) -> Overview:
    """Everything about a campaign.

    Args:
        labels: all of the campaign, those taken back too, in the order in which they were given.
        overlap: people wanted for each item; ``overlaps`` says it of some of them.
        held: items that somebody has open.
    """
    items = list(items)
    prices = prices or Prices()
    now = standing(labels)
    judged = [label for label in now if label.kind != "skip"]
    said = of_labellers(judged)
    states = _states(items, now, overlap, overlaps or {}, held)
    notes: list[str] = []
    cast = votes(said)
    agreed = _agreement(said, cast, notes)
    quality = _quality(items, now, cast, prices, notes)
    everything = total_cost(label.cost for label in labels)
    money = math.fsum(prices.money(label) for label in labels)
    return Overview(
        states=states,
        overlap=dict(sorted(Counter(s.labels for s in states.values() if not s.gold).items())),
        labels=len(judged),
        skips=len(now) - len(judged),
        alpha=agreed,
        quality=quality,
        cost=Cost(everything.seconds, everything.tokens, money),
        each=money / len(judged) if judged else math.nan,
        notes=notes,
    )


# -- items ----------------------------------------------------------------------------------------


def _states(
    items: Iterable[Item],
    labels: Sequence[Label],
    overlap: int,
    overlaps: Mapping[str, int],
    held: Collection[str],
) -> dict[str, State]:
    by_item: dict[str, list[Label]] = {}
    for label in labels:
        by_item.setdefault(label.item, []).append(label)
    decided, open_ones = decisions(labels), set(held)
    found = {}
    for item in items:
        own = by_item.get(item.id, [])
        plain = of_labellers(own)
        who = {label.labeller for label in plain if label.kind != "skip"}
        needs = overlaps.get(item.id, overlap)
        enough = len(who) >= needs or item.id in decided
        state = DONE if enough else ASSIGNED if item.id in open_ones else WAITING
        found[item.id] = State(
            item=item.id,
            state=state,
            labels=len(who),
            skips=len({label.labeller for label in plain if label.kind == "skip"} - who),
            needs=needs,
            gold=item.gold is not None,
            apart=distance(plain),
            decided=item.id in decided,
            flags=tuple(dict.fromkeys(label.flag for label in own if label.flag)),
        )
    return found


def distance(labels: Iterable[Label]) -> float | None:
    """How far two people's verdicts on an item are apart on average, from 0 to 1: on every pair of
    responses, or on a single response that was called good or bad; None where no two people judged
    the same."""
    said: dict[tuple[int, int], dict[str, float]] = {}
    for label in labels:
        for vote in votes([label]):
            said.setdefault((vote.a, vote.b), {})[label.labeller] = vote.won
        if label.kind == "approval" and len(label.approvals) == 1:
            said.setdefault((0, 0), {})[label.labeller] = float(bool(label.approvals[0]))
    gaps = []
    for by_who in said.values():
        values = list(by_who.values())
        gaps += [abs(x - y) for i, x in enumerate(values) for y in values[:i]]
    return math.fsum(gaps) / len(gaps) if gaps else None


# -- people ---------------------------------------------------------------------------------------


def _agreement(labels: Sequence[Label], cast: Sequence[Vote], notes: list[str]) -> Interval:
    """Krippendorff's alpha of comparisons, or of ratings where nothing was compared."""
    try:
        kinds = {label.kind for label in labels}
        if "ranking" in kinds or not kinds & {"rating", "approval"}:
            return alpha(vote_units(cast), "interval")
        return alpha(rating_units(labels), "interval" if "rating" in kinds else "nominal")
    except ConfigError as error:
        notes.append(str(error))
        return Interval(math.nan)


def _quality(
    items: Sequence[Item],
    labels: Sequence[Label],
    cast: Sequence[Vote],
    prices: Prices,
    notes: list[str],
) -> list[Quality]:
    known = gold_pairs(items)
    abilities: Mapping[str, Ability] = {}
    sides: Mapping[str, Ability] = {}
    if cast:
        together = consensus(cast, gold=known)
        notes += together.notes
        abilities, sides = together.labellers, majority(cast).labellers
    right = gold_accuracy(cast, known)
    own_labels: dict[str, list[Label]] = {}
    for label in labels:
        own_labels.setdefault(label.labeller, []).append(label)
    signs: dict[str, list[Sign]] = {}
    for sign in flags(items, of_labellers(labels)):
        signs.setdefault(sign.labeller, []).append(sign)
    nothing = Interval(math.nan)
    out = []
    for name, own in sorted(own_labels.items()):
        seen = {sign.kind: sign.figure for sign in signs.get(name, ())}
        found = Quality(
            labeller=name,
            labels=sum(label.kind != "skip" for label in own),
            skips=sum(label.kind == "skip" for label in own),
            seconds=_pace(own),
            gold=right.get(name, nothing),
            others=sides[name].accuracy if name in sides else nothing,
            ability=abilities[name].accuracy if name in abilities else nothing,
            first=seen.get("position", nothing),
            drift=seen.get("drift", nothing),
            money=math.fsum(map(prices.money, own)),
        )
        raised = [Flag(s.kind, s.words) for s in signs.get(name, ()) if s.raised]
        out.append(replace(found, flags=(*raised, *_doubts(found, abilities.get(name)))))
    return out


def _doubts(q: Quality, ability: Ability | None) -> list[Flag]:
    """What their ability says; nobody is flagged on a few labels."""
    if ability is None or q.labels < ENOUGH:
        return []
    if ability.adversarial:
        return [Flag("against", "names the worse side more often than a guess would")]
    return [Flag("guessing", "cannot be told from somebody who guesses")] * ability.guessing


def _pace(labels: Iterable[Label]) -> float:
    times = [label.cost.seconds for label in labels if label.cost.seconds and label.kind != "skip"]
    return median(times) if times else math.nan
