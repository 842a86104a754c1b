"""May this model ship? The answer that the report opens with and a run ends with.

**hold** where something speaks against it:

- an alarm stands,
- a gate did not hold,
- a capability, a win rate or a judge that people vouch for fell beyond its interval,
- a stage failed.

**ship** where nothing does, every stage is done, and something that the policy was not trained on
speaks for it:

- gates on an eval or a held-out judge were set, and all the recipe's gates opened, or
- an eval, a held-out judge or a win rate improved beyond its interval,

(a judge's word counts where people vouch for it: a calibration),

its own stage trained something, no reward model likes it less beyond its interval, every record
that this rests on could be read, the recipe is the one that the run was made by, and the audit
looked at the policy (for reward hacking, where its own stage or one that it descends from optimised
a reward) and raised no alarm. A gate on what training costs (KL, length, loss) keeps a model from
shipping and never ships it.

A reward model that no people vouch for is a weak witness: it likes three sound policies of ten less
(docs/gates.md), and one that shares the trained reward's faults, or its labellers' taste, likes a
hacked policy better. So its fall alone holds nothing, and its rise alone ships nothing: a gate
would not believe it either.

**not shown** otherwise, with what is missing and how to get it.

The reward that the policy was trained on counts for nothing here, nor does a simulation's truth.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gnomon.audit.kinds import stands_apart
from gnomon.audit.readings import CAPABILITY_DROP, eval_readings
from gnomon.audit.truths import label, reward_entries
from gnomon.recipe.gates import Bound, parse_gate
from gnomon.report.candidate import candidate, gate_places, replaced, subject
from gnomon.report.changes import Change, changes, counts, observer_vouched, vouched
from gnomon.report.compute import CONTROL
from gnomon.report.facts import rewarded
from gnomon.report.findings import HACKING, unseen
from gnomon.report.format import measured, number
from gnomon.report.idle import idle
from gnomon.report.kinds import column_kinds, metric_kind, stage_specs, trained_entries
from gnomon.runs.audit import Finding, GateResult
from gnomon.runs.evals import ENOUGH_LABELS
from gnomon.runs.read import RunView

Kind = Literal["ship", "hold", "not shown"]
Weight = Literal["shown", "liked", "kept"]
"""What speaks for a policy, and how much it says: an eval, or a judge that people vouch for, shows
it; a reward model that nobody vouches for likes it; that a capability is kept says nothing of what
was gained."""
REASONS = 3


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence with its figure; ``link`` is the part of the page that shows more, and ``name``
    what it is about, where that speaks against the policy."""

    text: str
    link: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """What is missing for an answer, and what to type for it."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer.

    Attributes:
        model: the policy that it is of; empty where there is none.
        reasons: the first three, the weightiest first; ``more`` is how many others there are.
        needs: what is missing, where it is not shown.
    """

    kind: Kind
    model: str
    reasons: tuple[Reason, ...]
    more: int = 0
    needs: tuple[Need, ...] = ()

    @property
    def sentence(self) -> str:
        """What the answer means for the model."""
        who = self.model or "this run's model"
        return {
            "hold": f"{who} should not ship as it is.",
            "ship": f"nothing speaks against {who}, and more than the reward that it was trained "
            "on speaks for it.",
            "not shown": f"nothing here shows that {who} may ship.",
        }[self.kind]


