"""A recipe's reward entries as one judge, and the builtin rewards by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError
from gnomon.judges.columns import ABSTAINS
from gnomon.judges.function import function_reward
from gnomon.judges.protocol import Judge, Score, judged, total_cost
from gnomon.plugins import check_known, load_builtin
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Judgement, Prompt

if TYPE_CHECKING:
    from gnomon.judges.workers import Workplace
    from gnomon.models.save import LoadedReward

HUMAN, PEOPLE, AI = "human_queue", "people", "ai"
"""The builtins that ask people: by files, and through a store of labels; and a language model."""
ASK_PEOPLE = (HUMAN, PEOPLE)
CORRECTED = "corrected"
"""An option of every reward that compares, not of the builtin itself."""
PRINCIPLES = "principles"
"""The tunnel's judge by a constitution."""
BUILTIN: Mapping[str, str] = {
    "gold": "gnomon.tasks.tunnel.gold:GoldReward",
    "correct": "gnomon.tasks.tunnel.gold:CorrectReward",
    "leaky": "gnomon.tasks.tunnel.loopholes:LeakyReward",
    "consensus": "gnomon.tasks.tunnel.loopholes:ConsensusReward",
    "labeller": "gnomon.tasks.tunnel.labellers:LabellerJudge",
    PRINCIPLES: "gnomon.tasks.tunnel.principles:PrincipleJudge",
    HUMAN: "gnomon.judges.human:HumanQueue",
    PEOPLE: "gnomon.feedback.people_judge:PeopleJudge",
    AI: "gnomon.judges.panel:ai_judge",
    "maths": "gnomon.judges.verifiers.rewards:maths",
    "exact": "gnomon.judges.verifiers.rewards:exact",
    "regex": "gnomon.judges.verifiers.rewards:regex",
    "json": "gnomon.judges.verifiers.rewards:json_schema",
    "verifier": "gnomon.judges.verifiers.rewards:verifier",
    "instructions": "gnomon.judges.verifiers.instructions.reward:InstructionReward",
    "code": "gnomon.judges.code:CodeReward",
    "length": "gnomon.judges.verifiers.shaping:LengthReward",
    "format": "gnomon.judges.verifiers.shaping:FormatReward",
    "reasoning_gym": "gnomon.judges.verifiers.reasoning_gym:reasoning_gym",
    "repetition": "gnomon.judges.verifiers.shaping:RepetitionReward",
}
"""Names of builtin rewards and where each is made; only what a recipe names is imported."""


def check_builtin(name: str) -> None:
    """Check that there is such a builtin reward.

    Raises:
        ConfigError: there is not; the message names the nearest one.
    """
    check_known(name, BUILTIN, "builtin reward", own=False)


def build_judge(
    specs: Sequence[RewardSpec],
    *,
    base: Path,
    load: Callable[[str], LoadedReward],
    tokenizer: Any = None,
    queue: Path | None = None,
    answers: Path | None = None,
    place: Workplace | None = None,
) -> Judge:
    """The judge of one entry, or the weighted sum of several (each logged under its own name).

    Args:
        base: the folder that files are looked up in (the recipe's own).
        load: reads the reward model that an entry names.
        tokenizer: the policy's; a reward model with another one tokenises the text itself.
        queue: the folder in which people are asked.
        answers: the folder in which an AI judge's answers are kept.
        place: of the workers that entries ask for; without it they judge in this process.
    """
    how: dict[str, Any] = {"base": base, "load": load, "tokenizer": tokenizer}
    how |= {"queue": queue, "answers": answers, "place": place}
    parts = [(one_judge(spec, **how), spec.weight) for spec in specs]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return Mixture(parts)


