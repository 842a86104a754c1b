"""The card's sections on evals, on what the audit found, and on gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gnomon.audit.kinds import Kind
from gnomon.audit.shown import remark
from gnomon.report import markdown as md
from gnomon.report.facts import Facts
from gnomon.report.format import measured, number
from gnomon.report.kinds import column_kinds
from gnomon.runs.audit import Finding, GateResult
from gnomon.runs.evals import EvalResult


def evals_section(facts: Facts) -> str:
    """Suites with their intervals, the comparison of the run's policies, held-out figures."""
    parts = [_suites(facts), _compared(facts), _held_out(facts)]
    shown = [part for part in parts if part]
    if not shown:
        return "Nothing was measured on held-out questions."
    return "\n\n".join(
        [
            *shown,
            "Brackets hold 95% intervals. A rise of the reward that was trained on says nothing of "
            "quality by itself.",
        ]
    )


def _suites(facts: Facts) -> str:
    rows = [row for result in facts.evals for row in _scores(result)]
    notes = [
        f"{md.text(result.suite)}: {md.text(note)}"
        for result in facts.evals
        for note in result.notes
    ]
    heads = ["suite", "score", "figure", "items", "errors", "judge"]
    return "\n\n".join(filter(None, [md.table(heads, rows), md.bullets(notes)]))


def _scores(result: EvalResult) -> Iterator[tuple[str, ...]]:
    names = [result.main] if result.main in result.scores else []
    when = f" at step {result.step}" if result.step is not None else ""
    for name in [*names, *(n for n in result.scores if n not in names)]:
        lower = name == result.main and not result.higher_is_better  # others may go the other way
        harm = " (lower is better)" if lower else ""
        against = f" against {result.against}" if result.against else ""
        yield (
            md.text(result.suite + when),
            md.text(name + against + harm),
            md.text(measured(result.scores[name])),
            md.text(result.n),
            md.text(result.errors),
            md.text(result.judge) or "none",
        )


def _compared(facts: Facts) -> str:
    compared = facts.run.comparison
    if facts.is_reward or not compared or facts.subject is None:
        return ""
    rows = [
        (md.text(model), *(md.text(measured(row.value(i))) for i in range(len(compared.columns))))
        for model, row in zip(compared.models, compared.rows, strict=True)
    ]
    kinds = column_kinds(facts.run)
    heads = [md.text(f"{column}{_NOTES.get(kinds[column], '')}") for column in compared.columns]
    table = md.table(["model", *heads], rows)
    return f"The run's policies on the same held-out prompts:\n\n{table}" if table else ""


_NOTES: Mapping[Kind, str] = {
    "trained": " (trained on)",
    "truth": " (the simulation's truth)",
}
"""What a reader of the comparison must know of a column, by what it says; the page's words decide
which that is."""


def _held_out(facts: Facts) -> str:
    if facts.subject is None:
        return ""
    figures = facts.subject.evals.figures()
    rows = [(md.text(name), md.text(measured(figure))) for name, figure in figures.items()]
    table = md.table(["figure", "value"], rows)
    name = md.text(facts.subject.name)
    return f"At the end of {name}, on its held-out rows:\n\n{table}" if table else ""


