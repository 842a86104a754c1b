"""What an AI judge is asked, and how its answer is read: templates, fences, verdicts.

A template is a text file with the places ``{{question}}``, ``{{answer_a}}`` and ``{{answer_b}}``
(to compare) or ``{{answer}}`` (to score), and, where it wants them, ``{{rubric}}``, ``{{mark}}``,
``{{ask}}`` (what is asked of the answers) and ``{{form}}`` (how the answer is to be written; what
is asked stands before it where there is no ``{{ask}}``). A line ``[system]`` and a line ``[user]``
divide it into two messages; without them it is one user message.

The texts to judge are untrusted. Each stands between two lines with a mark that is drawn from the
texts themselves and a seed, so that no text can hold it, and what chat templates would read as the
end of a turn is broken up.
"""

from __future__ import annotations

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean
from gnomon.records import Prompt

Mode = Literal["pairs", "score"]
LETTERS = ("A", "B", "C")
"""Verdicts: answer A is better, answer B is better, neither is."""
SCORES = tuple(str(i) for i in range(1, 11))
NEEDED: Mapping[str, tuple[str, ...]] = {
    "pairs": ("question", "answer_a", "answer_b"),
    "score": ("question", "answer"),
}
OPTIONAL = ("rubric", "mark", "ask", "form")
_PLACE = re.compile(r"\{\{\s*(\w*)\s*\}\}")
_PARTS = re.compile(r"^\[(system|user)\][ \t]*\n", re.MULTILINE)
_CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|｜[^<>\s]{1,60}｜>|/?s>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>"
    r"|<SYS>>|</SYS>>)|\[(?=/?INST\])"
)


@dataclass(frozen=True)
class Question:
    """What a judge is asked.

    Attributes:
        system, user: the two messages; ``system`` may be empty.
        choices: the answers that count.
        reason: whether a reason comes first, and the choice after ``Verdict:``.
    """

    system: str
    user: str
    choices: tuple[str, ...]
    reason: bool = False


@dataclass(frozen=True)
class Principle:
    """What the answers to one prompt are judged by, where not all prompts share it: a principle of
    a constitution, a rubric of the prompt's own.

    Attributes:
        name, version: every label records both, as ``name@version``.
        ask: what is asked of the answers, as in "Which answer is more honest?"; put in the
            template's ``{{ask}}``, or before its ``{{form}}``.
        criteria: put in the template's ``{{rubric}}``, after the judge's own.
    """

    name: str
    version: str = ""
    ask: str = ""
    criteria: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True)
