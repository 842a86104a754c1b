"""Answers that were joined to other rows' prompts are told; sound and generic ones are not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from random import Random

import pytest

from gnomon.stats import joins as measured
from gnomon.stats.joins import Joined, joined

Rows = list[tuple[str, str]]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def talk(n: int, seed: int = 0) -> Rows:
    """Questions in made-up words, common ones and rare ones, and answers that take up a few."""
    rng = Random(seed)
    known = ["".join(rng.choices(LETTERS, k=rng.randint(3, 9))) for _ in range(4000)]
    often = list(accumulate(1 / (place + 3) for place in range(len(known))))
    rows = []
    for _ in range(n):
        asked = rng.choices(known, cum_weights=often, k=25)
        said = rng.sample(asked, 10) + rng.choices(known, cum_weights=often, k=40)
        rows.append((" ".join(asked), " ".join(said)))
    return rows


def chinese(n: int) -> Rows:
    rng = Random(3)
    known = ["".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(2)) for _ in range(2000)]
    rows = []
    for _ in range(n):
        asked = rng.sample(known, 15)
        said = rng.sample(asked, 6) + rng.sample(known, 20)
        rows.append(("".join(asked), "".join(said)))
    return rows


def shuffled(rows: Rows, share: float) -> Rows:
    rng = Random(1)
    places = sorted(rng.sample(range(len(rows)), round(share * len(rows))))
    others = rng.sample(places, len(places))
    moved = {place: rows[other][1] for place, other in zip(places, others, strict=True)}
    return [(prompt, moved.get(i, answer)) for i, (prompt, answer) in enumerate(rows)]


def look(rows: Rows) -> Joined:
    return joined([p for p, _ in rows], [(i, a) for i, (_, a) in enumerate(rows)])


@pytest.mark.parametrize("make", [talk, chinese])
def test_the_share_of_wrong_joins_is_estimated(make: Callable[[int], Rows]) -> None:
    rows = make(200)
    sound = look(rows)
    assert not sound.told
    assert sound.judged > 100
    assert sound.share.value < 0.03
    for share in (0.3, 0.6, 1.0):
        found = look(shuffled(rows, share))
        assert found.told
        assert abs(found.share.value - share) < 0.08
        assert found.shift is None or share == 1.0


def test_a_column_that_is_shifted_is_named() -> None:
    rows = talk(120)
    answers = [answer for _, answer in rows]
    later = [(p, a) for (p, _), a in zip(rows, answers[2:] + answers[:2], strict=True)]
    found = look(later)
    assert found.shift == 2
    assert found.explained > 80
    half = rows[:60] + [(p, answers[i - 1]) for i, (p, _) in enumerate(rows) if i >= 60]
    found = look(half)
    assert found.shift == -1
    assert 0.4 < found.share.value < 0.6
    assert min(row for row, _ in found.strayed) in range(60, 65)
    numbers = [10 * i for i in range(120)]
    assert (
        joined([p for p, _ in half], [(i, a) for i, (_, a) in enumerate(half)], numbers).shift
        == -10
    )


def test_refusals_and_numbers_are_not_judged() -> None:
    prompts = [prompt for prompt, _ in talk(200)]
    for answer in ("I am sorry, but I cannot help with that.", "42"):
        found = look([(prompt, answer) for prompt in prompts])
        assert not found.looked
        assert not found.told
        assert found.detectable is None


def test_refusals_among_answers_do_not_count_as_strays() -> None:
    rows = talk(200)
    refused = [(p, "I am sorry, but I cannot help with that.") for p, _ in rows[:150]]
    found = look(refused + rows[150:])
    assert not found.told
    assert 20 <= found.judged <= 50
    assert found.detectable is not None


def test_prompts_that_are_nearly_alike_hide_no_sound_answer_and_count_no_stray() -> None:
    alike = [(f"{p} version {k}", a) for p, a in talk(25) for k in range(8)]
    sound = look(alike)
    assert not sound.told
    assert sound.judged > 100
    assert abs(look(shuffled(alike, 0.3)).share.value - 0.3) < 0.1
    same = [(p, alike[8 * (i // 8) + (i + 1) % 8][1]) for i, (p, _) in enumerate(alike)]
    assert not look(same).told  # swapped among prompts that ask the same


def test_rows_with_the_same_prompt_are_one_prompt() -> None:
    rows = [row for row in talk(50) for _ in range(4)]
    swapped = [(p.upper() if i % 2 else p, a) for i, (p, a) in enumerate(rows)]
    assert not look(swapped).told
    found = look(shuffled(swapped, 1.0))
    assert found.told
    assert found.share.n > 100


def test_a_later_turn_of_the_conversation_is_no_other_prompt() -> None:
    rows = talk(80)
    later = [(f"{p}\n{a}\nand more?", "no, nothing") for p, a in rows]
    short = [(" ".join(p.split()[:3]), a) for p, a in rows]
    follow = [(f"{p}\n{a}\nand more?", "no, nothing") for p, a in short]
    assert look(later).judged == 0
    assert not look([turn for pair in zip(short, follow, strict=True) for turn in pair]).told


def windows(n: int) -> Rows:
    """The last turns of conversations of six, the system message of each row its own."""
    found, rows = [], talk(n)
    for dated, start in enumerate(range(0, n, 6)):
        turns: list[str] = []
        for asked, said in rows[start : start + 6]:
            turns += [asked, said]
            found.append((f"It is day {dated}{len(turns)}\n" + "\n".join(turns[-4:-1]), said))
    return found


def critiques(n: int) -> Rows:
    """Answers, and for each what is to be said of it."""
    rows = talk(n)
    about = [(f"Question: {p}\nAnswer: {a}\nWhat is wrong?", p) for p, a in talk(n // 2)]
    return rows + about


def examples(n: int) -> Rows:
    """Prompts that each show three other rows with their answers."""
    rows, rng = talk(n), Random(5)
    shown = ["\n".join(f"Q: {p}\nA: {a}" for p, a in rng.sample(rows, 3)) for _ in rows]
    return [(f"{those}\nQ: {p}\nA:", a) for those, (p, a) in zip(shown, rows, strict=True)]


def translations(n: int) -> Rows:
    """To another script and back, a quarter of the texts both ways."""
    pairs = [(p, a.upper().translate(GREEK)) for p, a in talk(n, 6)]
    there = [(f"Translate: {p}", a) for p, a in pairs[: n // 2]]
    return there + [(f"Translate: {a}", p) for p, a in pairs[n // 4 :]]


GREEK = str.maketrans(LETTERS.upper(), "".join(chr(0x3B1 + i) for i in range(26)))


@pytest.mark.parametrize("make", [windows, critiques, examples, translations])
def test_a_prompt_that_quotes_an_answer_is_not_what_it_was_asked(
    make: Callable[[int], Rows],
) -> None:
    assert not look(make(120)).told


@pytest.mark.parametrize("make", [windows, critiques])
def test_answers_that_are_quoted_are_told_where_they_are_at_the_wrong_prompts(
    make: Callable[[int], Rows],
) -> None:
    assert look(shuffled(make(120), 1.0)).told


def test_what_would_have_been_told_is_told() -> None:
    rows = talk(200)
    least = look(rows).detectable
    assert least is not None
    assert 0.1 < least < 0.3
    assert look(shuffled(rows, least + 0.05)).told


def test_large_data_is_drawn_from_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MOST_ANSWERS", 100)
    monkeypatch.setattr(measured, "MOST_PROMPTS", 600)
    rows = talk(800)
    down = [(p, rows[i - 1][1]) for i, (p, _) in enumerate(rows)]
    found = look(down)
    assert found.answers == 100
    assert found.compared == 0.75
    assert found.shift == -1
    assert found.told
    assert look(down) == found
    sound = look(rows)
    assert not sound.told
    assert sound.detectable is not None


def test_nothing_is_looked_at_without_answers() -> None:
    for prompts, answers in (([], []), (["what?"], []), (["", ""], [(0, "a"), (1, "b")])):
        found = joined(prompts, answers)
        assert not found.looked
        assert not found.told
