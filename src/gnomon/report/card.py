"""``model_card.md``: what a model was made from, how, at what cost, and what is wrong with it.

Every sentence with a figure comes from a record of the run or from a formula that is named
(:mod:`gnomon.report.compute`); what nobody recorded or stated is said to be missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from gnomon.files import write_text
from gnomon.recipe.card import CardSpec
from gnomon.report import markdown as md
from gnomon.report.bought import bought
from gnomon.report.bought_table import bought_markdown
from gnomon.report.candidate import candidate, gate_places, held_back
from gnomon.report.card_data import data_section, judge_kind, judges_section
from gnomon.report.card_results import audit_section, evals_section, gates_section
from gnomon.report.card_training import compute_section, training_section
from gnomon.report.compute import AVERAGE, CONTROL, EVAL
from gnomon.report.facts import Facts, facts_of, models, read_facts, titles
from gnomon.report.format import flatten
from gnomon.report.metadata import front_matter, methods
from gnomon.runs.evals import calibrations_of
from gnomon.runs.read import read_run

CARD, README = "model_card.md", "README.md"
MISSING = "*not stated*"


def write_cards(run: Path, stated: CardSpec | None = None) -> list[Path]:
    """Write a run's card, and each model's as the README of its folder; return what was written.

    Args:
        stated: what a file of statements says, in place of the recipe's ``card``.

    Raises:
        DataError: the folder is no run's.
        RunError: the disk is full or cannot be written.
    """
    view = read_run(run)
    texts = {
        stage.folder / "model" / README: card(facts_of(view, stage.name, stated))
        for stage in models(view)
    }
    texts[run / CARD] = card(facts_of(view, None, stated))  # last: it says that all are there
    for file, text in texts.items():
        write_text(file, text)
    return list(texts)


def run_card(run: Path, stage: str | None = None, stated: CardSpec | None = None) -> str:
    """The card of one model of a run, as text; see :func:`~gnomon.report.facts.read_facts`."""
    return card(read_facts(run, stage, stated))


def card(facts: Facts) -> str:
    """The whole card."""
    body = md.sections(
        [
            ("What it is", _what(facts)),
            ("Intended use and limits", _use(facts)),
            ("Gates", gates_section(facts)),
            ("Failures found", audit_section(facts)),
            ("Evaluation", evals_section(facts)),
            ("What each stage bought and cost", _bought(facts)),
            ("Data", data_section(facts)),
            ("Labellers and judges", judges_section(facts)),
            ("Training", training_section(facts)),
            ("Compute and energy", compute_section(facts)),
            ("How to reproduce it", _reproduce(facts)),
            ("What is missing", md.bullets(missing(facts))),
        ]
    )
    return f"{front_matter(facts)}\n\n# {md.text(facts.name)}\n\n{_opening(facts)}\n\n{body}\n"


def _opening(facts: Facts) -> str:
    manifest, run = facts.run.manifest, md.code(facts.run.name)
    if manifest.trainer:
        trainer = md.text(manifest.trainer)
        lines = [
            f"Trained by {trainer}, whose logs gnomon imported as the run {run}: from them alone."
        ]
    else:
        made = f"Made by gnomon {md.text(manifest.versions.get('gnomon', 'unknown'))}"
        lines = [f"{made} in the run {run}, from its records alone."]
    lines += [f"- {md.text(note)}" for note in manifest.said_of_import]
    if facts.subject is None:
        lines.append("**No stage of the run has left a model.**")
    lines += _held_back(facts)
    unfinished = [view for view in facts.stages if view.info.status != "done"]
    if unfinished:
        states = ", ".join(f"{md.text(v.name)} is {md.text(v.info.status)}" for v in unfinished)
        lines.append(f"**The run has not ended: {states}.**")
    if facts.alarms:
        names = ", ".join(dict.fromkeys(md.text(finding.name) for finding in facts.alarms))
        lines.append(f"**Its audit is alarmed: {names}; see Failures found.**")
    return "\n".join(lines)


def _held_back(facts: Facts) -> Iterator[str]:
    """Which models a gate held back, and why: this one, or those that this one is kept in place
    of."""
    run, own = facts.run, "" if facts.subject is None else facts.subject.name
    back = held_back(run)
    for name in (view.name for view in run.stages if view.name in back):
        failed = [r for r in run.gates.all() if r.stage in gate_places(run, name) and r.stage]
        told = [md.text(r.text or r.condition) for r in failed if r.passed is not True]
        why = f": {'; '.join(told)}" if told else ""
        if name == own:
            kept = candidate(run)
            instead = f"{md.code(kept)} is" if kept else "the model that the run started from is"
            yield f"**A gate held this model back; {instead} kept in its place{why}**"
        elif own == candidate(run):
            yield f"**A gate held {md.code(name)} back; this model is kept in its place{why}**"


def _what(facts: Facts) -> str:
    stated, config = facts.stated, facts.config
    architectures = config.get("architectures")
    kind = {"policy": "a language model"}.get(facts.kind, "a reward model: it scores answers")
    rows = [
        ("kind", kind if facts.kind else "*no record*"),
        ("made by", f"{md.text(titles(facts.stages))}" if facts.stages else "*no record*"),
        ("starts from", _start(facts)),
        ("architecture", md.text(_joined(architectures)) if architectures else "*no record*"),
        ("parameters", md.text(f"{facts.parameters:,}") if facts.parameters else "*no record*"),
        ("provider", said(stated.provider)),
        ("contact", said(stated.contact)),
        ("licence", said(stated.licence)),
        ("licence of the base", said(stated.base_licence)),
        ("released", said(stated.release_date)),
    ]
    weights = [(f"SHA-256 of {md.code(name)}", md.code(v)) for name, v in facts.weights.items()]
    return md.table(["", ""], [*rows, *weights])


def _start(facts: Facts) -> str:
    if not facts.chain:
        return "*no record*"
    views = {view.name: view for view in facts.stages}
    start = views[facts.chain[0]].info.start
    source = str(facts.stated.base_model or start.get("from") or "")
    digest = start.get("sha256")
    if not source:
        return "*no record*"
    place = Path(source)
    shown = place.name if place.is_absolute() else source  # where it lies is nobody's business
    return md.text(shown) + (f" (SHA-256 {md.code(digest)})" if digest else "")


def _joined(raw: object) -> str:
    return ", ".join(map(str, raw)) if isinstance(raw, list) else str(raw)


def _use(facts: Facts) -> str:
    stated = facts.stated
    return md.table(
        ["", ""],
        [
            ("intended uses", said(stated.intended_uses)),
            ("not for", said(stated.out_of_scope)),
            ("acceptable use policy", said(stated.acceptable_use)),
            ("integration", said(stated.integration)),
            ("distribution", said(stated.distribution)),
            ("known limitations", said(stated.limitations)),
            ("after release", said(stated.maintenance)),
        ],
    )


def said(value: str) -> str:
    """A statement as it is shown."""
    return md.text(value) if value else MISSING


def _bought(facts: Facts) -> str:
    """Of the policies that had a part in the model."""
    names = {stage.name for stage in facts.stages}
    return bought_markdown([row for row in bought(facts.run) if row.policy in names])


def _reproduce(facts: Facts) -> str:
    manifest = facts.run.manifest
    command = manifest.command
    command = shlex.join(command) if isinstance(command, list) else command
    parts = []
    if command.strip():
        parts.append(md.block(command, "sh"))
    elif manifest.trainer:
        told = f"How {md.text(manifest.trainer)} was called is not in its logs"
        parts.append(f"{told}; `recipe.yaml` is what they tell, and cannot be run.")
    else:
        parts.append("The command was not recorded; `recipe.yaml` in the run's folder is whole.")
    rows = [
        ("seed", md.code(manifest.seed) if manifest.seed is not None else "*no record*"),
        ("SHA-256 of the recipe", md.code(manifest.recipe_sha256) or "*no record*"),
        ("imported" if manifest.trainer else "started", md.text(manifest.started) or "*no record*"),
        ("finished", md.text(manifest.finished) or "*no record*"),
        *((f"version of {md.text(k)}", md.text(v)) for k, v in flatten(manifest.versions)),
        *((f"machine: {md.text(k)}", md.text(v)) for k, v in flatten(manifest.hardware) if v),
    ]
    return "\n\n".join([*parts, md.table(["", ""], rows)])


STATEMENTS = {
    "provider": "who provides the model",
    "contact": "a contact",
    "licence": "the model's licence",
    "base_licence": "the base's licence",
    "intended_uses": "what it is for",
    "acceptable_use": "an acceptable use policy, or that there is none",
    "limitations": "known limitations",
    "rationale": "why it was trained so",
    "base_training_flop": "the base's training compute",
}
"""Keys of a recipe's ``card`` that a reader expects, and what they say."""


