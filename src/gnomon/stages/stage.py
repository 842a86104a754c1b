"""Running one stage: model, roles, data, rewards, the loop, and the saved result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from gnomon.algorithms.base import Algorithm
from gnomon.algorithms.collect_settings import COLLECT, CollectSettings
from gnomon.algorithms.on_policy import OnPolicy
from gnomon.algorithms.registry import find_algorithm
from gnomon.algorithms.reward_model import RewardModel
from gnomon.errors import RunPaused, RunStopped
from gnomon.files import make_folder
from gnomon.models.load import LoadedModel, load_causal_lm
from gnomon.models.roles import Role
from gnomon.models.save import save_policy, save_reward_model
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.runs.folder import RunFolder
from gnomon.runs.records import DATA, Skipped, StageInfo
from gnomon.stages.collect import Collector, collect
from gnomon.stages.resolve import resolve_start, sampling, stage_settings
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.sources import keep_template
from gnomon.stages.stage_parts import StageParts
from gnomon.tasks.tunnel.labellers import Labeller
from gnomon.train.loop import Loop
from gnomon.train.progress import Progress
from gnomon.train.sinks import make_sinks
from gnomon.train.watch import Stop


class StageRun:
    """One stage of a recipe, from its specification to its folder.

    Args:
        recipe, stage: what was asked.
        folder: the run's folder.
        base: the recipe's own folder, from which relative paths start.
        memory: the estimate to note in stage.json.
        stop: asked now and then whether to go on.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: StageSpec,
        folder: RunFolder,
        base: Path,
        memory: Mapping[str, str] | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.recipe = recipe
        self.stage = stage
        self.run = folder
        self.folder = folder.stage(stage.name)
        self.memory = memory or {}
        self.stop = stop or Stop()
        self.parts = StageParts(recipe, stage, folder, base)
        self.data = self.parts.data
        self.closing = self.parts.closing

    def execute(self, resume: bool) -> StageInfo:
        """Run the stage to its end and return what stage.json says of it.

        Its ``files`` are fingerprints of what the stage left, which :meth:`StageFolder.damage`
        compares before a resumed run uses them.
        """
        info = StageInfo(
            name=self.stage.name,
            algorithm=self.stage.algorithm,
            status="running",
            memory=dict(self.memory),
        )
        earlier = self.folder.info() if resume else StageInfo()
        info.seconds, info.cpu_seconds = earlier.seconds or 0.0, earlier.cpu_seconds or 0.0
        began, cpu_began = info.seconds - time.time(), info.cpu_seconds - time.process_time()
        make_folder(self.folder.path)
        self.folder.write_info(info)
        try:
            torch.manual_seed(self.parts.seed)
            loaded = load_causal_lm(
                self.start_model(), dtype=self.recipe.dtype, device=self.parts.device
            )
            info.note(start={"from": loaded.source, "sha256": loaded.fingerprint})
            info.note(**self._work(loaded, resume))
            self.run.update_manifest(
                data={f"{self.stage.name}: {k}": v for k, v in self.data.report.files.items()},
                models={self.stage.name: info.start},
            )
            info.note(files=self.folder.fingerprints(), status="done")
        except RunPaused as pause:
            info.note(status="paused", error=str(pause))
            raise
        except (RunStopped, KeyboardInterrupt) as stopped:
            info.note(status="stopped", error=str(stopped) or "stopped at once")
            raise
        except BaseException as error:
            info.note(status="failed", error=str(error) or type(error).__name__)
            raise
        finally:
            try:
                self.closing.close()
            finally:  # after an impatient second Ctrl-C, say
                info.seconds = began + time.time()
                info.cpu_seconds = cpu_began + time.process_time()
                info.skipped = Skipped(**self.data.report.skipped_info())
                if self.folder.path.is_dir():  # not where someone has removed it
                    self.data.write_skipped(self.folder.path / "skipped.txt")
                    self.folder.write_info(info)
        return info

    def start_model(self) -> str:
        """Where the stage's weights come from: a stage's folder, or a model's name."""
        return resolve_start(self.recipe, self.stage, self.run)

    def _work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        """The stage's own part of stage.json."""
        self.stop.check("before its first iteration: nothing of it had to be saved")
        if self.stage.algorithm == COLLECT:
            return self._collect(loaded, resume)
        return self._train(loaded, resume)

    # -- training stages --------------------------------------------------------------------------

    def _train(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        algorithm_class = find_algorithm(self.stage.algorithm)
        settings = stage_settings(self.stage)
        builder = RoleBuilder(self.stage, loaded, self.parts.seed)
        encoder = self.parts.encoder(loaded, algorithm_class.data == "prompts")
        keep_template(loaded, encoder)
        roles = builder.build(algorithm_class, settings, self.parts.value_source(settings))
        ingredients = self.parts.ingredients(algorithm_class, roles, builder, encoder)
        self.data.note(self.folder.path / DATA, resume)
        cache = ingredients.reference_store = self.parts.reference_cache(settings, loaded, encoder)
        with self._progress(ingredients.iterations) as progress:
            if cache is not None:
                cache.on_progress = self._watched(progress, "reference")
            algorithm = algorithm_class(ingredients, settings)
            if isinstance(algorithm, OnPolicy):
                self.closing.callback(algorithm.close)
                algorithm.on_progress = self._watched(progress, "rollout")
            sinks = make_sinks(
                self.recipe.sinks,
                self.folder.path,
                f"{self.recipe.name}/{self.stage.name}",
                self.stage.model_dump(mode="json"),
                resume_step=self._resume_step() if resume else None,
            )
            for sink in sinks:
                self.closing.callback(sink.close)
            options = self.parts.loop_options(algorithm_class, ingredients, loaded)
            self.run.update_manifest(optimizer={self.stage.name: options.optimizer()})
            loop = Loop(algorithm, options, self.folder.path, progress, sinks, self.stop)
            last = loop.run(resume)
        self._save(algorithm, roles, loaded)
        info = {
            "iterations": ingredients.iterations,
            "idle_iterations": loop.idle.count,
            "summary": {k: v for k, v in last.items() if not k.startswith("eval/")},
            "held_out": {k[5:]: v for k, v in last.items() if k.startswith("eval/")},
        }
        return info if cache is None else info | {"reference": cache.summary()}

    def _watched(self, progress: Progress, phase: str) -> Any:
        """Shows how far a phase is, and stops in it when that is asked for."""
        return self.stop.watching(lambda done, total: progress.phase(phase, done, total))

    def _resume_step(self) -> int | None:
        """The optimiser step of the newest checkpoint, where sinks go on."""
        store = CheckpointStore(self.folder.path / "checkpoints")
        iteration = store.latest()
        return None if iteration is None else store.read(iteration).step

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

    # -- collecting -------------------------------------------------------------------------------

    def _collect(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        settings = cast(CollectSettings, stage_settings(self.stage))
        builder = RoleBuilder(self.stage, loaded, self.parts.seed)
        encoder = self.parts.encoder(loaded, samples=True)
        policy = Role("policy", builder.trunk)
        groups, _ = self.data.groups("prompts")
        prompts = self.data.prompts(encoder, groups)
        self.data.note(self.folder.path / DATA, resume)
        seed = self.parts.seed
        judge: Any
        if settings.labellers:
            judge = [Labeller(**s.model_dump(), seed=seed) for s in settings.labellers]
        else:
            judge = self.parts.reward(builder)
        with self._progress(len(prompts)) as progress:
            collector = Collector(
                self.parts.engine(policy, encoder),
                judge,
                settings,
                sampling(self.stage.rollout).params,
                self.stage.rollout.samples,
                seed,
                self.stage.max_reward_errors,
                self._watched(progress, "rollout"),
            )
            summary, skipped = collect(collector, prompts, self.folder.path, progress, self.stop)
        self.data.report.skipped += skipped
        return {"iterations": len(prompts), "summary": summary}

    def _progress(self, total: int) -> Progress:
        return Progress(f"{self.stage.name} ({self.stage.algorithm})", total)