def one_judge(
    spec: RewardSpec,
    *,
    base: Path,
    load: Callable[[str], LoadedReward],
    tokenizer: Any = None,
    queue: Path | None = None,
    answers: Path | None = None,
    texts: bool = False,
    place: Workplace | None = None,
) -> Judge:
    """The judge behind one entry; see :func:`build_judge`.

    Args:
        texts: what it will judge are texts that no policy has sampled, so without tokens.

    Raises:
        ConfigError: an unknown builtin, a function that cannot be imported, a wrong option.
    """
    if spec.workers:
        from gnomon.judges.workers import check_workers, worker_judge

        check_workers(spec)
        if place is not None:
            return worker_judge(spec, base, place, tokenizer)
    if spec.model is not None:
        # the only one with torch
        from gnomon.judges.learned import LearnedReward, own_encoding, text_encoding

        loaded = load(spec.model)
        trunk = loaded.members[0].trunk
        encode = None if tokenizer is None else own_encoding(trunk, tokenizer)
        return LearnedReward(
            loaded.members,
            loaded.normaliser,
            name=spec.label,
            ensemble=spec.ensemble,
            std_coef=spec.std_coef,
            encode=text_encoding(trunk) if texts else encode,
        )
    if spec.function is not None:
        return function_reward(spec.function, base, spec.options, spec.label)
    name, options = str(spec.builtin), dict(spec.options)
    corrected = options.pop(CORRECTED, False)
    check_builtin(name)
    if name in ASK_PEOPLE and queue is not None:
        options["folder"] = queue
    if name in (PEOPLE, PRINCIPLES):
        options["base"] = base
    if name == AI:
        options |= {"base": base, "answers": None if answers is None else answers / spec.label}
    try:
        judge: Judge = load_builtin(BUILTIN[name])(**options)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"reward {name!r}: its options {spec.options}: {error}") from error
    judge.name = spec.label
    if not corrected:
        return judge
    from gnomon.judges.corrected import CorrectedJudge  # it reads scipy

    return CorrectedJudge(judge, corrected, base)


class Mixture(Judge):
    """sum_i weight_i * score_i; a response that any part fails on is an error, not a partial sum.

    A part that does not apply to a response is left out of its sum, unless none applies.

    Raises:
        ConfigError: no part, or a weight that is not a finite number.
    """

    groupwise = True  # its parts are asked in pieces themselves

    def __init__(self, parts: Sequence[tuple[Judge, float]]) -> None:
        self.name = "mixture"
        self.parts = list(parts)
        if not self.parts:
            raise ConfigError("a mixture of rewards needs at least one")
        for judge, weight in self.parts:
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(f"reward {judge.name!r}: its weight is {weight!r}, not a number")
        self.version = "; ".join(f"{j.name}: {j.version}" for j, _ in self.parts if j.version)
        self.in_rounds = any(judge.in_rounds for judge, _ in self.parts)
        self.paid = any(judge.paid for judge, _ in self.parts)
        self.remembers = any(judge.remembers for judge, _ in self.parts)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        for judge, _ in self.parts:
            judge.check_prompts(prompts)

    def begin(self, round: int) -> None:
        for judge, _ in self.parts:
            judge.begin(round)

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        columns = [judged(judge, groups) for judge, _ in self.parts]
        return [self._together(row) for row in zip(*columns, strict=True)]

    def _together(self, row: Sequence[Judgement]) -> Judgement:
        """One judgement of all parts' judgements of a group."""
        names = [judge.name for judge, _ in self.parts]
        reasons = [f"{n}: {j.reason}" for n, j in zip(names, row, strict=True) if j.reason]
        return Judgement(
            self.name,
            tuple(map(self._sum, zip(*(j.scores for j in row), strict=True))),
            version=self.version,
            cost=total_cost(judgement.cost for judgement in row),
            reason="; ".join(reasons) or None,
            principle="; ".join(dict.fromkeys(j.principle for j in row if j.principle)),
        )

    def _sum(self, scores: Sequence[Score]) -> Score:
        """One response's score from its scores by each part."""
        row = [(judge.name, w, s) for (judge, w), s in zip(self.parts, scores, strict=True)]
        errors = [score.error for _, _, score in row if score.error is not None]
        if any(score.error is None for _, _, score in row):
            errors = [error for error in errors if not error.endswith(ABSTAINS)]
        values = {name: score.value for name, _, score in row if score.value is not None}
        for name, _, score in row:
            values |= {f"{name}/{part}": value for part, value in score.parts.items()}
        if errors:
            return Score(None, values, "; ".join(errors))
        return Score(sum(w * s.value for _, w, s in row if s.value is not None), values)
