"""From text with spans to tokens: the conversation is tokenised once, as the template writes it.

A token belongs to the span that its characters are in. So a span is never
tokenised on its own, which would give it a space ("▁Paris") that the template does not write.

One boundary is kept: where a response begins, the tokens before it are those of the prompt alone,
which is what a rollout is given. A token that would cross that boundary is split there.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from gnomon.data.chat import special_tokens
from gnomon.data.template import Span
from gnomon.data.values import RowError
from gnomon.errors import DataError


@dataclass(frozen=True, slots=True)
class Tokens:
    """A response's tokens while they are put together: ids, and True where one is trained on."""

    ids: list[int]
    mask: list[bool]


_REMEMBERED = 200
"""Openings of turns up to this many characters are tokenised once ("<|im_start|>assistant\\n")."""


@dataclass(frozen=True)
class Text:
    """A prompt, and the spans of each of its responses."""

    prompt: str
    responses: Sequence[Sequence[Span]] = ()


@dataclass(slots=True)
class _Encoded:
    """A text's tokens: ids, and where in the text the words of each begin and end."""

    text: str
    ids: list[int]
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


class SpanTokeniser:
    """A tokenizer that knows which span each of its tokens belongs to.

    Args:
        tokenizer: a transformers tokenizer. One without offsets (a slow one) will do where no
            token reaches over the edge of a span.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._has_offsets = bool(tokenizer.is_fast)
        self._exact = _without_trimming(tokenizer) if self._has_offsets else None
        self._special = special_tokens(tokenizer)
        self._special_text = re.compile("|".join(map(re.escape, self._special.values())) or r"(?!)")
        self._openings: dict[str, _Encoded] = {}

    def ids(self, text: str) -> list[int]:
        """The text's tokens, without special tokens added."""
        return self._encode([text])[0].ids

    def tokenise(self, texts: Sequence[Text]) -> list[tuple[list[int], list[Tokens] | RowError]]:
        """For each prompt its tokens, and each response's tokens with their masks.

        A RowError takes the place of responses whose spans cannot be separated.
        """
        anchors = [self._anchor(t.prompt) for t in texts]
        pieces: list[str] = []
        for t, anchor in zip(texts, anchors, strict=True):
            pieces.append(t.prompt)
            pieces += [_after(t, spans, anchor) for spans in t.responses]
        encoded = iter(self._encode(pieces))
        out: list[tuple[list[int], list[Tokens] | RowError]] = []
        for t, anchor in zip(texts, anchors, strict=True):
            prompt = next(encoded)
            wholes = [next(encoded) for _ in t.responses]
            try:
                found = [
                    self._respond(t, spans, prompt.ids, whole, anchor)
                    for spans, whole in zip(t.responses, wholes, strict=True)
                ]
            except RowError as error:
                out.append((prompt.ids, error))
            else:
                out.append((prompt.ids, found))
        return out

    def following(self, before: str, after: str) -> list[int]:
        """The tokens of ``after`` where it follows ``before``, whose tokens stay as they are."""
        ((_, found),) = self.tokenise([Text(before, [[Span(after, True)]])])
        if isinstance(found, RowError):
            raise found
        return found[0].ids

    def check(self, spans: Sequence[Span]) -> None:
        """Check on an example that the trained tokens cover the trained text and nothing else.

        Raises:
            DataError: they do not.
        """
        problem = "its tokens cross the edges of what the assistant says"
        ((_, found),) = self.tokenise([Text(spans[0].text, [spans[1:]])])
        if not isinstance(found, RowError):
            if not self._has_offsets:
                return
            (whole,) = self._encode(["".join(s.text for s in spans)])
            covered = bytearray(len(whole.text))
            for start, end in zip(whole.starts, whole.ends, strict=True):
                covered[start:end] = b"\1" * (end - start)
            lost = [c for c, seen in zip(whole.text, covered, strict=True) if not seen]
            if whole.starts == sorted(whole.starts) and not any(c.isalnum() for c in lost):
                return
            problem = "it does not say which words its tokens cover"
        raise DataError(
            f"the tokenizer cannot be used with this chat template: {problem}, so the tokens to "
            "train on cannot be determined. Give a fast tokenizer (tokenizer.json), or another "
            "template (template: chatml)"
        )

    # --- the text's own tokens ---------------------------------------------------------------

    def _encode(self, texts: Sequence[str]) -> list[_Encoded]:
        if not texts:
            return []
        if self._exact is not None:
            made = self._exact.encode_batch(list(texts), add_special_tokens=False)
            return [_encoded(t, m.ids, m.offsets) for t, m in zip(texts, made, strict=True)]
        given = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=self._has_offsets,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        if not self._has_offsets:
            return [
                _Encoded(t, list(ids)) for t, ids in zip(texts, given["input_ids"], strict=True)
            ]
        return [
            _encoded(text, ids, offsets)
            for text, ids, offsets in zip(
                texts, given["input_ids"], given["offset_mapping"], strict=True
            )
        ]

    def _anchor(self, prompt: str) -> int:
        """Where the prompt's last special token begins: text before it has no influence on the
        tokens after it, so only what follows is tokenised with each response."""
        last = 0
        for match in self._special_text.finditer(prompt):
            last = match.start()
        return last

    def _respond(
        self, t: Text, spans: Sequence[Span], prompt: list[int], whole: _Encoded, anchor: int
    ) -> Tokens:
        tail = self._since_last_special(prompt) if anchor else prompt
        if anchor and whole.ids[:1] != tail[:1]:  # what looks like a special token is not one
            anchor, tail = 0, prompt
            (whole,) = self._encode([_after(t, spans, 0)])
        if self._has_offsets:
            return self._by_offsets(spans, whole, tail, len(t.prompt) - anchor)
        return self._by_prefixes(spans, whole, tail, len(t.prompt) - anchor)

    def _since_last_special(self, ids: list[int]) -> list[int]:
        for i in range(len(ids) - 1, -1, -1):
            if ids[i] in self._special:
                return ids[i:]
        return []

    def _is_special(self, whole: _Encoded, i: int) -> bool:
        """Whether a token is a special token's text; the unknown token and those of single bytes
        may be any of them."""
        content = self._special.get(whole.ids[i])
        return content is not None and (
            whole.text[whole.starts[i] : whole.ends[i]].strip() == content.strip()
        )

    # --- with offsets ------------------------------------------------------------------------

    def _by_offsets(
        self, spans: Sequence[Span], whole: _Encoded, opening: list[int], begin: int
    ) -> Tokens:
        """The response's tokens; ``opening`` are the tokens of the first ``begin`` characters."""
        first = len(opening)
        if whole.ids[:first] != opening:
            (left,) = self._encode([whole.text[:begin]])
            self._cut(whole, 0, left, begin)
        starts: list[int] = []  # the first token of each trained span
        stops: list[int] = []  # the character after each trained span
        floor, position = (first, begin), begin
        for span in spans:
            if span.trained and position > begin:
                floor = (self._boundary(whole, position, floor), position)
            position += len(span.text)
            if span.trained:
                starts.append(floor[0])
                stops.append(position)
        mask = [False] * len(whole.ids)
        for start, place in zip(starts, stops, strict=True):
            stop = len(mask) if place >= len(whole.text) else self._stop(whole, place)
            mask[start:stop] = [True] * (stop - start)
        return Tokens(whole.ids[first:], mask[first:])

    def _boundary(self, whole: _Encoded, place: int, floor: tuple[int, int]) -> int:
        """The first token of a later turn, with the tokens before it as a rollout sees them.

        ``floor`` is the (token, character) where an earlier turn began; nothing before it changes.
        """
        since = bisect_left(whole.starts, place, lo=floor[0]) - 1
        while since >= floor[0] and not self._is_special(whole, since):
            since -= 1
        if since >= 0 and self._is_special(whole, since):
            begin = whole.starts[since]
            left = self._opening(whole.text[begin:place])
        else:  # no special token since then: the text continues from there
            since, begin = floor
            left = self._continuation(whole.text[begin:place])
        index = since + len(left.ids)
        if whole.ids[since:index] != left.ids:
            self._cut(whole, since, left, place, begin)
        return index

    def _opening(self, text: str) -> _Encoded:
        known = self._openings.get(text)
        if known is None:
            (known,) = self._encode([text])
            if len(text) <= _REMEMBERED:
                self._openings[text] = known
        return known

    def _stop(self, whole: _Encoded, place: int) -> int:
        """The first token after a turn's end. A token that reaches over the end is the turn's."""
        index = bisect_left(whole.starts, place)
        takes_in_spaces = (
            index > 0
            and self._is_special(whole, index - 1)
            and whole.ends[index - 1] > place
            and not whole.text[whole.starts[index - 1] : place].strip()
        )
        return index - 1 if takes_in_spaces else index

    def _cut(self, whole: _Encoded, since: int, left: _Encoded, place: int, begin: int = 0) -> None:
        """Split a token that crosses ``place``: from token ``since``, which begins at the character
        ``begin``, the tokens are ``left``; what follows, up to the next special token, is
        tokenised as their continuation."""
        until = since
        while until < len(whole.ids) and not (
            whole.starts[until] >= place and self._is_special(whole, until)
        ):
            until += 1
        end = whole.starts[until] if until < len(whole.ids) else len(whole.text)
        right = self._continuation(whole.text[place:end])
        whole.ids[since:until] = left.ids + right.ids
        for ours, of_left, of_right in (
            (whole.starts, left.starts, right.starts),
            (whole.ends, left.ends, right.ends),
        ):
            ours[since:until] = [*(begin + x for x in of_left), *(place + x for x in of_right)]

    def _continuation(self, text: str) -> _Encoded:
        """Tokens of text that continues a word or a line: no space is put before it."""
        made = self._bare.encode(text, add_special_tokens=False)
        return _encoded(text, made.ids, made.offsets)

    @cached_property
    def _bare(self) -> Tokenizer:
        """The same tokenizer, adding no space (``▁``) of its own before a text."""
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for part in ("normalizer", "pre_tokenizer"):
            state[part] = _without_prefix(state.get(part))
        state["truncation"] = state["padding"] = None
        return Tokenizer.from_str(json.dumps(state))

    # --- without offsets ---------------------------------------------------------------------

    def _by_prefixes(
        self, spans: Sequence[Span], whole: _Encoded, opening: list[int], begin: int
    ) -> Tokens:
        """As many tokens lie before an edge as the text up to there has, if they are the same."""
        first = len(opening)
        self._same(whole.ids, opening)
        mask: list[bool] = []
        position = begin
        for span in spans:
            position += len(span.text)
            (upto,) = self._encode([whole.text[:position]])
            self._same(whole.ids, upto.ids)
            mask += [span.trained] * (len(upto.ids) - first - len(mask))
        return Tokens(whole.ids[first:], mask)

    @staticmethod
    def _same(ids: list[int], opening: list[int]) -> None:
        if ids[: len(opening)] != opening:
            raise RowError(
                "a token crosses the edge of what the assistant says, and the tokenizer does not "
                "say which words its tokens cover",
                "give the model's fast tokenizer (tokenizer.json)",
            )