class Template:
    """A judge's prompt, pinned by the SHA-256 of its file.

    Attributes:
        text: the file's.
        mode: what it is for.
        rubric: criteria of the user's own, put in its place.
        ties: whether a judge that compares may call two answers equal.
        reason: whether the judge says why before its verdict.
        seed: of the marks.
    """

    text: str
    mode: Mode = "pairs"
    rubric: str = ""
    ties: bool = True
    reason: bool = False
    seed: int = 0

    @classmethod
    def read(cls, file: Path | None, mode: Mode, **options: object) -> Template:
        """The template in a file, or the one that gnomon brings.

        Raises:
            ConfigError: it cannot be read, lacks a place, or has one that is not known.
        """
        path = file or Path(__file__).with_name("prompts") / f"{mode}.txt"
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the judge's template {path} cannot be read: {error}") from error
        template = cls(text, mode, **options)  # type: ignore[arg-type]
        template.check(str(path))
        return template

    def check(self, name: str) -> None:
        """Check its parts and its places.

        Raises:
            ConfigError: one is missing, or not known.
        """
        before, *parts = _PARTS.split(self.text)
        names = parts[::2]
        if parts and (before.strip() or len(set(names)) < len(names) or "user" not in names):
            raise ConfigError(
                f"{name}: divide it by one line [system] (or none) and one line [user], with "
                "nothing before the first of them"
            )
        places, needed = set(_PLACE.findall(self.text)), NEEDED[self.mode]
        for place in sorted(places - {*needed, *OPTIONAL}):
            hint = did_you_mean(place, [*needed, *OPTIONAL])
            raise ConfigError(f"{name}: unknown place {{{{{place}}}}}; {hint}")
        for place in needed:
            if place not in places:
                raise ConfigError(
                    f"{name}: it has no place {{{{{place}}}}}, so the judge would not see it"
                )
        if self.rubric and "rubric" not in places:
            raise ConfigError(f"{name}: a rubric is given, but there is no place {{{{rubric}}}}")

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that count."""
        if self.mode == "score":
            return SCORES
        return LETTERS if self.ties else LETTERS[:2]

    @property
    def form(self) -> str:
        """How the answer is to be written, in words."""
        what = "a whole number from 1 to 10"
        if self.mode == "pairs":
            equal = ", or C if neither is better" if self.ties else ""
            what = f"A if answer A is better, B if answer B is better{equal}"
        if not self.reason:
            return f"Reply with one {_word(self.mode)} and nothing else: {what}."
        return (
            "Say why, in at most four sentences. Then end with a line of its own that holds the "
            f"word Verdict, a colon, and one {_word(self.mode)}: {what}."
        )

    def needs(self, principle: Principle) -> str | None:
        """The place that the template lacks for a principle; None where it has all."""
        places = set(_PLACE.findall(self.text))
        if principle.ask and not places & {"ask", "form"}:
            return "ask"
        return "rubric" if principle.criteria and "rubric" not in places else None

    def question(self, prompt: str, *answers: str, principle: Principle | None = None) -> Question:
        """The question about two answers, in this order, or about one.

        Args:
            principle: what they are judged by, beside the template's own rubric.

        Raises:
            ConfigError: the template has no place for the principle.
        """
        by = principle or Principle("")
        lacks = self.needs(by)
        if lacks is not None:
            raise ConfigError(
                f"principle {by}: the judge's template has no place {{{{{lacks}}}}} for it"
            )
        mark = new_mark(self.seed, prompt, *answers)
        names = [f"answer {x}" for x in LETTERS[: len(answers)]] if len(answers) > 1 else ["answer"]
        texts = [("question", prompt), *zip(names, answers, strict=True)]
        places = {name.lower().replace(" ", "_"): fenced(mark, name, t) for name, t in texts}
        apart = "ask" in _PLACE.findall(self.text)
        form = self.form if apart or not by.ask else f"{by.ask}\n{self.form}"
        rubric = "\n".join(filter(None, [self.rubric, by.criteria]))
        places |= {"mark": mark, "ask": by.ask, "form": form, "rubric": rubric}
        parts = {name: _PLACE.sub(lambda m: places[m[1]], t).strip() for name, t in self._parts}
        return Question(parts.get("system", ""), parts["user"], self.choices, self.reason)

    @cached_property
    def _parts(self) -> list[tuple[str, str]]:
        found = _PARTS.split(self.text)
        if len(found) == 1:
            return [("user", self.text)]
        parts = dict(zip(found[1::2], found[2::2], strict=True))
        return [(name, parts.get(name, "")) for name in ("system", "user")]


def _word(mode: Mode) -> str:
    return "letter" if mode == "pairs" else "number"


# -- fences ----------------------------------------------------------------------------------------


def new_mark(seed: int, *texts: str) -> str:
    """A mark that none of the texts holds; the same for the same seed and texts.

    It is drawn from the texts' own SHA-256, so that whoever writes one of them cannot know it.
    """
    said = "\0".join(texts)
    for attempt in range(1000):
        digest = hashlib.sha256(f"{seed}\0{attempt}\0{said}".encode("utf-8", "replace"))
        mark = digest.hexdigest()[:16]
        if mark not in said:
            return mark
    raise AssertionError("no text holds a thousand marks")


def fenced(mark: str, name: str, text: str) -> str:
    """A text between two lines that bear the mark."""
    return f"<<<{mark} {name}>>>\n{plain(text)}\n<<<{mark} end of {name}>>>"


def plain(text: str) -> str:
    """The text with what chat templates write around turns broken up by a space (``< |im_end|>``),
    so that it is read as text: a tokenizer would take it for the end of the turn."""
    return _CONTROL.sub(lambda m: f"{m[0]} ", text)


def conversation(prompt: Prompt) -> str:
    """A prompt as one text; the turns of a conversation are named."""
    if prompt.text is not None:
        return prompt.text
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user":
        return prompt.messages[0].content
    return "\n\n".join(f"[{m.role}]\n{m.content}" for m in prompt.messages)


# -- reading the answer ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """A token of an answer and the likeliest tokens in its place, with their log-probs (nats)."""

    text: str
    top: Mapping[str, float]


def read_choice(text: str, question: Question) -> tuple[str, int] | None:
    """The choice in an answer, and where in the text it stands; None where the answer is not in the
    form that was asked for."""
    known = "|".join(sorted(question.choices, key=len, reverse=True))
    if question.reason:
        found = list(re.finditer(rf"(?i:verdict)\W*?:\W*?({known})(?!\w)", text))
    else:
        lead = r"\W*(?:(?i:verdict|answer|rating|score)\W+)?"
        one = re.match(rf"{lead}({known})(?![\w'’])(?!\s+(?!(?i:is\b))\w)", text)
        found = [] if one is None else [one]
    return (found[-1][1], found[-1].start(1)) if found else None


def read_probabilities(
    positions: Sequence[Position], at: int, choices: Sequence[str]
) -> dict[str, float] | None:
    """The probability of each choice, of those that stand at character ``at`` together.

    None where the log-probs do not tell: no position is there, or a tokenizer that writes 10 as 1
    and 0 leaves open which of the two the 1 was to be.
    """
    ends = list(accumulate(len(position.text) for position in positions))
    i = bisect_right(ends, at)
    if i == len(positions):
        return None
    position = positions[i]
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in position.top.items():
        word = token.strip().strip("*")
        if word in mass:
            mass[word] += math.exp(min(0.0, logprob))
    total = sum(mass.values())
    if not total > 0:
        return None
    if "10" in mass and not mass["10"] and mass["1"] > 0.01 * total:
        after = positions[i + 1] if i + 1 < len(positions) else None
        if position.text.strip() != "1" or after is None:
            return None
        zero = sum(math.exp(min(0.0, p)) for t, p in after.top.items() if t == "0")
        mass["10"], mass["1"] = mass["1"] * zero, mass["1"] * max(0.0, 1.0 - zero)
    return {choice: m / total for choice, m in mass.items()}


def shortened(text: str) -> str:
    """An answer as an error message shows it."""
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
