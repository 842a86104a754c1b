"""Where a campaign stands: every figure against one that is counted here once more."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import pytest

from gnomon.errors import DataError
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.identity import make_item
from gnomon.feedback.overview import (
    ASSIGNED,
    DONE,
    WAITING,
    Overview,
    Prices,
    Quality,
    distance,
    overview,
)
from gnomon.feedback.records import Item, Label
from gnomon.records import Cost
from label_world import asked, questions, said


def ranked(item: Item, who: str, first_wins: float, n: int = 0, **more: Any) -> Label:
    ranks = {1.0: (1.0, 2.0), 0.0: (2.0, 1.0), 0.5: (1.0, 1.0)}[first_wins]
    fields: dict[str, Any] = {"kind": "ranking", "ranks": ranks, "cost": Cost(seconds=20.0)}
    fields |= more
    return Label(f"{item.id[:8]}-{who}-{n}", item.id, who, **fields)


def of(found: Overview, who: str) -> Quality:
    return next(q for q in found.quality if q.labeller == who)


def flags(found: Overview, who: str) -> set[str]:
    return {flag.name for flag in of(found, who).flags}


def test_items_wait_are_assigned_and_are_done() -> None:
    items = questions(6)
    items[5] = replace(items[5], gold=(1.0, 2.0))
    labels = [
        ranked(items[0], "ann", 1.0), ranked(items[0], "bob", 0.0),
        ranked(items[1], "ann", 1.0), ranked(items[2], "ann", 1.0, kind="skip", ranks=()),
        ranked(items[5], "ann", 1.0),
    ]  # fmt: skip
    found = overview(items, labels, overlap=2, held=[items[1].id])
    assert [found.states[i.id].state for i in items[:5]] == [DONE, ASSIGNED, *[WAITING] * 3]
    assert (found.items, found.gold, found.labels, found.skips) == (5, 1, 4, 1)
    assert [found.count(s) for s in (DONE, ASSIGNED, WAITING)] == [1, 1, 3]
    assert found.overlap == {0: 3, 1: 1, 2: 1}
    other = overview(items, labels, overlap=2, overlaps={items[1].id: 1})
    assert other.states[items[1].id].state == DONE
    assert [s.item for s in found.disputed] == [items[0].id]


def test_a_decision_settles_an_item_and_is_nobodys_agreement() -> None:
    item, other = questions(2)
    labels = [ranked(item, "ann", 1.0), ranked(item, "bob", 0.0)]
    decision = ranked(item, "eve", 1.0, tags=(ADJUDICATION,))
    before, after = (overview([item, other], x, overlap=3) for x in (labels, [*labels, decision]))
    assert before.states[item.id].disputed
    assert after.states[item.id].state == DONE
    assert not after.states[item.id].disputed
    assert after.alpha.value == before.alpha.value
    assert {q.labeller for q in after.quality} == {"ann", "bob", "eve"}
    undone = Label("u", item.id, "eve", "skip", tags=(ADJUDICATION,), replaces=decision.id)
    assert overview([item], [*labels, decision, undone], overlap=3).states[item.id].disputed


def test_how_far_people_are_apart() -> None:
    item = make_item(asked("q"), [said(x) for x in "abc"])
    rankings = [(1.0, 2.0, 3.0), (3.0, 2.0, 1.0), (1.0, 1.0, 3.0)]
    labels = [
        Label(str(i), item.id, str(i), "ranking", ranks=ranks) for i, ranks in enumerate(rankings)
    ]

    def won(ranks: tuple[float, ...], a: int, b: int) -> float:
        return 0.5 if ranks[a] == ranks[b] else float(ranks[a] < ranks[b])

    gaps = [
        abs(won(x, a, b) - won(y, a, b))
        for x, y in combinations(rankings, 2)
        for a, b in combinations(range(3), 2)
    ]
    assert distance(labels) == pytest.approx(sum(gaps) / len(gaps))
    assert distance(labels[:1]) is None
    single = [
        Label(str(i), "i", str(i), "approval", approvals=(x,)) for i, x in enumerate((True, False))
    ]
    assert distance(single) == 1.0


def crowd(n: int = 60) -> tuple[list[Item], list[Label]]:
    """The first answer is better in truth. ann, bob and cid are mostly right; fay decides in a
    second, gus takes whatever is shown first, dov begins well and ends as a coin, eva says the
    reverse; every fifth question is a gold one."""
    rng = Random(2)
    items = [
        replace(item, gold=(1.0, 2.0)) if i % 5 == 0 else item
        for i, item in enumerate(questions(n))
    ]
    labels = []
    for i, item in enumerate(items):
        for who in ("ann", "bob", "cid", "fay", "gus", "dov", "eva"):
            shown = (0, 1) if rng.random() < 0.5 else (1, 0)
            right = rng.random() < 0.9
            if who == "gus":
                right = shown == (0, 1)
            if who == "dov" and i >= n // 2:
                right = rng.random() < 0.3
            if who == "eva":
                right = not right
            seconds = 0.5 if who == "fay" else rng.uniform(20, 40)
            cost = Cost(seconds=seconds)
            at = f"2026-11-26T{i // 60:02d}:{i % 60:02d}:00+00:00"
            labels.append(ranked(item, who, float(right), shown=shown, cost=cost, at=at))
    return items, labels


def test_each_labeller_by_figures_counted_here_once_more() -> None:
    items, labels = crowd()
    found = overview(items, labels, overlap=7, prices=Prices(label=0.1, hour=12.0))
    gold = {item.id for item in items if item.gold}
    for who in ("ann", "eva", "gus"):
        own = [label for label in labels if label.labeller == who]
        right = [label.ranks[0] == 1.0 for label in own if label.item in gold]
        quality = of(found, who)
        assert quality.gold.value == pytest.approx(sum(right) / len(right))
        assert quality.gold.low < quality.gold.value < quality.gold.high
        first = [label.ranks[label.shown[0]] == 1.0 for label in own]
        assert quality.first.value == pytest.approx(sum(first) / len(first))
        assert quality.money == pytest.approx(6.0 + sum(x.cost.seconds for x in own) / 3600 * 12)
    assert found.cost.money == pytest.approx(sum(q.money for q in found.quality))
    assert found.each == pytest.approx(found.cost.money / len(labels))
    assert 0 < found.alpha.low < found.alpha.value < found.alpha.high < 1


def test_flags_are_of_those_who_have_earned_them() -> None:
    items, labels = crowd()
    found = overview(items, labels, overlap=7)
    for who in ("ann", "bob", "cid"):
        assert flags(found, who) == set()
    assert "speed" in flags(found, "fay")
    assert "position" in flags(found, "gus")
    assert "drift" in flags(found, "dov")
    assert "against" in flags(found, "eva")
    words = next(flag.words for flag in of(found, "gus").flags if flag.name == "position")
    assert "100%" in words
    assert of(found, "gus").first.level == 0.95
    few = overview(items[:5], [x for x in labels if x.item in {i.id for i in items[:5]}])
    assert all(not q.flags for q in few.quality)  # nobody is judged by five labels


def test_nothing_is_known_of_nothing() -> None:
    found = overview([], [])
    assert math.isnan(found.alpha.value)
    assert (found.items, found.labels, found.quality) == (0, 0, [])
    alone = overview(questions(2), [ranked(questions(2)[0], "ann", 1.0)])
    assert math.isnan(alone.alpha.value)
    assert math.isnan(of(alone, "ann").gold.value)
    assert math.isnan(of(alone, "ann").others.value)


def test_money_that_is_recorded_is_not_counted_twice() -> None:
    item = questions(1)[0]
    prices = Prices.of({"price_label": 0.5, "price_hour": 36})
    assert prices.money(ranked(item, "a", 1.0)) == pytest.approx(0.5 + 0.2)
    assert prices.money(ranked(item, "a", 1.0, cost=Cost(20.0, 0, 0.3))) == 0.3
    assert prices.money(ranked(item, "a", 1.0, kind="skip", ranks=())) == 0.0
    back = ranked(item, "a", 0.0, n=1, replaces=ranked(item, "a", 1.0).id)
    found = overview([item], [ranked(item, "a", 1.0), back], prices=prices)
    assert found.labels == 1
    assert found.cost.money == pytest.approx(2 * 0.7)  # the one taken back was paid as well
    with pytest.raises(DataError, match="price_label is -1"):
        Prices.of({"price_label": -1})


def test_ratings_have_an_alpha_of_their_own() -> None:
    items = questions(12)
    labels = [
        Label(f"{i}{who}", item.id, who, "rating", ratings=(float(i % 5), float((i + k) % 5)))
        for i, item in enumerate(items)
        for k, who in enumerate(("ann", "bob"))
    ]
    alike = [replace(x, ratings=(float(i // 2 % 5), 2.0)) for i, x in enumerate(labels)]
    assert overview(items, alike).alpha.value == pytest.approx(1.0)
    assert overview(items, labels).alpha.value < 0.9
