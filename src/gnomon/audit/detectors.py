"""The detectors by name, and running them on a run.

A detector is a function of :class:`~gnomon.audit.evidence.Evidence` that returns findings: alarms,
what it looked for and could have seen, or what it lacks. To add one: a function in a file of this
folder and a line in the table; one's own is named as ``file.py:detector``. It returns nothing for a
stage that it does not apply to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import gnomon
from gnomon.audit.evidence import Detector, Evidence, evidence
from gnomon.errors import DataError, RunError
from gnomon.files import first_line
from gnomon.plugins import find, nearest
from gnomon.runs.audit import AUDIT, Audit, Finding, Status
from gnomon.runs.read import (
    RunView,
    StageReader,
    StageView,
    own_stage,
    read_run,
    read_stage,
    read_stage_records,
)
from gnomon.runs.records import now
from gnomon.usercode import explain, is_interrupt

DETECTORS: Mapping[str, str] = {
    "held_out_judge": "gnomon.audit.held_out:held_out_judge",
    "disagreement": "gnomon.audit.held_out:disagreement",
    "contradiction": "gnomon.audit.contradiction:contradiction",
    "consensus": "gnomon.audit.consensus:consensus",
    "refused": "gnomon.audit.refused:refused",
    "spoiled": "gnomon.audit.spoiled:spoiled",
    "form_alone": "gnomon.audit.form_alone:form_alone",
    "unseen_phrases": "gnomon.audit.drift:unseen_phrases",
    "new_phrase": "gnomon.audit.drift:new_phrase",
    "several_answers": "gnomon.audit.guesses:several_answers",
    "same_answer": "gnomon.audit.guesses:same_answer",
    "nothing_specific": "gnomon.audit.topics:nothing_specific",
    "off_topic": "gnomon.audit.topics:off_topic",
    "repetition": "gnomon.audit.drift:repetition",
    "gibberish": "gnomon.audit.health:gibberish",
    "agreement": "gnomon.audit.agreement:agreement",
    "mode_collapse": "gnomon.audit.collapse:mode_collapse",
    "entropy": "gnomon.audit.collapse:entropy",
    "length_bias": "gnomon.audit.length:length_bias",
    "truncated": "gnomon.audit.length:truncated",
    "reward_errors": "gnomon.audit.health:reward_errors",
    "reward_fall": "gnomon.audit.reward_fall:reward_fall",
    "held_out_prompts": "gnomon.audit.held_out_prompts:held_out_prompts",
    "no_signal": "gnomon.audit.no_signal:no_signal",
    "sampler_mismatch": "gnomon.audit.health:sampler_mismatch",
    "value_function": "gnomon.audit.health:value_function",
    "displacement": "gnomon.audit.health:displacement",
    "kl": "gnomon.audit.health:kl",
    "kl_price": "gnomon.audit.held:held",
    "invariance": "gnomon.audit.invariance:invariance",
    "shortcuts": "gnomon.audit.shortcuts:shortcuts",
    "policy_probes": "gnomon.audit.policy_probes:policy_probes",
    "eval_drop": "gnomon.audit.evals:eval_drop",
    "eval_category_drop": "gnomon.audit.evals:eval_category_drop",
    "eval_rise": "gnomon.audit.eval_rise:eval_rise",
    "lost_wins": "gnomon.audit.evals:lost_wins",
    "foreign_prompts": "gnomon.audit.reward_model:foreign_prompts",
    "held_out_comparisons": "gnomon.audit.reward_model:held_out_comparisons",
    "reward_model_drift": "gnomon.audit.reward_drift:reward_model_drift",
    "joins": "gnomon.audit.joins:joins",
    "spotcheck": "gnomon.audit.spotcheck:spotcheck",
}
"""Import paths by name."""
OF_THE_WHOLE = ("value_function", "no_signal")
"""Those that say nothing of a stage that still trains: a critic explains nothing before it has
learned, and what is too hard at first is not so for long."""
ORDER: tuple[Status, ...] = ("alarm", "unclear", "clear", "not_looked")
"""In which findings are shown."""


def load_detectors(
    names: Iterable[str] | None = None, base: Path | None = None
) -> dict[str, Detector]:
    """Detectors by name: all of the table, or those named.

    Args:
        names: of the table, or ``file.py:detector`` and ``package.module:detector``.
        base: the folder that a user's file is looked up in.

    Raises:
        ConfigError: there is no such detector.
    """
    wanted = list(DETECTORS if names is None else names)
    return {name: find(name, DETECTORS, base or Path.cwd(), "detector") for name in wanted}


def audit_run(
    folder: Path,
    *,
    stages: Sequence[str] = (),
    detectors: Mapping[str, Detector] | None = None,
    write: bool = True,
) -> Audit:
    """Look for everything in a run, and write its audit.json.

    A detector that fails and records that cannot be read are named in ``problems``; what the others
    find is kept.

    Args:
        stages: only these; all by default.
        detectors: by name; the table's by default.
        write: keep the audit in the run's folder, if it is of all stages and the whole table.

    Raises:
        DataError: the folder is not a run's, or has no such stage.
    """
    run = read_run(folder, _reader(stages))
    whole = not stages and detectors is None
    detectors = load_detectors() if detectors is None else detectors
    problems = list(run.problems)
    findings: list[Finding] = []
    spoilt: set[str] = set()
    for stage in _chosen(run, stages):
        read, unread = evidence(run, stage)
        problems += unread
        found = list(_findings(read, detectors, problems))
        start = own_stage(run, str(stage.info.start.get("from") or ""))
        findings += [_after(start, f) for f in found] if start and start in spoilt else found
        if any(finding.status == "alarm" for finding in found):
            spoilt.add(stage.name)
    audit = Audit(
        made=now(),
        version=gnomon.__version__,
        findings=sorted(findings, key=lambda finding: ORDER.index(finding.status)),
        problems=list(dict.fromkeys(problems)),
    )
    if write and whole:
        try:
            audit.write(folder / AUDIT)
        except RunError as error:
            audit.problems.append(f"{AUDIT} was not written: {first_line(error)}")
    return audit


def _reader(stages: Sequence[str]) -> StageReader:
    """Reads the metrics and samples, which may be large, of these stages alone; of all where none
    are given."""

    def read(folder: Path, problems: list[str]) -> StageView:
        view = read_stage_records(folder, [])
        asked = not stages or view.name in stages
        return (read_stage if asked else read_stage_records)(folder, problems)

    return read


def detectors_so_far() -> dict[str, Detector]:
    """The table's detectors that can say something of a stage that still trains."""
    return load_detectors(name for name in DETECTORS if name not in OF_THE_WHOLE)


