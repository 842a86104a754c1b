"""Chat templates: from messages to text, with the parts that may be trained on marked.

The template writes the conversation once. The text is cut into :class:`Span`\\ s where training
starts and stops, and :mod:`gnomon.data.tokenise` maps them onto the text's own tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from gnomon.data.chat import (
    EMPTY,
    NOTHING,
    REWRITES,
    TurnEnds,
    eos_text,
    find_ends,
    merge_answer,
    merge_turns,
    special_texts,
)
from gnomon.data.values import RowError
from gnomon.errors import DataError
from gnomon.recipe.schema import Merge
from gnomon.records import Message, Response

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REASONING = re.compile(r"think|thought|reason", re.IGNORECASE)
_EMPTY_REASONING = re.compile(r"<[^<>/]+>\s*\w*\s*(</[^<>]+>|<[^<>|/]+\|>)\s*$")
_OPENER = re.compile(r"<(\w+)>\s*$")
_QUESTION = (Message("user", "hello"),)
_PROBE = "gnomon probe"
# Templates that write today's date would give other tokens tomorrow. This is the date that Llama
# 3's templates fall back to themselves; the macro takes the place of transformers' strftime_now.
_TODAY = datetime(2024, 7, 26)
_FIXED = {"date_string": _TODAY.strftime("%d %b %Y")}
_FIXED_NOW = "{% macro strftime_now(form) %}{{ form"
for _field in (*"YymdeBbAaHIMSpjD", "-d", "-m"):
    _FIXED_NOW += f" | replace('%{_field}', {_TODAY.strftime('%' + _field)!r})"
_FIXED_NOW += " }}{% endmacro +%}"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a conversation's text; ``trained`` where the assistant wrote it."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Turns:
    """A conversation as text: ``opening`` up to the first response, then its spans.

    The last span is trained. ``opening`` is what a rollout is given, except where the template's
    generation prompt opens a reasoning that the finished turn does not have (see
    :meth:`ChatTemplate.turns`): then it stops before that.
    """

    opening: str
    spans: tuple[Span, ...]


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what a template raises into a RowError."""
    try:
        yield
    except Exception as error:  # Jinja's own errors, and whatever the template trips over
        raise RowError(
            f"the chat template refuses the conversation: {error}",
            "change its roles to what the template knows, let merge: [system, tool, turns] do "
            "so, or choose another template (template: chatml)",
        ) from error


