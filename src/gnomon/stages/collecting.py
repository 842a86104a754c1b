"""The stage that collects: the policy's responses to prompts, ranked by a judge."""

from __future__ import annotations

from typing import Any

from gnomon.errors import ConfigError
from gnomon.models.load import LoadedModel
from gnomon.models.roles import Role
from gnomon.stages.collect import Collector, collect
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.stage import Stage
from gnomon.tasks.tunnel.labellers import Labeller
from gnomon.train.sampled import Sampling


class Collect(Stage):
    """Samples responses and has a judge rank them, as data for later stages."""

    @property
    def data_kind(self) -> str:
        return "prompts"

    @property
    def judged(self) -> bool:
        return bool(self.spec.reward or self.settings.labellers)

    def iterations(self, rows: int) -> int:
        return rows

    def check(self) -> None:
        spec = self.spec
        if spec.environment is not None:
            raise ConfigError(f"{spec.algorithm} plays no episodes; remove environment")
        if spec.rollout.max_staleness:
            raise ConfigError("a collect stage trains nothing: remove rollout.max_staleness")
        if spec.holdout or spec.eval_data or spec.lora:
            raise ConfigError(
                "a collect stage trains and evaluates nothing: remove holdout, eval_data and lora"
            )
        if spec.pretraining:
            raise ConfigError(
                "pretraining text is given but would not be used: a collect stage trains nothing; "
                "remove it"
            )
        if spec.normalise_on:
            raise ConfigError(f"normalise_on is for reward models, and this is {spec.algorithm}")

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        builder = RoleBuilder(self.spec, loaded, self.seed)
        encoder = self.encoder(loaded)
        policy = Role("policy", builder.trunk)
        groups, _ = self.data.groups("prompts")
        prompts = self.prompts(encoder, groups)
        self.data.note(self.folder.path / "data.json", resume)
        judge: Any
        if self.settings.labellers:
            judge = [Labeller(**s.model_dump(), seed=self.seed) for s in self.settings.labellers]
        else:
            judge = self.judge(builder)
        with self.progress(len(prompts)) as progress:
            collector = Collector(
                self.engine(policy, encoder),
                judge,
                self.settings,
                Sampling.of(self.spec.rollout).params,
                self.spec.rollout.samples,
                self.seed,
                self.spec.max_reward_errors,
                self.watched(progress, "rollout"),
            )
            summary, skipped = collect(collector, prompts, self.folder.path, progress, self.stop)
        self.data.report.skipped += skipped
        return {"iterations": len(prompts), "summary": summary}
