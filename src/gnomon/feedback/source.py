"""The data source ``feedback:WHERE``: what labellers said, as groups that a stage learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from gnomon.data.fields import ReadOptions
from gnomon.data.formats import convert
from gnomon.data.readers import unique_ids
from gnomon.data.values import RowError, Skipped
from gnomon.errors import ConfigError
from gnomon.feedback.believed import believed
from gnomon.feedback.consensus import Consensus, Method
from gnomon.feedback.groups import Votes, learned_groups
from gnomon.feedback.opening import open_store
from gnomon.plugins import did_you_mean
from gnomon.recipe.schema import Kind
from gnomon.records import Group
from gnomon.runs.labels import Believed

By = Literal["all", "people"]
WORD = "feedback"
"""What is before the colon."""
URLS = ("postgresql:", "postgres:", "postgresql+psycopg:", "sqlite:")


@dataclass(frozen=True)
class FeedbackOptions:
    """What a recipe may say of such a source.

    Attributes:
        campaign: the only one that is read; None for all.
        votes: ``calibrated``, ``majority`` or ``each``.
        method: of calibrating.
        first: read only so many labels, the first that came in: the same data, however many more
            come in later.
        good_from: the lowest mean rating that counts as good.
        by: ``all`` labellers, or ``people`` alone (simulated ones among them).
    """

    campaign: str | None = None
    votes: Votes = "calibrated"
    method: Method = "auto"
    first: int | None = None
    good_from: float | None = None
    by: By = "all"


def parse_options(path: str, given: Mapping[str, Any]) -> FeedbackOptions:
    """The options of ``feedback:...``.

    Raises:
        ConfigError: an unknown one, or a value that cannot be.
    """
    known = list(FeedbackOptions.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise ConfigError(
                f"data {path!r}: unknown option {name!r}; {did_you_mean(name, known)}"
            )
    options = FeedbackOptions(**given)
    named = {"votes": get_args(Votes), "method": get_args(Method), "by": get_args(By)}
    for name, choices in named.items():
        value = getattr(options, name)
        if value not in choices:
            near = did_you_mean(str(value), choices)
            raise ConfigError(f"data {path!r}: {name} is {value!r}; {near}")
    numbers = {"first": int, "good_from": int | float}
    for name, kind in numbers.items():
        value = getattr(options, name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ConfigError(f"data {path!r}: {name} is {value!r}, not a number")
    if options.first is not None and options.first < 1:
        raise ConfigError(f"data {path!r}: first is {options.first}; give 1 or more")
    return options


def place(path: str, base: Path) -> str | Path:
    """Where the store of ``feedback:WHERE`` is: a URL, or a file next to the recipe, else here.

    Raises:
        ConfigError: a URL with a password, which every copy of the recipe would hold.
    """
    where = path.partition(":")[2]
    if not where.startswith(URLS):
        beside = base / Path(where).expanduser()
        return beside if beside.exists() or not Path(where).exists() else Path(where)
    parts = urlsplit(where)
    if parts.password or "password=" in parts.query:
        raise ConfigError(
            f"data '{WORD}:...': the URL holds a password, which the run would keep. Take it out "
            "and set PGPASSWORD, or use ~/.pgpass"
        )
    return where


def check_feedback(path: str, options: Mapping[str, Any], base: Path) -> None:
    """Check that there is such a store and campaign, without reading the labels.

    Raises:
        ConfigError, DataError: there is not, with the nearest name.
    """
    asked = parse_options(path, options)
    with open_store(place(path, base)) as store:
        if asked.campaign is not None:
            store.campaign(asked.campaign)


def feedback_groups(
    path: str, options: Mapping[str, Any], base: Path, kind: str
) -> tuple[list[Group], list[Skipped], Believed | None]:
    """What labellers said, as groups of a kind, what cannot be read as that, and how far they were
    believed.

    Args:
        path: ``feedback:FILE`` or ``feedback:postgresql://USER@HOST/DATABASE``.
        options: see :class:`FeedbackOptions`.
        base: the folder that a file is looked up in.
        kind: what the stage needs: preferences, rankings, unpaired, demonstrations or prompts;
            ``auto`` leaves the groups as they are.

    Raises:
        ConfigError, DataError: no such store, campaign or option; nothing that can be read so.
    """
    asked = parse_options(path, options)
    where = place(path, base)
    with open_store(where) as store:
        if asked.campaign is not None:
            store.campaign(asked.campaign)
        labels = list(store.labels(asked.campaign, first=asked.first))
        items = list(store.items(asked.campaign))
        kinds = {one.name: one.kind for one in store.people.all()}
    if asked.first is not None and len(labels) < asked.first:
        raise ConfigError(
            f"data {path!r}: first is {asked.first}, and there are {len(labels)} labels"
        )
    if asked.by == "people":
        labels = [x for x in labels if kinds.get(x.labeller, "person") in ("person", "simulated")]
    if kind == "prompts":
        plain = [item for item in items if item.gold is None]  # gold questions are not learnt from
        return unique_ids([Group(item.prompt) for item in plain]), [], None
    marks = kind == "unpaired"
    weighed: list[Consensus] = []
    found = learned_groups(
        items, labels, asked.votes, method=asked.method, marks=marks,
        good=kind == "demonstrations", tell=weighed.append,
    )  # fmt: skip
    groups, skipped = _as_kind(found, kind, ReadOptions(good_from=asked.good_from))
    if not groups:
        first = f" The first: {skipped[0]}" if skipped else ""
        whose = " by people" if asked.by == "people" else ""
        whose += "" if asked.campaign is None else f" in campaign {asked.campaign!r}"
        raise ConfigError(
            f"data {path!r}: {len(items)} items and {len(labels)} labels{whose}, and nothing that "
            f"can be learnt from as {kind}.{first} Collect labels first (gnomon label)"
        )
    return unique_ids(groups), skipped, believed(items, labels, _chosen(weighed, marks))


def _chosen(weighed: list[Consensus], marks: bool) -> Consensus | None:
    """What weighed what is learned from: the marks where those are asked for."""
    return None if not weighed else weighed[-1 if marks else 0]


def _as_kind(
    groups: list[Group], kind: str, options: ReadOptions
) -> tuple[list[Group], list[Skipped]]:
    if kind in ("auto", "text"):
        return groups, []
    wanted: Kind = kind  # type: ignore[assignment]  # checked by the recipe's schema
    out: list[Group] = []
    skipped: list[Skipped] = []
    for group in groups:
        try:
            out += convert(group, wanted, options)
        except RowError as error:
            skipped.append(error.skip(group.prompt.source))
    return out, skipped
