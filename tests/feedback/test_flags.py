"""Flags: planted ways are found, honest labellers are not flagged, and every figure says enough."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from gnomon.feedback.flags import READING, flags, stated_belief
from gnomon.feedback.records import Item, Label
from gnomon.records import Cost, Message, Prompt, Response

START = datetime(2026, 1, 1, tzinfo=UTC)
PEOPLE = 6


def world(odd: str = "", seed: int = 0, pairs: int = 400) -> tuple[list[Item], list[Label]]:
    """Six labellers who are right in 85%, three a pair; the first of them does something odd."""
    rng = np.random.default_rng(seed)
    items, labels = [], []
    for n in range(pairs):
        long = int(rng.integers(2))
        texts = ["short answer 7", "short answer 8"]
        texts[long] = texts[long] + " and many more words of no use" * 3
        prompt = Prompt(f"{n}", (Message("user", "what is it?"),), meta={"belief": "8"})
        item = Item(f"i{n}", prompt, tuple(Response((Message("assistant", t),)) for t in texts))
        items.append(item)
        truth = int(rng.integers(2))
        for k in rng.permutation(PEOPLE)[:3]:
            labels.append(_label(item, int(k), truth, long, odd if k == 0 else "", n, rng))
    return items, labels


def _label(
    item: Item, k: int, truth: int, long: int, odd: str, n: int, rng: np.random.Generator
) -> Label:
    shown = tuple(int(i) for i in rng.permutation(2))
    best = truth if rng.random() < 0.85 else 1 - truth
    lean = {"length": long, "position": shown[0], "belief": 1}.get(odd)
    if lean is not None and rng.random() < 0.5:
        best = lean
    if odd == "same_key" and rng.random() < 0.95:
        best = shown[0]
    if odd == "drift" and n > 200:
        best = int(rng.integers(2))
    pace = 5.0 * READING if odd == "speed" and n % 2 else 200.0
    said = "this one is simply better put" if odd == "copied" else f"number {n} is better by far"
    words = sum(len(r.text.split()) for r in item.responses) + 3
    return Label(
        f"{item.id}/{k}", item.id, f"p{k}", "ranking", (1.0, 2.0) if best == 0 else (2.0, 1.0),
        shown=shown, comment=f"{said} p{k}", cost=Cost(seconds=60.0 * words / pace),
        at=(START + timedelta(minutes=n)).isoformat(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["length", "position", "belief", "drift", "speed", "same_key", "copied"]
)
def test_a_planted_way_is_found(kind: str) -> None:
    raised = [s for s in flags(*world(kind)) if s.raised]
    assert (kind, "p0") in {(s.kind, s.labeller) for s in raised}
    sign = max((s for s in raised if s.kind == kind), key=lambda s: abs(s.figure.value - s.honest))
    assert sign.labeller == "p0"
    assert sign.figure.known
    assert "p0" in sign.words


def test_honest_labellers_are_rarely_flagged() -> None:
    """One report in twenty is expected to hold a flag; five of twelve would be one in 10^4."""
    assert sum(any(s.raised for s in flags(*world(seed=seed))) for seed in range(12)) < 5


def test_a_quiet_sign_says_what_it_could_have_seen() -> None:
    few = {s.kind: s for s in flags(*world(pairs=60)) if s.labeller == "p1"}
    many = {s.kind: s for s in flags(*world(pairs=400)) if s.labeller == "p1"}
    assert 0 < many["length"].detectable < few["length"].detectable
    assert not math.isfinite(few["copied"].detectable) or few["copied"].detectable > 0.1


def test_too_few_labels_say_nothing() -> None:
    assert flags(*world(pairs=8)) == []


def test_models_are_not_too_fast() -> None:
    items, labels = world("speed")
    told = [replace(label, cost=replace(label.cost, tokens=9)) for label in labels]
    assert "speed" not in {s.kind for s in flags(items, told)}


def test_a_belief_is_a_word_of_the_answer() -> None:
    def asked(belief: object) -> Prompt:
        return Prompt("p", (Message("user", "?"),), meta={"belief": belief})

    def answer(text: str) -> Response:
        return Response((Message("assistant", text),))

    assert stated_belief(asked("8"), answer("It is 8."))
    assert not stated_belief(asked("8"), answer("It is 18."))
    assert stated_belief(Prompt("p", (Message("user", "?"),)), answer("8")) is None


def _drift(items: list[Item], labels: list[Label]) -> float | None:
    """The drift of p0; None where nothing is said of it."""
    found = [s for s in flags(items, labels) if (s.kind, s.labeller) == ("drift", "p0")]
    return found[0].figure.value if found else None


def test_drift_goes_by_time_whatever_order_the_items_are_in() -> None:
    items, labels = world("drift")
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = [labels[i] for i in order]
    value = _drift(items, labels)
    assert value is not None
    assert _drift(items[::-1], shuffled) == pytest.approx(value)
    # the same moments in other words: another zone, which sorts differently as text
    west = timezone(-timedelta(hours=9))
    told = [
        replace(x, at=datetime.fromisoformat(x.at).astimezone(west).isoformat()) if i % 2 else x
        for i, x in enumerate(labels)
    ]
    assert _drift(items, told) == pytest.approx(value)


def test_labels_of_one_day_have_no_order_and_show_no_drift() -> None:
    items, labels = world("drift")
    assert _drift(items, [replace(x, at="2026-01-01") for x in labels]) is None
    days = [replace(x, at=f"2026-01-0{1 + (int(x.item[1:]) > 100)}") for x in labels]
    value = _drift(items, days)
    assert value is not None
    assert _drift(items, days[::-1]) == pytest.approx(value)
