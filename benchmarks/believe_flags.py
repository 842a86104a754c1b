"""The flags part of ``believe.py``: honest labellers that are flagged, planted ways that are
found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from believe_tunnel import LABELS, Pair, Person
from gnomon.feedback.flags import READING, flags
from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Item, Label
from gnomon.records import Cost, Message, Response
from gnomon.stats.intervals import exact_interval
from gnomon.tasks.tunnel import Labeller

START = datetime(2026, 1, 1, tzinfo=UTC)
PLANTED = ("length", "position", "belief", "drift", "speed", "same_key", "copied")


def honest_crowd(seed: int, people: int) -> list[Person]:
    """Labellers of different noise and care, without a bias."""
    rng = np.random.default_rng(seed)
    return [
        Person(
            Labeller(
                f"p{k}", noise=rng.uniform(0.05, 0.6), careless=rng.uniform(0.0, 0.4), seed=seed
            )
        )
        for k in range(people)
    ]


def planted(person: Person, kind: str) -> Person:
    """The same labeller with a bias that the tunnel has."""
    bias = {"length": {"length_bias": 1.0}, "belief": {"sycophancy": 2.0}}.get(kind, {})
    return replace(person, labeller=replace(person.labeller, **bias))


def items_of(pairs: Sequence[Pair]) -> list[Item]:
    return [
        make_item(p.prompt, [Response((Message("assistant", text),)) for text in p.texts])
        for p in pairs
    ]


def label_records(
    items: Sequence[Item], crowd: Sequence[Person], seed: int, odd: str = ""
) -> list[Label]:
    """Labels as an app leaves them; ``odd`` is what the first of the crowd does."""
    rng = np.random.default_rng(seed)
    given = np.zeros(len(crowd))
    out: list[Label] = []
    for n, item in enumerate(items):
        chosen = np.lexsort((rng.random(len(crowd)), given))[:LABELS]
        given[chosen] += 1
        for k in chosen:
            out.append(_label(item, crowd[k], odd if k == 0 else "", n / len(items), rng, len(out)))
    return out


def _label(
    item: Item, person: Person, odd: str, when: float, rng: np.random.Generator, n: int
) -> Label:
    texts = [r.text for r in item.responses]
    ranks = person.labeller.label_group(item.prompt, texts)
    shown = [int(i) for i in rng.permutation(2)]
    first = [2.0, 1.0] if shown[0] else [1.0, 2.0]
    if (odd == "position" and rng.random() < 0.3) or (odd == "same_key" and rng.random() < 0.95):
        ranks = first
    if odd == "drift" and when > 0.5 and rng.random() < 0.9:
        ranks = [float(r) for r in rng.permutation(2) + 1]
    words = sum(len(t.split()) for t in (*texts, *(m.content for m in item.prompt.messages)))
    pace = READING * 3.0 if odd == "speed" and rng.random() < 0.5 else rng.uniform(120.0, 350.0)
    comment = "" if rng.random() < 0.7 else f"the answer to question {n} is better put"
    if odd == "copied" and comment:
        comment = "this is the better answer of the two"
    return Label(
        str(n), item.id, person.labeller.name, "ranking", tuple(ranks), shown=tuple(shown),
        comment=comment, at=(START + timedelta(minutes=n)).isoformat(),
        cost=Cost(seconds=60.0 * words / pace + 1.0),
    )  # fmt: skip


def measure(worlds: Sequence[Sequence[Pair]], people: int) -> None:
    """Print how many reports on honest labellers raise a flag, and how often planted ways are."""
    false: Counter[str] = Counter()
    reports = signs = 0
    for seed, pairs in enumerate(worlds):
        items = items_of(pairs)
        found = flags(items, label_records(items, honest_crowd(seed, people), seed))
        raised = [sign for sign in found if sign.raised]
        reports, signs = reports + bool(raised), signs + len(found)
        false.update(sign.kind for sign in raised)
    print(f"{len(worlds)} reports on {people} honest labellers, {len(worlds[0])} pairs each")
    print(f"  reports with a flag: {exact_interval(reports, len(worlds))}")
    print(f"  signs flagged: {exact_interval(sum(false.values()), signs)} {dict(false)}")
    for kind in PLANTED:
        hits, others, worlds_used = 0, 0, worlds[: max(4, len(worlds) // 4)]
        for seed, pairs in enumerate(worlds_used):
            items, crowd = items_of(pairs), honest_crowd(seed, people)
            crowd[0] = planted(crowd[0], kind)
            found = flags(items, label_records(items, crowd, seed, kind))
            hits += any(s.raised and s.kind == kind and s.labeller == "p0" for s in found)
            others += sum(s.raised and s.labeller != "p0" for s in found)
        rate = exact_interval(hits, len(worlds_used))
        print(f"  planted {kind}: found {rate}; others flagged {others}")
