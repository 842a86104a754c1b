"""Which curves of a stage come first, what they are called, and where alarms are marked on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gnomon.audit.truths import label, reward_entries
from gnomon.report.format import metric_label
from gnomon.report.kinds import WORDS, metric_kind, stage_specs, trained_name
from gnomon.report.plots import Marks, Titles, curve_panels
from gnomon.runs.audit import Finding
from gnomon.runs.read import RunView, StageView

KEY = 4
FIRST = ("kl", "length", "loss", "accuracy", "margin", "displacement", "kl_forward")
THEN = ("distinct_within", "entropy", "repetition", "finished", "value_loss", "reward_std")
MACHINE = (
    *("lr", "grad_norm", "tokens_per_second", "peak_rss_gb", "peak_gpu_gb", "temperature"),
    *(
        "epoch",
        "num_tokens",
        "step_time",
        "training/epoch",
        "training/global_step",
    ),  # TRL's, verl's
)
"""Drawn with the others, but never among the first."""


def key_curves(run: RunView, stage: StageView) -> list[str]:
    """The four metrics of a stage that say most: what it was trained on, what judges it, what an
    alarm points at, and how far the policy went."""
    drawn = curve_panels(stage)
    wanted = ["reward", *_judges(run, stage.name), *_of_alarms(run, stage.name), *FIRST, *THEN]
    rest = [name for name in drawn if name not in MACHINE]
    named = dict.fromkeys(name for name in (*wanted, *rest) if name in drawn)
    order = sorted(named, key=lambda name: _points(stage, name) < 2)  # a point is no curve
    chosen: list[str] = []
    for name in order:
        twin = any(np.array_equal(stage.series(name)[1], stage.series(c)[1]) for c in chosen)
        if metric_kind(run, stage.name, name) != "truth" and not twin:
            chosen.append(name)
    return chosen[:KEY]


def _points(stage: StageView, name: str) -> int:
    """How often a metric was logged, in training or in looks at held-out rows, if that is more."""
    return max(stage.series(name)[1].size, stage.series(f"eval/{name}")[1].size)


def _judges(run: RunView, stage: str) -> Iterator[str]:
    """The held-out judges and verifiers that a stage observed."""
    for entry in reward_entries(stage_specs(run).get(stage, {}).get("observe") or []):
        if metric_kind(run, stage, label(entry)) in ("judge", "asked", "verifier"):
            yield label(entry)


def _of_alarms(run: RunView, stage: str) -> Iterator[str]:
    for finding in _alarms(run, stage):
        yield from (name.removeprefix("eval/") for name in finding.curves)


def _alarms(run: RunView, stage: str) -> list[Finding]:
    alarms = run.audit.alarms if run.audit is not None else []
    return [finding for finding in alarms if finding.stage == stage]


def onsets(run: RunView, stage: str) -> Marks:
    """When each alarm of a stage would first have been raised; the earliest of each name."""
    found: dict[str, float] = {}
    for finding in _alarms(run, stage):
        if finding.since is not None:
            found[finding.name] = min(finding.since, found.get(finding.name, finding.since))
    return [(step, name.replace("_", " ")) for name, step in found.items()]


def titles(run: RunView, stage: StageView) -> Titles:
    """What a stage's metrics are called in this run: the trained reward by its label, judges and
    truths as what they are."""
    out = {}
    name = trained_name(run, stage.name)
    for metric in stage.metrics:
        metric = metric.removeprefix("eval/")
        title, unit = metric_label(metric)
        if metric == "reward":
            out[metric] = (f"Trained reward: {name}" if name else title, unit)
            continue
        words = WORDS[metric_kind(run, stage.name, metric)]
        if words and words not in title and "simulated" not in title:
            out[metric] = (f"{title} ({words})", unit)
    return out
