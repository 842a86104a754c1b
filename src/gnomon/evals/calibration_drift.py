"""Two calibrations of one judge, item by item: what has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, DataError
from gnomon.evals.calibration_probes import changed_model
from gnomon.evals.paired import detectable
from gnomon.runs.evals import Calibration
from gnomon.stats.intervals import Interval, mean_interval, weighted_proportion
from gnomon.stats.judges import alike

UNLIKELY = 0.01
"""The chance below which the same model does not explain the answers to the fixed questions."""
Row = Mapping[str, Any]
Key = tuple[str, str, str]


def read_calibration(file: Path) -> tuple[Calibration, list[Row]]:
    """A calibration and its rows, which lie beside it.

    Raises:
        DataError: one of the two files is missing or damaged.
    """
    try:
        record = Calibration.read(file)
    except ValueError as error:
        raise DataError(f"{error}; give a calibration's .json") from error
    if not record.judge or not record.labels:
        raise DataError(f"{file} is no calibration of a judge")
    beside = file.with_suffix(".jsonl")
    if not beside.is_file():
        raise DataError(f"{beside} is missing: it holds the rows of {file.name}")
    rows: list[Row] = []
    for number, line in enumerate(beside.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "key": (str(row["prompt_id"]), str(row["a"]), str(row["b"]))})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{beside}, row {number}: it is damaged ({error})") from error
    return record, rows


def drift(
    before: tuple[Calibration, list[Row]], now: tuple[Calibration, list[Row]], name: str
) -> dict[str, Any]:
    """What changed from one calibration to the other, over the pairs that both have.

    Args:
        name: what the earlier one is called.

    Returns:
        ``before`` (its name), ``items``, ``changed`` (share of verdicts that are others now, ties
        half), ``agreement`` and ``win`` (now less before: with people, and of ``a``), each with its
        interval over prompts, ``smallest`` (change of agreement that would have been seen),
        ``differs`` (what else is not the same: model, prompt, settings, labels),
        ``model_changed`` and ``p`` (by the fixed questions; None where they were not asked twice,
        or by a judge of another version).

    Raises:
        ConfigError: they have no pair in common.
    """
    (old, old_rows), (new, new_rows) = before, now
    by_key = {row["key"]: row for row in old_rows if row.get("judge") is not None}
    both = [
        (by_key[row["key"]], row)
        for row in new_rows
        if row.get("judge") is not None and row["key"] in by_key
    ]
    if not both:
        raise ConfigError(f"{name} is of other pairs: none of them is in these labels")
    same = old.version == new.version  # another prompt or model answers otherwise anyway
    p = changed_model(old.fingerprint, new.fingerprint) if same else None
    agreed = [_agreement(b) - _agreement(a) for a, b in both]
    return {
        "before": name,
        "items": len(both),
        "changed": _share([1.0 - alike(a["judge"], b["judge"]) for a, b in both], both),
        "agreement": _mean(agreed, both).to_dict(),
        "win": _mean([b["win"] - a["win"] for a, b in both], both).to_dict(),
        "smallest": detectable(_mean(agreed, both)),
        "differs": list(_differences(old, new)),
        "p": p,
        "model_changed": None if p is None else p < UNLIKELY,
    }


def _agreement(row: Row) -> float:
    people = list(row["people"].values())
    return sum(alike(row["judge"], won) for won in people) / len(people)


def _clusters(both: list[tuple[Row, Row]]) -> list[str]:
    return [str(b.get("cluster") or b["prompt_id"]) for _, b in both]


def _share(values: list[float], both: list[tuple[Row, Row]]) -> dict[str, float | None]:
    return weighted_proportion(values, clusters=_clusters(both)).to_dict()


def _mean(values: list[float], both: list[tuple[Row, Row]]) -> Interval:
    """The mean over prompts; where nothing changed at all, 0 within what so many prompts show."""
    by: dict[str, list[float]] = {}
    for cluster, value in zip(_clusters(both), values, strict=True):
        by.setdefault(cluster, []).append(value)
    found = mean_interval([sum(v) / len(v) for v in by.values()], method="t")
    if found.known or found.value != 0.0:
        return found
    most = weighted_proportion([0.0] * len(by)).high
    return Interval(0.0, -most, most, float(len(by)))


def _differences(old: Calibration, new: Calibration) -> list[str]:
    out = [] if old.judge == new.judge else ["judge"]
    if old.version != new.version:
        out.append(new.differs(old.version))
    hashes = ({f.get("sha256") for f in record.data.values()} for record in (old, new))
    first, second = hashes
    return [*out, *(["labels"] if first != second else [])]


def drift_words(found: Mapping[str, Any]) -> list[str]:
    """What is to be warned of."""
    out = []
    if found.get("differs"):
        out.append(f"compared with another {', '.join(found['differs'])} in {found['before']}")
    if found.get("model_changed"):
        out.append(
            "the model behind the same name has changed: its answers to the fixed questions are "
            f"others than in {found['before']} (p = {found['p']:.2g})"
        )
    change = Interval.parse(found.get("agreement"))
    if change is not None and change.excludes(0.0):
        more = "more" if change.value > 0 else "less"
        out.append(f"it agrees with people {more} than in {found['before']} ({change.value:+.3f})")
    return out
