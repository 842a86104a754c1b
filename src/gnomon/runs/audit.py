"""audit.json and gates.json: what was looked for in a run, what was found, what was decided.

Detectors (:mod:`gnomon.audit`) write findings, gates decide by them and by other figures, and the
report, the card and ``gnomon audit`` show them; all of them meet in these records.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, RootModel

from gnomon.runs.comparison import Figure, only_mappings
from gnomon.runs.records import JsonFile, Record

AUDIT, GATES = "audit.json", "gates.json"
ALARMS = (
    *("reward_hacking", "mode_collapse", "length_bias", "sycophancy", "alignment_tax"),
    *("over_refusal", "harmful_compliance", "fragility", "memorised_reward", "foreign_prompts"),
    *("drift", "truncated_answers", "reward_errors", "reward_fall", "sampler_mismatch"),
    *("no_signal", "misjoined_answers"),
)
"""What findings of the project's own detectors are called. Gates may ask for these, or for a
detector by its own name."""

Status = Literal["alarm", "clear", "unclear", "not_looked"]
"""``clear``: looked for and not found, where a problem of size ``detectable`` would have been seen.
``unclear``: looked for, but the figures allow both. ``not_looked``: what it needs is not there."""


_SHARES = (", share", ", share of their word pairs")
_SHARES_OF = ("share of pairs", "share of held-out", "win rate")
"""How the measures of figures end, and begin, that lie between 0 and 1."""


class Exhibit(Record):
    """A sample that shows a finding.

    Attributes:
        prompt, response: as text.
        reward: what the trained reward gave, where it did.
        step: of the optimizer when it was sampled; None where it was sampled afterwards.
        shows: what to look at, in words.
    """

    prompt: str = ""
    response: str = ""
    reward: float | None = None
    step: int | None = None
    shows: str = ""


class Finding(Record):
    """One thing that was looked for in one stage.

    Attributes:
        name: what is wrong where it is an alarm, see :data:`ALARMS`.
        detector: how it was looked for: ``held_out_judge``, ``invariance``, ``drift``, ...
        stage: the stage whose policy or reward model it is of.
        algorithm: of that stage; empty where nobody says.
        status: see :data:`Status`.
        measure: what ``figure`` measures, with its unit.
        figure: the figure that decided, with its interval.
        limit: the value of ``figure`` from which it is an alarm.
        detectable: the smallest effect, in the figure's unit, that this many samples would have
            shown with a chance of 80%; None where that is not known.
        text: the finding as one sentence.
        exhibits: samples that show it, the clearest first.
        curves: metrics of the stage that show it.
        since: the step at which the alarm would first have been raised, or from which it is to be
            watched; None where it is not of a time.
        watched: of an alarm, the step from which it was something to watch, where that was earlier.
        first: what to do before any override, where the fault is in the reward or in the labels.
        cures: overrides of the recipe that may help, as typed after ``gnomon run``; which of them
            are shown to help is in :mod:`gnomon.audit.shown`.
        needs: what would have to be there to look, where ``status`` is ``not_looked``.
    """

    name: str = ""
    detector: str = ""
    stage: str = ""
    algorithm: str = ""
    status: Status = "not_looked"
    measure: str = ""
    figure: Figure = None
    limit: float | None = None
    detectable: float | None = None
    text: str = ""
    exhibits: list[Exhibit] = Field(default_factory=list)
    curves: list[str] = Field(default_factory=list)
    since: float | None = None
    watched: float | None = None
    first: str = ""
    cures: list[str] = Field(default_factory=list)
    needs: str = ""

    @property
    def is_to_watch(self) -> bool:
        """Whether it is no alarm yet, and its sentence is to be read all the same."""
        return self.status == "unclear" and bool(self.text)

    @property
    def sees_none(self) -> bool:
        """Whether no effect would have been seen: the figure is a share, and the smallest that so
        many samples show is none that a share can be."""
        share = self.measure.endswith(_SHARES) or self.measure.startswith(_SHARES_OF)
        return share and self.detectable is not None and not 0.0 <= self.detectable <= 1.0

    @property
    def first_seen(self) -> str:
        """The step of :attr:`since` in words, with that from which it was to be watched; empty
        where it is not of a time."""
        if self.since is None:
            return ""
        if self.watched is None:
            return f"step {self.since:.0f}"
        return f"step {self.since:.0f}, to be watched from step {self.watched:.0f} on"


class Audit(Record):
    """audit.json.

    Attributes:
        made: when, local time.
        version: gnomon's, whose thresholds were used.
        findings: alarms first; the order in which they are shown.
        problems: what could not be read, in words.
        so_far: the stage that was training when it was made; only alarms are in it then, since what
            was not found by half-way may still come. Empty of a whole audit.
    """

    made: str = ""
    version: str = ""
    findings: Annotated[list[Finding], BeforeValidator(only_mappings)] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)
    so_far: str = ""

    @property
    def alarms(self) -> list[Finding]:
        """The findings that are alarms."""
        return [finding for finding in self.findings if finding.status == "alarm"]


class GateResult(Record):
    """A gate's decision.

    Attributes:
        condition: as the recipe has it: ``win_rate >= 0.55``, ``no alarm: reward_hacking``.
        stage: after which it was asked; empty for the whole run's gates.
        passed: None where it could not be decided, which does not open the gate.
        figure: the figure that decided.
        side: which side of the interval counted: ``low``, ``high`` or ``value``.
        text: the decision as one sentence, with the figure.
    """

    condition: str = ""
    stage: str = ""
    passed: bool | None = None
    figure: Figure = None
    side: Literal["low", "high", "value", ""] = ""
    text: str = ""


class Gates(JsonFile, RootModel[dict[str, list[GateResult]]]):
    """gates.json: the decisions after each stage, by its name; the whole run's under ``""``."""

    root: dict[str, list[GateResult]] = {}

    def __bool__(self) -> bool:
        return any(self.root.values())

    def all(self) -> list[GateResult]:
        """Every decision, in the order of the stages."""
        return [result for results in self.root.values() for result in results]
