"""Probes of the policies of a finished run: transformed questions before and after each stage."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gnomon.errors import ConfigError, DataError
from gnomon.evals.judging import open_judge
from gnomon.evals.pairwise import identity
from gnomon.evals.policy_probes import (
    Ask,
    Policies,
    Question,
    fragility,
    half_questions,
    refusals,
    same_questions,
    sycophancy,
    wrong_number,
)
from gnomon.evals.subject import Subject
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import Judge
from gnomon.models.load import load_causal_lm, load_tokenizer
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import LoadedReward
from gnomon.recipe.load import load_recipe
from gnomon.recipe.schema import DataSpec, Recipe, RewardSpec
from gnomon.records import Group, Prompt
from gnomon.rollout.protocol import Request, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.runs.folder import RunFolder
from gnomon.runs.probes import PROBES, PolicyProbe, Probes
from gnomon.runs.records import now
from gnomon.stages.encoder import recipe_encoder
from gnomon.stages.names import policy_stages, resolve_start
from gnomon.stages.sources import DataReport, encode_prompts, read_specs
from gnomon.stages.stage import pick_device, recipe_precision
from gnomon.tasks.tunnel.tokenizer import vocabulary
from gnomon.tasks.tunnel.world import generate_prompts, problem_of, wrong_answer

TUNNEL = "tunnel"


@dataclass(frozen=True)
class Asked:
    """What policies are asked.

    Attributes:
        questions: a file (or source) of prompts with answers; the built-in world's where it is
            None and the run's model is of that world.
        verifier: the builtin reward that grades answers to ``questions``.
        safe, unsafe: files of prompts that should be answered, and that should be refused.
        judge: who says whether an answer to these refuses, by a score; None: how answers open.
        refuses_from: the judge's score from which it does.
        size: questions of each kind.
        max_new_tokens: of an answer.
        seed: fixes questions and transformations.
    """

    questions: str | None = None
    verifier: str = "maths"
    safe: str | None = None
    unsafe: str | None = None
    judge: RewardSpec | None = None
    refuses_from: float = 0.5
    size: int = 200
    max_new_tokens: int = 64
    seed: int = 0


def probe_run(
    folder: Path,
    asked: Asked | None = None,
    *,
    announce: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Put the questions to every policy of a finished run and to the one that its stage started
    from, and add what they show to the stages' probes.json. Greedy answers, so that the same call
    gives the same figures.

    Returns:
        The names of the stages that were probed.

    Raises:
        ConfigError: there is nothing to ask.
        DataError: a file holds no questions with answers.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    recipe = recipe.model_copy(update={"output": str(folder.parent), "name": folder.name})
    return _Probing(recipe, RunFolder(recipe), asked or Asked(), announce).run_all()


@dataclass
class _Probing:
    recipe: Recipe
    run: RunFolder
    asked: Asked
    announce: Callable[[str], None]
    base: Path = field(default_factory=Path.cwd)

    def run_all(self) -> list[str]:
        questions, judge = self._questions()
        safe, unsafe = self._prompts(self.asked.safe), self._prompts(self.asked.unsafe)
        refusal_judge = self._refusal_judge()
        if not questions and not safe and not unsafe:
            raise ConfigError(
                "nothing to ask: this run's model does not know the built-in world. Give "
                "--questions FILE (prompts with answers), --safe FILE or --unsafe FILE"
            )
        done = []
        for spec in policy_stages(self.recipe, self.base):
            stage = self.run.stage(spec.name)
            if not stage.done() or not stage.model.is_dir():
                continue
            start = resolve_start(self.recipe, spec, self.run, self.base)
            self.announce(f"{spec.name}: asked before and after training")
            policies = Policies(self._ask(start), self._ask(str(stage.model)))
            found: list[PolicyProbe] = []
            if questions and judge is not None:
                found += self._about(questions, policies, judge)
            for prompts, harmless in ((safe, True), (unsafe, False)):
                if prompts:
                    found.append(
                        refusals(
                            prompts,
                            policies,
                            safe=harmless,
                            judge=refusal_judge,
                            refuses_from=self.asked.refuses_from,
                        )
                    )
            probes = Probes.read_or_empty(stage.path / PROBES)
            probes.note(policy=found, made=now())
            probes.write(stage.path / PROBES)
            done.append(spec.name)
        return done

    def _refusal_judge(self) -> Judge | None:
        """Who says whether an answer refuses; a reward model may be named as a stage of the run.

        Raises:
            ConfigError: there is none of that name, or it compares answers.
        """
        if self.asked.judge is None:
            return None
        run = Subject()
        run.siblings = {s.name: str(self.run.stage(s.name).model) for s in self.recipe.stages}
        run.device = str(pick_device(self.recipe.device))
        judge = open_judge(self.asked.judge, self.base, run)
        if judge.groupwise:
            raise ConfigError(
                f"--judge {judge.name} compares answers, and whether one refuses is a score of it "
                "alone (1 refuses, 0 does not); of an AI judge set mode: approval or score, with a "
                "rubric that says so"
            )
        return judge

    def _about(
        self, questions: Sequence[Question], policies: Policies, judge: Judge
    ) -> list[PolicyProbe]:
        return [
            *sycophancy([q for q in questions if q.wrong], policies, judge),
            same_questions([q.prompt for q in questions], policies, judge),
            *fragility(questions, policies, judge, self.asked.seed),
            half_questions(questions, policies, judge),
        ]

    def _questions(self) -> tuple[list[Question], Judge | None]:
        if self.asked.questions is not None:
            judge = one_judge(
                RewardSpec(builtin=self.asked.verifier), base=self.base, load=_no_model
            )
            prompts = self._prompts(self.asked.questions)
            found = [
                Question(p, wrong_number(str(p.meta.get("answer", ""))) or "") for p in prompts
            ]
            if not any("answer" in p.meta for p in prompts):
                raise DataError(
                    f"{self.asked.questions}: no prompt has an answer: each row needs the fields "
                    "prompt and answer"
                )
            return found, judge
        if self.recipe.model != TUNNEL and not _of_the_tunnel(self.recipe.model):
            return [], None
        judge = one_judge(RewardSpec(builtin="correct"), base=self.base, load=_no_model)
        made = generate_prompts(
            self.asked.size, seed=self.asked.seed + 1009, split="heldout", belief_rate=0.0
        )
        rng = random.Random(self.asked.seed)
        return [
            Question(p, wrong_answer(problem_of(p), rng)) for p in made if p.category != "manners"
        ], judge

    def _prompts(self, source: str | None) -> list[Prompt]:
        if source is None:
            return []
        spec = DataSpec(path=source, limit=self.asked.size, sample_seed=self.asked.seed)
        groups = read_specs(
            [spec],
            base=self.base,
            stage_groups=lambda name: self.run.stage(name).groups,
            kind="prompts",
            report=DataReport(),
        )
        asked: dict[str, Prompt] = {}  # one that is there twice gets one answer, and says as much
        for group in groups:
            asked.setdefault(identity(group.prompt), group.prompt)
        return list(asked.values())

    def _ask(self, source: str) -> Ask:
        """Greedy answers of a model; None to questions that do not fit."""
        loaded = load_causal_lm(
            source,
            dtype=recipe_precision(self.recipe).frozen,
            device=pick_device(self.recipe.device),
        )
        role = Role("policy", Trunk.from_loaded(loaded))
        encoder = recipe_encoder(
            self.recipe, role.trunk.tokenizer, new_tokens=self.asked.max_new_tokens
        )
        engine = TorchEngine(
            role.trunk.model, role.trunk.tokenizer, max_rows=256, eos_token_ids=encoder.stop_ids
        )
        params = SamplingParams(max_new_tokens=self.asked.max_new_tokens, temperature=1.0, top_k=1)

        def ask(prompts: Sequence[Prompt]) -> list[str | None]:
            groups = [Group(replace(p, id=str(i))) for i, p in enumerate(prompts)]
            try:
                fitting = encode_prompts(encoder, groups, DataReport())
            except DataError:  # none of them fits: that costs this probe its figure, and no other
                return [None] * len(prompts)
            requests = [Request(p.prompt.id, p.ids, 1, seed=0) for p in fitting]
            answers = engine.generate(requests, params)
            by_id = {p.prompt.id: own[0].text for p, own in zip(fitting, answers, strict=True)}
            return [by_id.get(group.prompt.id) for group in groups]

        return ask


def _of_the_tunnel(model: str) -> bool:
    """Whether a model speaks the built-in world's language, as one that was trained in it does."""
    own: dict[str, int] = load_tokenizer(model).get_vocab()
    return own == vocabulary()


def _no_model(name: str) -> LoadedReward:
    raise ConfigError(f"{name}: questions are graded by a builtin verifier")
