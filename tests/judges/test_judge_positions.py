"""Where in a judge's tokens its verdict stands."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from gnomon.judges.endpoint import Endpoint
from gnomon.judges.prompting import Question
from gnomon.judges.reading import read_positions, read_probabilities

LETTERS = ("A", "B", "C")
REASON = ["Clear", " ", "\U0001f44d", ":", " B", " is", " better", " than", " A", ".\n\n", "**"]
VERDICT = ["Verdict", ":", " B", "**"]
SHARES = {" A": {" A": 0.99, " the": 0.01}, " B": {" B": 0.7, " A": 0.3}}


def token(text: str, given: list[int] | None) -> Any:
    shares = SHARES.get(text, {text: 1.0})
    tops = [SimpleNamespace(token=t, logprob=math.log(p)) for t, p in shares.items()]
    return SimpleNamespace(token=text, bytes=given, logprob=-0.1, top_logprobs=tops)


def split(words: list[str], with_bytes: bool) -> Any:
    """The tokens, those beyond ASCII in two, spelled as escapes, as byte-level tokenizers do."""
    content = []
    for word in words:
        raw = word.encode()
        parts = [raw] if word.isascii() else [raw[:3], raw[3:]]
        for part in parts:
            spelled = word if word.isascii() else "".join(f"\\x{b:02x}" for b in part)
            content.append(token(spelled, list(part) if with_bytes else None))
    return SimpleNamespace(content=content)


def reply(text: str, logprobs: Any, wanted: str = "auto", reason: bool = True) -> Any:
    message = SimpleNamespace(content=text, refusal=None)
    choice = SimpleNamespace(message=message, finish_reason="stop", logprobs=logprobs)
    usage = SimpleNamespace(prompt_tokens=10, completion_tokens=10)
    found = SimpleNamespace(usage=usage, choices=[choice])
    endpoint = Endpoint("m", url="http://x/v1", logprobs=wanted)
    return endpoint._read(found, Question("", "u", LETTERS, reason=reason), 0.1)


@pytest.mark.parametrize("with_bytes", [True, False])
def test_parts_of_a_character_shift_nothing(with_bytes: bool) -> None:
    words = REASON + VERDICT
    found = reply("".join(words), split(words, with_bytes))
    assert found.choice == "B"
    assert found.probabilities == pytest.approx({"A": 0.3, "B": 0.7, "C": 0.0})


def test_texts_of_tokens_come_from_their_bytes() -> None:
    positions = read_positions(split(["a", "\U0001f44d", "b", "\u00e9"], True))
    assert "".join(position.text for position in positions) == "a\U0001f44db\u00e9"
    mixed = SimpleNamespace(content=[token("\\xf0", [0xF0]), token("<end>", None), token("x", [])])
    assert [position.text for position in read_positions(mixed)] == ["", "\ufffd<end>", "x"]
    wrong = SimpleNamespace(content=[token("x", [999]), token("y", None)])
    assert [position.text for position in read_positions(wrong)] == ["x", "y"]


def test_what_a_server_cut_from_the_front_shifts_nothing() -> None:
    words = REASON + VERDICT
    thought = split(["It", " is", " A", ".\n", *words], True)
    found = reply("".join(words), thought)
    assert found.probabilities == pytest.approx({"A": 0.3, "B": 0.7, "C": 0.0})
    found = reply("B", split([" B", "\n"], True), reason=False)
    assert found.probabilities == pytest.approx({"A": 0.3, "B": 0.7, "C": 0.0})


def test_a_token_that_does_not_spell_the_choice_tells_nothing() -> None:
    words = REASON + VERDICT
    text = "".join(words).replace("Clear", "It is clear")
    other = split([*words, "<end>"], True)  # neither begins nor ends as the answer
    found = reply(text, other)
    assert (found.choice, found.probabilities, found.error) == ("B", None, None)
    assert "no log-probs" in str(reply(text, other, wanted="yes").error)


def test_a_token_may_begin_the_choice_or_go_on_behind_it() -> None:
    ten = ("1", "2", "10")
    tokens = SimpleNamespace(content=[token("1", None), token("0", None)])
    positions = read_positions(tokens)
    assert read_probabilities(positions, 0, ten, "10") == {"1": 0.0, "2": 0.0, "10": 1.0}
    whole = read_positions(SimpleNamespace(content=[token("B**\n", None)]))
    assert read_probabilities(whole, 0, LETTERS, "B**") == {"A": 0.0, "B": 1.0, "C": 0.0}
    assert read_probabilities(whole, 0, LETTERS, "A**") is None
