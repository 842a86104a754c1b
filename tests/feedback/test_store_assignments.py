"""Who is asked what next: never twice, never more labellers than needed, nothing held for ever."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

import pytest
from store_world import ENGINES, filled, item, place, ranking

from gnomon.errors import DataError
from gnomon.feedback.assignments import Assignment
from gnomon.feedback.records import Label
from gnomon.feedback.store import Campaign, Store


@pytest.fixture(params=ENGINES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request.param, tmp_path)


def given(store: Store, who: str = "kim", **more: object) -> Assignment:
    found = store.queue.assign(who, "c", **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def judge(store: Store, it: Assignment) -> Label:
    label = ranking(it.id, it.item, it.labeller, replaces=it.label)
    store.add_labels([label])
    return label


def test_everyone_gets_every_item_once_until_it_has_enough(where: str) -> None:
    with filled(where, 3, ("kim", "lee", "ann")) as store:
        store.set_campaign(Campaign("c", overlap=2))
        seen: dict[str, list[str]] = {}
        for who in ("kim", "lee", "kim", "lee", "ann", "kim", "lee", "ann", "ann"):
            it = store.queue.assign(who, "c")
            if it is not None:
                judge(store, it)
                seen.setdefault(who, []).append(it.item)
        counts = Counter(i for own in seen.values() for i in own)
        assert set(counts.values()) == {2}
        assert len(counts) == 3
        assert all(len(own) == len(set(own)) for own in seen.values())
        progress = store.queue.progress("c", "kim")
        assert (progress.items, progress.complete, progress.labels, progress.open) == (3, 3, 6, 0)
        assert progress.mine == len(seen["kim"])
        assert store.queue.assign("ann", "c") is None


def test_an_open_item_comes_again_and_a_late_one_goes_to_others(where: str) -> None:
    with filled(where, 1) as store:
        first = given(store)
        assert given(store).id == first.id  # the page is loaded again
        assert store.queue.assign("lee", "c") is None  # kim has it
        given(store, minutes=-1)
        late = given(store, "lee")
        assert late.item == first.item
        judge(store, first)  # kim's label comes after all: it is kept, and lee still has theirs
        judge(store, late)
        assert [label.labeller for label in store.labels()] == ["kim", "lee"]
        assert store.queue.progress("c").open == 0


def test_priority_goes_first_then_the_least_labelled(where: str) -> None:
    with filled(where, 5) as store:
        items = [i.id for i in store.items()]
        store.queue.set_priority({items[3]: 2.0, items[1]: 1.0, items[4]: -1.0})
        order = []
        while (it := store.queue.assign("kim", "c")) is not None:
            order.append(it.item)
            judge(store, it)
        assert order[:2] == [items[3], items[1]]
        assert order[-1] == items[4]
        store.queue.set_overlap({items[4]: 2})
        assert given(store, "lee").item == items[4]  # the others have one label, which is enough


def test_gold_questions_are_mixed_in_at_their_rate(tmp_path: Path) -> None:
    with filled(tmp_path / "l.db", 60) as store:
        store.add_items(item(f"gold {i}", gold=(1, 2)) for i in range(40))
        gold = {i.id for i in store.items() if i.gold}
        store.set_campaign(Campaign("c", gold_rate=0.25))
        chance = random.Random(1)
        asked = []
        for _ in range(60):
            it = given(store, chance=chance)
            asked.append(it.item in gold)
            judge(store, it)
        assert 8 <= sum(asked) <= 22  # Binomial(60, 1/4), beyond 2.5 standard deviations
        other = given(store, "lee", gold_rate=1.0)
        assert other.item in gold  # known answers are asked of everyone, whatever the overlap
        store.set_gold(other.item, None)
        assert store.queue.progress("c").items == 61


def test_undo_opens_an_item_again_and_the_new_label_replaces_the_old(where: str) -> None:
    with filled(where, 2) as store:
        first = judge(store, given(store))
        last = store.queue.last("kim", "c")
        assert last is not None
        again = store.queue.reopen("kim", last.item)
        assert (again.label, again.item, given(store).id) == (first.id, first.item, again.id)
        assert given(store, "lee").item != first.item  # it still has its one labeller
        judge(store, again)
        assert [x.id for x in store.labels(standing=True)] == [again.id]
        with pytest.raises(DataError, match="has not judged"):
            store.queue.reopen("lee", first.item)
        third = store.queue.reopen("kim", first.item)
        store.queue.release(third.id)  # thought better of it: the label stands
        assert [x.id for x in store.labels(standing=True)] == [again.id]
        assert store.queue.assign("kim", "c") is None  # lee has the other one


def test_a_skip_leaves_the_item_to_others(where: str) -> None:
    with filled(where, 1) as store:
        it = given(store)
        store.add_labels([Label(it.id, it.item, "kim", "skip")])
        assert store.queue.assign("kim", "c") is None
        assert given(store, "lee").item == it.item


def test_drafts_are_kept_until_the_label_comes(where: str) -> None:
    with filled(where, 1) as store:
        it = given(store)
        store.queue.save_draft("kim", it.item, {"ranks": [1], "comment": "\0 half"})
        store.queue.save_draft("kim", it.item, {"ranks": [1, 2]})
        assert store.queue.draft("kim", it.item) == {"ranks": [1, 2]}
        assert store.queue.draft("lee", it.item) is None
        judge(store, it)
        assert store.queue.draft("kim", it.item) is None


def test_nobody_unknown_and_no_closed_campaign(where: str) -> None:
    with filled(where, 1) as store:
        for who, campaign, said in (("who", "c", "no labeller"), ("kim", "x", "no campaign")):
            with pytest.raises(DataError, match=said):
                store.queue.assign(who, campaign)
        store.set_campaign(Campaign("c", open=False))
        assert store.queue.assign("kim", "c") is None


@pytest.mark.parametrize("engine", ENGINES)
def test_fifty_labellers_at_once(engine: str, tmp_path: Path) -> None:
    where = place(engine, tmp_path)
    names = [f"w{i}" for i in range(50)]
    with filled(where, 40, names) as store:
        store.set_campaign(Campaign("c", overlap=2))
        problems: list[BaseException] = []

        def work(who: str) -> None:
            try:
                while (it := store.queue.assign(who, "c")) is not None:
                    store.queue.save_draft(who, it.item, {"half": True})
                    judge(store, it)
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(who,)) for who in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        counts = Counter(label.item for label in store.labels())
        assert counts == dict.fromkeys((i.id for i in store.items()), 2)
        pairs = [(label.item, label.labeller) for label in store.labels()]
        assert len(pairs) == len(set(pairs)) == 80
