"""What a stage is made of: its data as groups, rewards, engine, and the loop's options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gnomon.agents.episodes import EpisodeRunner
from gnomon.algorithms.base import Algorithm, Ingredients, Settings
from gnomon.data.encode import EncodeAs, Encoder
from gnomon.errors import ConfigError
from gnomon.judges.human import HumanQueue
from gnomon.models.load import LoadedModel
from gnomon.models.roles import Role
from gnomon.models.save import LoadedReward
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.records import Group
from gnomon.rollout.protocol import Engine
from gnomon.runs.folder import RunFolder
from gnomon.stages.engines import make_engine
from gnomon.stages.environments import build_environment, openings
from gnomon.stages.resolve import (
    DATA_KIND,
    pick_device,
    reward_folder,
    sampling,
    stage_seed,
    stage_settings,
)
from gnomon.stages.rewards import build_reward, one_reward
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.sources import LENGTH, context_of, recipe_encoder
from gnomon.stages.stage_data import StageData
from gnomon.train.loop import LoopOptions
from gnomon.train.optim import default_lr
from gnomon.train.reference_cache import ReferenceCache


class StageParts:
    """Builds the parts of one stage.

    Args:
        recipe, stage: what was asked.
        folder: the run's folder.
        base: the recipe's own folder, from which relative paths start.

    Attributes:
        closing: engines and the like, to be closed when the stage ends, whichever way.
        data: what was read, once it was.
    """

    def __init__(self, recipe: Recipe, stage: StageSpec, folder: RunFolder, base: Path) -> None:
        self.recipe = recipe
        self.stage = stage
        self.run = folder
        self.folder = folder.stage(stage.name)
        self.base = base
        self.closing = ExitStack()
        self.device = pick_device(recipe.device)
        self.seed = stage_seed(recipe, stage.name)
        self.data = StageData(stage, base, lambda name: folder.stage(name).groups, self.seed)

    def reference_cache(
        self, settings: Settings, loaded: LoadedModel, encoder: Encoder
    ) -> ReferenceCache | None:
        """Beside the runs, so that they share it; for methods whose reference is cached."""
        if getattr(settings, "reference", None) != "cached":
            return None
        folder = Path(self.recipe.output) / ".cache" / "reference"
        return ReferenceCache(folder, loaded.fingerprint, encoder.fingerprint, self.recipe.dtype)

    def encoder(self, loaded: LoadedModel, samples: bool) -> Encoder:
        """From conversations to tokens, with room for a response where the stage ``samples``."""
        return recipe_encoder(
            self.recipe,
            loaded.tokenizer,
            context=context_of(loaded.model.config),
            new_tokens=self.stage.response_tokens if samples else 0,
        )

    def ingredients(
        self,
        algorithm: type[Algorithm],
        roles: Mapping[str, Role],
        builder: RoleBuilder,
        encoder: Encoder,
    ) -> Ingredients:
        """Everything that the algorithm is given, the data read and encoded."""
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
            "engine": self.engine(policy, encoder),
            "reward": None if environment and not stage.reward else self.reward(builder),
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
        how: EncodeAs = "demonstrations" if algorithm.data == "demonstrations" else "groups"
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

    def loop_options(
        self, algorithm: type[Algorithm], ingredients: Ingredients, loaded: LoadedModel
    ) -> LoopOptions:
        """How long and how fast, ``lr: auto`` worked out."""
        train = self.stage.train
        parameters = sum(p.numel() for p in loaded.model.parameters())
        lora = self.stage.lora is not None
        return LoopOptions(
            iterations=ingredients.iterations,
            lr=default_lr(algorithm.name, parameters, lora) if train.lr == "auto" else train.lr,
            schedule=train.schedule,
            min_lr_ratio=train.min_lr_ratio,
            warmup=train.warmup,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
            head_weight_decay=train.head_weight_decay,
            max_grad_norm=train.max_grad_norm,
            eval_every=train.eval_every,
            checkpoint_every=train.checkpoint_every,
            keep_checkpoints=train.keep_checkpoints,
            sample_every=train.sample_every,
            seed=self.seed,
        )

    # -- rewards and engines ----------------------------------------------------------------------

    def value_source(self, settings: Settings) -> Path | None:
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
        window = context_of(builder.trunk.model.config) or self.recipe.max_length or LENGTH
        return build_environment(spec, encoder, base=self.base, window=window)

    def reward(self, builder: RoleBuilder) -> Any:
        """What judges the stage's samples."""
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

    def engine(self, policy: Role, encoder: Encoder) -> Engine:
        """What samples; given back when the stage ends."""
        return make_engine(
            self.stage.rollout, policy, encoder, self.folder.path / "rollout-weights", self.closing
        )
