"""The alarms of a run as the report shows them, and what was looked for besides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from gnomon.audit.shown import remark
from gnomon.report.candidate import held_back
from gnomon.report.samples import cut
from gnomon.runs.audit import Exhibit, Finding
from gnomon.runs.read import RunView

EXHIBITS = 4
CURVES = 2
STATUS = {"clear": "not found", "unclear": "left open",
          "not_looked": "not looked for"}  # fmt: skip


@dataclass(frozen=True)
class Alarm:
    """One alarm.

    Attributes:
        cures: commands to type, and what is to be said of each that is not known to help.
        note: where it no longer counts, why.
    """

    finding: Finding
    exhibits: Sequence[Exhibit]
    cures: Sequence[tuple[str, str]]
    note: str = ""


def alarms(run: RunView) -> list[Alarm]:
    """Every alarm, those that count first, in the order of their reasons."""
    if run.audit is None:
        return []
    held = held_back(run)
    shown = [
        Alarm(
            finding,
            [_cut(exhibit) for exhibit in finding.exhibits[:EXHIBITS]],
            [
                (cure_command(run, c), remark(finding.name, c, finding.algorithm))
                for c in finding.cures
            ],
            f"{finding.stage} was held back by a gate" if finding.stage in held else "",
        )
        for finding in run.audit.alarms
    ]
    return sorted(shown, key=lambda alarm: bool(alarm.note))


def looked(run: RunView) -> list[Finding]:
    """What was looked for and raised no alarm, or was not looked for."""
    found = run.audit.findings if run.audit is not None else []
    return [finding for finding in found if finding.status in STATUS]


def _cut(exhibit: Exhibit) -> Exhibit:
    texts = {"prompt": cut(exhibit.prompt), "response": cut(exhibit.response)}
    return exhibit.model_copy(update=texts)


def commands(run: RunView) -> list[str]:
    """How to repeat the run next to this one: the command recorded, or else the recipe's."""
    again = repeated(run)
    cwd = run.manifest.cwd
    if again is None:
        return []
    return [
        *([f"cd {shlex.quote(cwd)}"] if cwd else []),
        f"{again} {shlex.quote(f'name={_name(run, again)}-again')}",
    ]


def cure_command(run: RunView, cure: str) -> str:
    """How to run the recipe again with a cure, next to this run; of an imported run, whose recipe
    cannot be run, the key alone."""
    again = repeated(run) or "gnomon run RECIPE"
    try:
        overrides = shlex.join(shlex.split(cure))
    except ValueError:  # a quote that is not closed
        overrides = shlex.quote(cure)
    if run.manifest.trainer:
        return f"{overrides}    # gnomon's key: set the like of it in {run.manifest.trainer}"
    return f"{again} {overrides} {shlex.quote(f'name={_name(run, again)}-cured')}"


def repeated(run: RunView) -> str | None:
    """The command that made the run, without ``--resume``; None where nothing tells, and of an
    imported run."""
    if run.manifest.trainer:
        return None
    recorded = run.manifest.command
    if isinstance(recorded, list):
        recorded = shlex.join(recorded)
    if not recorded.strip():
        if not run.recipe_text:
            return None
        recorded = shlex.join(["gnomon", "run", str(run.path.resolve() / "recipe.yaml")])
    return re.sub(r" --resume\b", "", recorded)


def _name(run: RunView, again: str) -> str:
    return re.sub(r"-seed-?\d+$", "", run.name) if "--seeds" in again else run.name
