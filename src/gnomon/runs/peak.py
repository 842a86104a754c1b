"""What of a stage's records is of the weights that it kept, where it trained on past their best.

With ``train.stop_at_peak`` a stage keeps the weights of its best evaluation. What was sampled and
logged after that is of weights that were thrown away: it says nothing of the policy that is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gnomon.runs.evals import EvalResult
from gnomon.runs.read import RunView, StageView
from gnomon.runs.records import StageInfo
from gnomon.runs.rows import Column, SampleRow


def peak_of(info: StageInfo) -> int | None:
    """After how many iterations the kept weights were best; None where training did not go on from
    there."""
    kept, end = _ends(info)
    return kept if kept is not None and end is not None and kept < end else None


def _ends(info: StageInfo) -> tuple[int | None, int | None]:
    """After how many iterations the kept weights were best, and how many were trained."""
    kept, end = (info.peak.get(key) for key in ("iteration", "trained_until"))
    whole = type(kept) is int and type(end) is int
    return (kept, end) if whole else (None, None)


def in_words(info: StageInfo) -> str:
    """The peak as one sentence; empty where there was none."""
    kept, end = _ends(info)
    if kept is None:
        return ""
    value, judge = info.peak.get("value"), info.peak.get("judge") or "the judge"
    mean = f" ({value:.3g} on average)" if isinstance(value, int | float) else ""
    start = ", those that it started from" if kept == 0 else ""
    text = f"the weights after {kept} of {end} iterations are kept{start}: the best by {judge}"
    gone = "; what came after was thrown away, and only the curves show it"
    return text + mean + (gone if kept != end else "")


def kept_run(run: RunView) -> RunView:
    """The run with each stage's records of the weights that it kept."""
    results = tuple(kept_results(run))
    return replace(run, stages=tuple(map(kept_stage, run.stages)), results=results)


def kept_results(run: RunView) -> list[EvalResult]:
    """What evals measured, without that of weights that were thrown away.

    The evals at the end of a stage's training are of the weights that it kept, and are put at their
    step. They take the place of an earlier one there, which measured the same weights.
    """
    ends = {stage.name: steps for stage in run.stages if (steps := _kept_steps(stage))}
    moved = {
        (result.model, result.suite)
        for result in run.results
        if result.model in ends and result.step == ends[result.model][1]
    }
    found: list[EvalResult] = []
    for result in run.results:
        peak, end = ends.get(result.model, (math.inf, math.inf))
        if result.step is None or result.step < peak:
            found.append(result)
        elif result.step == end:
            found.append(result.model_copy(update={"step": int(peak)}))
        elif result.step == peak and (result.model, result.suite) not in moved:
            found.append(result)
    return found


def _kept_steps(stage: StageView) -> tuple[float, float] | None:
    """The optimizer's steps of the kept weights and of the end of training, where it went past
    them; None where nobody says."""
    peak = peak_of(stage.info)
    if peak is None:
        return None
    kept = 0.0 if peak == 0 else _step(stage, peak)
    steps, final = stage.series("final", "step")
    end = steps[final == 1]
    return (kept, float(end[-1])) if kept is not None and end.size else None


def kept_stage(stage: StageView) -> StageView:
    """The stage's records without those of weights that were thrown away.

    Kept are the samples that the kept weights and those before them gave, and the rows of metrics
    of these; the final evaluation, which is of the kept weights, is put at their place.
    """
    peak, iterations = peak_of(stage.info), stage.metrics.get("iteration")
    if peak is None or iterations is None:
        return stage
    final = stage.metrics.get("final", np.full(iterations.size, np.nan)) == 1
    # an iteration's row holds what its weights before the step gave, and what they measured
    rows = final | (iterations <= peak + 1)
    metrics = {name: column[rows] for name, column in stage.metrics.items()}
    for name, place in (("iteration", float(peak)), ("step", _step(stage, peak + 1))):
        if name in metrics and place is not None:
            metrics[name] = np.where(final[rows], place, metrics[name])
    samples = [row for row in stage.samples if _is_kept(row, peak, _step(stage, peak + 1))]
    summary = _last(stage.info.summary, metrics)
    info = stage.info.model_copy(update={"summary": summary})
    return replace(stage, info=info, metrics=metrics, samples=samples)


def _step(stage: StageView, iteration: int) -> float | None:
    """The optimizer's step at an iteration."""
    x, y = stage.series("step", "iteration")
    at = y[x == iteration]
    return float(at[0]) if at.size else None


def _is_kept(row: SampleRow, peak: int, last: float | None) -> bool:
    """Whether a sample is of weights that were kept or before them, and not the final evaluation
    once more."""
    of: Any = row.get("evaluation")
    of = row.get("policy_iteration") if of is None else of
    step: Any = row.get("step")
    if not isinstance(of, int | float):
        return True  # nobody says
    return of <= peak and (last is None or not isinstance(step, int | float) or step <= last)


def _last(summary: Mapping[str, Any], metrics: Mapping[str, Column]) -> dict[str, Any]:
    """The last figures, of the rows that are left."""
    found: dict[str, Any] = {}
    for name in summary:
        known = metrics[name][np.isfinite(metrics[name])] if name in metrics else np.empty(0)
        if known.size:
            found[name] = float(known[-1])
    return found
