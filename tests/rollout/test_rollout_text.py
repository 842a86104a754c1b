"""Stop strings and response text on hand-made token sequences."""

from __future__ import annotations

from gnomon.rollout.sampling import StopText


def grow(text: StopText, ids: list[int]) -> int | None:
    """Number of tokens after which a response growing token by token stops."""
    for length in range(1, len(ids) + 1):
        if text.matched([ids[:length]])[0]:
            return length
    return None


def test_a_stop_string_may_span_tokens_and_end_inside_one(tokenizer):
    ids = tokenizer("xyz th abcd")["input_ids"]
    pieces = [tokenizer.decode([i]) for i in ids]
    assert pieces == ["x", "y", "z", " ", "th", " ", "ab", "cd"]
    spanning = StopText(tokenizer, ["h abc"], frozenset())
    assert grow(spanning, ids) == 8
    assert spanning.text(ids) == "xyz t"
    assert grow(StopText(tokenizer, ["z t"], frozenset()), ids) == 5
    assert grow(StopText(tokenizer, ["zz", "abx"], frozenset()), ids) is None


def test_long_responses_are_watched_through_a_short_tail(tokenizer):
    ids = tokenizer("q" * 300 + "€ STOP" + "r")["input_ids"]
    text = StopText(tokenizer, ["€ STOP"], frozenset())
    assert grow(text, ids) == len(ids) - 1
    assert text.text(ids[:-1]) == "q" * 300


def test_a_character_split_over_tokens_is_matched_when_complete(tokenizer):
    ids = tokenizer("a€b")["input_ids"]
    assert len(ids) == 5
    assert grow(StopText(tokenizer, ["€"], frozenset()), ids) == 4


def test_text_leaves_out_eos_and_special_tokens(tokenizer):
    ids = tokenizer("ok")["input_ids"]
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    text = StopText(tokenizer, [], frozenset([eos, ids[0]]))
    assert text.text([*ids, pad, eos]) == "ok"
    assert text.text([ids[1], ids[0]]) == "k"  # an ordinary token may serve as EOS
    assert text.text([]) == ""


def test_a_stop_string_naming_a_special_token_is_seen(tokenizer):
    ids = [*tokenizer("ok")["input_ids"], tokenizer.pad_token_id]
    text = StopText(tokenizer, ["<pad>"], frozenset())
    assert grow(text, ids) == 3
    assert text.text(ids) == "ok"
    assert grow(StopText(tokenizer, ["zz"], frozenset()), ids) is None