def audit_section(facts: Facts) -> str:
    """Alarms with their figures and cures; what was cured; then what could have been seen."""
    if facts.audit is None:
        return "The run was not audited (`gnomon audit`): nothing was looked for."
    parts = [_alarm(finding) for finding in facts.alarms]
    if not parts:
        parts.append("Nothing wrong was found in what could be looked for.")
    cured = list(_cured(facts))
    if cured:
        parts.append(f"Found earlier and no longer seen at the end:\n\n{md.bullets(cured)}")
    watched = [
        md.text(f"{finding.name}, stage {finding.stage}: {finding.text}")
        for finding in facts.findings
        if finding.is_to_watch
    ]
    clear, unclear = (
        [_seen(f) for f in facts.findings if f.status == status and not f.is_to_watch]
        for status in ("clear", "unclear")
    )
    for title, lines in (
        ("To watch:", watched),
        ("Looked for and not found, with the size that would have been seen:", clear),
        (
            "Looked for and left open, for lack of samples or of a further sign:",
            unclear,
        ),
    ):
        if lines:
            parts.append(f"{title}\n\n{md.bullets(lines)}")
    lacking: dict[str, list[str]] = {}
    for finding in facts.findings:
        if finding.status == "not_looked":
            what = f"{md.text(finding.name)} by {md.text(finding.detector)}"
            lacking.setdefault(f"{what}: needs {md.text(finding.needs)}", []).append(finding.stage)
    lines = [f"{what} (stage {', '.join(map(md.text, at))})" for what, at in lacking.items()]
    if lines:
        parts.append(f"Not looked for:\n\n{md.bullets(lines)}")
    return "\n\n".join(parts)


def _alarm(finding: Finding) -> str:
    lines = [
        f"**{md.text(finding.name)}** in stage {md.text(finding.stage)}: {md.text(finding.text)}"
    ]
    facts = []
    if finding.figure is not None:
        limit = "" if finding.limit is None else f"; the limit is {md.text(number(finding.limit))}"
        facts.append(f"{md.text(finding.measure)}: {md.text(measured(finding.figure))}{limit}")
    if finding.first_seen:
        facts.append(f"first seen at {md.text(finding.first_seen)}")
    for cure in finding.cures:
        said = remark(finding.name, cure, finding.algorithm)
        facts.append(f"{f'may help ({said})' if said else 'known to help'}: {md.code(cure)}")
    for exhibit in finding.exhibits[:2]:
        shows = f" ({md.text(exhibit.shows)})" if exhibit.shows else ""
        facts.append(
            f"a sample{shows}: to “{md.text(exhibit.prompt, 200)}” it answers "
            f"“{md.text(exhibit.response, 200)}”"
        )
    return "\n\n".join([*lines, md.bullets(facts)])


def _cured(facts: Facts) -> Iterator[str]:
    """Alarms of an earlier stage that the model's own stage was looked at for and is clear of."""
    if facts.subject is None:
        return
    own = {
        (f.name, f.detector)
        for f in facts.findings
        if f.stage == facts.subject.name and f.status == "clear"
    }
    for finding in facts.alarms:
        if finding.stage != facts.subject.name and (finding.name, finding.detector) in own:
            yield (
                f"{md.text(finding.name)} by {md.text(finding.detector)}: alarm in "
                f"{md.text(finding.stage)}, clear in {md.text(facts.subject.name)}"
            )


def _seen(finding: Finding) -> str:
    line = f"{md.text(finding.name)} by {md.text(finding.detector)}, stage {md.text(finding.stage)}"
    line += f": {md.text(finding.measure)}"
    if finding.figure is not None:
        line += f" {md.text(measured(finding.figure))}"
    if finding.sees_none:
        line += "; by so few samples none would have been seen"
    elif finding.detectable is not None:
        line += f"; {md.text(number(finding.detectable))} would have been seen"
    return line


def gates_section(facts: Facts) -> str:
    """Each condition, what decided, and how."""
    results = facts.decisions
    if not results:
        return "The recipe set no conditions, so nothing here says that the model may be shipped."
    heads = ["condition", "after", "decision", "figure", "in words"]
    return md.table(heads, [_gate(result) for result in results])


def _gate(result: GateResult) -> tuple[str, ...]:
    passed = {True: "passed", False: "**failed**", None: "**not decided**"}[result.passed]
    side = {"low": " (lower end counts)", "high": " (upper end counts)"}.get(result.side, "")
    return (
        md.text(result.condition),
        md.text(result.stage) or "the run",
        passed,
        (md.text(measured(result.figure)) if result.figure is not None else "none") + side,
        md.text(result.text),
    )