def answer(run: RunView) -> Answer:
    """The answer of a run, from its records alone."""
    model = candidate(run)
    seen = changes(run, model)
    against = [*_failed(run), *_alarms(run), *_gates(run), *_fell(run, seen)]
    untrained = list(_untrained(run, model))
    if against:
        return _answer("hold", subject(run), [*against, *untrained])
    unread = [Reason(f"Not read: {problem}.") for problem in run.unread]
    unfinished, doubts = [*unread, *_unfinished(run)], list(_doubts(seen))
    rose = [change for change in seen if change.gap.low > 0]
    better = [Reason(change.sentence, change.link) for change in rose]
    gates = _opened(run)
    opened = [Reason(f"Gate {r.condition} opened: {r.text}.", "gates") for r, _ in gates]
    says = {weight for _, weight in gates} | {_weight(change.vouched) for change in rose}
    looked = _looked(run, alone="shown" not in says)
    speaks = looked and "shown" in says and not doubts and not untrained
    if speaks and not unfinished and not unasked(run):
        return _answer("ship", model, [*opened, *better, *looked])
    weak = [change.column for change in seen if not change.vouched]
    missing = _missing(run, model, says, bool(looked), bool(doubts), weak)
    reasons = [*untrained, *unfinished, *doubts, *better, *opened, *looked]
    reasons = reasons or list(_no_evidence(run, model))
    if unread:
        missing = [Need("Put back what could not be read, or make it again: what it says may speak "
                        "against the policy.")]  # fmt: skip
    return _answer("not shown", model, reasons, missing if unread or not unfinished else [])


def _answer(
    kind: Kind, model: str, reasons: Sequence[Reason], needs: Sequence[Need] = ()
) -> Answer:
    shown, more = tuple(reasons[:REASONS]), max(0, len(reasons) - REASONS)
    return Answer(kind, model, shown, more, tuple(needs))


# -- what speaks against it -----------------------------------------------------------------------


def _failed(run: RunView) -> Iterator[Reason]:
    for i, stage in enumerate(run.stages, start=1):
        if stage.info.status == "failed":
            why = f": {stage.info.error}" if stage.info.error else ""
            told = f"Stage {stage.name} failed"
            yield Reason(f"{told}{why}.", f"stage-{i}", told.lower())


def standing(run: RunView) -> list[Finding]:
    """The alarms that stand, but those of policies whose place a later one took."""
    gone = replaced(run)
    found = run.audit.alarms if run.audit is not None else []
    return [finding for finding in found if finding.stage not in gone]


def _alarms(run: RunView) -> Iterator[Reason]:
    for i, finding in enumerate(standing(run), start=1):
        where = f"{finding.name} in {finding.stage}"
        yield Reason(f"Alarm {where}: {told(finding)}", f"alarm-{i}", f"alarm {where}")


def told(finding: Finding) -> str:
    """A finding's sentence, with its figure where that does not say it."""
    text = finding.text.rstrip() or finding.measure or finding.detector
    if finding.figure is not None and number(finding.figure.value) not in text:
        text = f"{text.rstrip('.')} ({measured(finding.figure)})"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _gates(run: RunView) -> Iterator[Reason]:
    """Gates that did not hold; one that could not be asked is what is missing, not this."""
    gone = replaced(run)
    for result in run.gates.all():
        if result.passed is False and result.stage not in gone:
            where = f" after {result.stage}" if result.stage else ""
            what = f"{result.condition}{where}"
            yield Reason(f"Gate {what} failed: {result.text}.", "gates", f"gate {what}")


def _fell(run: RunView, seen: Sequence[Change]) -> Iterator[Reason]:
    """What is believed and fell; not once more what an alarm says."""
    told = [finding.text for finding in standing(run)]
    for change in seen:
        alarmed = any(text.startswith(f"{change.what}:") for text in told)
        if change.gap.high < 0 and change.vouched and not alarmed:
            yield Reason(change.sentence, change.link, f"a fall of {change.what}")


def _doubts(seen: Sequence[Change]) -> Iterator[Reason]:
    """Reward models that like the policy less, and that nobody vouches for."""
    for change in seen:
        if change.gap.high < 0 and not change.vouched:
            yield Reason(change.sentence, change.link)


# -- what speaks for it, and what is missing ------------------------------------------------------


def _untrained(run: RunView, model: str) -> Iterator[Reason]:
    """That the policy is the model that its stage started from."""
    for i, stage in enumerate(run.stages, start=1):
        found = idle(stage) if stage.name == model else None
        if found is not None and found.whole:
            yield Reason(f"Stage {stage.name} {found.sentence}", f"stage-{i}")