class ChatTemplate:
    """A template bound to a tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        text: the Jinja source.
        merge: what to join before rendering, see :mod:`gnomon.data.chat`.

    Attributes:
        text: the Jinja source. A template that writes no generation prompt, but a header before
            the assistant's words gets that header as its generation prompt.
        ends: what closes an assistant's turn.

    Raises:
        DataError: the template fails on a plain question and answer, or leaves the answer out.
    """

    def __init__(self, tokenizer: Any, text: str, merge: Sequence[Merge] = ()) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self._merge = tuple(merge)
        self._eos = eos_text(tokenizer)
        self._specials = special_texts(tokenizer)
        self.ends = TurnEnds(self._eos)
        self._in_parts = False
        self._bos = ""
        try:
            answered = self._answered()
            plain = self.render(_QUESTION)
            if tokenizer.bos_token and plain.startswith(tokenizer.bos_token):
                self._bos = str(tokenizer.bos_token)
            cue = self.render(_QUESTION, generation_prompt=True)
            if cue == plain and answered.startswith(plain):
                header = answered[len(plain) : answered.rfind(_PROBE)]
                if header.strip():
                    self.text += (
                        "{% if add_generation_prompt %}{{ " + repr(header) + " }}{% endif %}"
                    )
                    cue = plain + header
            self.ends = find_ends(self.render, _QUESTION, _PROBE, self._specials, self._eos)
        except RowError as error:
            raise DataError(f"{error.reason}; {error.cure}") from error
        self._marks_generation = bool(_GENERATION.search(self.text))
        self._header = cue[len(plain) :] if cue.startswith(plain) else ""
        self._suffix = answered.rpartition(_PROBE)[2]

    def _answered(self) -> str:
        """A plain question, answered. Multimodal templates want the words in a list of parts.

        Raises:
            DataError: the answer's words are not in what the template writes.
        """
        conversation = (*_QUESTION, Message("assistant", _PROBE))
        problem: RowError | None = None
        for self._in_parts in (False, True):
            try:
                written = self.render(conversation)
            except RowError as error:
                problem = problem or error
                continue
            if _PROBE in written:
                return written
        if problem is not None:
            raise problem
        raise DataError(
            "the chat template leaves out what the assistant says; give another (template: "
            "chatml, plain, raw or a .jinja file)"
        )

    def _shared(self, before: str, closed: str) -> str | None:
        """Where a generation prompt that opens a reasoning ("<think>\\n") and the finished turn
        part; None where they part elsewhere than in such an opening."""
        if not _REASONING.search(self._header):
            return None
        same = (a == b for a, b in zip(before, closed, strict=False))
        shared = before[: next((i for i, s in enumerate(same) if not s), len(before))]
        tag = shared.rfind("<")  # not within a tag: "<think>" and "</think>" share their "<"
        if ">" not in shared[tag:]:
            shared = shared[: max(tag, 0)]
        return shared if len(shared) >= len(before) - len(self._header) else None

    @property
    def _source(self) -> str:
        """What is rendered: the template, today's date held fixed."""
        return (_FIXED_NOW if "strftime_now" in self.text else "") + self.text

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The conversation as the template writes it.

        Where the template writes a BOS, one that opens the first turn's text is left out, and so is
        an end of turn that closes an assistant's text, so that neither appears twice.

        Raises:
            RowError: the template refuses it (no system role, say).
        """
        with _refusals():
            return str(
                self.tokenizer.apply_chat_template(
                    self._chat(messages),
                    chat_template=self._source,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    **_FIXED,
                )
            )

    def _chat(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        chat: list[dict[str, Any]] = []
        for m in messages:
            content = self._answer(m) if m.role == "assistant" else m.content
            if not chat:
                content = content.removeprefix(self._bos)
            shown = [{"type": "text", "text": content}] if self._in_parts else content
            chat.append({"role": m.role, "content": shown})
        return chat

    def _answer(self, message: Message) -> str:
        """What an assistant says, without the end of turn that the text already carries."""
        return self.ends.strip(message.content)

    def opening(self, prompt: Sequence[Message]) -> str:
        """A prompt with its generation prompt: what a rollout starts from.

        Raises:
            RowError: the template refuses it, or the prompt was rendered already.
        """
        shown = merge_turns(prompt, self._merge)
        header = self._header.strip()
        rendered = (
            shown
            and shown[-1].role == "user"
            and self._specials.search(header)
            and shown[-1].content.rstrip().endswith(header)
        )
        if rendered:
            raise RowError(
                f"the prompt already ends with the chat template's {header!r}",
                "it is rendered text: read it as such (as_text: true)",
            )
        return self.render(shown, generation_prompt=True)

    def example(self) -> list[Span]:
        """A short conversation as spans, opening first, to check that a tokenizer can map it."""
        answer = Response((Message("assistant", _PROBE),))
        try:
            turns = self.turns(_QUESTION, answer)
        except RowError:  # only its generation prompt is of use
            return [Span(self.opening(_QUESTION), False), Span(_PROBE, True)]
        return [Span(turns.opening, False), *turns.spans]

    # --- where the assistant speaks ----------------------------------------------------------

    def turns(
        self,
        prompt: Sequence[Message],
        response: Response,
        *,
        last_only: bool = False,
        empty_ok: bool = False,
    ) -> Turns:
        """The conversation up to the last trained turn, cut where training starts and stops.

        Where the generation prompt opens a reasoning (``<think>``) that the template leaves out of
        finished turns, an answer that has reasoning continues the generation prompt, as a
        rollout would; one that has none is trained on as the template writes it, and the opening
        stops before ``<think>``.

        Args:
            last_only: train on the last assistant turn alone.
            empty_ok: accept empty turns.

        Raises:
            RowError: the template refuses the conversation or rewrites a trained turn when later
                ones are added; a trained turn is empty; none is trained.
        """
        shown = merge_turns(prompt, self._merge)
        flags = response.meta.get("train") or (True,) * len(response.messages)
        answer, trained = merge_answer(response.messages, flags, self._merge)
        said = [i for i, m in enumerate(answer) if m.role == "assistant"]
        wanted = [i for i in (said[-1:] if last_only else said) if trained[i]]
        if not wanted:
            raise RowError(*NOTHING)
        if not empty_ok and not all(self._answer(answer[i]).strip() for i in wanted):
            raise RowError(*EMPTY)
        answer = answer[: wanted[-1] + 1]
        cue = self.opening(prompt)
        marked = self._marked(shown, answer, wanted, cue) if self._marks_generation else None
        return marked or self._grown(shown, answer, wanted, cue)

    def _grown(
        self, prompt: Sequence[Message], answer: Sequence[Message], wanted: Sequence[int], cue: str
    ) -> Turns:
        """Render up to and including each trained turn; each must begin with the one before it."""
        opening = done = ""
        spans: list[Span] = []
        for i in wanted:
            before = self.render((*prompt, *answer[:i]), generation_prompt=True) if i else cue
            closed = self.render((*prompt, *answer[: i + 1]))
            start, text = self._turn(before, closed, answer[i], last=i == wanted[-1])
            if not spans:
                opening = done = (self._shared(cue, start) or cue) if i else start
            if not start.startswith(done) and spans:
                done = self._reopen(spans, done, start)
            if not start.startswith(done):
                raise RowError(*REWRITES)
            if len(start) > len(done):
                spans.append(Span(start[len(done) :], False))
            text = self.ends.cut(text)
            spans.append(Span(text, True))
            done = start + text
        return Turns(opening, tuple(spans))

    def _turn(self, before: str, closed: str, said: Message, last: bool) -> tuple[str, str]:
        """What precedes a turn, and the turn with its end."""
        if closed.startswith(before):
            return before, closed[len(before) :]
        base = self._shared(before, closed)
        if base is None:
            raise RowError(
                "the chat template does not begin an answered conversation with the text it "
                f"writes for the prompt: the prompt ends in {before[-40:]!r}, the conversation "
                f"has {closed[max(0, len(before) - 40) : len(before)]!r} there",
                "give a template that does (template: chatml, plain, raw or a .jinja file)",
            )
        if last and _EMPTY_REASONING.match(before[len(base) :]):  # every rollout is given it
            return before, closed[len(base) :]
        opener = _OPENER.search(before)
        reasoning, close, _ = self._answer(said).partition(f"</{opener[1]}>" if opener else "\0")
        if opener and close:
            body = reasoning.strip().removeprefix(f"<{opener[1]}>").strip()
            if body and body not in closed[len(base) :]:
                if not last:
                    raise RowError(*REWRITES)
                rest = self._answer(said).lstrip().removeprefix(f"<{opener[1]}>")
                return before, rest.lstrip() + self._suffix
        return base, closed[len(base) :]

    def _reopen(self, spans: list[Span], done: str, longer: str) -> str:
        """Take back what the template writes after the last turn only: an EOS after the whole
        conversation (Phi-3), or an end of turn that becomes another one (gpt-oss)."""
        final = self.ends.final
        if not final or not done.endswith(final) or not longer.startswith(done[: -len(final)]):
            return done
        kept = done[: -len(final)]
        middle = self.ends.middle if longer.startswith(kept + self.ends.middle) else ""
        spans[-1] = replace(spans[-1], text=spans[-1].text.removesuffix(final) + middle)
        return kept + middle

    def _marked(
        self, prompt: Sequence[Message], answer: Sequence[Message], wanted: Sequence[int], cue: str
    ) -> Turns | None:
        """Use the template's own {% generation %} marks; None where they do not fit the turns."""
        from transformers.utils.chat_template_utils import render_jinja_template

        everything = (*prompt, *answer)
        with _refusals():
            rendered, marks = render_jinja_template(
                conversations=[self._chat(everything)],
                chat_template=self._source,
                return_assistant_tokens_mask=True,
                **{**self.tokenizer.special_tokens_map, **_FIXED},
            )
        text: str = rendered[0]
        ranges: list[tuple[int, int]] = [tuple(mark) for mark in marks[0]]
        turns = sum(m.role == "assistant" for m in everything)
        if len(ranges) != turns or not text.startswith(cue):
            return None
        said = [i for i, m in enumerate(answer) if m.role == "assistant"]
        spans: list[Span] = []
        position = len(cue)
        for i, (start, end) in zip(said, ranges[-len(said) :], strict=True):
            if i not in wanted:
                continue
            start = max(self._after_cue(text, start), position)
            if self.ends.turn_end and text.startswith(self.ends.turn_end, end):
                end += len(self.ends.turn_end)  # the end of the turn is the assistant's to write
            if start > position:
                spans.append(Span(text[position:start], False))
            turn = self.ends.cut(text[start:end])
            spans.append(Span(turn, True))
            position = start + len(turn)
        return Turns(cue, tuple(spans))

    def _after_cue(self, text: str, start: int) -> int:
        """Templates may mark part of the turn's header ("\\n"); the rollout is given it."""
        for inside in range(len(self._header), 0, -1):
            begin = start + inside - len(self._header)
            if begin >= 0 and text.startswith(self._header, begin):
                return start + inside
        return start
