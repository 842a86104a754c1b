"""Campaigns, the guidelines that their labellers go by, and what is paid beside the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gnomon.feedback.rows import now
from gnomon.records import Cost


@dataclass(frozen=True)
class Added:
    """How many were new, and how many were there already."""

    new: int = 0
    known: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(self.new + other.new, self.known + other.known)


@dataclass(frozen=True)
class Campaign:
    """A collection of items that people are asked about in the same way.

    Attributes:
        kind: ``labels``, or ``spotcheck`` (people look at what a reward model liked).
        overlap: labellers per item.
        gold_rate: the share of questions whose answer is known, from 0 to 1.
        minutes: how long somebody has for an item before it is given to another.
        guideline: the version they work by; a label keeps the one it was given under.
        settings: of the page: what is asked (confidence, tags, ...).
        open: whether items are handed out.
    """

    name: str
    kind: str = "labels"
    overlap: int = 1
    gold_rate: float = 0.0
    minutes: float = 60.0
    guideline: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    open: bool = True
    at: str = ""


@dataclass(frozen=True)
class Guideline:
    """What labellers are told to go by. Another text is another version."""

    version: str
    text: str
    at: str = ""


@dataclass(frozen=True)
class Expense:
    """What was paid beside the labels' own costs: an hour's wage, a platform's fee."""

    what: str
    cost: Cost
    campaign: str | None = None
    labeller: str | None = None
    at: str = ""


def campaign_row(campaign: Campaign) -> dict[str, Any]:
    row = {name: getattr(campaign, name) for name in campaign.__dataclass_fields__}
    return row | {"settings": dict(campaign.settings), "at": campaign.at or now()}
