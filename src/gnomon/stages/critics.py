"""The critic that a revise stage asks for: the policy itself, another model, an endpoint's, a
program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gnomon.algorithms.revise_settings import CriticSpec, ReviseSettings
from gnomon.data.chat import broken_up
from gnomon.data.encode import Encoder
from gnomon.data.values import RowError
from gnomon.errors import ConfigError, DataError
from gnomon.judges.critics import Critic, EndpointCritic, Task, Written, program_critic
from gnomon.models.load import fetch, load_causal_lm
from gnomon.models.roles import Role, Trunk
from gnomon.recipe.schema import Recipe
from gnomon.records import Cost, Message, Prompt
from gnomon.rollout.protocol import Engine, Request, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.runs.folder import RunFolder
from gnomon.stages.encoder import context_of, recipe_encoder
from gnomon.stages.stage import pick_device, recipe_precision

CRITIC = "critic"


@dataclass
class EngineCritic(Critic):
    """A language model that samples in this run: the policy, or one loaded for it.

    Args:
        engine: what samples.
        encoders: from a question to tokens, by the kind of task, with room for what is written.
        params: how to sample, by the kind of task.
        on_progress: told of (finished, all) texts; it raises when the run is to stop.
    """

    engine: Engine
    encoders: dict[str, Encoder]
    params: dict[str, SamplingParams]
    version: str
    on_progress: Callable[[int, int], None] | None = None
    name: str = CRITIC

    def write(self, tasks: Sequence[Task]) -> list[Written]:
        """What the model writes; one whose question does not fit its window is left out."""
        out: dict[int, Written] = {}
        requests = []
        for place, task in enumerate(tasks):
            try:
                ids = self.encoders[task.kind].encode_prompt(self._prompt(task))
            except DataError as error:
                row = error.__cause__  # says the reason alone
                reason = row.reason if isinstance(row, RowError) else str(error)
                cure = "raise max_length, or set settings.examples lower"
                out[place] = Written(error=f"the critic cannot be asked: {reason}", cure=cure)
                continue
            requests.append(Request(str(place), ids, 1, seed=task.seed))
        if requests:
            params = self.params[tasks[0].kind]
            found = self.engine.generate(requests, params, self.on_progress)
            for request, (one,) in zip(requests, found, strict=True):
                count = len(request.prompt_ids) + len(one.ids)
                out[int(request.id)] = Written(one.text, one.finished, cost=Cost(tokens=count))
        return [out[place] for place in range(len(tasks))]

    def _prompt(self, task: Task) -> Prompt:
        """The question in the model's own chat format; as plain text where the prompt is that."""
        encoder = self.encoders[task.kind]
        text = broken_up(task.question.user, encoder.tokenizer)
        if task.prompt.text is not None:
            return Prompt(task.prompt.id, text=f"{text}\n\n")
        return Prompt(task.prompt.id, (Message("user", text),))


@dataclass(frozen=True)
class CriticMaker:
    """Makes critics for a stage.

    Args:
        params: how its answers are sampled.
        base: the recipe's own folder.
        answers: the folder in which what an endpoint wrote is kept.
    """

    recipe: Recipe
    settings: ReviseSettings
    params: SamplingParams
    run: RunFolder
    base: Path
    answers: Path

    @property
    def lengths(self) -> dict[str, int]:
        """The most tokens, by the kind of task."""
        settings = self.settings
        revision = settings.revision_tokens or self.params.max_new_tokens
        return {"critique": settings.critique_tokens, "revision": revision}

    def check(self) -> None:
        """Check what can be checked before anything is loaded.

        Raises:
            GnomonError: no such model, program or stage; a key that is missing.
        """
        spec = self.settings.critic
        if spec is None:
            return
        if spec.local is None:
            self.outside(spec)
        elif spec.local not in self._stages():
            fetch(spec.local)

    def outside(self, spec: CriticSpec, tell: Callable[[str], None] = lambda text: None) -> Critic:
        """One that is no model of this process; ``tell`` hears that it is waited for."""
        if spec.model is not None:
            given = {"max_tokens": max(self.lengths.values()), **spec.options}
            try:
                return EndpointCritic(spec.model, self.answers / CRITIC, tell, **given)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"critic {spec.model!r}: its options: {error}") from error
        return program_critic(spec.builtin, spec.function, spec.options, self.base)

    def policy(
        self, policy: Role, engine: Engine, watch: Callable[[int, int], None]
    ) -> EngineCritic:
        """The policy itself, which samples with the stage's own engine."""
        return self._with(engine, policy.trunk, f"the policy {policy.trunk.fingerprint}", watch)

    def local(self, spec: CriticSpec, watch: Callable[[int, int], None]) -> tuple[Critic, Role]:
        """Another model, loaded here, and its role."""
        where = str(spec.local)
        source = str(self.run.stage(where).model) if where in self._stages() else where
        device = pick_device(self.recipe.device)
        loaded = load_causal_lm(source, dtype=recipe_precision(self.recipe).frozen, device=device)
        trunk = Trunk.from_loaded(loaded)
        ends = self._encoder(trunk, 1).stop_ids
        engine = TorchEngine(trunk.model, trunk.tokenizer, eos_token_ids=ends)
        made = self._with(engine, trunk, f"{where} {trunk.fingerprint}", watch)
        return made, Role(CRITIC, trunk)

    def _with(
        self, engine: Engine, trunk: Trunk, version: str, watch: Callable[[int, int], None]
    ) -> EngineCritic:
        params = {
            kind: replace(self.params, max_new_tokens=most) for kind, most in self.lengths.items()
        }
        encoders = {kind: self._encoder(trunk, most) for kind, most in self.lengths.items()}
        return EngineCritic(engine, encoders, params, version, watch)

    def _encoder(self, trunk: Trunk, new_tokens: int) -> Encoder:
        """A question is longer than a prompt of the data, and is never cut."""
        whole = self.recipe.model_copy(update={"max_prompt_length": None, "truncation": "skip"})
        window = context_of(trunk.model.config)
        return recipe_encoder(whole, trunk.tokenizer, context=window, new_tokens=new_tokens)

    def _stages(self) -> list[str]:
        return [stage.name for stage in self.recipe.stages]
