"""The tokens of an episode: the opening, and what is put between two turns of the model.

Token in, token out: what the model sampled stays as it was sampled. Only what it is told is
tokenised, as the chat template writes it after an assistant's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gnomon.agents.calls import CallFormat, describe_tools
from gnomon.agents.tools import Tool
from gnomon.data.encode import Encoder
from gnomon.data.template import ChatTemplate
from gnomon.data.values import RowError
from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt

_QUESTION = Message("user", "hello")
_PROBE = "gnomon probe"
TOLD = ("tool", "user", "system")
"""The roles that an environment may speak in."""


class Dialogue:
    """A tokenizer's chat template, as episodes need it.

    Args:
        encoder: the stage's, whose prompt limit leaves room for an episode.
        role: the role that tool output is written in; "user" for templates without a tool role.
        tools, calls: listed in the opening's system turn when ``show_tools``.

    Raises:
        ConfigError: the template cannot write a tool's output after an answer.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        role: Literal["tool", "user"] = "tool",
        tools: Sequence[Tool] = (),
        calls: CallFormat = "hermes",
        show_tools: bool = True,
    ) -> None:
        if encoder.template is None:
            raise ConfigError(
                "an environment needs a chat template and the tokenizer has none: set the recipe's "
                "template (chatml, plain)"
            )
        self._encoder = encoder
        self._template = ChatTemplate(encoder.tokenizer, encoder.template)
        self._role = role
        self._tools = tuple(tools) if show_tools else ()
        self._calls = calls
        self._stops = frozenset(encoder.stop_ids)
        added = encoder.tokenizer.added_tokens_decoder.values()
        self._special = {str(t) for t in added if t.special} - {""}
        self.continuation(None, [Message("tool", "7")])

    def opening(self, prompt: Prompt, messages: Sequence[Message] | None = None) -> Prompt:
        """The prompt the model sees: ``messages`` in place of its own, if given, and the tools.

        Raises:
            ConfigError: a plain-text prompt.
        """
        shown = tuple(messages) if messages else prompt.messages
        if not shown:
            raise ConfigError(
                f"prompt {prompt.id} is plain text, and an environment needs a conversation: leave "
                "as_text out, and set template: plain for a model without one"
            )
        if not self._listed(shown):
            shown = describe_tools(shown, self._tools, self._calls)
        return replace(prompt, messages=shown, text=None)

    def _listed(self, messages: Sequence[Message]) -> bool:
        """Whether the tools stand there already, as where ``reset`` gives back the prompt's own
        turns with one more."""
        notes = describe_tools((), self._tools, self._calls)
        return all(any(note.content in m.content for m in messages) for note in notes)

    def encode(self, prompt: Prompt) -> list[int]:
        """The opening's tokens, generation prompt included.

        Raises:
            DataError: it leaves no room for the episode's budget.
        """
        return self._encoder.encode_prompt(prompt)

    def continuation(self, last: int | None, messages: Sequence[Message]) -> list[int]:
        """What stands between the model's last token and its next turn.

        Args:
            last: the token the turn ended with; where that is no end of turn (a stop string), the
                end of turn is put first.
            messages: what the model is told, in roles of ``TOLD``.

        Raises:
            ConfigError: the template refuses them.
        """
        told = self._told(messages)
        try:
            closed = self._template.render((_QUESTION, Message("assistant", _PROBE)))
            text = self._template.render(
                (_QUESTION, Message("assistant", _PROBE), *told), generation_prompt=True
            )
        except RowError as error:
            raise ConfigError(
                f"{error.reason}; if it has no {told[0].role if told else 'tool'} role, set "
                "environment.observation_role: user"
            ) from error
        cut = closed.rfind(_PROBE) + len(_PROBE)
        if not text.startswith(closed[:cut]):
            raise ConfigError(
                "the chat template rewrites the assistant's turn when others follow; give one that "
                "does not (template: chatml)"
            )
        tail = text[cut:]
        if last in self._stops:
            tail = self._template.ends.after(tail)
        return self._encoder.encode_continuation(text.removesuffix(tail), tail)

    def _told(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in the roles and the words that the template is given.

        Where the user says what tools gave, all that comes together is one turn: templates without
        a tool role often want user and assistant to take turns.
        """
        told: list[Message] = []
        for m in messages:
            role = self._role if m.role == "tool" else m.role
            said = self._harmless(m.content)
            if told and role == told[-1].role == self._role == "user":
                said = f"{told.pop().content}\n{said}"
            told.append(Message(role, said))
        return told

    def text(self, ids: Sequence[int]) -> str:
        """Sampled tokens as text, without special tokens."""
        return str(
            self._encoder.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _harmless(self, content: str) -> str:
        """Tool output cannot forge a turn: special tokens in it are spelt apart."""
        for token in self._special:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content
