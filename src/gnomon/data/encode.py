"""From groups to tokens. The one place that decides which tokens are trained on.

A conversation's tokens are those of the text that the template writes. The prompt's are the same in
all responses of a group (DPO's prompt terms then cancel, and the prompt is computed once) and the
same as in rollouts. Masks come from the template's turns, never from a token's id: pad may equal
EOS.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any, Literal

from gnomon.data.chat import (
    EMPTY,
    TurnEnds,
    adds_bos,
    eos_text,
    resolve_template,
    special_tokens,
)
from gnomon.data.formats import judgements, net_wins
from gnomon.data.template import ChatTemplate, Span
from gnomon.data.tokenise import SpanTokeniser, Text, Tokens
from gnomon.data.values import RowError, Skipped, summarise_skipped
from gnomon.data.window import Window, check_tokens, first_token_out
from gnomon.errors import DataError
from gnomon.recipe.schema import Merge, TrainOn, Truncation
from gnomon.records import Group, Prompt, Response, TokenGroup, TokenResponse

EncodeAs = Literal["demonstrations", "groups", "prompts", "text"]
CHUNK = 256
_Planned = tuple[Group, Text]
"""A group and its pieces of text, before tokenising."""


class Encoder:
    """A tokenizer with its template and window.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: tokens that a prompt and one response may take together.
        max_prompt_length: tokens that a prompt may take (default: all but one of ``max_length``).
        template: "chatml", "plain" (``role: content`` lines), "raw" (contents end to end), Jinja
            text or the path of a .jinja file; None takes the tokenizer's own.
        truncation: what to do with a group that does not fit. "skip" leaves it out; "left" cuts
            the prompt's start (a BOS stays); "right" cuts the responses' ends (which then have no
            EOS). What still does not fit is skipped.
        train_on: of several assistant turns after the prompt, train on all or on the last.
        merge: turns to join before the template is applied, see :mod:`gnomon.data.chat`.

    Raises:
        DataError: an unusable template, or a tokenizer without EOS.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        max_prompt_length: int | None = None,
        template: str | None = None,
        truncation: Truncation = "skip",
        train_on: TrainOn = "all_assistant",
        merge: Sequence[Merge] = (),
    ) -> None:
        if max_length < 2:
            raise DataError(f"max_length is {max_length}: a prompt and a response need 2 tokens")
        self.tokenizer = tokenizer
        self._window = Window(
            max_length, min(max_prompt_length or max_length, max_length - 1), truncation
        )
        self.train_on = train_on
        self._merge = tuple(merge)
        self._tokeniser = SpanTokeniser(tokenizer)
        self._template_text = resolve_template(tokenizer, template)
        self._bos = [int(tokenizer.bos_token_id)] if adds_bos(tokenizer) else []
        self._eos = eos_text(tokenizer)
        if template is not None:
            _ = self._template  # asked for by name: fail now if it is unusable

    @property
    def template(self) -> str | None:
        """The chat template's Jinja text; None where there is none.

        It is the text as given, or with the generation prompt that it lacked (see
        :class:`ChatTemplate`).
        """
        try:
            return None if self._template_text is None else self._template.text
        except DataError:  # unusable: an error only where a conversation needs it
            return self._template_text

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an assistant turn: EOS and the template's end of turn."""
        eos, turn_end = int(self.tokenizer.eos_token_id), self._ends.turn_end
        last = self._tokeniser.ids(turn_end)[-1] if turn_end else eos
        special = special_tokens(self.tokenizer)
        return (eos, last) if last != eos and last in special else (eos,)

    @cached_property
    def _ends(self) -> TurnEnds:
        """What ends a response, in text: the template's ends, or the EOS alone."""
        try:
            return self._template.ends
        except DataError:  # no usable template of its own: plain text only
            return TurnEnds(self._eos)

    @cached_property
    def _template(self) -> ChatTemplate:
        if self._template_text is None:
            raise DataError(
                "the tokenizer has no chat template, but the prompts are conversations. Give one "
                "(template: chatml, plain, raw, or a .jinja file), or read the prompts as plain "
                "text (as_text: true)."
            )
        template = ChatTemplate(self.tokenizer, self._template_text, self._merge)
        self._tokeniser.check(template.example())
        return template

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the tokens: vocabulary, template, window."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            pieces: Any = sorted(self.tokenizer.get_vocab().items())
        else:
            state = json.loads(backend.to_str())
            pieces = {k: v for k, v in state.items() if k not in ("padding", "truncation")}
        said = [pieces, self._template_text, self._bos, self._eos, self.train_on]
        said += [asdict(self._window), self._merge]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    # --- one at a time ---------------------------------------------------------------------

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """A prompt's tokens, generation prompt included: what a rollout starts from.

        Raises:
            DataError: it is longer than ``max_prompt_length`` and may not be cut.
        """
        return list(self._one(Group(prompt), self._plan_prompt).prompt_ids)

    def encode_continuation(self, before: str, after: str) -> list[int]:
        """The tokens of ``after`` where it follows ``before``, whose own tokens do not change: what
        a model is given between two turns that it sampled."""
        return self._tokeniser.following(before, after)

    def encode_demonstration(self, group: Group) -> TokenGroup:
        """A demonstration: the prompt runs up to the first assistant turn, later user and tool
        turns are in the response with mask False. With ``train_on="last"`` the prompt runs up to
        the last assistant turn.

        Raises:
            DataError: see :meth:`encode_group`; or not exactly one response.
        """
        return self._one(group, self._plan_demonstration)

    def encode_group(self, group: Group, *, empty_ok: bool = False) -> TokenGroup:
        """All K responses, with comparisons (from the ranks if none are given).

        ``scalar["rank"]`` is set where the group is ranked or compared (net wins, then), and
        ``scalar["label"]`` (1 good, 0 bad) where responses are labelled.

        Args:
            empty_ok: accept an empty answer. Rollouts can end at once and are scored; in data it
                is a fault, since it trains the model to say nothing.

        Raises:
            DataError: too long, nothing to train on, a better and a worse response that come out
                as the same tokens, or a template that cannot be applied. Names file and row.
        """
        return self._one(group, partial(self._plan_group, empty_ok=empty_ok))

    def encode_document(self, text: str, id: str = "text") -> list[TokenGroup]:
        """Pretraining text of any length as windows of ``max_length`` tokens.

        A window's first token (a BOS if the tokenizer adds one, then the last token of the window
        before) is its prompt; all others and the EOS count in the loss, each exactly once.

        Raises:
            DataError: it is empty.
        """
        text = text.rstrip() if text.rstrip().endswith(self._eos) else text
        ids = self._with_bos(self._tokeniser.ids(text))
        eos = int(self.tokenizer.eos_token_id)
        ids += [eos] if ids[-1:] != [eos] else []
        if not text.strip() or len(ids) < 2:
            raise DataError(f"{id}: empty text; remove it")
        size = self._window.max_length
        windows = [ids[i : i + size] for i in range(0, len(ids) - 1, size - 1)]
        return [
            TokenGroup(
                id=id if len(windows) == 1 else f"{id}/{n}",
                prompt_ids=w[:1],
                responses=(TokenResponse(w[1:], [True] * (len(w) - 1)),),
            )
            for n, w in enumerate(windows)
        ]

    # --- many ------------------------------------------------------------------------------

    def encode_all(
        self, groups: Sequence[Group], how: EncodeAs = "groups"
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        """Encode groups in order; those that cannot be encoded are listed, with reason and cure.

        Prompts come out as groups without responses; ``how="text"`` splits documents into windows.

        Raises:
            DataError: no group could be encoded, or the tokenizer has no usable template.
        """
        encoded = list(self.encode_each(groups, how))
        done = [item for item in encoded if not isinstance(item, Skipped)]
        skipped = [item for item in encoded if isinstance(item, Skipped)]
        if groups and not done:
            raise DataError(
                f"none of {len(groups)} groups could be encoded. The first: {skipped[0]}.\n"
                f"{summarise_skipped(skipped)}"
            )
        return done, skipped

    def encode_each(self, groups: Sequence[Group], how: EncodeAs) -> Iterator[TokenGroup | Skipped]:
        """Encode groups in order; in the place of one that cannot be encoded is the reason.

        See :meth:`encode_all`. Many at once take a fraction of the time that one by one take.

        Raises:
            DataError: the tokenizer has no usable template.
        """
        if how == "text":
            for group in groups:
                prompt = group.prompt
                text = group.responses[0].text if group.responses else prompt.text or ""
                try:
                    for window in self.encode_document(text, prompt.id):
                        yield replace(window, source=prompt.source, category=prompt.category)
                except DataError:
                    yield Skipped(prompt.source, "empty text", "remove it")
            return
        plan = {
            "demonstrations": self._plan_demonstration,
            "groups": self._plan_group,
            "prompts": self._plan_prompt,
        }[how]
        for start in range(0, len(groups), CHUNK):
            yield from self._encode_chunk(groups[start : start + CHUNK], plan)

    def _encode_chunk(
        self, groups: Sequence[Group], plan: Callable[[Group], _Planned]
    ) -> Iterator[TokenGroup | Skipped]:
        """One tokenizer call for all the texts of a chunk: fast tokenizers run them in parallel."""
        plans: list[_Planned | Skipped] = []
        for group in groups:
            try:
                plans.append(plan(group))
            except RowError as error:
                plans.append(error.skip(group.prompt.source))
        texts = [plan[1] for plan in plans if not isinstance(plan, Skipped)]
        tokens = iter(self._tokeniser.tokenise(texts))
        for item in plans:
            if isinstance(item, Skipped):
                yield item
                continue
            try:
                yield self._assemble(item[0], *next(tokens))
            except RowError as error:
                yield error.skip(item[0].prompt.source)

    def _one(self, group: Group, plan: Callable[[Group], _Planned]) -> TokenGroup:
        (found,) = self._encode_chunk([group], plan)
        if isinstance(found, Skipped):
            where = group.prompt.source or group.prompt.id
            reason = RowError(found.reason, found.cure)
            raise DataError(f"{where}: {found.reason}; {found.cure}") from reason
        return found

    # --- text ------------------------------------------------------------------------------

    def _plan_prompt(self, group: Group) -> _Planned:
        prompt = group.prompt
        if prompt.text is not None:
            return group, Text(prompt.text)
        return group, Text(self._template.opening(prompt.messages))

    def _plan_group(self, group: Group, empty_ok: bool = False) -> _Planned:
        prompt = group.prompt
        if not group.responses:
            return self._plan_prompt(group)
        if prompt.text is not None:
            answers = [self._plain(r, empty_ok) for r in group.responses]
            return group, Text(prompt.text, answers)
        last = self.train_on == "last"
        turns = [
            self._template.turns(prompt.messages, r, last_only=last, empty_ok=empty_ok)
            for r in group.responses
        ]
        opening = min((t.opening for t in turns), key=len)
        spans = [[Span(t.opening[len(opening) :], False), *t.spans] for t in turns]
        return group, Text(opening, spans)

    def _plain(self, response: Response, empty_ok: bool) -> list[Span]:
        """A plain text's answer, whatever blanks follow an end of turn in it left out."""
        if len(response.messages) != 1:
            raise RowError("a plain-text prompt with an answer of several turns", "read it as chat")
        text = response.text
        said = self._ends.strip(text)
        if not said.strip() and not empty_ok:
            raise RowError(*EMPTY)
        return [Span(text if said == text else text.rstrip(), True)]

    def _plan_demonstration(self, group: Group) -> _Planned:
        if len(group.responses) != 1:
            raise RowError(
                f"{len(group.responses)} responses", "a demonstration has exactly one response"
            )
        response = group.responses[0]
        last = max((i for i, m in enumerate(response.messages) if m.role == "assistant"), default=0)
        if self.train_on == "last" and last > 0:
            prompt = group.prompt
            earlier = (*prompt.messages, *response.messages[:last])
            flags = response.meta.get("train")
            meta = {**response.meta, "train": flags[last:]} if flags else response.meta
            response = replace(response, messages=response.messages[last:], meta=meta)
            group = replace(group, prompt=replace(prompt, messages=earlier), responses=(response,))
        return self._plan_group(replace(group, comparisons=()))

    # --- tokens ----------------------------------------------------------------------------

    def _assemble(
        self, group: Group, prompt: list[int], found: list[Tokens] | RowError
    ) -> TokenGroup:
        if isinstance(found, RowError):
            raise found
        responses = [self._finish(tokens) for tokens in found]
        if group.prompt.text is not None:
            begun = [r.ids[:1] == self._bos for r in responses]  # a document with its own BOS
            prompt = prompt if begun and all(begun) and not prompt else self._with_bos(prompt)
            if not prompt and responses:  # a document: its first token is the prompt
                prompt, responses = first_token_out(responses)
        if not prompt:
            raise RowError("empty prompt", "fill it in or remove the row")
        prompt, responses = self._window.fit(prompt, responses, self.tokenizer.bos_token_id)
        comparisons = judgements(group)
        check_tokens(responses, comparisons)
        return TokenGroup(
            id=group.prompt.id,
            prompt_ids=prompt,
            responses=tuple(
                TokenResponse(t.ids, t.mask, scalar=_scalars(r, rank))
                for t, r, rank in zip(responses, group.responses, _ranks(group), strict=False)
            ),
            comparisons=comparisons,
            weight=group.weight,
            source=group.prompt.source,
            category=group.prompt.category,
        )

    def _with_bos(self, ids: list[int]) -> list[int]:
        """With the BOS that the tokenizer puts before plain text, unless the text begins so."""
        return ids if ids[: len(self._bos)] == self._bos else [*self._bos, *ids]

    def _finish(self, tokens: Tokens) -> Tokens:
        """Close a turn that has no end, so that the model learns to stop."""
        if not tokens.ids or tokens.ids[-1] not in self.stop_ids:
            tokens.ids.append(int(self.tokenizer.eos_token_id))
            tokens.mask.append(tokens.mask[-1] if tokens.mask else True)
        return tokens


def _ranks(group: Group) -> list[float | None]:
    """Given ranks, else places by net wins; none where nothing compares the responses."""
    ranks = [r.rank for r in group.responses]
    if len(ranks) < 2 or not judgements(group):
        return [None] * len(ranks)
    if all(r is not None for r in ranks):
        return ranks
    wins = net_wins(group)
    return [1.0 + sum(other > mine for other in wins) for mine in wins]


def _scalars(response: Response, rank: float | None) -> dict[str, float]:
    """A response's numbers: its rank, its label (1 good, 0 bad)."""
    out = {} if rank is None else {"rank": float(rank)}
    if "label" in response.meta:
        out["label"] = float(bool(response.meta["label"]))
    return out
