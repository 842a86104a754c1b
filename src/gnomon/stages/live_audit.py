"""The audit of a stage that still trains: an alarm is said while something can be done about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gnomon.audit.detectors import audit_so_far, keep_so_far
from gnomon.audit.evidence import NOT_OPTIMISED
from gnomon.files import first_line
from gnomon.report.findings import alarm_line
from gnomon.runs.audit import AUDIT, Audit, Finding
from gnomon.runs.probes import PROBES
from gnomon.training.callbacks import Callback, StageStart, StepDone

SHARE = 0.02
"""Of a stage's time, what its audits after the first may take, as far as the last one tells."""
LOOKS = 20
"""At most so many audits of a stage, evenly spread: the more, the likelier a false alarm."""
FIRST = 5
"""The iteration after which a stage is first looked at where its reward is not asked early."""


Key = tuple[str, str]
"""An alarm's name and detector."""


class LiveAudit(Callback):
    """Audits a policy while it trains: as soon as its reward was asked about the first answers, and
    then up to LOOKS times, as SHARE of the time allows. A new alarm is told once, and audit.json
    has it, so that ``gnomon view`` shows it; how training goes is not touched.

    It looks many times where the audit at the end looks once, so a false alarm is likelier: after
    the first look, an alarm counts that the look before had too. How often it is wrong is measured
    (docs/detectors.md). What it said is made anew at the end.
    """

    def __init__(
        self, run: Path, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        run: the run's folder.
        tell: what is told of an alarm.
        clock: seconds.
        """
        self.run, self.tell, self.clock = run, tell, clock

    def on_start(self, stage: StageStart) -> None:
        self.began, self.spent, self.cost = self.clock(), 0.0, 0.0
        self.failed = False
        self.looked: int | None = None
        kept = Audit.read_or_empty(self.run / AUDIT)
        again = stage.resumed and kept.so_far == stage.stage  # it was looked at before
        own = {_key(finding) for finding in kept.alarms if finding.stage == stage.stage}
        self.told = own if again else set[Key]()
        self.last: set[Key] | None = own if again else None
        self.off = stage.method in NOT_OPTIMISED

    def on_step(self, event: StepDone) -> None:
        last = event.iteration == event.iterations  # the run's own audit comes then
        if self.off or last or not self._due(event):
            return
        before = self.clock()
        self.looked = event.iteration
        try:
            found = audit_so_far(self.run, event.stage)
            alarms = self._lasting(found.alarms)
            keep_so_far(self.run, found, alarms)
        except Exception as error:
            if not self.failed:
                self.tell(f"warning: it cannot be audited yet: {first_line(error)}")
            self.failed = True
            return
        for finding in alarms:
            if _key(finding) not in self.told:
                self.told.add(_key(finding))
                self.tell(f"iteration {event.iteration}: {alarm_line(finding)}")
        self.cost = self.clock() - before
        self.spent += self.cost

    def _lasting(self, alarms: Sequence[Finding]) -> list[Finding]:
        """The alarms that the look before had too, or that were told already; all of the first
        look's, which is of what was asked and not of a window among many."""
        keys = {_key(finding) for finding in alarms}
        known = keys if self.last is None else self.last | self.told
        self.last = keys
        return [finding for finding in alarms if _key(finding) in known]

    def _due(self, event: StepDone) -> bool:
        if self.looked is None:
            return event.iteration >= FIRST or (event.folder / PROBES).exists()
        if event.iteration < self.looked + math.ceil(event.iterations / LOOKS):
            return False
        return self.spent + self.cost <= SHARE * (self.clock() - self.began)


def _key(finding: Finding) -> Key:
    return finding.name, finding.detector
