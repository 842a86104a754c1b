"""What an AI judge is asked: templates, principles, fences (:mod:`gnomon.judges.reading` reads what
it answers).

A template is a text file with the places ``{{question}}``, and ``{{answer_a}}`` and
``{{answer_b}}`` (to compare two), ``{{answers}}`` (to rank several) or ``{{answer}}`` (to judge
one); where it wants them, ``{{rubric}}``, ``{{mark}}``, ``{{ask}}`` (what is asked of the answers)
and ``{{form}}`` (how the answer is to be written; what is asked stands before it where there is no
``{{ask}}``). A line ``[system]`` and a line ``[user]`` divide it into two messages; without them it
is one user message.

The texts to judge are untrusted. Each stands between two lines with a mark that is drawn from the
texts themselves and a seed, so that no text can hold it, and what chat templates would read as the
end of a turn is broken up.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean
from gnomon.records import Prompt

Mode = Literal["pairs", "ranking", "rubric", "score", "approval"]
Form = Literal["choice", "order", "object"]
"""How an answer is written: one of the choices; letters in an order, as in ``B > A = C``; a JSON
object with one of the choices for each key."""
LETTERS = ("A", "B", "C")
"""Verdicts: answer A is better, answer B is better, neither is."""
SCORES = tuple(str(i) for i in range(1, 11))
GOOD_BAD = ("good", "bad")
YES_NO = ("yes", "no")
MOST = len(string.ascii_uppercase)
"""Answers that one question can name by letters."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "pairs": ("question", "answer_a", "answer_b"),
    "ranking": ("question", "answers"),
    "rubric": ("question", "answer", "rubric"),
    "score": ("question", "answer"),
    "approval": ("question", "answer"),
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
        choices: the answers that count; of an order, the letters in it; none where any text is an
            answer.
        reason: whether a reason comes first, and the choice after ``Verdict:`` (in an object, under
            the key ``reason``).
        form: how the answer is written.
        keys: of an object: one choice for each.
        ties: whether an order may hold ties.
    """

    system: str
    user: str
    choices: tuple[str, ...]
    reason: bool = False
    form: Form = "choice"
    keys: tuple[str, ...] = ()
    ties: bool = True

    @property
    def tokens(self) -> int:
        """An answer without a reason is never longer."""
        return {
            "choice": 8,
            "order": 8 + 6 * len(self.choices),
            "object": 16 + 12 * len(self.keys),
        }[self.form]


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
        style: how the answer is written, where there is more than one way: "order" or "best" of a
            ranking; "each", "together" or "overall" of a rubric.
    """

    text: str
    mode: Mode = "pairs"
    rubric: str = ""
    ties: bool = True
    reason: bool = False
    seed: int = 0
    style: str = ""

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

    def choices(self, count: int = 2) -> tuple[str, ...]:
        """The answers that count, of a question about ``count`` answers."""
        if self.mode == "pairs":
            return LETTERS if self.ties else LETTERS[:2]
        if self.mode == "ranking":
            return tuple(string.ascii_uppercase[:count])
        if self.mode == "approval":
            return GOOD_BAD
        return SCORES if self.style == "overall" or self.mode == "score" else YES_NO

    @property
    def form(self) -> Form:
        """How the answer is written."""
        return {"order": "order", "together": "object"}.get(self.style, "choice")  # type: ignore[return-value]

    def instruction(self, count: int = 2, keys: Sequence[str] = ()) -> str:
        """How the answer is to be written, in words."""
        choices = self.choices(count)
        if self.form == "object":
            return _object_form(keys, choices, self.reason)
        if self.form == "order":
            equal = ", with = between answers that are equally good" if self.ties else ""
            one, what = "line", f"the letters of all answers from best to worst, with >{equal}"
            what += f", as in {' > '.join(reversed(choices))}"
        else:
            one, what = _one_of(self, choices)
        if not self.reason:
            return f"Reply with one {one} and nothing else: {what}."
        return (
            "Say why, in at most four sentences. Then end with a line of its own that holds the "
            f"word Verdict, a colon, and one {one}: {what}."
        )

    def needs(self, principle: Principle) -> str | None:
        """The place that the template lacks for a principle; None where it has all."""
        places = set(_PLACE.findall(self.text))
        if principle.ask and not places & {"ask", "form"}:
            return "ask"
        return "rubric" if principle.criteria and "rubric" not in places else None

    def question(
        self,
        prompt: str,
        *answers: str,
        principle: Principle | None = None,
        keys: Sequence[str] = (),
    ) -> Question:
        """The question about answers, in this order.

        Args:
            principle: what they are judged by, beside the template's own rubric.
            keys: of an object: what it holds a choice for.

        Raises:
            ConfigError: the template has no place for the principle.
        """
        by = principle or Principle("")
        lacks = self.needs(by)
        if lacks is not None:
            raise ConfigError(
                f"principle {by}: the judge's template has no place {{{{{lacks}}}}} for it"
            )
        count = len(answers)
        mark = new_mark(self.seed, prompt, *answers)
        lettered = count > 1 or self.mode == "ranking"
        names = [f"answer {x}" for x in string.ascii_uppercase[:count]] if lettered else ["answer"]
        texts = [("question", prompt), *zip(names, answers, strict=True)]
        shown = [(name, fenced(mark, name, text)) for name, text in texts]
        places = {name.lower().replace(" ", "_"): text for name, text in shown}
        form = self.instruction(count, keys)
        if by.ask and "ask" not in _PLACE.findall(self.text):
            form = f"{by.ask}\n{form}"
        rubric = "\n".join(filter(None, [self.rubric, by.criteria]))
        places |= {"mark": mark, "ask": by.ask, "form": form, "rubric": rubric}
        places["answers"] = "\n\n".join(text for _, text in shown[1:])
        parts = {name: _PLACE.sub(lambda m: places[m[1]], t).strip() for name, t in self._parts}
        asked = Question(
            parts.get("system", ""), parts["user"], self.choices(count), self.reason, self.form
        )
        return replace(asked, keys=tuple(keys), ties=self.ties) if keys or not self.ties else asked

    @cached_property
    def _parts(self) -> list[tuple[str, str]]:
        found = _PARTS.split(self.text)
        if len(found) == 1:
            return [("user", self.text)]
        parts = dict(zip(found[1::2], found[2::2], strict=True))
        return [(name, parts.get(name, "")) for name in ("system", "user")]


def _one_of(template: Template, choices: Sequence[str]) -> tuple[str, str]:
    """What one choice is called, and what each means."""
    if template.mode == "pairs":
        equal = ", or C if neither is better" if template.ties else ""
        return "letter", f"A if answer A is better, B if answer B is better{equal}"
    if template.mode == "ranking":
        return "letter", f"that of the best answer, {' or '.join(choices)}"
    if choices == SCORES:
        return "number", "a whole number from 1 to 10"
    if template.mode == "approval":
        return "word", "good if the answer is good, bad if it is not"
    return "word", "yes if the answer meets the criterion, no if it does not"


def _object_form(keys: Sequence[str], choices: Sequence[str], reason: bool) -> str:
    pairs = [f'"{key}": "{choices[-1]}"' for key in keys]
    if reason:
        pairs.insert(0, '"reason": "in at most four sentences"')
    return (
        "Reply with one JSON object and nothing else. It holds, for the number of each criterion, "
        f"{' or '.join(choices)}, as in {{{', '.join(pairs)}}}."
    )


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
