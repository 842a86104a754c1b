"""Turning sampled tokens into text, and finding stop strings while tokens arrive."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class StopText:
    """Decodes responses and watches for stop strings, which may span any number of tokens.

    While a row grows only its tail is decoded: as many tokens as the longest stop string has
    bytes (each token of it holds at least one), and a few more so that a character cut at the
    window's edge cannot hide a match. A match in the tail is confirmed on the whole text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], eos: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._eos = eos
        self._window = max((len(s.encode()) for s in self._stop), default=0) + 4
        # A stop string that names a special token can only be seen when those are spelt out.
        self._specials = tuple(str(token) for token in tokenizer.all_special_tokens)
        self._spell = any(token in s for s in self._stop for token in self._specials)

    @property
    def spells(self) -> bool:
        """Whether special tokens must be written out for a stop string to be seen."""
        return self._spell

    def matched(self, responses: Sequence[Sequence[int]]) -> list[bool]:
        """For each growing response, whether a stop string is now complete in it."""
        if not self._stop or not responses:
            return [False] * len(responses)
        tails = self._decode([ids[-self._window :] for ids in responses])
        found = [self._first(tail) is not None for tail in tails]
        return [
            hit and self._first(self._decode([ids])[0]) is not None
            for hit, ids in zip(found, responses, strict=True)
        ]

    def text(self, ids: Sequence[int]) -> str:
        """The response's text up to the first stop string, without EOS and special tokens."""
        body = ids[:-1] if ids and ids[-1] in self._eos else ids
        text = self._decode([body])[0]
        cut = self._first(text)
        text = text if cut is None else text[:cut]
        if self._spell:
            for token in self._specials:
                text = text.replace(token, "")
        return text

    def _first(self, text: str) -> int | None:
        places = [place for s in self._stop if (place := text.find(s)) >= 0]
        return min(places, default=None)

    def _decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        texts = self._tokenizer.batch_decode(
            [list(ids) for ids in sequences],
            skip_special_tokens=not self._spell,
            clean_up_tokenization_spaces=False,
        )
        return list(texts)
