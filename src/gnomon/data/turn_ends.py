"""What closes an assistant's turn, told from what a chat template writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.data.turns import RowError
from gnomon.records import Message

_AGAIN = "gnomon again"


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """The ends of an assistant's turn.

    Attributes:
        eos: the tokenizer's EOS, which ends a turn in every template.
        turn_end: what stands after what the assistant said ("<|im_end|>"); empty if nothing does.
        final: what the template writes after the last turn and not after earlier ones: an EOS
            after the whole conversation (Phi-3), or another end of turn (gpt-oss).
        middle: what takes its place after earlier turns, where it is an end of turn.
    """

    eos: str
    turn_end: str = ""
    final: str = ""
    middle: str = ""

    def strip(self, text: str) -> str:
        """What was said, without any end of turn that it carries already."""
        while True:
            bare = text.rstrip()
            end = next((e for e in (self.turn_end, self.eos) if e and bare.endswith(e)), None)
            if end is None:
                return text
            text = bare.removesuffix(end)

    def after(self, text: str) -> str:
        """What follows an end of turn that the text opens with; the text if there is none."""
        for end in (self.turn_end, self.middle):
            before, found, rest = text.partition(end) if end else (text, "", "")
            if found and not before.strip():
                return rest
        return text

    def cut(self, text: str) -> str:
        """A turn up to its end; the line break (or an EOS) after that is not the assistant's."""
        places = [text.rfind(e) + len(e) for e in (self.turn_end, self.middle) if e and e in text]
        end = max(places, default=len(text))
        return text if text[end:].replace(self.eos, "").strip() else text[:end]


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens by id."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    known = {int(i): str(t.content) for i, t in added.items() if t.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**known, **{int(i): str(t) for i, t in named}}


def special_texts(tokenizer: Any) -> re.Pattern[str]:
    """Finds special tokens in text, and what looks like one (``<...>``)."""
    longest = sorted(special_tokens(tokenizer).values(), key=len, reverse=True)
    return re.compile("(" + "|".join([*map(re.escape, longest), r"<[^<>\s]+>"]) + ")")


def find_ends(
    render: Callable[[Sequence[Message]], str],
    question: Sequence[Message],
    probe: str,
    specials: re.Pattern[str],
    eos: str,
) -> TurnEnds:
    """Compare what follows an answer at the conversation's end with what follows it before the
    next question.

    Raises:
        RowError: the template refuses a question with its answer.
    """
    answered = (*question, Message("assistant", probe))
    last = render(answered).rpartition(probe)[2]
    try:
        longer = render((*answered, Message("user", _AGAIN)))
    except RowError:  # a template for a single question
        return TurnEnds(eos, last.strip())
    before_next = longer[longer.rfind(probe) + len(probe) : longer.rfind(_AGAIN)]
    shared = _shared(specials.split(last), specials.split(before_next))
    if shared.strip():
        return TurnEnds(eos, shared.strip(), final=last[len(shared) :].strip())
    asked = render(question)
    after_question = asked[asked.rfind(question[-1].content) + len(question[-1].content) :]
    middle = specials.match(before_next.lstrip())
    closes = middle is not None and after_question.lstrip().startswith(middle[0])
    return TurnEnds(eos, last.strip(), last.strip(), middle[0] if middle and closes else "")


def _shared(last: Sequence[str], before_next: Sequence[str]) -> str:
    """The common opening of two texts in pieces; within plain text only where one is all there."""
    shared = ""
    for a, b in zip(last, before_next, strict=False):
        if not b.startswith(a):
            break
        shared += a
        if a != b:
            break
    return shared
