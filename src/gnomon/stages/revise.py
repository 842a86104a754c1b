"""The ``revise`` stage: answers are criticised and rewritten by a constitution's principles.

The first half of constitutional AI (Bai et al. 2022, arXiv:2212.08073, section 3): the policy
answers, and in each round a principle is drawn by its weight, the answer is criticised by it, and
rewritten. What it writes, ``groups.jsonl``, is demonstrations of prompts with their last revision
for an ``sft`` stage (``data: stage:NAME``); each row keeps every step.
"""

from __future__ import annotations

from typing import Any

from gnomon.algorithms.revise_settings import ReviseSettings
from gnomon.errors import ConfigError
from gnomon.feedback.constitution import Constitution, read_constitution
from gnomon.judges.critics import Critic
from gnomon.models.counting import TokenCounts
from gnomon.models.load import LoadedModel
from gnomon.models.roles import Role
from gnomon.recipe.schema import Kind
from gnomon.runs.records import DATA
from gnomon.stages.computed import computed
from gnomon.stages.critics import CRITIC, CriticMaker
from gnomon.stages.reviser import Reviser, revise
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.stage import ANSWERS, Stage
from gnomon.training.sampled import SAMPLER, Sampling

_UNUSED = ("reward", "observe", "environment", "holdout", "eval_data", "lora", "pretraining")


class Revise(Stage):
    """Has answers revised by a constitution; see
    :class:`~gnomon.algorithms.revise_settings.ReviseSettings`."""

    @property
    def data_kind(self) -> Kind:
        return "prompts"

    @property
    def judged(self) -> bool:
        return True  # by the constitution

    def iterations(self, rows: int) -> int:
        return rows

    @property
    def passes(self) -> int:
        settings: ReviseSettings = self.settings
        return 1 + settings.rounds * (2 if settings.critique else 1)

    def check(self) -> None:
        spec = self.spec
        given = [key for key in (*_UNUSED, "normalise_on") if getattr(spec, key)]
        given += ["train"] if spec.train.model_fields_set else []
        given += ["probes"] if spec.probes is not None else []
        given += ["rollout.max_staleness"] if spec.rollout.max_staleness else []
        given += ["rollout.final_temperature"] if spec.rollout.final_temperature else []
        if given:
            raise ConfigError(
                f"a revise stage trains and evaluates nothing: remove {', '.join(given)}"
            )
        self.constitution()
        self._critics().check()

    def constitution(self) -> Constitution:
        """The principles that it revises by.

        Raises:
            ConfigError: the file cannot be used, or not to revise.
        """
        settings = self.settings
        found = read_constitution(settings.constitution, self.base)
        return found.only(settings.categories).for_revisions()

    def _critics(self) -> CriticMaker:
        params = Sampling.of(self.spec.rollout).params
        folder = self.folder.path / ANSWERS
        return CriticMaker(self.recipe, self.settings, params, self.run, self.base, folder)

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        builder = RoleBuilder(self.spec, loaded, self.seed)
        encoder = self.encoder(loaded)
        policy = Role("policy", builder.trunk)
        groups, _ = self.data.groups("prompts")
        prompts = self.prompts(encoder, groups)
        self.data.note(self.folder.path / DATA, resume)
        roles = {"policy": policy}
        with self.progress(len(prompts)) as progress:
            engine = self.engine(policy, encoder)
            maker, spec = self._critics(), self.settings.critic
            watch = self.watched(progress, CRITIC)
            critic: Critic
            if spec is None:
                critic = maker.policy(policy, engine, watch)
            elif spec.local is not None:
                critic, roles[CRITIC] = maker.local(spec, watch)
            else:
                critic = maker.outside(spec, progress.note)
            reviser = Reviser(
                engine,
                critic,
                self.constitution(),
                self.settings,
                Sampling.of(self.spec.rollout).params,
                self.spec.rollout.samples,
                self.seed,
                self.spec.max_reward_errors,
                self.watched(progress, "rollout"),
            )
            made = revise(reviser, prompts, self.folder.path, progress, self.stop)
        self.data.report.skipped += made.skipped
        tokens = TokenCounts()
        by_critic = made.judges.get(critic.name, {}).get("tokens", 0)
        tokens.forward[SAMPLER] = made.tokens + (by_critic if spec is None else 0)
        if CRITIC in roles:
            tokens.forward[CRITIC] = by_critic
        return {
            "iterations": len(prompts),
            "summary": made.summary,
            "judges": made.judges,
            "compute": computed(tokens, roles),
        }
