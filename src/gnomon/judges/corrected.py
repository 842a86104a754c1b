"""A judge whose probabilities are corrected by the map in its calibration.

A judge that is too sure teaches more than it knows: comparisons count 2p - 1 of their weight. The
map comes from ``gnomon calibrate``, in the record of this very judge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, DataError
from gnomon.files import read_object
from gnomon.judges.protocol import Judge, judged, win_shares
from gnomon.records import Comparison, Group, Judgement
from gnomon.stats.judge_maps import ProbabilityMap
from gnomon.stats.judges import ENOUGH_LABELS

FOLDER = "calibrations"


class CorrectedJudge(Judge):
    """Asks a judge that compares, and corrects the probabilities of its comparisons; the score of a
    response is the share of its comparisons that it won by these.

    Args:
        judge: gives comparisons.
        calibration: the record with its map: a file, or True for the one of this very judge in
            ``calibrations/`` of the folder ``base``.
        base: the folder that relative files start from.

    Raises:
        ConfigError: there is no such record, it is of another judge, or has no map.
    """

    groupwise = True

    def __init__(self, judge: Judge, calibration: str | bool, base: Path) -> None:
        if not judge.groupwise:
            raise ConfigError(
                f"corrected: {judge.name} compares no answers, so there are no probabilities to "
                "correct; remove it, or set its options to mode: pairs or ranking"
            )
        if getattr(getattr(judge, "options", None), "scores", "share") != "share":
            raise ConfigError("corrected: scores are the shares that an answer won; remove scores")
        self.inner = judge
        self.paid, self.in_rounds = judge.paid, judge.in_rounds
        self.remembers = judge.remembers
        file, record = _found(judge, calibration, base)
        try:
            self.map = ProbabilityMap.parse(record.get("map"))
        except DataError as error:
            raise ConfigError(f"{file}: {error}; calibrate the judge again") from error
        said = json.dumps(self.map.to_dict(), sort_keys=True)
        digest = hashlib.sha256(said.encode()).hexdigest()[:8]
        self.version = f"{judge.version} corrected={digest}"

    @property
    def name(self) -> str:
        """The judge's own."""
        return self.inner.name

    @name.setter
    def name(self, name: str) -> None:
        self.inner.name = name

    def begin(self, round: int) -> None:
        self.inner.begin(round)

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [self._corrected(j) for j in judged(self.inner, groups)]

    def _corrected(self, judgement: Judgement) -> Judgement:
        failed = any(score.error is not None for score in judgement.scores)
        if failed or judgement.error is not None:
            return replace(judgement, version=self.version)
        if judgement.comparisons is None:
            error = "it gives no comparisons, so there are no probabilities to correct"
            return replace(judgement, version=self.version, error=error)
        compared = tuple(map(self._mapped, judgement.comparisons))
        shares = win_shares(compared, len(judgement.scores))
        scores = tuple(replace(s, value=x) for s, x in zip(judgement.scores, shares, strict=True))
        return replace(judgement, version=self.version, comparisons=compared, scores=scores)

    def _mapped(self, c: Comparison) -> Comparison:
        if c.tie:
            return c
        p = float(self.map(c.probability))
        return replace(c, probability=max(p, 0.5))


def _found(judge: Judge, calibration: str | bool, base: Path) -> tuple[Path, dict[str, Any]]:
    """The record of this very judge, and where it is."""
    if calibration is True:
        own = [
            (str(record.get("made", "")), file, record)
            for file, record in _records(base / FOLDER)
            if (record.get("judge"), record.get("version")) == (judge.name, judge.version)
        ]
        if own:
            _, file, record = max(own, key=lambda one: one[:2])
            return file, _believed(file, record)
        raise ConfigError(
            f"corrected: true: no calibration of the judge {judge.name} (version {judge.version}) "
            f"is in {base / FOLDER}. Make one (gnomon calibrate --help), or name its file"
        )
    file = base / str(calibration)
    try:
        record = read_object(file)
    except ValueError as error:
        raise ConfigError(f"corrected: {error}") from error
    if record.get("version") != judge.version:
        raise ConfigError(
            f"corrected: {file} is the calibration of {record.get('judge')!r} (version "
            f"{record.get('version')!r}); this judge is {judge.name!r} (version {judge.version!r})"
        )
    return file, _believed(file, record)


def _believed(file: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record.

    Raises:
        ConfigError: it is of too few labels, or says that the model behind the judge's name is
            another one than before.
    """
    labels = record.get("labels")
    if not isinstance(labels, int) or labels < ENOUGH_LABELS:
        raise ConfigError(
            f"corrected: {file} is of {labels or 'no'} people's labels, and a map of probabilities "
            f"is believed from {ENOUGH_LABELS} on; label more and calibrate again"
        )
    drift = record.get("drift")
    if isinstance(drift, dict) and drift.get("model_changed"):
        raise ConfigError(
            f"corrected: by {file} the model behind {record.get('judge')!r} has changed since it "
            "was calibrated before; calibrate it anew (gnomon calibrate --round NAME)"
        )
    return record


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob("*.json")):
        try:
            yield file, read_object(file)
        except ValueError:
            continue