def _unfinished(run: RunView) -> Iterator[Reason]:
    for i, stage in enumerate(run.stages, start=1):
        if stage.info.status not in ("done", "failed"):
            yield Reason(f"Stage {stage.name} has not finished (status: {stage.info.status}).",
                         f"stage-{i}")  # fmt: skip
    begun = {stage.name for stage in run.stages}
    waiting = [name for name in stage_specs(run) if name not in begun]
    if waiting:
        yield Reason(f"Not started: {', '.join(waiting)}.")


def unasked(run: RunView) -> list[str]:
    """Conditions of the recipe that gates.json has no decision on."""
    asked = [("", run.recipe), *stage_specs(run).items()]
    return [
        str(condition)
        for stage, spec in asked
        for condition in spec.get("gates") or []
        if str(condition) not in {r.condition for r in run.gates.root.get(stage, [])}
    ]


def _opened(run: RunView) -> list[tuple[GateResult, Weight]]:
    """The gates that speak for the policy, and how much each says, where all gates opened."""
    results = [r for r in run.gates.all() if r.stage not in replaced(run)]
    if any(r.passed is not True for r in results):
        return []
    weighed = [(r, _says(run, r)) for r in results]
    return [(result, weight) for result, weight in weighed if weight is not None]


def _says(run: RunView, result: GateResult) -> Weight | None:
    """What a gate says that asks for what the policy was not trained on, and that no simulation
    knows: an eval, a capability or a held-out judge; None of any other."""
    try:
        gate = parse_gate(result.condition)
    except ValueError:  # of another version
        return None
    model = candidate(run)
    if not isinstance(gate, Bound) or result.stage not in gate_places(run, model):
        return None
    if gate.metric == CAPABILITY_DROP:
        return "kept"
    reading = eval_readings(run.results, model).get(gate.metric)
    if reading is not None and reading.result is not None:
        return "shown" if stands_apart(reading.result, trained_entries(run)) else None
    name = gate.metric.removeprefix("gain/")
    column = column_kinds(run).get(name.replace("_", " "))
    kind = metric_kind(run, model, gate.metric) if column is None else column
    compared = column is not None and (not result.stage or name != gate.metric)
    believed = vouched(run, name) if compared else observer_vouched(run, model, name)
    return _weight(believed) if counts(kind, believed) else None


def _weight(vouched: bool) -> Weight:
    return "shown" if vouched else "liked"


def _looked(run: RunView, *, alone: bool) -> list[Reason]:
    """That the audit looked at the policy and raised no alarm; empty where it did not look.

    Args:
        alone: whether nothing else than the audit speaks for the policy.
    """
    if run.audit is None or standing(run):
        return []
    model = candidate(run)
    asked = [f for f in run.audit.findings if f.stage == model]
    clear = sorted({f.name for f in asked if f.status == "clear"})
    if not clear or (HACKING not in clear and rewarded(run, model)):
        return []
    unclear = sorted({f.name for f in asked if f.status == "unclear"} - set(clear))
    watched = _watched(run)
    found = ", ".join(name for name in clear if name != HACKING or not watched)
    text = f"The audit looked for {found} and found none" if found else "The audit found no alarm"
    text += f"; it could not tell about {', '.join(unclear)}." if unclear else "."
    text += f" To watch: {watched[0]}." if watched else ""
    blind = unseen(asked) if alone else ""
    text += f" {blind}." if blind else ""
    return [Reason(text, "audit")]


def _watched(run: RunView) -> list[str]:
    """What of reward hacking is no alarm yet and to be watched, in sentences without their stop: of
    any stage whose alarms would stand."""
    found, gone = (run.audit.findings if run.audit is not None else []), replaced(run)
    watched = [f for f in found if f.name == HACKING and f.is_to_watch and f.stage not in gone]
    return [finding.text.rstrip(".") for finding in watched]


