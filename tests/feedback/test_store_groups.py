"""Groups become items and labels, and come back saying the same, whoever said it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import item

from gnomon.data.readers import read_groups
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.exchange import import_file
from gnomon.feedback.groups import learned_groups
from gnomon.feedback.judged_items import judged_items, numbered
from gnomon.feedback.records import Item, Label
from gnomon.feedback.store import Store
from gnomon.records import Comparison, Group, Message, Prompt, Response

words = st.text(min_size=1, max_size=8).filter(str.strip)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """A prompt with distinct responses that any number of labellers compared as they liked."""
    texts = draw(st.lists(words, min_size=2, max_size=4, unique=True))
    said = tuple(Response((Message("assistant", t),), f"r{i}") for i, t in enumerate(texts))
    pairs = list(combinations(range(len(texts)), 2))
    comparisons, names = [], []
    for name in draw(st.lists(st.sampled_from(["kim", "lee", None]), max_size=3, unique=True)):
        whole = draw(st.booleans())
        for a, b in pairs if whole else draw(st.lists(st.sampled_from(pairs), max_size=4)):
            better, worse = draw(st.sampled_from([(a, b), (b, a)]))
            comparisons.append(
                Comparison(
                    better,
                    worse,
                    weight=draw(st.sampled_from([1.0, 0.5, 3.0])),
                    margin=draw(st.sampled_from([0.0, 1.5])),
                    tie=draw(st.booleans()),
                    probability=draw(st.sampled_from([1.0, 0.75])),
                )
            )
            names.append(name)
    comparisons = [replace(c, probability=1.0) if c.tie else c for c in comparisons]
    meta: dict[str, Any] = {"answer": draw(words)}
    if any(names):
        meta["labellers"] = tuple(names)
    prompt = Prompt("p", (Message("user", draw(words)),), meta=meta)
    weight = draw(st.sampled_from([1.0, 0.25]))
    return Group(prompt, said, tuple(comparisons), weight)


def judged(group: Group) -> Counter[Any]:
    """What a group says, without the order of its responses: who finds which text better than
    which, how strongly and by how much."""
    names = group.prompt.meta.get("labellers") or ("nobody",) * len(group.comparisons)
    out: Counter[Any] = Counter()
    for c, name in zip(group.comparisons, names, strict=True):
        texts = [group.responses[c.better].text, group.responses[c.worse].text]
        texts = sorted(texts) if c.tie else texts
        how = (round(c.strength, 9), c.margin, c.tie, name or "nobody", group.weight)
        out[(group.prompt.messages, *texts, *how)] += 1
    return out


@settings(max_examples=60, deadline=None)
@given(groups())
def test_comparisons_come_back_as_they_were(group: Group) -> None:
    found = list(numbered(judged_items(group, "c", "nobody")))
    items = {one.item.id: one.item for one in found}
    labels = [label for one in found for label in one.labels]
    assert len({label.id for label in labels}) == len(labels)
    back = learned_groups(items.values(), labels, "each")
    assert sum((judged(g) for g in back), Counter()) == judged(group)
    assert all(g.prompt.meta["answer"] == group.prompt.meta["answer"] for g in back)
    again = list(numbered(judged_items(group, "c", "nobody")))
    assert again == found  # the same file read again is the same labels


def test_the_order_of_a_file_tells_nothing() -> None:
    """The better response comes first in a file, and two files that disagree ask one question."""
    prompt = Prompt("p", (Message("user", "?"),))
    a, b = (Response((Message("assistant", t),), rank=r) for t, r in (("yes", 1.0), ("no", 2.0)))
    (one,) = judged_items(Group(prompt, (a, b)))
    (two,) = judged_items(Group(prompt, (replace(b, rank=1.0), replace(a, rank=2.0))))
    assert one.item == two.item
    assert one.labels[0].ranks == tuple(reversed(two.labels[0].ranks))
    assert [r.rank for r in one.item.responses] == [None, None]


def test_ratings_and_marks_come_back(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(
        '{"prompt": "q", "responses": ["a", "b", "c"], "scores": [7, 7, 3], "labeller": "kim"}\n'
        '{"prompt": "q", "responses": ["c", "b", "a"], "scores": [1, 5, 7], "labeller": "lee"}\n'
    )
    (tmp_path / "k.jsonl").write_text(
        '{"prompt": "q", "completion": "a", "label": true, "labeller": "kim"}\n'
        '{"prompt": "q", "completion": "a", "label": true, "labeller": "lee"}\n'
        '{"prompt": "q", "completion": "b", "label": false, "labeller": "kim"}\n'
        '{"prompt": "q", "completion": "d", "label": true, "labeller": "kim"}\n'
        '{"prompt": "q", "completion": "d", "label": false, "labeller": "lee"}\n'
    )
    with Store.open(tmp_path / "l.db") as store:
        for name in ("r.jsonl", "k.jsonl"):
            import_file(store, tmp_path / name, campaign=name[0], add_labellers=True)
        (rated,) = learned_groups(store.items("r"), list(store.labels("r")), "majority")
        assert {r.text: r.meta["score"] for r in rated.responses} == {"a": 7, "b": 6, "c": 2}
        assert {label.kind for label in store.labels("r")} == {"rating"}
        marks = learned_groups(store.items("k"), list(store.labels("k")), "majority", marks=True)
        assert {g.responses[0].text: g.responses[0].meta["label"] for g in marks} == {
            "a": True,
            "b": False,  # of d nobody knows
        }
        each = learned_groups(store.items("k"), list(store.labels("k")), "each", marks=True)
        assert sorted(g.responses[0].text for g in each) == ["a", "a", "b", "d", "d"]


def test_edits_beat_what_they_edit_and_all_bad_marks_all() -> None:
    asked = item("q", "a", "b")
    edit = Label("e", asked.id, "kim", "edit", edit="better")
    bad = Label("f", asked.id, "lee", "all_bad")
    (group,) = learned_groups([asked], [edit, bad], "each")
    assert [(group.responses[c.better].text, c.worse) for c in group.comparisons] == [
        ("better", 0),
        ("better", 1),
    ]
    marks = learned_groups([asked], [bad], "majority", marks=True)
    assert [g.responses[0].meta["label"] for g in marks] == [False, False]
    assert learned_groups([asked], [Label("g", asked.id, "kim", "skip")], "each") == []


def test_calibrated_majority_and_each_differ_where_labellers_do() -> None:
    """Three careless labellers outvote two careful ones on one pair; elsewhere they disagree."""
    items = [item(f"q{i}", "yes", "no") for i in range(60)]
    careful, careless = ("kim", "lee"), ("x", "y", "z")
    labels = []
    for n, one in enumerate(items):
        for name in careful:
            labels.append(vote(one, name, 0))
        for k, name in enumerate(careless):
            labels.append(vote(one, name, 1 if n == 0 else (n >> k) & 1))
    major = learned_groups(items, labels, "majority")
    calibrated = learned_groups(items, labels, "calibrated")
    assert (major[0].comparisons[0].better, calibrated[0].comparisons[0].better) == (1, 0)
    assert major[0].comparisons[0].probability == 1
    assert 0.5 < calibrated[0].comparisons[0].probability < 1
    assert len(learned_groups(items, labels, "each")[0].comparisons) == 5
    gold = [replace(items[0], gold=(1.0, 2.0)), *items[1:]]
    assert len(learned_groups(gold, labels)) == 59  # a gold question is not learnt from


def vote(one: Item, who: str, better: int) -> Label:
    ranks = (1.0, 2.0) if better == 0 else (2.0, 1.0)
    return Label(f"{who}-{one.id[:20]}", one.id, who, "ranking", ranks=ranks)


def test_real_labels_come_in_and_out(shared_data: Path, tmp_path: Path) -> None:
    """PandaLM: three people a pair, whose verdicts the reader gives as they are in the file."""
    file = shared_data / "pandalm" / "testset-v1.jsonl.gz"
    read = read_groups(file, limit=300)
    with Store.open(tmp_path / "l.db") as store:
        done = import_file(store, file, campaign="p", add_labellers=True, limit=300)
        assert done.labellers == dict.fromkeys(["annotator1", "annotator2", "annotator3"], 0) | {
            name: len(read.groups) for name in done.labellers
        }
        back = learned_groups(store.items(), list(store.labels()), "each")
    before = sum((judged(g) for g in read.groups), Counter())
    assert sum((judged(g) for g in back), Counter()) == before


def test_the_blind_ab_keeps_who_when_how_long_and_what_was_shown_first(tmp_path: Path) -> None:
    row = (
        '{"prompt": "q", "response_a": "new", "response_b": "old", "preference": "b", "labeller": '
        '"kim", "time": "2026-01-02T03:04:05.000001+00:00", "seconds": 4.5, "guideline": null, '
        '"model_a": "run-2", "model_b": "run-1", "pair": "x", "prompt_id": "p7"}\n'
    )
    (tmp_path / "ab.jsonl").write_text(row)
    with Store.open(tmp_path / "l.db") as store:
        import_file(store, tmp_path / "ab.jsonl", add_labellers=True)
        (label,), (asked,) = list(store.labels()), list(store.items())
    assert (label.labeller, label.at, label.cost.seconds) == (
        "kim",
        "2026-01-02T03:04:05.000001+00:00",
        4.5,
    )
    assert asked.responses[label.shown[0]].text == "new"
    assert asked.responses[label.ranks.index(1.0)].text == "old"
    assert {r.text: r.meta["model"] for r in asked.responses} == {"new": "run-2", "old": "run-1"}


@pytest.mark.parametrize("how", ["calibrated", "majority", "each"])
def test_nothing_said_is_nothing_learnt(how: Any) -> None:
    assert learned_groups([item("q")], [], how) == []


@pytest.mark.parametrize("how", ["calibrated", "majority", "each"])
def test_a_decision_stands_for_all_labels_of_its_item(how: Any) -> None:
    """And is no vote by which labellers are judged: ann decides against two on one of sixty."""
    items = [item(f"q{i}", "yes", "no") for i in range(60)]
    labels = [vote(one, who, 0) for one in items for who in ("kim", "lee")]
    decision = replace(vote(items[0], "ann", 1), tags=(ADJUDICATION,))
    before = learned_groups(items, labels, how)
    decided, *others = learned_groups(items, [*labels, decision], how)
    assert [(c.better, c.probability) for c in decided.comparisons] == [(1, 1.0)]
    assert others == before[1:]
    back = replace(decision, id="back", kind="skip", ranks=(), replaces=decision.id)
    assert learned_groups(items, [*labels, decision, back], how) == before
    bad = replace(decision, kind="all_bad", ranks=())
    marks = learned_groups(items, [*labels, bad], how)
    assert [g.responses[0].meta["label"] for g in marks if not g.comparisons] == [False, False]
    assert [g for g in marks if g.comparisons] == before[1:]


@pytest.mark.parametrize("how", ["calibrated", "majority", "each"])
def test_a_decision_stands_for_marks_too(how: Any) -> None:
    one = item("q", "yes")
    said = [Label(who, one.id, who, "approval", approvals=(True,)) for who in ("kim", "lee", "mo")]
    decision = Label("d", one.id, "ann", "approval", approvals=(False,), tags=(ADJUDICATION,))
    (group,) = learned_groups([one], [*said, decision], how, marks=True)
    assert (group.responses[0].meta["label"], group.weight) == (False, 1.0)
