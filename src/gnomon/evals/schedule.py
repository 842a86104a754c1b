"""Measuring a policy while it is trained: before the first iteration, every so many, at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gnomon.evals.compare import result_change
from gnomon.evals.evaluate import evaluate, result_file
from gnomon.evals.subject import LivePolicy
from gnomon.evals.suite import Suite, Tell, Watch
from gnomon.evals.table import make_suite
from gnomon.recipe.training import ScheduledEvalSpec
from gnomon.runs.evals import EvalResult


class ScheduledEvals:
    """Measures the policy when it is time to, and says so where it has become worse than it was at
    the start.

    Args:
        specs: what to measure, and how often.
        policy: as it is trained.
        run: the run's folder; results are in ``evals/STAGE/step-000050/SUITE.json``.
        base: the folder that relative paths start from.
        tell: shows a line to the user.
        watch: see :data:`~gnomon.evals.suite.Watch`.
    """

    def __init__(
        self,
        specs: Sequence[ScheduledEvalSpec],
        policy: LivePolicy,
        run: Path,
        base: Path,
        *,
        tell: Tell,
        watch: Watch | None = None,
    ) -> None:
        self._suites = [(spec, make_suite(spec.suite, spec.options, base)) for spec in specs]
        self._policy, self._run = policy, run
        self._tell, self._watch = tell, watch

    def __call__(self, iteration: int, step: int, last: bool = False) -> Mapping[str, float]:
        """``eval/SUITE/SCORE`` of the suites whose time it is (all at the end), with the main
        score's interval as ``_low`` and ``_high``."""
        due = [suite for spec, suite in self._suites if last or iteration % spec.every == 0]
        if not due:
            return {}
        self._policy.refresh()
        found: dict[str, float] = {}
        for suite in due:
            result = evaluate(
                suite, self._policy, self._run, stage=self._policy.name, step=step,
                watch=self._watch, tell=None if step else self._tell,
            )  # fmt: skip
            found |= metrics_of(result)
            self._compare(suite, result, step)
        return found

    def _compare(self, suite: Suite, result: EvalResult, step: int) -> None:
        """Say how the main score stands, and warn where it is shown to be worse than at first."""
        now = result.scores.get(result.main)
        if now is None:
            return
        text = f"{suite.name}: {result.main} {now} at step {step}"
        first = result_file(self._run, self._policy.name, suite.name, 0)
        if step and first.is_file():
            here = result_file(self._run, self._policy.name, suite.name, step)
            for change in result_change(first, here).scores:
                if change.name in (result.main, result.item_score) and change.shown:
                    # what is measured by item beside a score of harm is the share that is right
                    up_is_good = result.higher_is_better or change.name != result.main
                    verdict = "better" if (change.change.value > 0) == up_is_good else "WORSE"
                    named = "" if change.name == result.main else f"{change.name} is "
                    text += f"; {named}{verdict} than at the start by {change.change}"
                    break
        self._tell(text)


def metrics_of(result: EvalResult) -> dict[str, float]:
    """A result's scores as metrics."""
    found: dict[str, float] = {}
    for name, figure in result.scores.items():
        if figure is not None:
            key = f"eval/{result.suite}/{name}"
            found[key] = figure.value
            if figure.known and name == result.main:
                found |= {f"{key}_low": figure.low, f"{key}_high": figure.high}
    return found
