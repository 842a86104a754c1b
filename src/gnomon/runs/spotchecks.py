"""spotchecks/<stage>.json: whether people prefer what the trained reward prefers.

People see, blind, one of the policy's best-rewarded answers beside an ordinary one to the same
prompt. :mod:`gnomon.feedback.spotcheck` chooses the pairs and reads the labels; the audit reads
this record only, which holds the texts so that an alarm can show them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from gnomon.runs.comparison import Figure, only_mappings
from gnomon.runs.records import Record

SPOTCHECK_FOLDER = "spotchecks"
PHASES = ("early", "middle", "late")
"""Thirds of the steps at which samples were kept."""


class SpotPair(Record):
    """One pair that people are asked about, and what they said.

    Attributes:
        item: its id in the store of labels.
        prompt_id, prompt: what both answer.
        best, other: the best-rewarded answer and the ordinary one.
        rewards: of the two, in this order.
        step, other_step: of the optimizer when each was sampled; they differ where a prompt was
            sampled once a step.
        phase: of ``step``, see :data:`PHASES`.
        labels: people who compared the two.
        won: the share of them who prefer the best-rewarded one, a tie counting half; None without
            labels.
    """

    item: str = ""
    prompt_id: str = ""
    prompt: str = ""
    best: str = ""
    other: str = ""
    rewards: list[float] = Field(default_factory=list)
    step: int = 0
    other_step: int = 0
    phase: str = ""
    labels: int = 0
    won: float | None = None


class SpotCheck(Record):
    """spotchecks/<stage>.json.

    Attributes:
        stage: whose samples they are.
        rewards: the names of what the stage is trained on.
        store: where the labels are.
        campaign: the items' campaign there.
        guideline: the version that people work by; empty where there is none.
        overlap: how many people are asked about each pair.
        made, read_at: when it was asked, and when the labels were last read.
        pairs: what people are asked.
        asked, answered: pairs, and those that have all their labels.
        labels: comparisons by people.
        skipped: labels that compare nothing (skips, "all bad").
        agreement: how often people prefer the best-rewarded answer; 0.5 is chance.
        phases: the same by phase.
        drift: agreement in the last phase less that in the first.
        people: how often two people say the same of a pair; None without overlap.
        without_noise: agreement with what people would say without noise, by Spearman's correction
            for attenuation; None without overlap, or where people agree no more than by chance.
        labellers: agreement of each labeller with the reward, by pseudonym.
        first: how often the answer shown first wins; 0.5 is without position bias.
        detectable: the smallest distance of agreement from 0.5 that so many labels show with a
            chance of 80%.
        drift_detectable: the smallest drift that they show.
        seconds, money: of people's work.
        problems: what to know when reading the figures, in words.
    """

    stage: str = ""
    rewards: list[str] = Field(default_factory=list)
    store: str = ""
    campaign: str = ""
    guideline: str = ""
    overlap: int = 1
    made: str = ""
    read_at: str = ""
    pairs: Annotated[list[SpotPair], BeforeValidator(only_mappings)] = Field(default_factory=list)
    asked: int = 0
    answered: int = 0
    labels: int = 0
    skipped: int = 0
    agreement: Figure = None
    phases: dict[str, Figure] = Field(default_factory=dict)
    drift: Figure = None
    people: Figure = None
    without_noise: Figure = None
    labellers: dict[str, Figure] = Field(default_factory=dict)
    first: Figure = None
    detectable: float | None = None
    drift_detectable: float | None = None
    seconds: float = 0.0
    money: float = 0.0
    problems: list[str] = Field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.pairs)
