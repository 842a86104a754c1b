"""The audit of a stage that still trains: an alarm is said while something can be done about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from gnomon.audit.detectors import audit_so_far
from gnomon.audit.evidence import NOT_OPTIMISED
from gnomon.files import first_line
from gnomon.report.findings import alarm_line
from gnomon.runs.probes import PROBES
from gnomon.training.callbacks import Callback, StageStart, StepDone

SHARE = 0.02
"""Of a stage's time, what its audits after the first may take, as far as the last one tells."""
LOOKS = 20
"""At most so many audits of a stage, evenly spread: the more, the likelier a false alarm."""
FIRST = 5
"""The iteration after which a stage is first looked at where its reward is not asked early."""


class LiveAudit(Callback):
    """Audits a policy while it trains: as soon as its reward was asked about the first answers, and
    then up to LOOKS times, as SHARE of the time allows. A new alarm is told once, and audit.json
    has it, so that ``gnomon view`` shows it; how training goes is not touched.

    It looks many times where the audit at the end looks once, so a false alarm is likelier: how
    often is measured (docs/detectors.md). What it said is made anew at the end.
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
        self.told: set[tuple[str, str]] = set()
        self.off = stage.method in NOT_OPTIMISED

    def on_step(self, event: StepDone) -> None:
        last = event.iteration == event.iterations  # the run's own audit comes then
        if self.off or last or not self._due(event):
            return
        before = self.clock()
        self.looked = event.iteration
        try:
            found = audit_so_far(self.run, event.stage)
        except Exception as error:
            if not self.failed:
                self.tell(f"warning: it cannot be audited yet: {first_line(error)}")
            self.failed = True
            return
        for finding in found.alarms:
            key = (finding.name, finding.detector)
            if finding.stage == event.stage and key not in self.told:
                self.told.add(key)
                self.tell(f"iteration {event.iteration}: {alarm_line(finding)}")
        self.cost = self.clock() - before
        self.spent += self.cost

    def _due(self, event: StepDone) -> bool:
        if self.looked is None:
            return event.iteration >= FIRST or (event.folder / PROBES).exists()
        if event.iteration < self.looked + math.ceil(event.iterations / LOOKS):
            return False
        return self.spent + self.cost <= SHARE * (self.clock() - self.began)