def _encoded(text: str, ids: Iterable[int], offsets: Sequence[tuple[int, int]]) -> _Encoded:
    starts, ends = zip(*offsets, strict=True) if offsets else ((), ())
    return _Encoded(text, list(ids), list(starts), list(ends))


def _without_trimming(tokenizer: Any) -> Tokenizer | None:
    """A copy whose offsets hold the spaces of tokens, where the tokenizer trims them and also adds
    a space of its own: trimming that one loses a letter. None for all others."""
    last = tokenizer.backend_tokenizer.post_processor
    if last is None or b'"trim_offsets":true' not in last.__getstate__():
        return None
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if '"add_prefix_space": true' not in json.dumps(state["pre_tokenizer"]):
        return None
    state["post_processor"] = state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state))


def _after(text: Text, spans: Sequence[Span], anchor: int) -> str:
    """The text of a response with its prompt, from ``anchor`` on."""
    return "".join([text.prompt[anchor:], *(s.text for s in spans)])


def _without_prefix(part: Any) -> Any:
    """A normaliser or pre-tokeniser (as in tokenizer.json) that puts nothing before the text."""
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if kind == "ByteLevel":
        return {**part, "add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            kept = _kept(_without_prefix(inner) for inner in part[name])
            return {**part, name: kept} if kept else None
    return part


def _kept(parts: Iterable[Any]) -> list[Any]:
    return [part for part in parts if part is not None]
