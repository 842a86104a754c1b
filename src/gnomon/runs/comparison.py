"""comparison.json: every policy of a run on the same prompts, written and read by one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, PlainValidator

from gnomon.runs.records import Record
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import independent_difference

LENGTH = "length (tokens)"
"""The column of the answers' lengths."""

Figure = Annotated[
    Interval | None,
    PlainValidator(Interval.parse),
    PlainSerializer(lambda figure: None if figure is None else figure.to_dict()),
]
"""``{"value", "low", "high", "n"}``, or a plain number; None where nothing was measured."""


def only_mappings(raw: Any) -> Any:
    """Items of a list that can be records; others are passed over."""
    if not isinstance(raw, list):
        return raw
    return [item for item in raw if isinstance(item, Mapping | BaseModel)]


def _texts(raw: Any) -> Any:
    """Samples as text, whatever a model is called or answered."""
    rows = only_mappings(raw)
    if not isinstance(rows, list):
        return rows
    return [{str(k): "" if v is None else str(v) for k, v in row.items()} for row in rows]


class ComparisonRow(Record):
    """A model's figures, one for each column of its table.

    Attributes:
        gains: the first columns' figures less the reference's, paired by prompt.
        scores: [first columns][prompts][samples] what figures and gains are made from.
    """

    model: str = ""
    values: list[Figure] = Field(default_factory=list)
    gains: list[Figure] = Field(default_factory=list)
    scores: list[list[list[float | None]]] = Field(default_factory=list)

    def value(self, column: int) -> Interval | None:
        """The figure in a column, None where there is none."""
        return self.values[column] if column < len(self.values) else None

    def gain(self, column: int) -> Interval | None:
        """The gain in a column over the reference, None where that is not known."""
        return self.gains[column] if column < len(self.gains) else None


class Comparison(Record):
    """comparison.json: models (rows) by measures (columns), and samples of each side by side.

    Attributes:
        reference: the model that the others are measured against.
        prompts: ids, in the order of the rows' ``scores``.
        samples: a ``prompt`` and each model's answer to it.
        tables: further ones, such as pass@k.
        judges: what each column's judge took, as in stage.json but for the seconds.
    """

    title: str = "Results"
    columns: list[str] = Field(default_factory=list)
    reference: str = ""
    rows: Annotated[list[ComparisonRow], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )
    prompts: list[str] = Field(default_factory=list)
    samples: Annotated[list[dict[str, str]], BeforeValidator(_texts)] = Field(default_factory=list)
    tables: Annotated[list[Comparison], BeforeValidator(only_mappings)] = Field(
        default_factory=list
    )
    judges: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def models(self) -> list[str]:
        """The rows' models; one without a name is named after its place."""
        return [row.model or f"model {i}" for i, row in enumerate(self.rows, start=1)]

    def row(self, model: str) -> ComparisonRow:
        """The row of a model."""
        return self.rows[self.models.index(model)]

    def column(self, place: int) -> dict[str, Interval]:
        """The figures in a column by model; models without one are left out."""
        pairs = zip(self.models, self.rows, strict=True)
        return {model: m for model, row in pairs if (m := row.value(place)) is not None}

    def scores(self, model: str) -> dict[str, dict[str, list[float | None]]]:
        """Each column's values by prompt; columns that are not one list a prompt are left out."""
        columns = zip(self.columns, self.row(model).scores, strict=False)
        return {
            name: dict(zip(self.prompts, scores, strict=True))
            for name, scores in columns
            if len(scores) == len(self.prompts)
        }

    def difference(self, place: int, model: str, other: str) -> Interval:
        """``model`` less ``other`` in a column.

        Paired by prompt where the comparison has it so (one of the two is its reference), else from
        the two intervals as independent. Its ends are NaN where either figure has no interval.
        """
        new, old = self.row(model).value(place), self.row(other).value(place)
        for sign, gained, reference in ((1, model, other), (-1, other, model)):
            paired = self.row(gained).gain(place) if reference == self.reference else None
            if paired is not None and paired.known:
                low, high = sorted((sign * paired.low, sign * paired.high))
                return Interval(sign * paired.value, low, high, paired.n)
        nothing = Interval(float("nan"))
        return independent_difference(new or nothing, old or nothing)