def missing(facts: Facts) -> Iterator[str]:
    """What is neither stated nor recorded, each with where it would come from."""
    for key, what in STATEMENTS.items():
        if not getattr(facts.stated, key):
            yield f"{what} (recipe: `card.{key}`)"
    unlicensed = {
        source.shown: source.stage
        for source in reversed(facts.sources())
        if not source.made_here and not (source.stated and source.stated.licence)
    }
    for path, stage in reversed(unlicensed.items()):
        where = f"recipe: `card.data`, {md.code(path)}"
        yield f"the licence of {md.text(path)}, read by {md.text(stage)} ({where})"
    unknown = (n for n, v in _fallible(facts) if not calibrations_of(facts.calibrations, n, v))
    for name in dict.fromkeys(unknown):
        yield f"how far {md.text(name)} agrees with people (`gnomon calibrate`)"
    yield from _unrecorded(facts)
    if facts.audit is None:
        yield "an audit (`gnomon audit RUN`)"
    if not facts.evals and not facts.is_reward and CONTROL not in methods(facts):
        yield "evals (`gnomon eval`, or `train.evals` in the recipe)"
    for problem in facts.problems:
        yield f"could not be read: {md.text(problem)}"


def _unrecorded(facts: Facts) -> Iterator[str]:
    """What a run of this version would have noted."""
    if not facts.run.manifest.data:
        yield "which data was read (manifest.json)"
    for view in facts.stages:
        if view.info.status == "unknown":
            yield f"what happened in {md.text(view.name)} (stage.json)"
        elif not view.info.compute and view.info.algorithm not in (EVAL, AVERAGE):
            yield f"how many tokens {md.text(view.name)} computed (stage.json)"


def _fallible(facts: Facts) -> Iterator[tuple[str, str]]:
    """Name and version of judges that could be compared with people: no simulated ones, nor people
    themselves."""
    for view in facts.stages:
        for name, took in view.info.judges.items():
            kind = judge_kind(facts, view.name, name)
            if "simulat" not in kind and kind != "people":
                yield name, str(took.get("version") or "")
