"""Chat templates: the built-in ones, turns joined before one is applied, and how an
assistant's turn ends, inferred from what the template writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from gnomon.data.values import RowError
from gnomon.errors import DataError
from gnomon.recipe.schema import Merge
from gnomon.records import Message

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + END + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}"
    "{{ m['role'] + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ END }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
RAW = (
    "{% for m in messages %}"
    "{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ END }}{% endif %}"
    "{% endfor %}"
)
BUILT_IN = {"chatml": CHATML, "plain": PLAIN, "raw": RAW}
EMPTY = (
    "an assistant turn is empty, which would train the model to say nothing",
    "fill it in, switch the turn off (train: false), or remove the row",
)
REWRITES = (
    "the chat template rewrites earlier turns when a later one is added, so the tokens to train "
    "on cannot be determined",
    "train_on: last keeps only the last answer; or give a template that does not (template: "
    "chatml), or one with {% generation %} marks",
)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a BOS before plain text."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a").input_ids[:1]) == [bos]


def eos_text(tokenizer: Any) -> str:
    """The tokenizer's EOS.

    Raises:
        DataError: it has none, so no response could end.
    """
    if tokenizer.eos_token is None:
        raise DataError(
            "the tokenizer has no EOS token, so a response could never end; set "
            "tokenizer.eos_token (and eos_token_id in the model's generation config)"
        )
    return str(tokenizer.eos_token)


def resolve_template(tokenizer: Any, template: str | None) -> str | None:
    """The Jinja text to use: a built-in by name, a .jinja file, Jinja itself, or the tokenizer's.

    None where nothing is given and the tokenizer has no template.

    Raises:
        DataError: a name that is none of these.
    """
    if template is None:
        own = tokenizer.chat_template
        return own if isinstance(own, str) or own is None else own.get("default")
    if template in BUILT_IN:
        end = eos_text(tokenizer)
        if template == "chatml" and "<|im_end|>" in tokenizer.get_vocab():
            end = "<|im_end|>"
        text = BUILT_IN[template].replace("END", repr(end))
        bos = "{{ bos_token }}" if adds_bos(tokenizer) else ""
        return bos + text
    if "{{" in template or "{%" in template:
        return template
    if Path(template).is_file():
        return Path(template).read_text(encoding="utf-8")
    raise DataError(
        f"unknown chat template {template!r}: use {', '.join(BUILT_IN)}, the path of a .jinja "
        "file, or leave it out for the tokenizer's own"
    )


NOTHING = (
    "nothing to train on: no assistant token is left",
    "check the turns' train flags, train_on and max_length",
)


def merge_turns(messages: Sequence[Message], merge: Sequence[Merge]) -> tuple[Message, ...]:
    """The turns of a prompt, joined as ``merge`` says."""
    return merge_answer(messages, (True,) * len(messages), merge)[0]


def merge_answer(
    messages: Sequence[Message], trained: Sequence[bool], merge: Sequence[Merge]
) -> tuple[tuple[Message, ...], tuple[bool, ...]]:
    """Turns and whether each is trained on, joined as ``merge`` says.

    Raises:
        RowError: of two assistant turns to be joined, one is trained on and one is not.
    """
    if not merge:
        return tuple(messages), tuple(trained)
    pairs = list(zip(messages, trained, strict=True))
    if "tool" in merge:
        pairs = [(replace(m, role="user") if m.role == "tool" else m, t) for m, t in pairs]
    if "system" in merge:
        pairs = _without_system(pairs)
    if "turns" in merge:
        pairs = _joined(pairs)
    return tuple(m for m, _ in pairs), tuple(t for _, t in pairs)


def _without_system(pairs: Sequence[tuple[Message, bool]]) -> list[tuple[Message, bool]]:
    out: list[tuple[Message, bool]] = []
    waiting: list[str] = []
    for message, trained in pairs:
        if message.role == "system":
            waiting.append(message.content)
            continue
        if waiting and message.role == "user":
            message = Message("user", _paragraphs(*waiting, message.content))
        elif waiting:
            out.append((Message("user", _paragraphs(*waiting)), True))
        waiting = []
        out.append((message, trained))
    if waiting:
        out.append((Message("user", _paragraphs(*waiting)), True))
    return out


def _joined(pairs: Sequence[tuple[Message, bool]]) -> list[tuple[Message, bool]]:
    out: list[tuple[Message, bool]] = []
    for role, run in groupby(pairs, key=lambda pair: pair[0].role):
        turns, trained = zip(*run, strict=True)
        if role == "assistant" and len(set(trained)) > 1:
            raise RowError(
                "two assistant turns in a row would be one (merge: turns), but only one of them "
                "is trained on",
                "give both the same train flag, or leave turns out of merge",
            )
        out.append((Message(role, _paragraphs(*(turn.content for turn in turns))), trained[-1]))
    return out


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


_AGAIN = "gnomon again"


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """The ends of an assistant's turn.

    Attributes:
        eos: the tokenizer's EOS, which ends a turn in every template.
        turn_end: what follows the assistant's words ("<|im_end|>"); empty if nothing does.
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


def broken_up(text: str, tokenizer: Any) -> str:
    """The text with the tokenizer's special tokens broken up by a space, so that they are read as
    text: what a model wrote may hold them."""
    for special in special_tokens(tokenizer).values():
        if len(special) > 1 and special in text:
            text = text.replace(special, f"{special[0]} {special[1:]}")
    return text


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
    """The common opening of two texts in pieces; plain text counts only as a whole piece."""
    shared = ""
    for a, b in zip(last, before_next, strict=False):
        if not b.startswith(a):
            break
        shared += a
        if a != b:
            break
    return shared
