"""Verdicts of a judge that were written down before, as a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.data.rows import iter_rows
from gnomon.data.values import RowError, Skipped
from gnomon.data.verdicts import verdict
from gnomon.errors import DataError
from gnomon.files import fingerprint
from gnomon.judges.protocol import Judge
from gnomon.plugins import did_you_mean
from gnomon.recipe.schema import Verdict
from gnomon.records import Comparison, Group, Judgement, Prompt


class RecordedJudge(Judge):
    """Says of two answers what a file says of them.

    Each row has a verdict (``a``, ``b`` or ``tie``, or what ``labels`` calls so) on the row of the
    pairs' own file that has the same key. In a group of two, ``a`` is the response of that id, or
    else the first.

    Args:
        file: of the verdicts; any that :func:`iter_rows` reads.
        field: the column with the verdict.
        key: the column that both files share.
        labels: what the verdicts mean.
        name: the judge's.

    Raises:
        DataError: the file cannot be read, or lacks a column in every row.
    """

    groupwise = True

    def __init__(
        self,
        file: Path,
        field: str,
        key: str = "id",
        labels: Mapping[Any, Verdict] | None = None,
        name: str = "recorded",
    ) -> None:
        self.name, self.key, self.field = name, key, field
        self.version = f"{field} of sha256 {fingerprint(file)['sha256']}" if file.is_file() else ""
        self._said: dict[str, Verdict | str] = {}
        columns: set[str] = set()
        for row in iter_rows(file):
            if isinstance(row, Skipped):
                continue
            columns |= set(map(str, row.data))
            if row.data.get(key) is None:
                continue
            self._said[str(row.data[key])] = _read(row.data.get(field), labels or {})
        for column in (key, field):
            if column not in columns:
                raise DataError(f"{file}: no column {column!r}; {did_you_mean(column, columns)}")

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [self._judged(group) for group in groups]

    def _judged(self, group: Group) -> Judgement:
        key = key_of(group.prompt, self.key)
        said = self._said.get(key or "", f"no verdict on {self.key} {key}")
        if len(group.responses) != 2:
            said = "its verdicts are on two answers"
        if said not in ("a", "b", "tie"):
            return Judgement(self.name, version=self.version, error=said)
        a = 1 if group.responses[1].id == "a" else 0
        better, worse = (a, 1 - a) if said != "b" else (1 - a, a)
        compared = (Comparison(better, worse, tie=said == "tie"),)
        return Judgement(self.name, comparisons=compared, version=self.version)


def key_of(prompt: Prompt, key: str) -> str | None:
    """A row's key, which reading the row has put into the prompt's id or meta."""
    value = prompt.meta.get(key, prompt.id if key == "id" else None)
    return None if value is None else str(value)


def _read(value: Any, labels: Mapping[Any, Verdict]) -> Verdict | str:
    try:
        return verdict(value, labels)
    except RowError as error:
        return f"no verdict: {error.reason} ({error.cure})"
