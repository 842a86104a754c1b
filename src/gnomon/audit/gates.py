"""Whether a gate opens: a condition of the recipe against the records of a run, nothing else.

A gate that cannot be decided (nothing measured the figure, the side that counts is not known, a
judge without enough people's labels, an alarm that nothing looked for) stays closed, and says what
is missing. See docs/gates.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gnomon.audit.readings import Reading, mostly_failed
from gnomon.plugins import nearest
from gnomon.recipe.gates import Bound, Gate, NoAlarm
from gnomon.runs.audit import Finding, GateResult
from gnomon.runs.evals import ENOUGH_LABELS, Calibration, calibrations_of
from gnomon.stats.intervals import Interval

_LISTED = 12


@dataclass(frozen=True)
class Facts:
    """What the gates after a stage are decided by; ``stage`` is empty for the whole run's.

    Attributes:
        readings: figures by the names that gates know them by.
        findings: what the audit looked for.
        missing: why a figure is not there and what to do, by its name.
    """

    stage: str
    readings: Mapping[str, Reading] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    calibrations: Sequence[Calibration] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def having(self, name: str, reading: Reading) -> Facts:
        """These facts and one figure more."""
        return replace(self, readings={**self.readings, name: reading})


def decide(gate: Gate, facts: Facts) -> GateResult:
    """The gate's decision."""
    if isinstance(gate, NoAlarm):
        return _of_alarms(gate, facts)
    return _of_figure(gate, facts)


# -- a figure -------------------------------------------------------------------------------------


def _of_figure(gate: Bound, facts: Facts) -> GateResult:
    reading = facts.readings.get(gate.metric)
    if reading is None:
        why = facts.missing.get(gate.metric)
        if why is None:
            near = nearest(gate.metric, facts.readings, cutoff=0.6)
            near = near or f"what was: {', '.join(list(facts.readings)[:_LISTED]) or 'nothing'}"
            why = f"nothing measured {gate.metric}; {near}"
        return _closed(gate, facts, why)
    failed = None if reading.result is None else mostly_failed(reading.result)
    closed = failed or _judge_problem(reading, facts.calibrations)
    if closed is not None:
        return _closed(gate, facts, closed, reading.figure)
    figure = reading.figure
    end = {"low": figure.low, "high": figure.high, "value": figure.value}[gate.side]
    shown = f"{gate.metric} is {_shown(figure)} ({reading.source})"
    if math.isnan(end):
        return _closed(
            gate,
            facts,
            f"{shown}: it has no interval, so its {gate.side} end is not known. To go by the "
            f"value itself, write {gate.metric} {_sign(gate)} {gate.bound:g} (value)",
            figure,
        )
    passed = gate.holds(end)
    what = "the value" if gate.side == "value" else f"the {gate.side} end"
    if passed:
        verdict = f"{what} is {'at least' if gate.at_least else 'at most'} {gate.bound:g}"
    else:
        verdict = f"{what}, {end:.3g}, is {'below' if gate.at_least else 'above'} {gate.bound:g}"
        verdict += _resolution(gate, figure)
    return GateResult(
        condition=gate.text,
        stage=facts.stage,
        passed=passed,
        figure=figure,
        side=gate.side,
        text=f"{shown}: {verdict}",
    )


def _resolution(gate: Bound, figure: Interval) -> str:
    """What the interval could have shown: from which value on the gate opens, and how many
    observations the value that was measured would need."""
    if gate.side == "value" or not figure.known:
        return ""
    reach = abs(figure.value - (figure.low if gate.side == "low" else figure.high))
    from_ = gate.bound + reach if gate.at_least else gate.bound - reach
    says = f"; with this interval it opens {'from' if gate.at_least else 'up to'} {from_:.3g}"
    margin = abs(figure.value - gate.bound)
    if not gate.holds(figure.value) or not figure.n or margin == 0:
        return says
    needed = float(f"{figure.n * (reach / margin) ** 2:.2g}")
    return f"{says}, or at the same value with about {needed:.0f} observations"


def _judge_problem(reading: Reading, calibrations: Iterable[Calibration]) -> str | None:
    """Why a judge's figure opens no gate; None where it may."""
    if not reading.judge:
        return None
    named = f"{reading.judge} (version {reading.judge_version or 'unknown'})"
    every = list(calibrations)
    own = calibrations_of(every, reading.judge, reading.judge_version)
    if any(c.opens_gates for c in own):
        return None
    other = next((c for c in every if c.judge == reading.judge), None)
    if own:
        has = max(own, key=lambda c: c.labels).doubt
    elif other is not None:
        what = other.differs(reading.judge_version)
        has = f"it has no calibration (there is one of another {what}: {other.version or 'none'})"
    else:
        has = "it has no calibration"
    return (
        f"the judge {named} measured this, and {has}: a gate believes a judge from "
        f"{ENOUGH_LABELS} people's labels on, if it agrees with them more than a coin does. "
        "Calibrate it (gnomon calibrate --help), then resume"
    )


def _sign(gate: Bound) -> str:
    return ">=" if gate.at_least else "<="


def _shown(figure: Interval) -> str:
    if figure.known:
        n = f" n={figure.n:,.0f}".replace(",", " ") if figure.n else ""
        return f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]{n}"
    return f"{figure.value:.3g}"


def _closed(gate: Gate, facts: Facts, why: str, figure: Interval | None = None) -> GateResult:
    return GateResult(
        condition=gate.text,
        stage=facts.stage,
        passed=None,
        figure=figure,
        side=gate.side if isinstance(gate, Bound) else "",
        text=f"it stays closed: {why}",
    )


# -- alarms ---------------------------------------------------------------------------------------


def _of_alarms(gate: NoAlarm, facts: Facts) -> GateResult:
    asked = [f for f in facts.findings if gate.name in ("", f.name, f.detector)]
    alarms = [f for f in asked if f.status == "alarm"]
    what = gate.name or "an alarm"
    if alarms:
        first = alarms[0]
        return GateResult(
            condition=gate.text,
            stage=facts.stage,
            passed=False,
            figure=first.figure,
            text=f"the alarm {first.name} stands: {first.text}",
        )
    looked = [f for f in asked if f.status in ("clear", "unclear")]
    if not looked:
        needs = "; ".join(dict.fromkeys(f.needs for f in asked if f.needs))
        why = f"nothing looked for {what}" + (f": {needs}" if needs else "")
        return _closed(gate, facts, why)
    clear = [f for f in looked if f.status == "clear"]
    if not clear:
        why = f"what looked for {what} could not tell by so many samples: {_lookers(looked)}"
        return _closed(gate, facts, why, looked[0].figure)
    rest = len(looked) - len(clear)
    note = f"; {rest} more could not tell" if rest else ""
    return GateResult(
        condition=gate.text,
        stage=facts.stage,
        passed=True,
        figure=clear[0].figure,
        text=f"looked for {what} by {_lookers(clear)}, which found none{note}",
    )


def _lookers(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(f.detector or f.name for f in findings))
