"""Talking to a model: one conversation, answered by the engine that rollouts are sampled with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError, DataError
from gnomon.evals.subject import Model, torch_engine
from gnomon.evals.targets import Target, open_target
from gnomon.records import Message, Prompt
from gnomon.view.ballots import Ballots
from gnomon.view.sides import Contest, Side

if TYPE_CHECKING:
    from gnomon.data.encode import Encoder
    from gnomon.rollout.torch_engine import TorchEngine

UNBOUNDED = 1 << 30
"""Tokens that the encoder lets pass: the window is checked here, where the cure is /reset."""
Show = Callable[[str], None]


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled; ``temperature`` 0 is greedy."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model answered; ``finished`` is False where it was cut off after ``tokens``."""

    text: str
    finished: bool
    tokens: int


class Speaker:
    """A model that one talks to.

    Args:
        model: a language model; it is loaded at the first answer, or by :meth:`load`.
        label: what it is called on the screen.
    """

    def __init__(self, model: Model, label: str) -> None:
        self.model = model
        self.label = label

    @property
    def key(self) -> str:
        """Names it in preference rows: its name, and whose weights they were."""
        return f"{self.model.name}@{self.model.sha256[:12]}"

    @cached_property
    def _encoder(self) -> Encoder:
        from gnomon.data.encode import Encoder

        tokenizer = self.model.role().trunk.tokenizer
        return Encoder(tokenizer, max_length=UNBOUNDED, template=self.model.template)

    @cached_property
    def _engine(self) -> TorchEngine:
        return torch_engine(self.model.role(), self._encoder)

    def load(self) -> None:
        """Load the weights, and see that there is a chat template.

        Raises:
            ModelError: they cannot be loaded.
            DataError: there is no template to write a conversation with.
        """
        if self._encoder.template is None:
            raise DataError(
                f"{self.label}: the tokenizer has no chat template, so no conversation can be "
                "written for it. Give one: --template chatml, plain, raw, or a .jinja file"
            )
        _ = self._engine

    def answer(
        self, turns: Sequence[Message], sampling: Sampling, show: Show | None = None
    ) -> Reply:
        """The next turn of a conversation.

        Args:
            turns: the conversation, up to the user's last words.
            show: called with each further piece of the answer while it is written.

        Raises:
            DataError: the template refuses the conversation, or it fills the model's window.
        """
        from gnomon.rollout.protocol import Request, SamplingParams

        ids = self._encoder.encode_prompt(Prompt("chat", tuple(turns)))
        window = self.model.window or UNBOUNDED
        room = min(sampling.max_new_tokens, window - len(ids))
        if room < 1:
            raise DataError(
                f"{self.label}: the conversation has {len(ids)} tokens, and the model's window "
                f"{window}: no room is left for an answer. /reset begins anew"
            )
        params = SamplingParams(room, sampling.temperature, sampling.top_p)
        growing = None if show is None else self._growing(show)
        request = Request("chat", ids, seed=sampling.seed)
        ((done,),) = self._engine.generate([request], params, follow=growing)
        if growing is not None and done.text.startswith(growing.shown):
            growing.show(done.text[len(growing.shown) :])
        return Reply(done.text, done.finished, len(done.ids))

    def _growing(self, show: Show) -> _Growing:
        return _Growing(self.model.role().trunk.tokenizer, show)


class _Growing:
    """Shows a sample's text as it grows, characters whole."""

    def __init__(self, tokenizer: Any, show: Show) -> None:
        self._tokenizer = tokenizer
        self.show = show
        self.shown = ""

    def __call__(self, ids: Sequence[int]) -> None:
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if not text.endswith("\ufffd") and text.startswith(self.shown):  # no half character
            self.show(text[len(self.shown) :])
            self.shown = text


def open_speakers(
    model: str, other: str | None, stage: str | None, **how: Any
) -> tuple[list[Speaker], Path]:
    """The models that a user names, and the folder that what is kept of them goes to.

    Args:
        model: a run's folder (its last policy, or ``stage``), a stage's, a model's, ``tunnel``, a
            hub id.
        other: a second one; a stage of the same run may be named alone (``base`` too).
        how: device, dtype and template, see :class:`~gnomon.evals.subject.Model`.

    Raises:
        ConfigError: one is not a language model.
    """
    first = open_target(model, stage, **how)
    found = [(model, _language_model(first, model))]
    if other is not None:
        siblings = found[0][1].siblings
        named = other in siblings and not Path(other).is_dir()
        run = str(first.run) if named else other
        second = open_target(run, other if named else None, **how)
        found.append((other, _language_model(second, other)))
    names = [one.name for _, one in found]
    alike = len(set(names)) < len(names)
    return [
        Speaker(one, f"{one.name} ({given})" if alike else one.name) for given, one in found
    ], first.run


def _language_model(target: Target, given: str) -> Model:
    from gnomon.models.load import fetch, read_json

    subject = target.subject
    if not isinstance(subject, Model):
        raise ConfigError(f"{given} is a file of answers: chat needs a model that writes some")
    reward = subject.kind.startswith("reward")
    if not reward:
        config = read_json(fetch(subject.source) / "config.json")
        reward = any("ForSequenceClassification" in str(a) for a in config.get("architectures", []))
    if reward:
        raise ConfigError(
            f"{given} is a reward model: it scores answers and writes none. Chat with a policy; "
            "gnomon eval --judge uses a reward model"
        )
    return subject


def ballots(folder: Path, first: Speaker, second: Speaker) -> Ballots:
    """The blind choices between two models; shares are those of ``first`` against ``second``.

    Raises:
        ConfigError: both have the same weights.
    """
    if first.model.sha256 == second.model.sha256:
        raise ConfigError(
            f"{first.label} and {second.label} have the same weights: nothing can be preferred"
        )
    a, b = (Side(s.key, s.label, lambda: ()) for s in (second, first))
    return Ballots(folder, Contest(a, b, [], 0, 0))
