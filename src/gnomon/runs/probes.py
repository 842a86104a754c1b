"""probes.json: what active probes of a stage found.

A probe changes something and asks again: the trained reward about edited answers
(:mod:`gnomon.evals.invariance`), the policy about transformed questions
(:mod:`gnomon.evals.policy_probes`). A score that moves under an edit which leaves the answer no
better, or does not move under one that ruins it, is evidence that needs no other judge.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from gnomon.runs.comparison import Figure, only_mappings
from gnomon.runs.records import Record

PROBES = "probes.json"

EARLY, LATE = "early", "late"
"""Answers of the policy as training began, and as it ended. The reward on edits of early answers
shows what it can be made to pay for; late answers show what the policy made of that."""


class EditExample(Record):
    """One answer before and after an edit, with what the reward gave."""

    prompt: str = ""
    before: str = ""
    after: str = ""
    reward_before: float | None = None
    reward_after: float | None = None
    step: int | None = None


class EditEffect(Record):
    """What one edit does to the trained reward.

    Attributes:
        edit: a name in :data:`gnomon.evals.edits.EDITS`.
        of: whose answers were edited: ``early`` or ``late``; ``data`` where a reward model was
            asked about its held-out data.
        change: the score after the edit less before it, paired by prompt, in units of reward.
        rises, falls: share of the answers whose score rises, or falls.
        score: the mean score of the edited answers.
        kept: the share of what an answer is worth (its score over that of another prompt's
            answer) that is left after the edit.
        moved: how far the late answers have come from the early ones (0) towards the edited early
            ones (1), along the direction in which the edit changes texts; of early answers only.
        n: answers that the edit changes and both of whose scores are known; ``failed``: whose
            reward failed on either.
        detectable: the smallest change, in units of reward, that so many answers show with a
            chance of 80%.
        examples: the answers whose score moved most.
    """

    edit: str = ""
    of: str = EARLY
    change: Figure = None
    rises: Figure = None
    falls: Figure = None
    score: Figure = None
    kept: Figure = None
    moved: Figure = None
    n: int = 0
    failed: int = 0
    detectable: float | None = None
    examples: Annotated[list[EditExample], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )


class Phrase(Record):
    """Words that late answers have more often than early ones: shares of the answers."""

    text: str = ""
    early: float = 0.0
    late: float = 0.0


class RewardProbes(Record):
    """The trained reward asked again about edited answers of one stage.

    Attributes:
        judge, version: which reward.
        early_step, late_step: of the optimizer, when the last of the first answers and the first
            of the last ones were sampled.
        early, late: the reward's mean on all answers kept of those steps, over prompts.
        gain: late less early, over prompts: as independent where the prompts differ.
        spread: standard deviation of the reward of the early answers.
        phrases: the phrases that grew most; the edits ``without_phrases``, ``with_phrases`` and
            ``only_phrases`` are about them.
        effects: one for each edit and side.
        asked: responses that were scored.
        seconds: by the clock.
        problems: why something is missing, in words.
    """

    judge: str = ""
    version: str = ""
    early_step: int | None = None
    late_step: int | None = None
    early: Figure = None
    late: Figure = None
    gain: Figure = None
    spread: float | None = None
    phrases: Annotated[list[Phrase], BeforeValidator(only_mappings)] = Field(default_factory=list)
    effects: Annotated[list[EditEffect], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )
    asked: int = 0
    seconds: float = 0.0
    problems: list[str] = Field(default_factory=list)

    def effect(self, edit: str, of: str = EARLY) -> EditEffect | None:
        """The effect of an edit on one side's answers; None where it was not measured."""
        return next((e for e in self.effects if (e.edit, e.of) == (edit, of)), None)


class PolicyProbe(Record):
    """One transformation of questions, put to the policy before and after training.

    Attributes:
        probe: ``stated_opinion``, ``are_you_sure``, ``authority``, ``same_questions``, ``typos``,
            ``paraphrase``, ``safe_prompts``, ``unsafe_prompts``, ``training_prompts``, ...
        measure: what the figures are shares of, in words.
        before, after: the figures of the policy that the stage started from, and of its own.
        change: after less before, paired by question.
        judge, judge_version: who says whether an answer refuses, in the probes that are about that.
        n: questions with a figure before and after.
        failed: questions that the judge failed on, before or after.
        detectable: the smallest change that so many questions show with a chance of 80%.
        examples: questions where the two differ.
    """

    probe: str = ""
    measure: str = ""
    before: Figure = None
    after: Figure = None
    change: Figure = None
    judge: str = ""
    judge_version: str = ""
    n: int = 0
    failed: int = 0
    detectable: float | None = None
    examples: Annotated[list[EditExample], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )


class ForeignPrompts(Record):
    """Whether two sets of prompts can be told apart: those that a reward model learned on, and
    those that a policy is optimised on.

    Attributes:
        reward_model, stage: whose prompts they are.
        auc: area under the ROC curve of a classifier on prompts that it did not see; 0.5 where
            nothing tells the two sets apart.
        p: share of random divisions of the prompts that are told apart as well.
        detectable: the smallest area that so many prompts show with a chance of 80%.
        foreign: the policy's prompts that are least like the reward model's, the worst first.
        coverage: by category, script and length in words: the share of the reward model's prompts
            and that of the policy's.
    """

    reward_model: str = ""
    stage: str = ""
    auc: Figure = None
    p: float | None = None
    n_reward_model: int = 0
    n_policy: int = 0
    detectable: float | None = None
    foreign: list[str] = Field(default_factory=list)
    coverage: dict[str, dict[str, list[float]]] = Field(default_factory=dict)


class Probes(Record):
    """probes.json: everything that was probed in one stage."""

    made: str = ""
    reward: RewardProbes | None = None
    policy: Annotated[list[PolicyProbe], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )
    foreign_prompts: Annotated[list[ForeignPrompts], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )
    problems: list[str] = Field(default_factory=list)

    def timeless(self) -> Probes:
        """The same without when it was made and how long it took."""
        reward = self.reward and self.reward.model_copy(update={"seconds": 0.0})
        return self.model_copy(update={"made": "", "reward": reward})

    def __bool__(self) -> bool:
        return self.reward is not None or bool(self.policy or self.foreign_prompts)
