"""The instruction kinds: each with its parameters, its words in the prompt and its check.

Most follow IFEval (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models",
table 1). A check does what its sentence in the prompt says, as a careful reader understands it;
where IFEval's own checkers do something else, docs/rewards.md says so and why.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from gnomon.judges.verifiers.instructions.reading import (
    COMMAS,
    FULL_STOPS,
    QUESTION_MARKS,
    bare,
    bullets,
    count_word,
    has_postscript,
    has_title,
    highlights,
    json_object,
    listed,
    numbers,
    paragraphs,
    placeholders,
    plain,
    sections,
    sentences,
    star_parts,
    words,
    wrapped,
)

Params = dict[str, Any]

KINDS: dict[str, Kind] = {}
"""Every kind by its name."""

FEWEST_WORDS = 5
"""Different words that an answer needs, where its kind does not ask for a short one."""


@dataclass(frozen=True)
class Kind:
    """One kind of checkable instruction.

    Attributes:
        name: in ``Prompt.meta``.
        sample: draws parameters (JSON values) from a random generator.
        describe: the sentence that goes into the prompt.
        check: whether a response obeys, given the parameters.
        clashes: marks; two kinds that share one are not asked for together.
        short: a response of a few words can obey, so no minimum length is required.
    """

    name: str
    sample: Callable[[random.Random], Params]
    describe: Callable[[Params], str]
    check: Callable[[str, Params], bool]
    clashes: frozenset[str] = frozenset()
    short: bool = False


def kind(
    name: str,
    sample: Callable[[random.Random], Params],
    text: str | Callable[[Params], str],
    check: Callable[[str, Params], bool],
    *,
    clashes: str = "",
    short: bool = False,
) -> None:
    """Register a kind; ``text`` is a sentence with {parameters}, or makes one."""

    def describe(params: Params) -> str:
        return text.format(**params) if isinstance(text, str) else text(params)

    KINDS[name] = Kind(name, sample, describe, check, frozenset(clashes.split()), short)


def obeys(text: str, name: str, params: Mapping[str, Any]) -> bool:
    """Whether a response obeys one instruction.

    An empty response obeys none, and a token answer ("a") only those that ask for short answers:
    otherwise five different words are required, or saying nothing would obey a ban on commas.

    Raises:
        KeyError: no such kind, or a parameter is missing.
    """
    chosen = KINDS[name]
    text = plain(text)
    if not text.strip():
        return False
    if not chosen.short and len(set(words(text.lower()))) < FEWEST_WORDS:
        return False
    return chosen.check(text, dict(params))


WORDS = [
    "river", "garden", "morning", "copper", "lantern", "honest", "village", "signal",
    "bridge", "winter", "measure", "balance", "journey", "harvest", "quiet", "market",
    "window", "circle", "future", "memory", "science", "people", "simple", "energy",
]  # fmt: skip
OPENINGS = ("To begin with,", "Here is what I think:", "In short,", "Let us look closely.")
CLOSINGS = ("That is all.", "I hope this helps.", "Any other questions?", "And so it goes.")
CHOICES = ("Yes, certainly.", "No, not at all.", "It depends.", "I cannot say.")

# -- length ----------------------------------------------------------------------------------------

kind(
    "words_at_least",
    lambda r: {"n": r.choice(range(30, 121, 10))},
    "Answer with at least {n} words.",
    lambda t, p: len(words(t)) >= p["n"],
    clashes="words choice",
)
kind(
    "words_at_most",
    lambda r: {"n": r.choice(range(20, 81, 10))},
    "Answer with at most {n} words.",
    lambda t, p: len(words(t)) <= p["n"],
    clashes="words size",
)
kind(
    "sentences_exactly",
    lambda r: {"n": r.randint(2, 6)},
    "Write exactly {n} sentences.",
    lambda t, p: len(sentences(t)) == p["n"],
    clashes="sentences layout choice",
)
kind(
    "sentences_at_most",
    lambda r: {"n": r.randint(2, 5)},
    "Use no more than {n} sentences.",
    lambda t, p: len(sentences(t)) <= p["n"],
    clashes="sentences layout",
)
kind(
    "short_sentences",
    lambda r: {"n": r.choice((8, 10, 12, 15))},
    "No sentence may have more than {n} words.",
    lambda t, p: all(len(words(s)) <= p["n"] for s in sentences(t)),
    clashes="layout",
)
kind(
    "paragraphs_exactly",
    lambda r: {"n": r.randint(2, 4)},
    "Write {n} paragraphs, with an empty line between them.",
    lambda t, p: len(paragraphs(t)) == p["n"],
    clashes="layout size choice",
)
kind(
    "parts_with_stars",
    lambda r: {"n": r.randint(2, 4)},
    "Write {n} paragraphs and separate them with ***",
    lambda t, p: len(star_parts(t)) == p["n"] and all(map(words, star_parts(t))),
    clashes="layout size choice",
)

# -- words and letters -----------------------------------------------------------------------------

kind(
    "include_words",
    lambda r: {"words": r.sample(WORDS, r.randint(1, 3))},
    lambda p: f"Include {listed(p['words'])} in your answer.",
    lambda t, p: all(count_word(t, w) for w in p["words"]),
    clashes="include choice",
)
kind(
    "word_count",
    lambda r: {"word": r.choice(WORDS), "n": r.randint(2, 4)},
    'Use the word "{word}" exactly {n} times.',
    lambda t, p: count_word(t, p["word"]) == p["n"],
    clashes="include choice",
)
kind(
    "avoid_words",
    lambda r: {"words": r.sample(("the", "and", "very", "because", "is", "important"), 2)},
    lambda p: f"Do not use the words {listed(p['words'])}.",
    lambda t, p: not any(count_word(t, w) for w in p["words"]),
    clashes="frame choice",
)
kind(
    "avoid_letter",
    lambda r: {"letter": r.choice("zxqjkv")},
    'Do not use the letter "{letter}" anywhere.',
    lambda t, p: p["letter"] not in t.lower(),
    clashes="frame include letters choice",
)
kind(
    "letter_at_least",
    lambda r: {"letter": r.choice("bgpwym"), "n": r.randint(3, 8)},
    'The letter "{letter}" must appear at least {n} times.',
    lambda t, p: t.lower().count(p["letter"]) >= p["n"],
    clashes="letters choice",
)
kind(
    "lowercase",
    lambda r: {},
    "Write in lowercase letters only, without any capital.",
    lambda t, p: t == t.lower() != t.upper(),
    clashes="case frame json",
)
kind(
    "uppercase",
    lambda r: {},
    "Write in CAPITAL LETTERS only.",
    lambda t, p: t == t.upper() != t.lower(),
    clashes="case frame json",
)
kind(
    "capital_words",
    lambda r: {"n": r.randint(2, 5)},
    "Write at least {n} words entirely in capital letters.",
    lambda t, p: sum(w.isupper() and sum(map(str.isalpha, w)) > 1 for w in words(t)) >= p["n"],
    clashes="case choice",
)

# -- punctuation -----------------------------------------------------------------------------------

kind(
    "no_commas",
    lambda r: {},
    "Do not use any commas.",
    lambda t, p: not set(COMMAS) & set(t),
    clashes="frame json",
)
kind(
    "no_full_stops",
    lambda r: {},
    "Do not use any full stops (periods).",
    lambda t, p: not set(FULL_STOPS) & set(t),
    clashes="frame sentences layout",
)


def _is_question(sentence: str) -> bool:
    tail = takewhile(lambda c: not c.isalnum(), reversed(sentence))
    return any(c in QUESTION_MARKS for c in tail)


kind(
    "ask_question",
    lambda r: {"n": r.randint(1, 3)},
    "Ask at least {n} question(s), each ending in a question mark.",
    lambda t, p: sum(map(_is_question, sentences(t))) >= p["n"],
    clashes="sentences json choice",
)
kind(
    "in_quotes",
    lambda r: {},
    "Put your whole answer inside double quotation marks.",
    lambda t, p: wrapped(t),
    clashes="frame json",
)

# -- layout ----------------------------------------------------------------------------------------

kind(
    "bullets_exactly",
    lambda r: {"n": r.randint(2, 6)},
    "Give exactly {n} bullet points, each on its own line starting with * or -",
    lambda t, p: len(bullets(t)) == p["n"],
    clashes="layout json choice",
)
kind(
    "numbered_exactly",
    lambda r: {"n": r.randint(2, 6)},
    "Give a numbered list of exactly {n} items (1. 2. and so on).",
    lambda t, p: numbers(t) == list(range(1, p["n"] + 1)),
    clashes="layout json choice",
)
kind(
    "title",
    lambda r: {},
    "Give your answer a title in double angle brackets, such as <<title>>.",
    lambda t, p: has_title(t),
    clashes="json choice",
)
kind(
    "highlights",
    lambda r: {"n": r.randint(1, 4)},
    "Highlight at least {n} part(s) of your answer with stars, like *this*.",
    lambda t, p: highlights(t) >= p["n"],
    clashes="layout json choice",
)
kind(
    "placeholders",
    lambda r: {"n": r.randint(1, 3)},
    "Include at least {n} placeholder(s) in square brackets, such as [name].",
    lambda t, p: len(placeholders(t)) >= p["n"],
    clashes="json choice",
)
kind(
    "sections",
    lambda r: {"n": r.randint(2, 4)},
    "Divide your answer into {n} sections, headed Section 1, Section 2 and so on.",
    lambda t, p: sections(t) == list(range(1, p["n"] + 1)),
    clashes="layout json size choice",
)
kind(
    "postscript",
    lambda r: {},
    "Add a postscript at the end that starts with P.S.",
    lambda t, p: has_postscript(t),
    clashes="ending layout json choice",
)
kind(
    "json_object",
    lambda r: {"keys": r.sample(("answer", "reason", "topic", "summary", "confidence"), 2)},
    lambda p: f"Answer with a JSON object only; it must have the keys {listed(p['keys'])}.",
    lambda t, p: set(p["keys"]) <= set(json_object(t) or ()) and json_object(t) is not None,
    clashes="layout frame json ending opening choice",
    short=True,
)

# -- beginning and end -----------------------------------------------------------------------------


def _at_edge(text: str, phrase: str, *, first: bool) -> bool:
    """Whether the text begins (or ends) with the phrase and has other words too."""
    text, phrase = bare(text).lower(), bare(phrase).lower()
    if first:
        return text.startswith(phrase) and bool(words(text[len(phrase) :]))
    before = text.removesuffix(phrase)
    return before != text and bool(words(before)) and not before[-1:].isalnum()


kind(
    "starts_with",
    lambda r: {"phrase": r.choice(OPENINGS)},
    'Start your answer with the exact words "{phrase}"',
    lambda t, p: _at_edge(t, p["phrase"], first=True),
    clashes="frame opening choice",
)
kind(
    "ends_with",
    lambda r: {"phrase": r.choice(CLOSINGS)},
    'End your answer with the exact words "{phrase}"',
    lambda t, p: _at_edge(t, p["phrase"], first=False),
    clashes="frame ending choice",
)
kind(
    "first_word",
    lambda r: {"word": r.choice(WORDS)},
    'The very first word of your answer must be "{word}".',
    lambda t, p: [w.lower() for w in words(t)[:1]] == [p["word"]],
    clashes="opening json choice include",
)
kind(
    "last_word",
    lambda r: {"word": r.choice(WORDS)},
    'The very last word of your answer must be "{word}".',
    lambda t, p: [w.lower() for w in words(t)[-1:]] == [p["word"]],
    clashes="ending json choice include",
)
kind(
    "one_of",
    lambda r: {"choices": list(CHOICES)},
    lambda p: f"Answer with exactly one of these: {', '.join(p['choices'])}",
    lambda t, p: bare(t) in map(bare, p["choices"]),
    clashes="choice frame layout size json",
    short=True,
)
