"""Files of verdicts that others made (AlpacaEval's annotations), and instructions' difficulty."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.data.values import shown
from gnomon.errors import DataError
from gnomon.evals.items import PROMPT, as_asked, field, rows_of, text_of, word_of
from gnomon.records import Prompt, Source

OWN, OTHER = ("output_2",), ("output_1",)
DIFFICULTY = ("instruction_difficulty", "difficulty")


@dataclass(frozen=True)
class Judged:
    """A row of a file of verdicts.

    Attributes:
        own, other: the answers of the model and of the baseline.
        win: the probability that the model's is better; None where the judge failed.
        model, baseline: their names in the file.
    """

    prompt: Prompt
    own: str
    other: str
    win: float | None
    model: str
    baseline: str


def prompt_id(text: str) -> str:
    """An id by a prompt's text, the same in every file that holds it."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:16]


def is_judged(file: Path) -> bool:
    """Whether a file's first row holds a verdict."""
    return any("preference" in row and "output_2" in row for _, row in _first(file))


def _first(file: Path) -> list[tuple[Source, Any]]:
    for found in rows_of(file):
        return [found]
    return []


def read_judged(file: Path) -> list[Judged]:
    """The verdicts of a file of AlpacaEval annotations: ``instruction``, ``output_1`` (the
    baseline's), ``output_2`` (the model's) and ``preference``.

    Raises:
        DataError: a row that lacks one, or whose preference is not from 1 to 2 (1 the baseline, 2
            the model, between them a probability; 0 or 1.5 a tie); verdicts on several models.
    """
    found: list[Judged] = []
    seen: dict[str, int] = {}
    needs = (PROMPT, OWN, OTHER, ("preference",))
    for source, row in rows_of(file, needs):
        text = text_of(row, PROMPT, source)
        id = prompt_id(text)
        seen[id] = seen.get(id, 0) + 1
        category = word_of(row, ("dataset", "category"))
        prompt = as_asked(
            text,
            source,
            id if seen[id] == 1 else f"{id}#{seen[id]}",
            category,
        )
        names = [str(row.get(key) or "") for key in ("generator_2", "generator_1")]
        own, other = (_answer(row, key, source) for key in (OWN, OTHER))
        found.append(Judged(prompt, own, other, _win(row["preference"], source), *names))
    for what, known in (
        ("generator_2", {j.model for j in found}),
        ("generator_1", {j.baseline for j in found}),
    ):
        if len(known) > 1:
            some = ", ".join(sorted(map(repr, known))[:4])
            raise DataError(
                f"{file}: {what} has {len(known)} names ({some}): keep the verdicts on each model "
                "in a file of its own"
            )
    return found


def _answer(row: Mapping[str, Any], names: Sequence[str], source: Source) -> str:
    value = field(row, names, source)
    if not isinstance(value, str):
        raise DataError(f"{source}: {names[0]!r} must be a text, not {shown(value)}")
    return value


def _win(value: Any, source: Source) -> float | None:
    """A preference from 1 to 2 as the probability of the second answer."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number == 0.0:
        return 0.5
    if not 1.0 <= number <= 2.0:
        raise DataError(
            f"{source}: 'preference' must be from 1 (the first output) to 2 (the second), or 0 for "
            f"a tie, not {shown(value)}"
        )
    return number - 1.0


def read_difficulty(file: Path) -> dict[str, float]:
    """The difficulty of each instruction, by :func:`prompt_id` of its text.

    Raises:
        DataError: a row without an instruction and a number.
    """
    found: dict[str, float] = {}
    for source, row in rows_of(file, (PROMPT, DIFFICULTY)):
        value = field(row, DIFFICULTY, source)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{source}: the difficulty must be a number, not {shown(value)}")
        found[prompt_id(text_of(row, PROMPT, source))] = number
    return found


def same_baseline(own: Sequence[Judged], other: Sequence[Judged], file: Path) -> None:
    """Check that another model's verdicts are on the same instructions, against the same answers.

    Raises:
        DataError: they are not.
    """
    theirs = {j.prompt.id: j for j in other}
    shared = [j for j in own if j.prompt.id in theirs]
    if not shared:
        raise DataError(
            f"{file}: none of its {len(other)} instructions is among the {len(own)} that are "
            "measured: difficulties are of the same instructions"
        )
    different = [j for j in shared if theirs[j.prompt.id].other != j.other]
    if different:
        raise DataError(
            f"{file}: its baseline answers differ ({len(different)} of {len(shared)}, the first: "
            f"{theirs[different[0].prompt.id].prompt.source}): verdicts against another baseline "
            "say nothing of these instructions' difficulty"
        )
