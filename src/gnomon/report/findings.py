"""An audit as lines of text: its alarms first, then what would have been seen, then the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gnomon.audit.shown import remark
from gnomon.report.format import measured, number
from gnomon.runs.audit import Audit, Finding

NOTHING = "nothing wrong was found in what could be looked for"
HACKING = "reward_hacking"
BELIEVED = {"lost_wins", "spotcheck", "eval_drop", "eval_category_drop"}
"""Detectors that ask people, judges that people vouch for, or an eval."""
JUDGES = {"held_out_judge", "held_out_fall"}
"""Detectors that ask a judge, whoever vouches for it."""
WRONG = (
    "A wrong answer key, wrong labels or a rule that asks for the wrong thing, simply fulfilled,"
)
ALONE = (
    f"{WRONG} shows only where the policy's own first answers agree on something else: to see the "
    "rest takes people, an eval or a judge of its own"
)
JUDGED = (
    f"{WRONG} may please the held-out judge, too, which was not asked about that: to see it takes "
    "people or an eval"
)


def unseen(findings: Iterable[Finding]) -> str:
    """What nobody could have seen, by the findings of one stage: empty unless reward hacking was
    looked for and not found, and neither people nor an eval were asked."""
    looked = [f for f in findings if f.status != "not_looked"]
    hacking = {f.status for f in looked if f.name == HACKING}
    asked = {f.detector for f in looked}
    if not hacking or "alarm" in hacking or asked & BELIEVED:
        return ""
    return JUDGED if asked & JUDGES else ALONE


def audit_lines(audit: Audit) -> list[str]:
    """One line an alarm, then what was looked for and could have been seen.

    An audit without alarms has none of the word in its lines.
    """
    lines = [alarm_line(finding) for finding in audit.alarms]
    if not lines:
        looked = sum(finding.status != "not_looked" for finding in audit.findings)
        lines.append(f"{_nothing(audit)}: {looked} of {len(audit.findings)} checks")
    for stage in dict.fromkeys(finding.stage for finding in audit.findings):
        if text := unseen(finding for finding in audit.findings if finding.stage == stage):
            lines.append(f"stage {stage}: {text[0].lower()}{text[1:]}")
    seen = [_clear(f) for f in audit.findings if f.status == "clear"]
    watched = [f"{f.name}, stage {f.stage}: {f.text}" for f in audit.findings if f.is_to_watch]
    unclear = [_clear(f) for f in audit.findings if f.status == "unclear" and not f.is_to_watch]
    for heading, found in (
        ("to watch:", watched),
        ("looked for and not found, with the size that would have been seen:", seen),
        (
            "looked for and left open, for lack of samples or of a further sign:",
            unclear,
        ),
        ("not looked for:", _not_looked(audit)),
        ("could not be read:", audit.problems),
    ):
        if found:
            lines += [heading, *(f"  {text}" for text in found)]
    return [_printable(line) for line in lines]


def _nothing(audit: Audit) -> str:
    watched = sum(finding.is_to_watch for finding in audit.findings)
    if not watched:
        return NOTHING
    what = "one thing is" if watched == 1 else f"{watched} things are"
    return f"nothing certain was found, and {what} to watch, in what could be looked for"


def audit_summary(audit: Audit, run: Path) -> list[str]:
    """The alarms, and in one line how much else was looked for; nothing where nothing applied."""
    if not audit.findings:
        return []
    counts = dict.fromkeys(("clear", "unclear", "not_looked"), 0)
    for finding in audit.findings:
        if finding.status in counts:
            counts[finding.status] += 1
    watched = sum(finding.is_to_watch for finding in audit.findings)
    rest = (
        f"{counts['clear']} looked for and not found, {counts['unclear']} left open"
        f"{f' ({watched} to watch)' if watched else ''}, "
        f"{counts['not_looked']} not looked for; gnomon audit {run} shows all"
    )
    lines = [alarm_line(finding) for finding in audit.alarms]
    lead = "besides" if lines else _nothing(audit)
    return [*lines, _printable(f"audit: {lead}: {rest}")]


def alarm_line(finding: Finding) -> str:
    """An alarm with its figure, from when on it was one, and what to try."""
    text = finding.text.rstrip(".")  # some are several sentences
    parts = [f"ALARM {finding.name}: stage {finding.stage}: {text}."]
    if finding.figure is not None:
        at = "" if finding.limit is None else f", the limit is {number(finding.limit)}"
        parts.append(f"{_sentence(finding.measure)}: {measured(finding.figure)}{at}.")
    if finding.first_seen:
        parts.append(f"First seen at {finding.first_seen}.")
    if finding.first:
        parts.append(f"First: {finding.first}.")
    if finding.cures:
        parts.append(f"Try: {' or '.join(_cure(finding, cure) for cure in finding.cures)}")
    return _printable(" ".join(parts))


def _cure(finding: Finding, cure: str) -> str:
    said = remark(finding.name, cure, finding.algorithm)
    return f"{cure} ({said})" if said else cure


def _clear(finding: Finding) -> str:
    text = f"{finding.name} by {finding.detector}, stage {finding.stage}: {finding.measure}"
    if finding.figure is not None:
        text += f" {measured(finding.figure)}"
    if finding.sees_none:
        text += "; by so few samples none would have been seen"
    elif finding.detectable is not None:
        text += f"; {number(finding.detectable)} would have been seen"
    return text


def _not_looked(audit: Audit) -> list[str]:
    """What each detector lacks, once for all the stages that lack it."""
    stages: dict[str, list[str]] = {}
    for finding in audit.findings:
        if finding.status == "not_looked":
            text = f"{finding.name} by {finding.detector}: needs {finding.needs}"
            stages.setdefault(text, []).append(finding.stage)
    return [f"{text} (stage {', '.join(names)})" for text, names in stages.items()]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _printable(text: str) -> str:
    """Without what would move the cursor or colour the screen: samples are not to be trusted."""
    return "".join(c if c.isprintable() else " " for c in text)
