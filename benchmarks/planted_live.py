"""What an audit would have said while a run trained: of its records up to a step, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.audit.evidence import Detector, Evidence, evidence
from gnomon.runs.comparison import Comparison
from gnomon.runs.probes import EARLY, Probes, RewardProbes
from gnomon.runs.read import read_run
from gnomon.runs.records import Evals, StageInfo
from gnomon.runs.spotchecks import SpotCheck
from gnomon.stages.live_audit import LOOKS
from gnomon.stages.probes import FIRST_EDITS


def first_alarm(folder: Path, detectors: Mapping[str, Detector]) -> float | None:
    """The step after which an audit of the run's policy first raised an alarm, of LOOKS on the way;
    after the first of them, one that the look before had too. None where none did."""
    run = read_run(folder)
    whole, _ = evidence(run, run.stages[-1])
    before: set[tuple[str, str]] | None = None
    for step in looks(whole):
        seen = so_far(whole, step)
        found = [f for detector in detectors.values() for f in detector(seen)]
        alarms = {(f.name, f.detector) for f in found if f.status == "alarm"}
        if alarms and (before is None or alarms & before):
            return step
        before = alarms
    return None


def looks(whole: Evidence) -> list[float]:
    """The steps after which :class:`~gnomon.stages.live_audit.LiveAudit` may look: once the first
    answers were asked about, and then evenly spread; not at the end."""
    steps = np.unique(whole.metrics["step"])
    early = whole.probes.reward.early_step if whole.probes.reward else None
    begun = int(np.searchsorted(steps, early or steps[0], side="right"))
    return [float(step) for step in steps[begun : -1 : max(1, -(-steps.size // LOOKS))]]


def so_far(whole: Evidence, step: float) -> Evidence:
    """What there was to read after ``step``: no comparison, no evals, no probe of the end."""
    reward = whole.probes.reward
    if reward is None or reward.early_step is None or reward.early_step >= step:
        reward = None
    else:
        reward = _asked_first(reward)
    done = whole.metrics["step"] <= step
    return replace(
        whole,
        info=StageInfo(
            name=whole.info.name,
            algorithm=whole.info.algorithm,
            status="running",
            planned_iterations=whole.info.planned(whole.spec),
        ),
        metrics={name: values[done] for name, values in whole.metrics.items()},
        # an evaluation of this step's policy is made when the next iteration begins
        samples=[s for s in whole.samples if s.step < step or (s.step == step and not s.held_out)],
        comparison=Comparison(),
        answers={},
        held_out=Evals({}),
        probes=Probes(made=whole.probes.made, reward=reward),
        changes=(),
        results=(),
        spotcheck=SpotCheck(),
    )


def _asked_first(reward: RewardProbes) -> RewardProbes:
    """What was known of the reward while nothing had been sampled but the first answers."""
    asked = [
        effect.model_copy(update={"moved": None})
        for effect in reward.effects
        if effect.of == EARLY and effect.edit in FIRST_EDITS
    ]
    unknown: dict[str, Any] = {"late_step": None, "late": None, "gain": None, "phrases": []}
    return reward.model_copy(update=unknown | {"effects": asked})
