"""An Ollama Modelfile: our tokenizer's chat template as a Go template, its ends as stop strings.

A Jinja template is a program and cannot be translated in general. What can: one that writes each
message as fixed text, the content, fixed text, whatever came before, with a fixed opening of the
assistant's turn, and perhaps a system message of its own where none is given. The pieces are found
by writing probe conversations, put together again, and compared with what the template writes for
others; any difference is an error. Tools and reasoning are not translated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.data.template import ChatTemplate
from gnomon.data.values import RowError
from gnomon.errors import ConfigError
from gnomon.records import Message

CURE = (
    "Export --to gguf: llama.cpp's server reads the template from the GGUF itself (--jinja). Or "
    "write a Modelfile by hand"
)
_USER, _SAID, _AGAIN, _SYSTEM = "qUser1q", "qSaid1q", "qUser2q", "qSys1q"
Around = tuple[str, str]


@dataclass(frozen=True)
class Pieces:
    """A chat template taken apart.

    Attributes:
        start: what opens the conversation (BOS).
        around: the text before and after a message's content, by its role.
        cue: what opens the assistant's answer.
        system: the system message that the template adds where none is given.
        notes: what is not the same in Ollama.
    """

    start: str
    around: dict[str, Around]
    cue: str
    system: str = ""
    notes: tuple[str, ...] = field(default=())

    def write(self, messages: Sequence[Message]) -> str:
        """The conversation as the Go template writes it, ready for an answer."""
        if self.system and (not messages or messages[0].role != "system"):
            messages = [Message("system", self.system), *messages]
        parts = [self.start]
        for m in messages:
            before, after = self.around[m.role]
            parts.append(before + m.content + after)
        return "".join([*parts, self.cue])


def take_apart(tokenizer: Any, template: str) -> Pieces:
    """The pieces of a chat template.

    Raises:
        ConfigError: it does more than can be translated, with what it does.
    """
    chat = ChatTemplate(tokenizer, template)
    try:
        pieces = _pieces(chat, tokenizer.bos_token or "")
        _compare(chat, pieces)
        trims = chat.render([Message("user", " x ")], generation_prompt=True)
    except RowError as error:
        raise ConfigError(f"Ollama: {error.reason}. {CURE}") from error
    notes = []
    if trims != pieces.write([Message("user", " x ")]):
        if trims != pieces.write([Message("user", "x")]):
            raise _refused("it changes what a message says")
        notes.append("the template trims spaces around a message, and Ollama does not")
    if "system" not in pieces.around:
        notes.append("the template takes no system message, and Ollama leaves one out unsaid")
    if "tools" in template:
        notes.append("tools are not translated")
    fixed = "".join([pieces.start, pieces.cue, *(t for a in pieces.around.values() for t in a)])
    if any(mark in fixed + pieces.system for mark in ("{{", "}}", '"""')):
        raise _refused("its fixed text holds {{ or quotes, which a Modelfile cannot hold")
    return Pieces(pieces.start, pieces.around, pieces.cue, pieces.system, tuple(notes))


def _pieces(chat: ChatTemplate, bos: str) -> Pieces:
    asked = [Message("user", _USER)]
    answered = [*asked, Message("assistant", _SAID)]
    head, after_user = _split(chat.render(asked), _USER)
    _, inner, after_said = _split(chat.render(answered), _USER, _SAID)
    _, _, turn, _ = _split(chat.render([*answered, Message("user", _AGAIN)]), _USER, _SAID, _AGAIN)
    before_said = _cut(inner, after_user, "a user's turn is closed otherwise once it is answered")
    before_user = _cut(turn, after_said, "an answer is closed otherwise once another turn follows")
    if not head.endswith(before_user):
        raise _refused("the first question is opened otherwise than later ones")
    opening = head.removesuffix(before_user)
    marker = before_user.startswith(bos)  # ChatML's <|im_start|> is some models' BOS too
    start = bos if bos and opening.startswith(bos) and not marker else ""
    around = {"user": (before_user, after_user), "assistant": (before_said, after_said)}
    cue = _cut(
        chat.render(asked, generation_prompt=True), chat.render(asked), "its generation prompt "
        "changes what is before it"
    )  # fmt: skip
    added = opening.removeprefix(start)
    try:
        told = chat.render([Message("system", _SYSTEM), *asked])
    except RowError:  # it takes none
        if added:
            raise _refused("it opens the conversation with words of its own") from None
        return Pieces(start, around, cue)
    before, between, _ = _split(told, _SYSTEM, _USER)
    if not between.endswith(before_user) or not before.startswith(start):
        raise _refused("it puts the system message into the user's turn")
    around["system"] = (before.removeprefix(start), between.removesuffix(before_user))
    return Pieces(start, around, cue, _own_system(added, around["system"]))


def _own_system(added: str, around: Around) -> str:
    """The system message that the template adds where none is given."""
    if not added:
        return ""
    before, after = around
    inside = added.startswith(before) and added.endswith(after)
    text = added[len(before) : len(added) - len(after)] if inside else ""
    if not text:
        raise _refused("it writes a system turn without words where there is no system message")
    return text


def _compare(chat: ChatTemplate, pieces: Pieces) -> None:
    """Compare with what the template writes for other conversations."""
    talk = [
        Message("user", "one\ntwo"),
        Message("assistant", "three"),
        Message("user", "four <b>"),
        Message("assistant", "five"),
        Message("user", "six"),
    ]
    told = [Message("system", "seven\neight")] if "system" in pieces.around else []
    for messages in (talk[:1], talk[:3], talk, [*told, *talk[:1]], [*told, *talk]):
        if chat.render(messages, generation_prompt=True) != pieces.write(messages):
            raise _refused("it does not write every message alike")


def _split(text: str, *probes: str) -> list[str]:
    parts = []
    for probe in probes:
        before, found, text = text.partition(probe)
        if not found or probe in text:
            raise _refused("it leaves a message out, or writes one twice")
        parts.append(before)
    return [*parts, text]


def _cut(text: str, start: str, otherwise: str) -> str:
    if not text.startswith(start):
        raise _refused(otherwise)
    return text.removeprefix(start)


def _refused(reason: str) -> ConfigError:
    return ConfigError(f"the chat template cannot be translated for Ollama: {reason}. {CURE}")


def modelfile(pieces: Pieces, gguf: str, stops: Sequence[str], adds_bos: bool) -> str:
    """The Modelfile.

    Args:
        gguf: the file's name, beside the Modelfile.
        stops: what ends an answer.
        adds_bos: whether llama.cpp puts the BOS there itself.
    """
    quoted = [s for s in stops if '"' not in s and "\n" not in s]
    lines = [
        "# Made by gnomon from the tokenizer's chat template. ollama create NAME -f Modelfile",
        *(f"# Not as in the template: {note}." for note in pieces.notes),
        f"FROM ./{gguf}",
        f'TEMPLATE """{go_template(pieces, adds_bos)}"""',
        *([f'SYSTEM """{pieces.system}"""'] if pieces.system else []),
        *(f'PARAMETER stop "{stop}"' for stop in quoted),
    ]
    return "\n".join(lines) + "\n"


def go_template(pieces: Pieces, adds_bos: bool) -> str:
    """The same as a template of Go's text/template over ``.Messages``."""
    body = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
        for role, (before, after) in pieces.around.items()
    )
    start = "" if adds_bos else pieces.start
    return f"{start}{{{{ range .Messages }}}}{{{{ {body}{{{{ end }}}}{{{{ end }}}}{pieces.cue}"