def _missing(
    run: RunView,
    model: str,
    says: Collection[Weight],
    looked: bool,
    doubted: bool,
    weak: Sequence[str],
) -> list[Need]:
    liked, shown = "liked" in says, "shown" in says
    path = shlex.quote(str(run.path))
    trainer = run.manifest.trainer  # of an imported run, which has no model and no gates
    measured_is = f"MODEL-OF-{trainer.upper()}" if trainer else path
    resumes = str(run.manifest.command or "gnomon run RECIPE") + " --resume"
    needs = [Need(f"Gate {condition} has not been asked.", resumes) for condition in unasked(run)]
    for result in run.gates.all():
        if result.passed is None:
            text = result.text.removeprefix("it stays closed: ")
            needs.append(Need(f"Gate {result.condition} could not be asked: {text}."))
    if not looked:
        what = "Nobody has looked for alarms" if run.audit is None else (
            "The audit has not cleared this policy: what it lacked is listed below")  # fmt: skip
        needs.append(Need(f"{what}.", f"gnomon audit {path}"))
    plays = any(stage.info.algorithm == CONTROL for stage in run.stages)
    if plays and not shown:
        needs.append(Need("Nothing shows what the policy gained. Name the stage with reward: truth "
                          "as against, and gate on eval/share (docs/control.md)."))  # fmt: skip
    elif not shown and not liked:
        needs.append(
            Need(
                f"Nothing that {model or 'the policy'} was not trained on has improved beyond its "
                "interval. Measure it before and after by an eval, or by a judge that it is not "
                f"trained on and {ENOUGH_LABELS} people's labels vouch for.",
                f"gnomon eval {measured_is} --suite SUITE    # gnomon eval suites lists them",
            )
        )
    if doubted or (liked and not shown):
        about = "likes it less" if doubted else "likes it better, which ships nothing by itself"
        needs.append(
            Need(
                f"A reward model that no people vouch for {about}: who is right takes an eval, "
                f"{ENOUGH_LABELS} people's labels on that reward model (gnomon calibrate), or "
                "people who look at the best-rewarded answers.",
                "    # or ".join([*_calibrating(run, weak), f"gnomon label spotcheck {path}"]),
            )
        )
    if not run.gates and not trainer:
        needs.append(Need("No gate says what is enough: add gates to the recipe "
                          "(docs/gates.md)."))  # fmt: skip
    return needs


def _no_evidence(run: RunView, model: str) -> Iterator[Reason]:
    """What was measured and shows nothing of it, with its figures."""
    if not model:
        yield Reason("The run has no policy.")
    view = run.comparison
    if model in view.models and view.reference not in ("", model):
        for place, (column, kind) in enumerate(column_kinds(run).items()):
            figure = view.row(model).value(place)
            if figure is None or kind not in _NO_EVIDENCE:
                continue
            gap = view.difference(place, model, view.reference)
            moved = f"{measured(figure)}, {'+' if gap.value >= 0 else ''}{measured(gap)} over "
            yield Reason(f"{column} is {moved}{view.reference}: {_NO_EVIDENCE[kind]}.", "results")


def _calibrating(run: RunView, columns: Sequence[str]) -> Iterator[str]:
    """What to type to have people vouch for the first of the comparison's reward models."""
    compare = run.recipe.get("compare")
    asked = reward_entries(compare.get("rewards") or []) if isinstance(compare, dict) else []
    folders = {stage.name: str(stage.folder / "model") for stage in run.stages}
    for entry in asked:
        name = label(entry)
        if name in {column.replace(" ", "_") for column in columns} and entry.get("model"):
            model = folders.get(str(entry["model"]), str(entry["model"]))
            judge = shlex.quote(f"reward_model={model}")
            whom = f"--name {shlex.quote(name)} --output {shlex.quote(str(run.path))}"
            yield f"gnomon calibrate LABELS --judge {judge} {whom}"
            return


_NO_EVIDENCE = {
    "trained": "what it was trained on, so it shows that training worked and nothing else",
    "judge": "a judge it was not trained on, and no change beyond the interval",
    "asked": "no evidence before people vouch for the judge (gnomon calibrate)",
    "verifier": "no evidence by itself, since it may share the trained reward's loopholes, which "
    "nobody has probed it for; an eval on other questions is (gnomon eval --suite questions)",
}
