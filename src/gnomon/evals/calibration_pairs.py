"""People's labels as pairs of answers that a judge can be asked about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.data.fields import as_name, labeller_of
from gnomon.data.formats import judgements
from gnomon.data.readers import prompt_key
from gnomon.errors import ConfigError, DataError
from gnomon.judges.ai import Pair
from gnomon.plugins import did_you_mean
from gnomon.records import Comparison, Group, Prompt, Response

AUTHORS: tuple[tuple[str, str], ...] = (
    ("model_a", "model_b"),
    ("generator_1", "generator_2"),
    ("model_1", "model_2"),
    ("model1", "model2"),
    ("chosen_model", "rejected_model"),
    ("chosen-model", "rejected-model"),
)
"""Columns that are known to say who wrote the first and the second answer of a row."""
AUTHOR = ("model", "generator", "author")
"""Keys of a response's own that say so."""
FIRST_OF_ROW = ("a", "chosen")
"""Ids of the answer that stands first in its row."""


@dataclass
class LabelledPair:
    """Two answers and what people say of them.

    Attributes:
        group: the prompt, and the two responses in the order of ``a`` and ``b``.
        cluster: the prompt's key.
        people: by labeller, what ``a`` wins: 1, 0 or (a tie) 1/2. A labeller without a name is a
            number.
        ordered: whether the file says which of the two was shown first, and that it was ``a``.
        authors: who wrote ``a`` and ``b``; empty where the data do not say.
        rows: what has labelled it without a name: what else its rows say, and each one's place
            among these of its row.
        belief: how likely ``a`` is the better one by all labels together, where the labels come as
            such probabilities.
    """

    group: Group
    cluster: str
    people: dict[str | int, float] = field(default_factory=dict)
    ordered: bool = False
    authors: tuple[str, str] = ("", "")
    rows: set[tuple[str, int, float]] = field(default_factory=set)
    belief: float | None = None

    @property
    def pair(self) -> Pair:
        a, b = self.group.responses
        return Pair(self.group.prompt, a.text, b.text)

    @property
    def longer(self) -> int:
        """1 where ``a`` is the longer one (in characters), -1 where ``b`` is, 0 where neither."""
        a, b = (len(response.text) for response in self.group.responses)
        return (a > b) - (a < b)

    def own(self, models: Sequence[str]) -> int:
        """1 where ``a`` alone is by one of these models, -1 where ``b`` alone is, else 0."""
        names = {model.strip().casefold() for model in models}
        a, b = (author.strip().casefold() in names for author in self.authors)
        return int(a) - int(b)

    def add(self, who: str | None, won: float, row: str = "", place: int = 0) -> None:
        """Add a label: of several of one labeller the last counts. Without a name a row that is
        there twice is one label, and the labels of one row, or of rows that differ in anything,
        are different people's.

        Args:
            row: what its row says beside the pair.
            place: which label of its row on this pair it is.
        """
        if who is not None:
            self.people[who] = won
        elif (row, place, won) not in self.rows:
            self.rows.add((row, place, won))
            self.people[len(self.people)] = won


def labelled_pairs(
    groups: Sequence[Group], authors: tuple[str, str] | None = None
) -> list[LabelledPair]:
    """Every pair of answers that people compared, with all labels on it together.

    The same two answers to the same prompt are one pair, in whichever order and row they come.

    Args:
        authors: the columns that say who wrote a row's first and second answer; the usual ones
            where None.

    Raises:
        DataError: nothing in the groups compares two different answers.
        ConfigError: no row has the columns ``authors``.
    """
    _check_authors(groups, authors)
    found: dict[tuple[str, str, str], LabelledPair] = {}
    for group in groups:
        cluster = prompt_key(group)
        compared = judgements(group)
        names, about = labellers(group, len(compared)), row_of(group.prompt.meta)
        places = Counter[tuple[str, str, str]]()
        for c, who in zip(compared, names, strict=True):
            texts = [group.responses[i].text for i in (c.better, c.worse)]
            if texts[0] == texts[1] or not c.weight:
                continue
            key = (cluster, min(texts), max(texts))
            if key not in found:
                found[key] = _new(group, cluster, c, authors)
            item = found[key]
            for_a = item.group.responses[0].text == texts[0]
            item.add(who, 0.5 if c.tie else float(for_a), about, places[key])
            places[key] += 1
            if c.probability < 1.0 and not c.tie:
                item.belief = c.probability if for_a else 1.0 - c.probability
    if not found:
        raise DataError(
            f"the labels compare no two different answers to one prompt, in {len(groups)} rows: a "
            "calibration needs rows with two answers and which of them is better"
        )
    return list(found.values())


def labellers(group: Group, compared: int) -> list[str | None]:
    """Who made each of a group's comparisons; None where nothing says so."""
    names = group.prompt.meta.get("labellers", ())
    if len(names) != compared:  # one of the whole row
        return [labeller_of(group.prompt.meta)] * compared
    return [as_name(name) for name in names]


def row_of(meta: Mapping[str, Any]) -> str:
    """What else a row says, by which two rows are told apart."""
    return json.dumps(meta, sort_keys=True, default=str)


def _new(
    group: Group, cluster: str, c: Comparison, authors: tuple[str, str] | None
) -> LabelledPair:
    """A pair in the file's order, where the ids say it: the better may come first in a group."""
    i, j = sorted((c.better, c.worse))
    responses = (group.responses[i], group.responses[j])
    ordered = {r.id for r in responses} == {"a", "b"}
    if ordered and responses[0].id == "b":
        responses = (responses[1], responses[0])
    two = Group(group.prompt, responses, weight=group.weight)
    a, b = (_author(group.prompt, response, authors) for response in responses)
    return LabelledPair(two, cluster, ordered=ordered, authors=(a, b))


def _author(prompt: Prompt, response: Response, columns: tuple[str, str] | None) -> str:
    """Who wrote a response; empty where nothing says so."""
    for key in AUTHOR if columns is None else ():
        if isinstance(response.meta.get(key), str):
            return str(response.meta[key])
    if response.id not in ("a", "b", "chosen", "rejected"):
        return ""
    place = 0 if response.id in FIRST_OF_ROW else 1
    for pair in AUTHORS if columns is None else [columns]:
        value = prompt.meta.get(pair[place])
        if value is not None:
            return str(value)
    return ""


def _check_authors(groups: Sequence[Group], columns: tuple[str, str] | None) -> None:
    if columns is None:
        return
    known: Mapping[str, Any] = Counter(str(key) for group in groups for key in group.prompt.meta)
    for column in columns:
        if column not in known:
            raise ConfigError(
                f"no row of the labels has a column {column!r} that says who wrote an answer; "
                f"{did_you_mean(column, known)}"
            )
