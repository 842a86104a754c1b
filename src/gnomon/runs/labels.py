"""What labels cost and say for it, how far those who gave them were believed, and the constitutions
that they were made by."""

from __future__ import annotations

from typing import Any

from pydantic import Field, RootModel

from gnomon.runs.comparison import Figure
from gnomon.runs.records import JsonFile, Record
from gnomon.stats.intervals import Interval

LABEL_COSTS = "label-costs.json"
STORE_COSTS = "label-costs-store.json"
"""The ledger of a run, and in its folder that of the store whose labels it was trained on."""
CONSTITUTIONS = "constitutions.json"
BELIEVED = "labels.json"


class Constitutions(JsonFile, RootModel[dict[str, dict[str, Any]]]):
    """constitutions.json of a stage: by the name in the recipe, ``version`` and the hashes of its
    ``principles``."""

    root: dict[str, dict[str, Any]] = {}

    def versions(self) -> dict[str, str]:
        """By name."""
        return {name: str(said.get("version", "")) for name, said in self.root.items()}


class CostLine(Record):
    """What one labeller, all of one kind, or one stage's judge took and gave.

    Attributes:
        who: a pseudonym; a judge; what was paid for beside the labels.
        kind: person, model, program, simulated, judge or expense; of a sum, with "all" as ``who``.
        stage: of a run; empty where it is of a store.
        version: of a judge.
        labels: given, those that were replaced included: they were paid for. Of a run's judge,
            responses judged.
        errors: of a run's judge, responses that it failed on.
        pairs: comparisons in the labels that stand; None where that is not known.
        seconds, tokens, money: what they took (euros).
        estimated: how much of the money is not in the labels but follows from a price or a wage
            that was given.
        bits: mutual information of one comparison with what the others say of the pair.
        per_bit: euros for a bit.
        checked: comparisons that the bits are of: those with somebody else's label on the pair.
    """

    who: str = ""
    kind: str = ""
    stage: str = ""
    version: str = ""
    labels: int = 0
    errors: int = 0
    pairs: int | None = None
    seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0
    estimated: float = 0.0
    bits: Figure = None
    per_bit: Figure = None
    checked: int = 0

    @property
    def per_pair(self) -> float | None:
        """Euros for a comparison; None where none is known."""
        return self.money / self.pairs if self.pairs else None


class LabelCosts(Record):
    """The ledger of a store of labels or of a run.

    Attributes:
        source: the store, without a password, or the run.
        campaign: of the store, where it is of one.
        lines: labeller by labeller; ``sums`` are by kind.
        accuracy: of a run's reward model on held-out comparisons, where it trained one.
        per_point: euros for a point (a hundredth) of that accuracy above a half.
        notes: what a reader must know.
    """

    source: str = ""
    campaign: str = ""
    lines: list[CostLine] = Field(default_factory=list)
    sums: list[CostLine] = Field(default_factory=list)
    accuracy: Figure = None
    per_point: Figure = None
    notes: list[str] = Field(default_factory=list)
    made: str = ""


class Believed(Record):
    """How the labels of a source were settled, of which a stage learned.

    Attributes:
        method: dawid_skene, bradley_terry, majority; ``each`` where every vote counts by itself.
        votes: comparisons that labellers made.
        alpha: Krippendorff's, nominal, of compared pairs.
        rating_alphas: the same, interval, of each scale of ratings by its name; ``rating_alpha`` is
            that of all together, in runs of earlier versions.
        weights: by pseudonym, the accuracy that a labeller was believed to have, which weighs the
            votes (all alike by majority); 0.5 is a guess.
        contrary: labellers whose votes count against what they say.
        flags: signs of something else than judgement: the kind and the words of each.
        notes: what a reader must know of the method.
    """

    method: str = ""
    votes: int = 0
    labellers: int = 0
    alpha: Figure = None
    rating_alpha: Figure = None
    rating_alphas: dict[str, Figure] = Field(default_factory=dict)
    weights: dict[str, Figure] = Field(default_factory=dict)
    contrary: int = 0
    flags: list[list[str]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def alphas(self) -> dict[str, Interval]:
        """Krippendorff's alpha by what it is of."""
        found = {"pairs": self.alpha, "ratings": self.rating_alpha, **self.rating_alphas}
        return {what: figure for what, figure in found.items() if figure is not None}


class BelievedLabels(JsonFile, RootModel[dict[str, Believed]]):
    """labels.json of a stage: by source."""

    root: dict[str, Believed] = {}
