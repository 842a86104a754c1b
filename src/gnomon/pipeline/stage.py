"""Running one stage: model, roles, data, rewards, the loop, and the saved result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from gnomon.agents.episodes import EpisodeRunner
from gnomon.algorithms.base import (
    Algorithm,
    Ingredients,
    Settings,
)
from gnomon.algorithms.collect_settings import COLLECT, CollectSettings
from gnomon.algorithms.on_policy import OnPolicy
from gnomon.algorithms.registry import find_algorithm
from gnomon.algorithms.reward_model import RewardModel
from gnomon.data.encode import Encoder, How
from gnomon.data.records import Group
from gnomon.errors import ConfigError, RunPaused
from gnomon.models.load import LoadedModel, load_causal_lm
from gnomon.models.roles import Role
from gnomon.models.save import LoadedReward, save_policy, save_reward_model
from gnomon.pipeline.collect import Collector, collect
from gnomon.pipeline.engines import make_engine
from gnomon.pipeline.environments import build_environment, openings
from gnomon.pipeline.reference_cache import ReferenceCache
from gnomon.pipeline.resolve import (
    DATA_KIND,
    pick_device,
    resolve_start,
    reward_folder,
    sampling,
    stage_seed,
    stage_settings,
)
from gnomon.pipeline.rewards import build_reward, one_reward
from gnomon.pipeline.roles import RoleBuilder
from gnomon.pipeline.rundir import RunFolder
from gnomon.pipeline.sources import (
    context_of,
    keep_template,
    recipe_encoder,
)
from gnomon.pipeline.stage_data import StageData
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.rewards.human import HumanQueue
from gnomon.rollout.protocol import Engine
from gnomon.train.checkpoint import CheckpointStore
from gnomon.train.loop import Loop, LoopOptions
from gnomon.train.optim import default_lr
from gnomon.train.progress import Progress
from gnomon.train.sinks import make_sinks
from gnomon.tunnel.labellers import Labeller


class StageRun:
    """One stage of a recipe, from its specification to its folder.

    Args:
        recipe, stage: what was asked.
        folder: the run's folder.
        base: the recipe's own folder, from which relative paths start.
        memory: the estimate to note in stage.json.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: StageSpec,
        folder: RunFolder,
        base: Path,
        memory: Mapping[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.stage = stage
        self.run = folder
        self.folder = folder.stage(stage.name)
        self.base = base
        self.memory = memory or {}
        self.closing = ExitStack()  # engines, sinks: closed when the stage ends, whichever way
        self.device = pick_device(recipe.device)
        self.seed = stage_seed(recipe, stage.name)
        self.data = StageData(stage, base, lambda name: folder.stage(name).groups, self.seed)

    def execute(self, resume: bool) -> dict[str, Any]:
        """Run the stage to its end and return its summary (also in stage.json).

        ``seconds`` are on the clock; ``cpu_seconds`` of this process on all cores together, which a
        busy machine does not lengthen.
        """
        info: dict[str, Any] = {
            "name": self.stage.name,
            "algorithm": self.stage.algorithm,
            "status": "running",
            "memory": dict(self.memory),
        }
        spent = self.folder.info() if resume else {}
        clocks = {"seconds": time.time, "cpu_seconds": time.process_time}
        before = {name: spent.get(name, 0.0) - clock() for name, clock in clocks.items()}
        info |= {name: spent.get(name, 0.0) for name in clocks}
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.folder.write_info(info)
        try:
            torch.manual_seed(self.seed)
            loaded = load_causal_lm(self.start_model(), dtype=self.recipe.dtype, device=self.device)
            if self.stage.algorithm == COLLECT:
                info |= self._collect(loaded, resume)
            else:
                info |= self._train(loaded, resume)
            self.run.update_manifest(
                data={f"{self.stage.name}: {k}": v for k, v in self.data.report.files.items()},
                models={self.stage.name: {"from": loaded.source, "sha256": loaded.fingerprint}},
            )
            info["status"] = "done"
        except RunPaused as pause:
            info |= {"status": "paused", "error": str(pause)}
            raise
        except BaseException as error:
            info |= {"status": "failed", "error": str(error) or type(error).__name__}
            raise
        finally:
            try:
                self.closing.close()
            finally:  # after an impatient second Ctrl-C, say
                info |= {name: before[name] + clock() for name, clock in clocks.items()}
                info["skipped"] = self.data.report.skipped_info()
                self.data.write_skipped(self.folder.path / "skipped.txt")
                self.folder.write_info(info)
        return info

    def start_model(self) -> str:
        """Where the stage's weights come from: a stage's folder, or a model's name."""
        return resolve_start(self.recipe, self.stage, self.run)

    # -- training stages --------------------------------------------------------------------------

    def _train(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        algorithm_class = find_algorithm(self.stage.algorithm)
        settings = stage_settings(self.stage)
        builder = RoleBuilder(self.stage, loaded, self.seed)
        encoder = self._encoder(loaded, algorithm_class.data == "prompts")
        keep_template(loaded, encoder)
        value_from = self._value_source(settings)
        roles = builder.build(algorithm_class, settings, value_from)
        ingredients = self._ingredients(algorithm_class, roles, builder, encoder)
        self.data.note(self.folder.path / "data.json", resume)
        cache = ingredients.reference_store = self._reference_cache(settings, loaded, encoder)
        with self._progress(ingredients.iterations) as progress:
            if cache is not None:
                cache.on_progress = lambda done, total: progress.phase("reference", done, total)
            algorithm = algorithm_class(ingredients, settings)
            if isinstance(algorithm, OnPolicy):
                self.closing.callback(algorithm.close)
                algorithm.on_progress = lambda done, total: progress.phase("rollout", done, total)
            sinks = make_sinks(
                self.recipe.sinks,
                self.folder.path,
                f"{self.recipe.name}/{self.stage.name}",
                self.stage.model_dump(mode="json"),
                resume_step=self._resume_step() if resume else None,
            )
            for sink in sinks:
                self.closing.callback(sink.close)
            options = self._loop_options(algorithm_class, ingredients, loaded)
            loop = Loop(algorithm, options, self.folder.path, progress, sinks)
            last = loop.run(resume)
        self._save(algorithm, roles, loaded)
        info = {
            "iterations": ingredients.iterations,
            "summary": {k: v for k, v in last.items() if not k.startswith("eval/")},
            "held_out": {k[5:]: v for k, v in last.items() if k.startswith("eval/")},
        }
        return info if cache is None else info | {"reference": cache.summary()}

    def _reference_cache(
        self, settings: Settings, loaded: LoadedModel, encoder: Encoder
    ) -> ReferenceCache | None:
        """Beside the runs, so that they share it; for methods whose reference is cached."""
        if getattr(settings, "reference", None) != "cached":
            return None
        folder = Path(self.recipe.output) / ".cache" / "reference"
        return ReferenceCache(folder, loaded.fingerprint, encoder.fingerprint, self.recipe.dtype)

    def _encoder(self, loaded: LoadedModel, samples: bool) -> Encoder:
        return recipe_encoder(
            self.recipe,
            loaded.tokenizer,
            context=context_of(loaded.model.config),
            new_tokens=self.stage.response_tokens if samples else 0,
        )

    def _resume_step(self) -> int | None:
        """The optimiser step of the newest checkpoint, where sinks go on."""
        store = CheckpointStore(self.folder.path / "checkpoints")
        iteration = store.latest()
        return None if iteration is None else store.read(iteration).step

    def _ingredients(
        self,
        algorithm: type[Algorithm],
        roles: Mapping[str, Role],
        builder: RoleBuilder,
        encoder: Encoder,
    ) -> Ingredients:
        train = self.stage.train
        groups, held_out = self.data.groups(DATA_KIND[algorithm.data])
        common: dict[str, Any] = {
            "roles": roles,
            "seed": self.seed,
            "batch_size": train.batch_size,
            "tokens_per_microbatch": train.tokens_per_microbatch,
            "text": self.data.text(encoder),
            "device": self.device,
            "max_reward_errors": self.stage.max_reward_errors,
        }
        if algorithm.data == "prompts":
            own = self._online(builder, encoder, roles["policy"], groups, held_out)
        else:
            own = self._offline(algorithm, encoder, groups, held_out)
        rows = len(own.get("prompts", own.get("groups", ())))
        return Ingredients(**common, **own, iterations=self._iterations(rows))

    def _online(
        self,
        builder: RoleBuilder,
        encoder: Encoder,
        policy: Role,
        groups: Sequence[Group],
        held_out: Sequence[Group],
    ) -> dict[str, Any]:
        """What a method that samples needs."""
        stage = self.stage
        environment = self._environment(builder, encoder)
        prompts = self.data.prompts(encoder, openings(environment, groups))
        held_out_prompts = self.data.prompts(encoder, openings(environment, held_out))
        return {
            "prompts": prompts,
            "eval_prompts": held_out_prompts[: stage.train.eval_size],  # of those that can be used
            "engine": self._engine(policy, encoder),
            "reward": None if environment and not stage.reward else self._reward(builder),
            "environment": environment,
            "observers": [
                one_reward(
                    spec,
                    base=self.base,
                    load=lambda name: self._load_reward(builder, name),
                    tokenizer=builder.trunk.tokenizer,
                )
                for spec in stage.observe
            ],
            "sampling": sampling(stage.rollout),
        }

    def _offline(
        self,
        algorithm: type[Algorithm],
        encoder: Encoder,
        groups: Sequence[Group],
        held_out: Sequence[Group],
    ) -> dict[str, Any]:
        """What a method needs whose responses are given."""
        how: How = "demonstrations" if algorithm.data == "demonstrations" else "groups"
        settings = stage_settings(self.stage)
        encoded, left_out = algorithm.prepare(
            self.data.encode(encoder, groups, how), settings, training=True
        )
        evaluated, also = algorithm.prepare(
            self.data.encode(encoder, held_out, how), settings, training=False
        )
        self.data.report.skipped += [*left_out, *also]
        return {
            "groups": encoded,
            "eval_groups": evaluated[: self.stage.train.eval_size],  # of those that can be used
            "normalisation_groups": self.data.normalisers(encoder),
        }

    def _iterations(self, rows: int) -> int:
        train = self.stage.train
        if train.steps is not None:
            return train.steps
        return max(1, math.ceil((train.epochs or 1) * rows / train.batch_size))

    def _loop_options(
        self, algorithm: type[Algorithm], ingredients: Ingredients, loaded: LoadedModel
    ) -> LoopOptions:
        train = self.stage.train
        parameters = sum(p.numel() for p in loaded.model.parameters())
        lora = self.stage.lora is not None
        return LoopOptions(
            iterations=ingredients.iterations,
            lr=default_lr(algorithm.name, parameters, lora) if train.lr == "auto" else train.lr,
            schedule=train.schedule,
            warmup=train.warmup,
            weight_decay=train.weight_decay,
            max_grad_norm=train.max_grad_norm,
            eval_every=train.eval_every,
            checkpoint_every=train.checkpoint_every,
            keep_checkpoints=train.keep_checkpoints,
            sample_every=train.sample_every,
            seed=self.seed,
        )

    def _save(self, algorithm: Algorithm, roles: Mapping[str, Role], loaded: LoadedModel) -> None:
        facts: dict[str, Any] = {"algorithm": algorithm.name, "base": loaded.source}
        facts |= algorithm.finish()
        if isinstance(algorithm, RewardModel):
            save_reward_model(
                self.folder.model,
                algorithm.members,
                normaliser=algorithm.normaliser(),
                facts=facts,
            )
        else:
            save_policy(self.folder.model, roles["policy"], facts=facts)

    # -- rewards and engines ----------------------------------------------------------------------

    def _value_source(self, settings: Settings) -> Path | None:
        """The reward model that the value model starts from, where that is asked for."""
        if getattr(settings, "value_init", None) != "reward_model":
            return None
        named = [spec.model for spec in self.stage.reward if spec.model is not None]
        return reward_folder(self.recipe, self.run, self.base, named[0]) if named else None

    def _load_reward(self, builder: RoleBuilder, name: str) -> LoadedReward:
        return builder.reward(reward_folder(self.recipe, self.run, self.base, name))

    def _environment(self, builder: RoleBuilder, encoder: Encoder) -> EpisodeRunner | None:
        spec = self.stage.environment
        if spec is None:
            return None
        window = context_of(builder.trunk.model.config) or self.recipe.max_length
        return build_environment(spec, encoder, base=self.base, window=window)

    def _reward(self, builder: RoleBuilder) -> Any:
        if not self.stage.reward:
            raise ConfigError(
                f"stage {self.stage.name!r} samples its own responses and needs a reward: "
                "reward: [{model: STAGE}], [{function: file.py:name}] or [{builtin: gold}]"
            )
        reward = build_reward(
            self.stage.reward,
            base=self.base,
            load=lambda name: self._load_reward(builder, name),
            tokenizer=builder.trunk.tokenizer,
        )
        if isinstance(reward, HumanQueue):
            reward.folder = self.folder.path / "queue"
        return reward

    def _engine(self, policy: Role, encoder: Encoder) -> Engine:
        return make_engine(
            self.stage.rollout, policy, encoder, self.folder.path / "rollout-weights", self.closing
        )

    # -- collecting -------------------------------------------------------------------------------

    def _collect(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        settings = cast(CollectSettings, stage_settings(self.stage))
        builder = RoleBuilder(self.stage, loaded, self.seed)
        encoder = self._encoder(loaded, samples=True)
        policy = Role("policy", builder.trunk)
        groups, _ = self.data.groups("prompts")
        prompts = self.data.prompts(encoder, groups)
        self.data.note(self.folder.path / "data.json", resume)
        judge: Any
        if settings.labellers:
            judge = [Labeller(**s.model_dump(), seed=self.seed) for s in settings.labellers]
        else:
            judge = self._reward(builder)
        collector = Collector(
            self._engine(policy, encoder),
            judge,
            settings,
            sampling(self.stage.rollout).params,
            self.stage.rollout.samples,
            self.seed,
            self.stage.max_reward_errors,
        )
        with self._progress(len(prompts)) as progress:
            summary, skipped = collect(collector, prompts, self.folder.path, progress)
        self.data.report.skipped += skipped
        return {"iterations": len(prompts), "summary": summary}

    def _progress(self, total: int) -> Progress:
        return Progress(f"{self.stage.name} ({self.stage.algorithm})", total)
