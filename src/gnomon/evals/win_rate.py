"""How often a model's answers are preferred to another's, with the judge's liking for length taken
out as AlpacaEval 2 does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gnomon.errors import ConfigError, DataError
from gnomon.evals.asking import Unanswered
from gnomon.evals.items import find_file
from gnomon.evals.judging import calibration_of, other_version
from gnomon.evals.pairs import Pair, orders, verdicts
from gnomon.evals.pairwise import (
    Entry,
    Pairwise,
    PairwiseOptions,
    by_category,
    clusters,
    pair_row,
)
from gnomon.evals.subject import Stored, Subject, plain
from gnomon.evals.suite import Files, Measured, Row, Work
from gnomon.evals.verdict_files import (
    Judged,
    is_judged,
    prompt_id,
    read_difficulty,
    read_judged,
    same_baseline,
)
from gnomon.records import Prompt
from gnomon.runs.evals import Calibration
from gnomon.stats.intervals import weighted_proportion
from gnomon.stats.length_controlled import instruction_difficulty, length_controlled, length_term
from gnomon.stats.rates import corrected_win_rate

NOT_FITTED = (
    "length_controlled is the win rate as it was seen: of so few instructions, or of verdicts that "
    "are all the same, no liking for length can be taken out"
)


class WinRateOptions(PairwiseOptions):
    """Options of the suite ``win_rate``."""

    equal_length: float = Field(
        0.1, gt=0, lt=1, description="answers whose lengths differ by less count as equally long"
    )
    others: Files = Field(
        default_factory=list,
        description="files of verdicts on other models against the same answers: instructions' "
        "difficulty is estimated from all of them together",
    )
    difficulty: str | None = Field(
        None, description="file with each instruction's difficulty, in place of others"
    )
    corrected: bool = Field(
        False,
        description="show first what people's win rate would be by the judge's calibration in the "
        "run's folder (`win_rate_corrected`), and measure nothing without one",
    )


@dataclass(frozen=True)
class Rated(Entry):
    """An item with the verdict on it, where its file holds one."""

    judged: Judged | None = None


class WinRate(Pairwise[Rated]):
    """Compares a model's answers with another's, prompt by prompt.

    ``win_rate`` counts ties half; ``length_controlled`` is what is to be expected of answers
    equally long (:mod:`gnomon.stats.length_controlled`); ``win_rate_equal_length`` is that of the
    pairs that are. Where the run's folder has the judge's calibration, ``win_rate_corrected`` is
    what people's win rate would be (:mod:`gnomon.stats.rates`). Each instruction is asked
    ``samples`` times; intervals are over instructions.
    """

    title: ClassVar[str] = "win_rate"
    summary: ClassVar[str] = "preferred to another model's answers: raw and length-controlled"
    options_class: ClassVar = WinRateOptions
    scores: ClassVar[tuple[str, ...]] = (
        *("win_rate", "length_controlled", "win_rate_equal_length", "win_rate_corrected"),
        *("ties", "longer", "flips", "first"),
    )

    def is_judged(self, file: Path) -> bool:
        return is_judged(file)

    def read_judged(self, file: Path) -> list[Rated]:
        return [Rated(j.prompt, j.other, j) for j in read_judged(file)]

    def entry(self, prompt: Prompt, other: str | None) -> Rated:
        return Rated(prompt, other)

    def check(self) -> None:
        super().check()
        if self.options.others and self.options.difficulty:
            raise ConfigError("suite win_rate: give others or difficulty, not both")
        if self.options.samples > 1 and not self.options.temperature:
            raise ConfigError(
                f"suite win_rate: {self.options.samples} samples at temperature 0 are as many "
                "times the same answer: set temperature=1, or remove samples"
            )

    def files(self) -> list[Path]:
        given = [self.options.difficulty] if self.options.difficulty else []
        return [*super().files(), *(find_file(file, self.base) for file in given)]

    def drawn(self) -> list[Rated]:
        """Every prompt ``samples`` times: a sampled answer of the one model beside one of the
        other, anew each time."""
        return [
            replace(item, prompt=replace(item.prompt, id=f"{item.prompt.id}#{k}")) if k else item
            for item in super().drawn()
            for k in range(self.options.samples)
        ]

    def run(self, subject: Subject, work: Work) -> Measured:
        if self.options.samples > 1 and isinstance(subject, Stored):
            raise ConfigError(
                f"{subject.name}: a file holds one answer to a prompt: remove samples"
            )
        if self.options.corrected:
            self._check_calibration(work.run)
        return super().run(subject, work)

    def _check_calibration(self, run: Path) -> None:
        """Refuse to ask where nothing could be corrected.

        Raises:
            ConfigError: no calibration that can be believed is of this very judge.
        """
        if self.options.judge is None:
            raise ConfigError("suite win_rate: corrected needs a judge, whose calibration is known")
        name, version = self.judge.name, self.judge.version
        _, calibration = calibration_of(run, name, version)
        if calibration is None:
            raise ConfigError(
                f"suite win_rate: corrected, and no calibration of the judge {name} (version "
                f"{version or 'none'}) is in {run}{other_version(run, name, version)}. Make one: "
                "gnomon calibrate --help"
            )
        if calibration.doubt or calibration.attenuation is None:
            why = calibration.doubt or "its calibration does not say how much of a difference stays"
            raise ConfigError(f"suite win_rate: corrected, and of the judge {name}: {why}")

    def believe(self, found: Measured, calibration: Calibration) -> None:
        """Add what people's win rate would be by what the judge keeps of a difference."""
        observed = found.scores.get("win_rate")
        if observed is None or calibration.attenuation is None:
            return
        found.scores["win_rate_corrected"] = corrected_win_rate(observed, calibration.attenuation)
        if self.options.corrected:
            found.main = "win_rate_corrected"

    # -- verdicts ---------------------------------------------------------------------------------

    def ask(self, subject: Subject, items: Sequence[Rated], work: Work) -> list[Row]:
        if all(item.judged is not None for item in items):
            return [_judged_row(item.judged) for item in items if item.judged is not None]
        pairs = self.pairs(subject, items)
        found = iter(verdicts(self.judge, [p for p in pairs if isinstance(p, Pair)]))
        return [
            {"error": pair.reason}
            if isinstance(pair, Unanswered)
            else {**pair_row(pair), **next(found).row()}
            for pair in pairs
        ]

    # -- figures ----------------------------------------------------------------------------------

    def measure(self, items: Sequence[Rated], rows: Sequence[Row]) -> Measured:
        wins = [float(row["score"]) for row in rows]
        by = clusters(items)
        own, other = ([len(str(row[k])) for row in rows] for k in ("own", "other"))
        gamma, source = self._difficulty(items, wins, own, other)
        controlled = length_controlled(wins, own, other, gamma, clusters=by)
        near = [
            i for i in range(len(rows))
            if abs(own[i] - other[i]) <= self.options.equal_length * max(own[i], other[i])
        ]  # fmt: skip
        scores = {
            "win_rate": weighted_proportion(wins, clusters=by),
            "length_controlled": controlled.win_rate,
            "win_rate_equal_length": weighted_proportion(
                [wins[i] for i in near], clusters=[by[i] for i in near]
            ),
            "ties": weighted_proportion([float(w == 0.5) for w in wins], clusters=by),
            "longer": weighted_proportion(
                [0.5 if a == b else float(a > b) for a, b in zip(own, other, strict=True)],
                clusters=by,
            ),
        }
        measured = Measured.of(
            scores,
            main="length_controlled",
            item_score="win_rate",
            by_category=by_category(items, wins),
            notes=[source] if controlled.fitted else [NOT_FITTED],
        )
        self._add_judge(measured, items, rows)
        return measured

    def _add_judge(self, measured: Measured, items: Sequence[Rated], rows: Sequence[Row]) -> None:
        """Who judged, whom it was against, and how far the order mattered."""
        first = items[0].judged
        measured.against = first.baseline if first else "the file's own answers"
        if self._against is not None:
            measured.against = self._against.name
        if self.options.judge is not None:
            judge = self.judge
            measured.judge, measured.judge_version = judge.name, judge.version
        else:
            measured.judge = "recorded verdicts"
        both = [
            (row, item)
            for row, item in zip(rows, items, strict=True)
            if row.get("own_first") is not None and row.get("own_second") is not None
        ]
        seen = orders(
            [(row["own_first"], row["own_second"]) for row, _ in both],
            clusters([item for _, item in both]),
        )
        if seen is not None:
            measured.scores |= {"flips": seen.flips, "first": seen.first}
            warning = seen.warning()
            measured.notes += [warning] if warning else []

    def _difficulty(
        self, items: Sequence[Rated], wins: Sequence[float], own: list[int], other: list[int]
    ) -> tuple[Any, str]:
        """Each instruction's difficulty, and where it is from; None where nothing says it."""
        if self.options.difficulty:
            known = read_difficulty(find_file(self.options.difficulty, self.base))
            ids = [prompt_id(plain(item.prompt)) for item in items]
            lost = [item for item, id in zip(items, ids, strict=True) if id not in known]
            if lost:
                raise DataError(
                    f"{self.options.difficulty}: no difficulty of {len(lost)} of {len(items)} "
                    f"instructions, the first: {lost[0].prompt.source}"
                )
            return [known[id] for id in ids], f"instructions' difficulty: {self.options.difficulty}"
        if not self.options.others:
            return None, (
                "length_controlled is without a term for the instructions' difficulty, which one "
                "model's verdicts do not show; AlpacaEval's has one (option others or difficulty)"
            )
        table, terms = [list(wins)], [length_term(own, other)]
        for file in self.options.others:
            w, t = self._other_model(find_file(file, self.base), items)
            table.append(w)
            terms.append(t)
        gamma = instruction_difficulty(table, terms)
        return gamma, (
            f"instructions' difficulty is estimated from {len(table)} models' verdicts; "
            "AlpacaEval's is from over a hundred"
        )

    def _other_model(self, file: Path, items: Sequence[Rated]) -> tuple[list[float], Any]:
        """Another model's wins and length terms on the same instructions, NaN where it has none."""
        theirs = read_judged(file)
        ours = [item.judged for item in items if item.judged is not None]
        same_baseline(ours, theirs, file)
        term = length_term([len(j.own) for j in theirs], [len(j.other) for j in theirs])
        place = {j.prompt.id: i for i, j in enumerate(theirs)}
        wins, terms = [], np.zeros(len(items))
        for k, item in enumerate(items):
            i = place.get(item.prompt.id)
            win = None if i is None else theirs[i].win
            wins.append(np.nan if win is None else win)
            terms[k] = 0.0 if i is None else term[i]
        return wins, terms


def _judged_row(judged: Judged) -> Row:
    row: Row = {
        "category": judged.prompt.category,
        "prompt": plain(judged.prompt),
        "own": judged.own,
        "other": judged.other,
    }
    if judged.win is None:
        return {**row, "error": f"{judged.prompt.source}: no preference"}
    return {**row, "score": judged.win}