def audit_so_far(folder: Path, stage: str) -> Audit:
    """Look at one stage of a run that is still going; see :func:`keep_so_far`.

    Raises:
        DataError: the folder is not a run's, or has no such stage.
    """
    found = audit_run(folder, stages=[stage], detectors=detectors_so_far(), write=False)
    return found.model_copy(update={"so_far": stage})


def keep_so_far(folder: Path, found: Audit, alarms: Sequence[Finding]) -> None:
    """Put these alarms of a stage that is still going in place of those that audit.json has of it;
    a run without any has no audit yet.

    Raises:
        RunError: audit.json cannot be written.
    """
    before = Audit.read_or_empty(folder / AUDIT).alarms
    kept = [finding for finding in before if finding.stage != found.so_far]
    found.model_copy(update={"findings": [*kept, *alarms]}).write(folder / AUDIT)


def _after(start: str, finding: Finding) -> Finding:
    """A finding of a stage that starts from one with alarms: those come first."""
    if finding.status != "alarm":
        return finding
    first = [f"see to the alarms of stage {start}, which this one starts from", finding.first]
    return finding.model_copy(update={"first": "; then ".join(filter(None, first))})


def _chosen(run: RunView, names: Sequence[str]) -> list[StageView]:
    known = {stage.name: stage for stage in run.stages}
    for name in names:
        if name not in known:
            near = nearest(name, known, cutoff=0.5) or f"it has {', '.join(known) or 'none'}"
            raise DataError(f"{run.path} has no stage {name!r}; {near}")
    return [known[name] for name in names] if names else list(run.stages)


def _findings(
    read: Evidence, detectors: Mapping[str, Detector], problems: list[str]
) -> Iterator[Finding]:
    """What the detectors find in a stage; one that fails is a problem, not the end."""
    for name, detector in detectors.items():
        try:
            found = detector(read)
            wrong = next((x for x in found if not isinstance(x, Finding)), None)
            if wrong is not None:
                raise TypeError(f"it returned a {type(wrong).__name__}, not a Finding")
        except BaseException as error:  # a user's detector may raise anything
            if is_interrupt(error):
                raise
            problems.append(f"stage {read.stage}: detector {name} failed: {explain(error)}")
            continue
        yield from found
