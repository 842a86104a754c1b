"""Published step times, predicted from their configurations by ``gnomon plan``'s formulas.

    python benchmarks/plan_published.py

``plan_published.jsonl`` holds each figure with its source and configuration, and what had to be
assumed where that is not complete. Nothing is measured here. The shares of the data sheet that
``plan/hardware.py`` assumes (0.45, 2,500 and 0.55) were chosen on the first four of the rows marked
"tune"; no row is left out, whatever its error. The rest is "held out", though not blind: the
longest response, the rule for experts and stages, an adapter's share in a mixture and vLLM's 40 µs
were written after a first look. Other trainers have other kernels: a negative error says that they
take longer than the formula.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from gnomon.console import say, show
from gnomon.errors import ConfigError
from gnomon.plan.cost import speed_of, step_seconds
from gnomon.plan.hardware import Hardware, parse_hardware
from gnomon.plan.job import Job
from gnomon.plan.parallel import training_layout
from gnomon.plan.shapes import Shape, shape_of
from gnomon.plan.split import sampling_seconds, split

FILE = Path(__file__).with_suffix(".jsonl")


def rows() -> list[dict[str, Any]]:
    """The published figures."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def predict(row: dict[str, Any]) -> float | None:
    """What the plan says of a row; None where its configuration does not suffice."""
    if "job" not in row:
        return None
    hardware = parse_hardware(row["hardware"])
    job = _job(row, hardware)
    if "phases" in row:
        return _phases(job, hardware, row["phases"])
    if row.get("speedup"):
        turns, apart = (split(job, hardware, apart).step_seconds for apart in (False, True))
        return turns / apart
    return split(job, hardware, row["apart"]).step_seconds


def _phases(job: Job, hardware: Hardware, names: list[str]) -> float:
    found = step_seconds(job, speed_of(hardware, job.model), hardware.count)
    if names == ["training"]:  # traffic that does not hide, where a model is divided
        layout = training_layout(job, hardware.gpu, hardware.count)
        return found["training"] / layout.efficiency
    if "decoding" in names:
        return sampling_seconds(job, hardware.gpu, hardware.count)
    return sum(found[name] for name in names)


def _job(row: dict[str, Any], hardware: Hardware) -> Job:
    given = dict(row["job"])
    model = given.pop("model")
    shape = Shape(**model) if isinstance(model, dict) else shape_of(model)
    if "length_from" not in row:
        return Job(model=shape, **given)
    low, high = 1.0, float(given["response_tokens"])
    while high - low > 1:
        given["mean_response"] = (low + high) / 2
        training = _phases(Job(model=shape, **given), hardware, ["training"])
        low, high = (low, given["mean_response"]) if training > row["length_from"] else (
            given["mean_response"], high)  # fmt: skip
    return Job(model=shape, **given)


def main() -> None:
    from rich.table import Table

    table = Table(title="published against predicted", title_justify="left")
    for head in ("what", "", "published", "predicted", "error"):
        table.add_column(head, justify="left" if head in ("what", "") else "right")
    errors: dict[str, list[float]] = {}
    for row in rows():
        try:
            found, why = predict(row), ""
        except ConfigError as refused:
            found, why = None, f"refused: {refused}"
        unit = "x" if row.get("speedup") else "s"
        shown = why or row.get("about", "")
        if found is None:
            table.add_row(row["name"], row["half"], f"{row['published']:g} {unit}", "-", "-")
            say(f"{row['name']}: {shown}")
            continue
        error = found / row["published"] - 1
        errors.setdefault(row["half"], []).append(error)
        table.add_row(
            row["name"], row["half"], f"{row['published']:.2f} {unit}", f"{found:.2f} {unit}",
            f"{error:+.0%}",
        )  # fmt: skip
    show(table)
    for half, every in errors.items():
        within = sum(abs(e) <= 0.3 for e in every)
        ratio = statistics.median(abs(math.log(1 + e)) for e in every)
        say(
            f"{half}: {within} of {len(every)} within 30%; median factor {math.exp(ratio):.2f}, "
            f"from {min(every):+.0%} to {max(every):+.0%}"
        )


if __name__ == "__main__":
    main()
