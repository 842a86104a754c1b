"""The stage that trains: a method, its roles, its data and rewards, the loop, the saved result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from gnomon.agents.build import build_environment, openings
from gnomon.agents.episodes import EpisodeRunner
from gnomon.algorithms.base import Algorithm, Settings, Workbench
from gnomon.algorithms.offline_settings import ReferenceSettings
from gnomon.algorithms.rates import default_lr
from gnomon.algorithms.registry import Method, find_method
from gnomon.algorithms.rollouts import ROLLOUT_METRICS
from gnomon.data.encode import EncodeAs, Encoder
from gnomon.errors import ConfigError, DataError
from gnomon.evals.schedule import ScheduledEvals
from gnomon.evals.subject import LivePolicy
from gnomon.judges.protocol import Judge
from gnomon.models.hollow import hollow
from gnomon.models.load import LoadedModel, dtype_of, fetch, read_config
from gnomon.models.memory import RoleNeed, parameter_count
from gnomon.models.roles import Role
from gnomon.plan.job import Job, Lengths
from gnomon.plan.shapes import NoShapeError
from gnomon.recipe.schema import Kind
from gnomon.rollout.protocol import Engine
from gnomon.runs.records import DATA, StageInfo
from gnomon.stages.computed import came_of
from gnomon.stages.encoder import LENGTH, context_of, keep_template
from gnomon.stages.evaluate import START, model_places
from gnomon.stages.live_audit import LiveAudit
from gnomon.stages.names import other_model, reward_folder
from gnomon.stages.probes import (
    FirstAnswers,
    Probed,
    probe_model,
    probe_stage,
    roomy_encoder,
)
from gnomon.stages.processes import check_same_rows, idle_processes, no_watch
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.saved import check_checkpoints, save_result, start_weights
from gnomon.stages.sizing import stage_job
from gnomon.stages.stage import Stage
from gnomon.stages.train_checks import check_training
from gnomon.training.callbacks import Callback
from gnomon.training.learner import GivenSource, Learner, Source
from gnomon.training.loop import LOOP_METRICS, Loop
from gnomon.training.monitors import MONITORS, REFERENCE
from gnomon.training.optim import LoopOptions, iterations_kept
from gnomon.training.played import Asked
from gnomon.training.progress import Progress
from gnomon.training.reference_cache import ReferenceCache
from gnomon.training.sampled import Played, SampledSource, Sampling
from gnomon.training.shared import NoEngine, SharedSource, SharedStore, share_engine
from gnomon.training.sinks import Sink
from gnomon.training.strategy import ManyDevices, OneDevice, Strategy

SMALL = 10**9
"""Bytes of a copy of the model that is held for the monitors without being asked for."""


class Train(Stage):
    """Trains a method on its data, or on what the policy writes to prompts."""

    trains: ClassVar[bool] = True

    @cached_property
    def method(self) -> Method:
        """The method as the recipe names it."""
        return find_method(self.spec.algorithm, self.base)

    @cached_property
    def algorithm(self) -> type[Algorithm]:
        """The method's class."""
        return self.method.algorithm

    def settings_class(self) -> type[Settings]:
        return self.method.settings

    @property
    def data_kind(self) -> Kind:
        return self.algorithm.data

    @property
    def judged(self) -> bool:
        return super().judged or not self.algorithm.rewarded

    @property
    def _asks_judge(self) -> bool:
        """Whether a reward is asked besides an environment's return, if the method wants any."""
        return bool(self.spec.reward) or (self.algorithm.rewarded and self.environment is None)

    def metrics(self) -> tuple[str, ...]:
        sampled = (*ROLLOUT_METRICS, *MONITORS) if self.samples else ()
        return (*self.algorithm.metrics, *sampled, *LOOP_METRICS)

    def needs(self) -> tuple[RoleNeed, ...]:
        """The method's models, and the start model where the monitors look with it."""
        own = self.algorithm.needs(self.settings)
        watched = self.samples and self._watches_reference
        if not watched or any(need.name == REFERENCE.name for need in own):
            return own
        return (*own, REFERENCE)

    @cached_property
    def _watches_reference(self) -> bool:
        asked = self.spec.train.monitor
        if not asked.every or asked.reference != "auto":
            return bool(asked.every and asked.reference)
        if self.spec.lora is not None:
            return True  # the trunk with its adapters off
        parameters = parameter_count(read_config(fetch(self.origin)))
        return parameters * dtype_of(self.dtype).itemsize <= SMALL

    @property
    def dtype(self) -> str:
        return self.precision.trained if self.spec.lora is None else self.precision.frozen

    @property
    def _arithmetic(self) -> str:
        """What decides the numbers that the start model computes: its weights, and the passes."""
        mixed = self.precision.name == "mixed" and self.spec.lora is None
        return ("mixed" if mixed else self.dtype) + "+head" * self.precision.float32_head

    def iterations(self, rows: int) -> int:
        train = self.spec.train
        if train.steps is not None:
            return train.steps
        return max(1, math.ceil((train.epochs or 1) * rows / train.batch_size))

    def learning_rate(self, parameters: int) -> float:
        given, base = self.spec.train.lr, self.algorithm.base_lr
        if given != "auto":
            return given
        if base is None:
            raise ConfigError(
                f"lr: auto has no rule for {self.spec.algorithm!r}, whose class gives no base_lr; "
                "give lr as a number"
            )
        return default_lr(base, parameters, self.spec.lora is not None)

    def job(self, lengths: Lengths | None = None) -> Job | None:
        try:
            return stage_job(self, lengths)
        except NoShapeError:
            return None

    def locate(self, name: str) -> str:
        """Where the model is that a setting names: a stage's, or another."""
        return other_model(self.recipe, self.run, self.base, name)

    def check(self) -> None:
        check_training(self.spec, self.settings, self.algorithm, self.base)

    # -- work -------------------------------------------------------------------------------------

    def perform(self, info: StageInfo, resume: bool) -> None:
        self._info = info
        if self.processes is None:
            super().perform(info, resume)
            return
        self.processes.order(self.name, resume)
        # the first process reads the weights; the others are given their part of them
        empty = hollow(self.processes.kind == "fsdp2" and not self._first)
        with self.processes.ranks.together(leave=True), empty:
            super().perform(info, resume)

    @property
    def _first(self) -> bool:
        """Whether this process is the one that writes, prints and judges."""
        return self.processes is None or self.processes.first

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        strategy = self.processes.strategy() if self.processes is not None else OneDevice()
        with strategy.ranks.together():
            builder = RoleBuilder(self.spec, loaded, self.seed, self.locate, self.precision)
            encoder = self.encoder(loaded)
            keep_template(loaded, encoder)
            roles = builder.build(self.needs(), self._value_folder())
            rows = self._rows(builder, encoder)
            check_same_rows(strategy.ranks, self.name, (*rows[0], *rows[1]))
            text = self.data.text(encoder)
            normalise_on = self.data.normalisers(encoder) if not self.samples else []
            if self._first:
                self.data.note(self.folder.path / DATA, resume)
            cache = self._reference_cache(loaded, encoder)
            start = start_weights(self.spec, roles) if self._first else {}
            bench = replace(self._bench(roles, len(rows[0])), ranks=strategy.ranks)
            engine = self._engine(bench, encoder)
        bench.normalise_on, bench.reference_store = normalise_on, cache
        if self._first:  # who reads the records while it trains can tell how far it is
            self._info.note(planned_iterations=bench.iterations)
            self.folder.write_info(self._info)
        if isinstance(strategy, ManyDevices):
            with strategy.ranks.together(leave=True):
                strategy.prepare(roles)
            engine = share_engine(engine, strategy)
            bench.reference_store = None if cache is None else SharedStore(cache, strategy)
        with self.progress(bench.iterations) as progress:
            idle = idle_processes(self.spec.train.batch_size, self.settings, strategy.ranks.world)
            if idle is not None and self._first:
                progress.note(idle)
            if cache is not None:
                cache.on_progress = self.watched(progress, "reference")
            with strategy.ranks.together(leave=True):
                algorithm = self.algorithm(self.settings, bench)
                source = self._source(algorithm, rows, builder, engine, progress)
            self.closing.callback(source.close)
            shared: Source = source
            if isinstance(strategy, ManyDevices) and self.samples:
                shared = SharedSource(source, strategy)
            learner = Learner(algorithm, shared, text)
            loop = self._loop(learner, loaded, progress, strategy)
            if isinstance(source, SampledSource) and self._probes_first:
                tick = self.watched(progress, "probes")
                first = FirstAnswers(self._probed(source, None, loaded), tick)
                loop.watchers.append(first if self._first else no_watch)
            last = loop.run(resume)

        def finish() -> dict[str, Any]:
            judge = save_result(self, algorithm, loaded.source, loop.checkpoints, loop.end, start)
            if self.spec.probes != 0:
                self._probe(source, judge, loaded)
            if cache is not None:  # each row once, whichever run computed it
                loop.state.tokens.forward["reference"] += sum(row.num_tokens() for row in rows[0])
            info = came_of(loop, source, last, roles)
            return info if cache is None else info | {"reference": cache.summary()}

        return strategy.alone(finish)

    def _engine(self, bench: Workbench, encoder: Encoder) -> Engine | None:
        """What samples, made before the weights are spread; in the processes after the first, only
        what samples from the weights that are trained."""
        rollout = self.spec.rollout
        own = rollout.engine == "torch" and rollout.url is None and not rollout.max_staleness
        if not self.samples or not (self._first or own):
            return None
        return self.engine(bench.roles["policy"], encoder)

    def _rows(self, builder: RoleBuilder, encoder: Encoder) -> tuple[Sequence[Any], Sequence[Any]]:
        """The rows to train and to evaluate on, as tokens."""
        groups, held_out = self.data.groups(self.data_kind)
        if self.samples:
            self.environment = self._environment(builder, encoder)
            if self.environment is not None:
                groups = openings(self.environment, groups)
                held_out = openings(self.environment, held_out)
            rows, kept = self.prompts(encoder, groups), self.prompts(encoder, held_out)
        else:
            rows, left_out = self.prepare(encoder, groups, training=True)
            kept, also = self.prepare(encoder, held_out, training=False)
            self.data.report.skipped += [*left_out, *also]
        return rows, kept[: self.spec.train.eval_size]  # of those that can be used

    def prepare(
        self, encoder: Encoder, groups: Sequence[Any], training: bool
    ) -> tuple[list[Any], list[Any]]:
        how: EncodeAs = "demonstrations" if self.data_kind == "demonstrations" else "groups"
        encoded = self.data.encode(encoder, groups, how)
        rows, left_out = self.algorithm.prepare(encoded, self.settings, training=training)
        if training and not rows:
            first = f": {left_out[0]}" if left_out else ""
            raise DataError(f"{self.spec.algorithm} can use none of its {len(groups)} rows{first}")
        return rows, left_out

    def _bench(self, roles: Mapping[str, Role], rows: int) -> Workbench:
        train = self.spec.train
        return Workbench(
            roles,
            method=self.spec.algorithm,
            seed=self.seed,
            iterations=self.iterations(rows),
            batch_size=train.batch_size,
            samples=self.spec.rollout.samples,
            longest_response=self.spec.response_tokens,
            tokens_per_microbatch=train.tokens_per_microbatch,
            device=self.device,
        )

    def _source(
        self,
        algorithm: Algorithm,
        rows: tuple[Sequence[Any], Sequence[Any]],
        builder: RoleBuilder,
        engine: Engine | None,
        progress: Progress,
    ) -> Source:
        if not self.samples:
            return GivenSource(algorithm, *rows)
        if not self._first:  # which draws for all
            idle = Played(engine or NoEngine(), None, sampling=Sampling.of(self.spec.rollout))
            idle = replace(idle, sampling=replace(idle.sampling, max_staleness=0))
            return SampledSource(algorithm, rows[0], idle, rows[1], self.spec.train.monitor)
        assert engine is not None
        played = Played(
            engine=engine,
            judge=self.judge(builder, rows[0]) if self._asks_judge else None,
            environment=self.environment,
            observers=[self.observer(builder, spec, rows[0]) for spec in self.spec.observe],
            asked={o.label: Asked(o.every, o.samples) for o in self.spec.observe},
            sampling=Sampling.of(self.spec.rollout),
            max_reward_errors=self.spec.max_reward_errors,
            on_progress=self.watched(progress, "rollout"),
        )
        return SampledSource(algorithm, rows[0], played, rows[1], self.spec.train.monitor)

    def _environment(self, builder: RoleBuilder, encoder: Encoder) -> EpisodeRunner | None:
        spec = self.spec.environment
        if spec is None:
            return None
        window = context_of(builder.trunk.model.config) or self.recipe.max_length or LENGTH
        return build_environment(spec, encoder, base=self.base, window=window)

    def _value_folder(self) -> Path | None:
        """The reward model that a role starts from, where one asks for it."""
        if not any(need.from_reward for need in self.needs()):
            return None
        named = [spec.model for spec in self.spec.reward if spec.model is not None]
        return reward_folder(self.recipe, self.run, self.base, named[0]) if named else None

    def _reference_cache(self, loaded: LoadedModel, encoder: Encoder) -> ReferenceCache | None:
        """Next to the runs, so that they share it; for methods whose reference is cached."""
        settings: Settings = self.settings
        if not (isinstance(settings, ReferenceSettings) and settings.reference == "cached"):
            return None
        folder = Path(self.recipe.output) / ".cache" / "reference"
        return ReferenceCache(folder, loaded.fingerprint, encoder.fingerprint, self._arithmetic)

    def _loop(
        self, learner: Learner, loaded: LoadedModel, progress: Progress, strategy: Strategy
    ) -> Loop:
        title, about = f"{self.recipe.name}/{self.name}", self.spec.model_dump(mode="json")
        callbacks: list[Callback] = []
        folder = self.folder.path
        if self._first:
            sinks = [Sink(name, title, about) for name in dict.fromkeys(self.recipe.sinks)]
            live = LiveAudit(self.run.path, progress.note)
            callbacks = [*sinks, *self.callbacks, live]
        else:  # it keeps what it must to go the same way, and throws it away
            folder = Path(self.closing.enter_context(TemporaryDirectory(prefix="gnomon-")))
        options = LoopOptions.of(
            self.spec.train,
            learner.bench.iterations,
            self.learning_rate(parameter_count(loaded.model.config)),
            self.seed,
            eval_first=self.samples,
        )
        check_checkpoints(self.spec.train, options.iterations)
        if self._first:
            self.run.update_manifest(optimizer={self.spec.name: options.optimizer()})
        loop = Loop(
            learner,
            options,
            folder,
            progress,
            callbacks,
            self.stop,
            strategy,
            self.name,
            self.folder.path / "checkpoints",
        )
        if self.spec.train.evals:  # the first process measures
            loop.watchers.append(self._scheduled(learner, progress) if self._first else no_watch)
        return loop

    def _scheduled(self, learner: Learner, progress: Progress) -> ScheduledEvals:
        """What measures the policy on the way."""
        policy = learner.algorithm.roles["policy"]
        live = LivePolicy(
            self.name,
            policy,
            template=self.recipe.template,
            siblings={START: self.start_model(), **model_places(self.recipe, self.run)},
        )
        return ScheduledEvals(
            self.spec.train.evals,
            live,
            self.run.path,
            self.base,
            tell=progress.note,
            watch=self.watched(progress, "evals"),
        )

    def _probe(self, source: Source, model: Judge | None, loaded: LoadedModel) -> None:
        """Ask again about edited answers: the reward that was trained on, or the one that was
        trained."""
        sampled = isinstance(source, SampledSource)
        if not sampled and model is None:
            return
        with self.progress(1) as progress:
            tick = self.watched(progress, "probes")
            (probe_stage if sampled else probe_model)(self._probed(source, model, loaded), tick)

    @property
    def _probes_first(self) -> bool:
        """Whether the reward is asked after the first iteration, too: not where another thread may
        be asking it then."""
        return self.spec.probes != 0 and not self.spec.rollout.max_staleness

    def _probed(self, source: Source, model: Judge | None, loaded: LoadedModel) -> Probed:
        prompts = source.prompts if isinstance(source, SampledSource) else ()
        return Probed(
            self.recipe,
            self.spec,
            self.run,
            self.base,
            source.played.judge if isinstance(source, SampledSource) else model,
            prompts,
            roomy_encoder(self.recipe, loaded),
            self.seed,
            iterations_kept(self.spec.train.batch_size, self.iterations(len(prompts))),
        )
