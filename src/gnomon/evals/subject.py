"""What is measured: a model, the policy of a running stage, or answers that are stored in a file.

Nothing heavy is imported or loaded before something is asked of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError, DataError
from gnomon.evals.asking import Answered, Ask, Unanswered, Watch
from gnomon.files import fingerprint
from gnomon.records import Group, Message, Prompt, Response

if TYPE_CHECKING:
    from gnomon.agents.episodes import Episode
    from gnomon.data.encode import Encoder
    from gnomon.models.load import LoadedModel
    from gnomon.models.roles import Role
    from gnomon.models.save import LoadedReward
    from gnomon.recipe.environment import EnvironmentSpec
    from gnomon.rollout.protocol import Engine
    from gnomon.rollout.torch_engine import TorchEngine

WINDOW = 8192
"""Most tokens of a prompt with its answer, where the model takes more."""


class Subject:
    """Whatever answers prompts.

    Attributes:
        name: what it is called in records.
        sha256: tells it from others of that name.
        device: where models are put.
        siblings: other models by the names that a user may call them: a run's stages.
    """

    name: str
    sha256: str
    device: str = "cpu"
    siblings: Mapping[str, str] = MappingProxyType({})

    def answer(
        self, prompts: Sequence[Prompt], ask: Ask, watch: Watch | None = None
    ) -> list[Answered]:
        """Answers to each prompt, in order; a prompt that does not fit is unanswered."""
        raise NotImplementedError

    def play(
        self, prompts: Sequence[Prompt], ask: Ask, environment: EnvironmentSpec, base: Path
    ) -> list[tuple[Episode, ...] | Unanswered]:
        """``ask.samples`` episodes from each prompt; one that leaves no room for them is
        unanswered.

        Raises:
            ConfigError: there are only stored answers, or no such environment.
        """
        raise ConfigError(f"{self.name} has no weights: this suite needs a model, not its answers")

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]] | Unanswered]:
        """(log-probability in nats, tokens) of each choice as the answer to its prompt, without
        an end of turn."""
        raise ConfigError(f"{self.name} has no weights: this suite needs a model, not its answers")

    def other(self, source: str, base: Path) -> Subject:
        """Another one to compare with, loaded as this one is: a file of answers, or a model."""
        return open_subject(source, base)

    @property
    def weights_sha256(self) -> str:
        """The fingerprint of its weights; empty where there are only stored answers."""
        return self.sha256

    @property
    def window(self) -> int | None:
        """The tokens that a prompt and its answer may take together; None where nothing is
        sampled."""
        return None

    @property
    def loaded_as(self) -> Mapping[str, str]:
        """What of its loading changes its answers and is not as usual: chat template, dtype."""
        return {}

    def role(self) -> Role:
        """The language model.

        Raises:
            ConfigError: there are only stored answers.
        """
        raise ConfigError(f"{self.name} has no weights: this suite needs a model, not its answers")


class Model(Subject):
    """A model on disk or a hub, loaded when it is first asked.

    Args:
        source: a folder, ``tunnel``, ``smollm2-135m`` or a hub id.
        name: what it is called in records.
        device: a torch device's name.
        template: the chat template by name, where the model has none.
        make_engine: what samples; the torch engine in this process by default.
        loaded: the model, where it is loaded already.
        siblings: other models by the names that a user may call them: a run's stages.

    Attributes:
        kind: ``policy``, ``reward_model`` or ``reward_ensemble``, as gnomon saved it; empty for
            models of others.
    """

    def __init__(
        self,
        source: str,
        name: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        template: str | None = None,
        make_engine: Callable[[Role, Encoder], Engine] | None = None,
        siblings: Mapping[str, str] | None = None,
        loaded: LoadedModel | None = None,
    ) -> None:
        self._loaded = loaded
        self.source = source
        self.name = name
        self.device = device
        self.dtype = dtype
        self.template = template
        self.siblings = dict(siblings or {})
        self._make_engine = make_engine or torch_engine

    def other(self, source: str, base: Path) -> Subject:
        how: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        how["template"] = self.template
        if source in self.siblings:
            return Model(self.siblings[source], source, siblings=self.siblings, **how)
        return open_subject(source, base, **how)

    @property
    def loaded_as(self) -> Mapping[str, str]:
        given = {"template": self.template, "dtype": self.dtype}
        usual = {"template": None, "dtype": "float32"}
        return {name: str(value) for name, value in given.items() if value != usual[name]}

    @cached_property
    def sha256(self) -> str:  # type: ignore[override]
        """The fingerprint of its weights and configuration."""
        from gnomon.models.load import whole_fingerprint

        return whole_fingerprint(self.source)

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """gnomon.json, where gnomon saved the model."""
        from gnomon.models.load import read_json, resolve

        folder = resolve(self.source)
        file = folder / "gnomon.json" if isinstance(folder, Path) else None
        return read_json(file) if file is not None and file.is_file() else {}

    @property
    def kind(self) -> str:
        return str(self.facts.get("kind", ""))

    @cached_property
    def window(self) -> int | None:
        from gnomon.models.load import fetch, read_config

        return window_of(read_config(fetch(self.source)))

    def role(self) -> Role:
        return self._role

    @cached_property
    def _role(self) -> Role:
        from gnomon.models.load import load_causal_lm
        from gnomon.models.roles import Role, Trunk

        loaded = self._loaded or load_causal_lm(self.source, dtype=self.dtype, device=self.device)
        return Role(self.name, Trunk.from_loaded(loaded))

    def reward(self) -> LoadedReward:
        """The model as a reward model.

        Raises:
            ModelError: it is none.
        """
        from gnomon.models.save import load_reward_model

        return load_reward_model(self.source, dtype=self.dtype, device=self.device)

    @cached_property
    def encoder(self) -> Encoder:
        """From conversations to tokens."""
        return make_encoder(self.role(), self.template)

    @cached_property
    def engine(self) -> Engine:
        """What samples."""
        return self._make_engine(self.role(), self.encoder)

    def answer(
        self, prompts: Sequence[Prompt], ask: Ask, watch: Watch | None = None
    ) -> list[Answered]:
        from gnomon.rollout.protocol import Request, sampled_group

        window = self.window or WINDOW
        params = ask.params(window)
        encoded = [self._tokens(prompt, window - params.max_new_tokens) for prompt in prompts]
        requests = [
            Request(p.id, ids, ask.samples, seed=request_seed(ask.seed, p.id))
            for p, ids in zip(prompts, encoded, strict=True)
            if not isinstance(ids, Unanswered)
        ]
        found = iter(self.engine.generate(requests, params, watch))
        return [
            ids if isinstance(ids, Unanswered) else sampled_group(prompt, ids, next(found))
            for prompt, ids in zip(prompts, encoded, strict=True)
        ]

    def _tokens(
        self, prompt: Prompt, longest: int, budget: str = "max_new_tokens"
    ) -> list[int] | Unanswered:
        try:
            ids = self.encoder.encode_prompt(prompt)
        except DataError as error:
            if prompt.messages and self.encoder.template is None:
                raise  # no template: no prompt can be written
            return Unanswered(str(error))
        if len(ids) > longest:
            return Unanswered(
                f"the prompt has {len(ids)} tokens, and {longest} fit beside the answer; lower "
                f"{budget}"
            )
        return ids

    def play(
        self, prompts: Sequence[Prompt], ask: Ask, environment: EnvironmentSpec, base: Path
    ) -> list[tuple[Episode, ...] | Unanswered]:
        from gnomon.agents.build import build_environment

        window = self.window or WINDOW
        runner = build_environment(environment, self.encoder, base=base, window=window)
        opened = [runner.dialogue.opening(prompt) for prompt in prompts]
        room = window - environment.max_episode_tokens
        encoded = [self._tokens(prompt, room, "max_episode_tokens") for prompt in opened]
        asked = [
            (prompt, ids, request_seed(ask.seed, prompt.id))
            for prompt, ids in zip(opened, encoded, strict=True)
            if not isinstance(ids, Unanswered)
        ]
        found = runner.run(
            [(prompt, ids) for prompt, ids, _ in asked],
            self.engine,
            ask.params(window),
            seeds=[seed for *_, seed in asked],
            samples=ask.samples,
        )
        episodes = iter(group.episodes for group in found)
        return [ids if isinstance(ids, Unanswered) else next(episodes) for ids in encoded]

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]] | Unanswered]:
        from gnomon.evals.likelihood import choice_logprobs

        return choice_logprobs(self.role(), self.encoder, prompts, choices)


class LivePolicy(Model):
    """The policy of a stage as it is now, in the middle of its training."""

    def __init__(self, name: str, role: Role, **how: Any) -> None:
        device = str(role.trunk.model.device)
        super().__init__(role.trunk.source, name, device=device, **how)
        self._live = role
        self.sha256 = ""

    def refresh(self) -> None:
        """Look at the weights anew: they have been trained."""
        self.sha256 = weights_hash(self._live)

    @property
    def window(self) -> int | None:
        return window_of(self._live.trunk.model.config)

    @property
    def kind(self) -> str:
        return "policy"

    def role(self) -> Role:
        return self._live


def weights_hash(role: Role) -> str:
    """A fingerprint of a role's weights as they are now."""
    digest = hashlib.sha256(role.trunk.fingerprint.encode())
    for name, parameter in sorted(role.named_parameters().items()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Stored(Subject):
    """Answers that are stored in a file: AlpacaEval's ``instruction`` and ``output``, or
    ``prompt`` and ``response``.

    Raises:
        DataError: a row without the two; it names file, row and what is needed.
    """

    def __init__(self, file: Path, name: str = "") -> None:
        self.file = file
        self.sha256 = str(fingerprint(file)["sha256"])
        self._given = name

    @property
    def weights_sha256(self) -> str:
        return ""

    @cached_property
    def answers(self) -> Mapping[str, str]:
        """The answer to each prompt, by the prompt's text."""
        from gnomon.evals.items import read_answers

        return read_answers(self.file)[0]

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        from gnomon.evals.items import model_in

        return self._given or model_in(self.file) or self.file.name.split(".")[0]

    def answer(
        self, prompts: Sequence[Prompt], ask: Ask, watch: Watch | None = None
    ) -> list[Answered]:
        if ask.samples != 1:
            raise ConfigError(f"{self.file} holds one answer to a prompt, not {ask.samples}")
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Answered:
        text = self.answers.get(plain(prompt))
        if text is None:
            return Unanswered(f"{self.file} holds no answer to prompt {prompt.id}")
        return Group(prompt, (Response((Message("assistant", text),)),))


def open_subject(source: str, base: Path, **how: Any) -> Subject:
    """A file of stored answers, or a model: a folder (next to ``base``, or from here), ``tunnel``,
    a hub id.

    Args:
        how: see :class:`Model`.
    """
    for path in (base / source, Path(source).expanduser()):
        if path.is_file():
            return Stored(path)
        if path.is_dir():
            return Model(str(path), path.resolve().name, **how)
    return Model(source, source, **how)


def plain(prompt: Prompt) -> str:
    """A prompt as the text that stored answers are found by: its last turn."""
    if prompt.text is not None:
        return prompt.text.strip()
    return prompt.messages[-1].content.strip() if prompt.messages else ""


def request_seed(seed: int, id: str) -> int:
    """The seed of an item's answers: the same whatever is asked beside it."""
    return int(hashlib.sha256(f"{seed}:{id}".encode()).hexdigest()[:12], 16)


def window_of(config: Any) -> int:
    """The tokens that a prompt and its answer may take together, by a model's configuration."""
    text = config.get_text_config()
    return min(WINDOW, int(getattr(text, "max_position_embeddings", None) or WINDOW))


def make_encoder(role: Role, template: str | None = None) -> Encoder:
    """From conversations to the model's tokens, as long as its window."""
    from gnomon.data.encode import Encoder

    return Encoder(
        role.trunk.tokenizer, max_length=window_of(role.trunk.model.config), template=template
    )


def torch_engine(role: Role, encoder: Encoder) -> TorchEngine:
    """The engine in this process."""
    from gnomon.rollout.torch_engine import TorchEngine

    trunk = role.trunk
    return TorchEngine(
        trunk.model,
        trunk.tokenizer,
        activate=lambda: trunk.active(role.adapter),
        eos_token_ids=encoder.stop_ids,
    )
