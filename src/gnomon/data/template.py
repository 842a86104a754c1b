"""Chat templates: from messages to text, with the parts that may be trained on marked.

The template is applied to text once, and the text is cut into :class:`Span`\\ s which are tokenised
one by one without adding special tokens. So there is no double BOS, and the prompt's tokens are
the same in every response of a group and in a rollout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.data.records import Message, Response
from gnomon.data.turns import RowError
from gnomon.errors import DataError

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

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = "gnomon probe"
# Llama 3's templates write today's date into the system turn unless given one: tokens would change
# overnight. This is the date they fall back to themselves.
_FIXED = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text that is tokenised on its own; ``trained`` where the assistant wrote it."""

    text: str
    trained: bool


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


class ChatTemplate:
    """A template bound to a tokenizer.

    Attributes:
        text: the Jinja source.
        turn_end: what closes an assistant turn ("<|im_end|>", say); empty if nothing does.

    Raises:
        DataError: the template fails on a plain question and answer, or what it writes for a
            prompt is not how it begins the answered conversation.
    """

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self._marks_generation = bool(_GENERATION.search(text))
        question = (Message("user", "hello"),)
        try:
            cue = self.render(question, generation_prompt=True)
            answered = self.render((*question, Message("assistant", _PROBE)))
        except RowError as error:
            raise DataError(f"{error.reason}; {error.cure}") from error
        if not answered.startswith(cue) or _PROBE not in answered:
            raise DataError(
                "the chat template does not begin an answered conversation with the text it writes "
                f"for the prompt: the prompt ends in {cue[-40:]!r}, the conversation has "
                f"{answered[max(0, len(cue) - 40) : len(cue)]!r} there. Give a template that does "
                "(template=chatml, plain, raw or a .jinja file)."
            )
        self.turn_end = self._end_of_turn(answered.rpartition(_PROBE)[2].strip())
        self._cue = self._header(question, cue)

    def _end_of_turn(self, suffix: str) -> str:
        """Without the EOS that some templates put after the whole conversation (Phi-3)."""
        return suffix.removesuffix(eos_text(self.tokenizer)).strip() or suffix

    def _header(self, question: Sequence[Message], cue: str) -> str:
        """What the generation prompt adds to the conversation, e.g. "<|im_start|>assistant\\n"."""
        plain = self.render(question)
        return cue[len(plain) :] if cue.startswith(plain) else ""

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The conversation as the template writes it.

        Raises:
            RowError: the template refuses it (no system role, say).
        """
        chat = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat,
                    chat_template=self.text,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    **_FIXED,
                )
            )
        except Exception as error:  # Jinja's own errors, and whatever the template trips over
            raise RowError(
                f"the chat template refuses the conversation: {error}",
                "change its roles to what the template knows, or choose another (template=chatml)",
            ) from error

    def spans(self, prompt: Sequence[Message], response: Response) -> list[Span]:
        """The text after the prompt's (with its generation prompt), cut where training starts and
        stops. The last span is trained and ends with the end of the turn.

        Raises:
            RowError: the template refuses the conversation or rewrites earlier turns.
        """
        messages = list(response.messages)
        while messages and messages[-1].role != "assistant":
            messages.pop()  # nothing answers these
        whole = self._marked(prompt, messages) if self._marks_generation else None
        pieces = whole or self._incremental(prompt, messages)
        return self._close_turns(pieces)

    def _incremental(self, prompt: Sequence[Message], answer: Sequence[Message]) -> list[Span]:
        """Render ever longer openings; each must begin with the one before it."""
        done = self.render(prompt, generation_prompt=True)
        spans: list[Span] = []
        for i, message in enumerate(answer):
            follows = i + 1 < len(answer) and answer[i + 1].role == "assistant"
            if message.role != "assistant" and not follows:
                continue
            if message.role == "assistant":
                done = self._grow(spans, done, self.render((*prompt, *answer[: i + 1])), True)
            if follows:
                opening = self.render((*prompt, *answer[: i + 1]), generation_prompt=True)
                done = self._grow(spans, done, opening, False)
        return spans

    def _grow(self, spans: list[Span], done: str, longer: str, trained: bool) -> str:
        open_ended = done.removesuffix(eos_text(self.tokenizer))
        if spans and not longer.startswith(done) and longer.startswith(open_ended):
            cut = len(done) - len(open_ended)  # an EOS after the conversation, not after the turn
            spans[-1] = Span(spans[-1].text[:-cut], spans[-1].trained)
            done = open_ended
        if not longer.startswith(done):
            raise RowError(
                "the chat template rewrites earlier turns when a later one is added, so the tokens "
                "to train on cannot be told",
                "train_on='last' keeps only the last answer; or give a template that does not "
                "(template=chatml), or one with {% generation %} marks",
            )
        spans.append(Span(longer[len(done) :], trained))
        return longer

    def _marked(self, prompt: Sequence[Message], answer: Sequence[Message]) -> list[Span] | None:
        """Use the template's own {% generation %} marks; None where they do not fit the turns."""
        from transformers.utils.chat_template_utils import render_jinja_template

        everything = (*prompt, *answer)
        cue = self.render(prompt, generation_prompt=True)
        chat = [{"role": m.role, "content": m.content} for m in everything]
        rendered, marks = render_jinja_template(
            conversations=[chat],
            chat_template=self.text,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
            **_FIXED,
        )
        text: str = rendered[0]
        ranges: list[tuple[int, int]] = [tuple(mark) for mark in marks[0]]
        turns = sum(m.role == "assistant" for m in everything)
        if len(ranges) != turns or not text.startswith(cue):
            return None
        spans: list[Span] = []
        position = len(cue)
        for start, end in ranges[-sum(m.role == "assistant" for m in answer) :]:
            start = max(self._after_cue(text, start), position)
            if self.turn_end and text.startswith(self.turn_end, end):
                end += len(self.turn_end)  # the end of the turn is the assistant's to write
            if start > position:
                spans.append(Span(text[position:start], False))
            spans.append(Span(text[start:end], True))
            position = end
        return spans

    def _after_cue(self, text: str, start: int) -> int:
        """Templates may mark part of the turn's header ("\\n"); the rollout is given it."""
        for inside in range(len(self._cue), 0, -1):
            begin = start + inside - len(self._cue)
            if begin >= 0 and text.startswith(self._cue, begin):
                return start + inside
        return start

    def _close_turns(self, spans: Sequence[Span]) -> list[Span]:
        """End each trained span with the end of its turn; the line break after it is context."""
        out: list[Span] = []
        carried = ""
        for span in spans:
            text = carried + span.text if not span.trained else span.text
            if span.trained and carried:
                out.append(Span(carried, False))
            carried = ""
            if span.trained and self.turn_end:
                end = text.rfind(self.turn_end) + len(self.turn_end)
                after = text[end:].replace(eos_text(self.tokenizer), "")
                if end >= len(self.turn_end) and not after.strip():
                    carried, text = text[end:], text[:end]
            if text:
                out.append(Span(text, span.trained))
        return out
