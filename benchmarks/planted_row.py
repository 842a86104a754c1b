"""A finished run as one row: what was planted, what became of it, and what each detector says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gnomon.audit.detectors import audit_run, detectors_so_far, load_detectors
from gnomon.audit.evidence import Detector, Evidence
from gnomon.report.ship import answer
from gnomon.runs.audit import Finding
from gnomon.runs.comparison import Comparison
from gnomon.runs.read import read_run
from planted_live import first_alarm
from planted_plan import JUDGE, Planned
from planted_truth import FIGURES, Truth, classify

VERSION = 1


def row_of(run: Planned, truth: Truth, out: Path) -> dict[str, Any]:
    """The row of a finished run; its audit is made with and without the held-out judge."""
    folder = out / "runs" / run.id
    found = classify(run.planted, *(getattr(truth, name) for name in FIGURES))
    return {
        "version": VERSION,
        "id": run.id,
        "kind": run.kind,
        "half": run.half,
        "number": run.number,
        "world": run.world,
        "seed": run.seed,
        "method": run.method,
        "reward": run.reward,
        "strength": run.strength,
        "families": list(run.families),
        "settings": dict(run.settings),
        "class": found,
        "truth": truth.to_dict(),
        **audited(folder),
    }


def audited(folder: Path) -> dict[str, Any]:
    """What the detectors say of the run's policy, with and without the held-out judge, what the
    page says by them (with it), and what went wrong; the run's folder is left as it is."""
    detectors = load_detectors()
    found = audit_run(folder, detectors=detectors, write=False)
    unseen = audit_run(folder, detectors=blind(detectors), write=False)
    return {
        "verdict": answer(replace(read_run(folder), audit=found)).kind,
        "with_judge": [figures(finding) for finding in found.findings],
        "without_judge": [figures(finding) for finding in unseen.findings],
        "on_the_way": {
            "with_judge": first_alarm(folder, detectors_so_far()),
            "without_judge": first_alarm(folder, blind(detectors_so_far())),
        },
        "problems": list(dict.fromkeys([*found.problems, *unseen.problems])),
        "commit": commit(),
    }


@cache
def commit() -> str:
    """The commit whose detectors and limits judge; empty outside of a checkout."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def figures(finding: Finding) -> dict[str, Any]:
    """A finding without its words and samples."""
    figure = finding.figure
    return {
        "name": finding.name,
        "detector": finding.detector,
        "status": finding.status,
        "figure": None if figure is None else figure.to_dict(),
        "limit": finding.limit,
        "since": finding.since,
        "watched": finding.watched,
    }


def blind(detectors: Mapping[str, Detector]) -> dict[str, Detector]:
    """The detectors as they are where there is no held-out judge."""
    return {name: _blind(detector) for name, detector in detectors.items()}


def _blind(detector: Detector) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: detector(without_judge(evidence))


def is_judges(name: str) -> bool:
    """Whether a figure of this name comes from the held-out judge."""
    return JUDGE in name.removeprefix("eval/").split("/")[0].split("_")


def without_judge(evidence: Evidence) -> Evidence:
    """The evidence without anything that the held-out judge said."""
    return replace(
        evidence,
        judges=[name for name in evidence.judges if name != JUDGE],
        metrics={k: v for k, v in evidence.metrics.items() if not is_judges(k)},
        samples=[
            replace(s, parts={k: v for k, v in s.parts.items() if not is_judges(k)})
            for s in evidence.samples
        ],
        comparison=_without_column(evidence.comparison),
        spec={**evidence.spec, "observe": []},
    )


def _without_column(comparison: Comparison) -> Comparison:
    """The comparison without the judge's column."""
    if JUDGE not in comparison.columns:
        return comparison
    place = comparison.columns.index(JUDGE)
    plain = comparison.model_dump()
    plain["columns"].pop(place)
    for row in plain["rows"]:
        for values in ("values", "gains", "scores"):
            if place < len(row[values]):
                row[values].pop(place)
    return Comparison.model_validate(plain, context={"lenient": True})
