"""The card's sections on data, labellers and judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from gnomon.audit.truths import reward_entries
from gnomon.recipe.schema import KNOWING, RewardSpec
from gnomon.report import markdown as md
from gnomon.report.calibration import figures
from gnomon.report.facts import Facts, Source
from gnomon.report.format import measured, number
from gnomon.runs.evals import Calibration
from gnomon.runs.labels import LabelCosts

MISSING = "*not stated*"


def data_section(facts: Facts) -> str:
    """Each source with its hash, rows and licence, then what else is stated about it."""
    sources = facts.sources()
    if not sources:
        return "No record says which data was read."
    rows = [
        (
            md.text(source.stage),
            md.text(source.shown),
            md.text(source.rows) if source.rows is not None else "*no record*",
            _licence(source),
            _digest(source),
        )
        for source in sources
    ]
    parts = [md.table(["stage", "source", "rows", "licence", "SHA-256"], rows)]
    told = {source.shown: source.stated for source in sources if source.stated is not None}
    for path, stated in told.items():
        lines = [
            f"{md.text(key)}: {md.text(value)}"
            for key, value in stated.model_dump().items()
            if value and key not in ("licence", "hub")
        ]
        if lines:
            parts.append(f"Stated about {md.text(path)}:\n\n{md.bullets(lines)}")
    skipped = [
        f"{md.text(view.name)}: {md.text(view.info.skipped.count)} rows were left out"
        for view in facts.stages
        if view.info.skipped.count
    ]
    return "\n\n".join([*parts, *([md.bullets(skipped)] if skipped else [])])


def _digest(source: Source) -> str:
    """The file's own SHA-256 where one file was read, so that a reader can check it; else that of
    the rows, which is called so."""
    if len(source.files) == 1:
        return md.code(next(iter(source.files.values())))
    if not source.sha256:
        return "*no record*"
    several = f"; those of its {len(source.files)} files are in manifest.json"
    return f"{md.code(source.sha256)} (of the rows as read{several if source.files else ''})"


def _licence(source: Source) -> str:
    if source.made_here:
        return "made by the run"
    return md.text(source.stated.licence) if source.stated and source.stated.licence else MISSING


def judges_section(facts: Facts) -> str:
    """Who judged in each stage, what it took, the rules an AI judge had, and calibrations."""
    rows = []
    for view in facts.stages:
        for name, took in view.info.judges.items():
            rows.append(
                (
                    md.text(view.name),
                    md.text(name),
                    md.text(judge_kind(facts, view.name, name)),
                    md.code(took.get("version")) or "*no record*",
                    md.text(took.get("judged", "*no record*")),
                    md.text(took.get("errors", "*no record*")),
                    md.text(number(_number(took.get("money")))),
                )
            )
    heads = ["stage", "who", "what", "version", "judged", "errors", "euros"]
    parts = [md.table(heads, rows) or "No record says that anything was judged."]
    rules = list(_rules(facts))
    if rules:
        parts.append(f"Rules of AI judges (constitution or rubric):\n\n{md.bullets(rules)}")
    parts += _by_constitutions(facts)
    parts += _believed(facts)
    parts += _labels(facts.run.label_costs)
    people = [
        f"{md.text(source.shown)}: {md.text(source.stated.labellers)}"
        for source in facts.sources()
        if source.stated is not None and source.stated.labellers
    ]
    if people:
        parts.append(f"Who labelled the data, as stated:\n\n{md.bullets(people)}")
    parts += [_calibration(calibration) for calibration in facts.calibrations]
    if not facts.calibrations:
        parts.append(
            "No judge was compared with people (`gnomon calibrate`): nothing here says how far any "
            "of them agrees with people."
        )
    return "\n\n".join(parts)


def judge_kind(facts: Facts, stage: str, judge: str) -> str:
    """What a judge is, as the stage's recipe has it."""
    spec = facts.spec(stage)
    settings = spec.get("settings")
    labellers = settings.get("labellers") if isinstance(settings, Mapping) else None
    names = [str(x.get("name")) for x in labellers or () if isinstance(x, Mapping)]
    if judge in names:
        return "simulated labeller"
    rewards = _rewards(spec)
    if judge == "mixture" and len(rewards) > 1:
        return "weighted sum of " + ", ".join(map(_label, rewards))
    for reward in rewards:
        if _label(reward) == judge:
            for key, what in (("model", "reward model"), ("function", "program")):
                if reward.get(key):
                    return f"{what} {reward[key]}"
            builtin = str(reward.get("builtin"))
            known = {"ai": "AI judge", "human_queue": "people", "people": "people"}
            truth = ", which knows a simulation's truth" if builtin in KNOWING else ""
            return known.get(builtin, f"built-in {builtin}") + truth
    return "*no record*"


def _rewards(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*reward_entries(spec.get("reward") or []), *reward_entries(spec.get("observe") or [])]


def _label(reward: Mapping[str, Any]) -> str:
    """As RewardSpec.label has it."""
    known = {k: reward.get(k) for k in ("name", "builtin", "model", "function")}
    try:
        return RewardSpec.model_validate({k: v for k, v in known.items() if v}).label
    except ValueError:
        return str(known["name"] or "")


def _rules(facts: Facts) -> Iterator[str]:
    """The rubric and the prompt of each AI judge; the judge's version changes with both."""
    for view in facts.stages:
        for reward in _rewards(facts.spec(view.name)):
            if reward.get("builtin") != "ai":
                continue
            options = reward.get("options")
            options = options if isinstance(options, Mapping) else {}
            members = options.get("panel") if isinstance(options.get("panel"), list) else []
            asked = [options, *(m for m in members or () if isinstance(m, Mapping))]
            names = [str(m.get("model") or m.get("local") or "") for m in asked]
            model = " + ".join(filter(None, names))
            rubric = options.get("rubric")
            version = view.info.judges.get(_label(reward), {}).get("version")
            yield (
                f"{md.text(_label(reward))} (stage {md.text(view.name)}, model {md.text(model)}, "
                f"prompt {md.text(options.get('template') or 'of gnomon')}, version "
                f"{md.code(version) or '*no record*'}): "
                f"{md.text(rubric, 2000) if rubric else 'no rubric of its own'}"
            )


def _by_constitutions(facts: Facts) -> Iterator[str]:
    lines = [
        f"{md.text(view.name)}: {md.text(PurePath(name).name)}, version {md.code(version)}"
        for view in facts.stages
        for name, version in view.constitutions.versions().items()
    ]
    if lines:
        yield f"Constitutions, as the stages kept them:\n\n{md.bullets(lines)}"


def _believed(facts: Facts) -> Iterator[str]:
    """How far those agree and were believed whose labels a stage learned from; who they are stays
    in the run's records."""
    for view in facts.stages:
        for path, said in view.labels.root.items():
            own = [weight for weight in said.weights.values() if weight is not None]
            lines = [
                f"Krippendorff's alpha of {md.text(what)} (1 is agreement throughout, 0 is "
                f"chance): {md.text(measured(figure))}"
                for what, figure in said.alphas.items()
            ]
            lines.append(f"{said.votes} comparisons by {said.labellers} labellers, settled by "
                         f"{md.text(said.method)}")  # fmt: skip
            if own and said.method != "majority":
                values = sorted(weight.value for weight in own)
                lines.append(
                    f"accuracy that labellers were believed to have: {number(values[0])} to "
                    f"{number(values[-1])}, median {number(values[len(values) // 2])}; "
                    f"{said.contrary} count against what they say"
                )
            kinds = [kind for kind, *_ in said.flags]
            raised = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            lines.append(f"flags of something else than judgement: {md.text(raised or 'none')}")
            place = PurePath(path).name if PurePath(path).is_absolute() else path
            about = f"Labels of {md.text(place)}, from which {md.text(view.name)} learned"
            yield f"{about}:\n\n{md.bullets(lines)}"


def _labels(found: LabelCosts) -> Iterator[str]:
    """The labels of a store by kind of labeller; who the people are stays there."""
    rows = [
        (
            md.text(line.kind),
            md.text(sum(one.kind == line.kind for one in found.lines)),
            md.text(line.labels),
            md.text("" if line.pairs is None else line.pairs),
            md.text(number(line.money)),
            md.text("" if line.bits is None else measured(line.bits)),
        )
        for line in found.sums
    ]
    if rows:
        heads = ["kind", "labellers", "labels", "pairs", "euros", "bits of a pair"]
        what = "bits: what a vote says of the others' consensus, 1 at most"
        yield f"Labels in the store ({what}):\n\n{md.table(heads, rows)}"


def _calibration(record: Calibration) -> str:
    rows = [(md.text(what), md.text(measured(figure))) for what, figure, _ in figures(record)]
    rows += [
        (f"smallest bias that would have been seen: {md.text(name)}", md.text(number(size)))
        for name, size in record.smallest.items()
    ]
    if record.detectable is not None:
        rows.append(
            ("smallest difference of a win rate that shows", md.text(number(record.detectable)))
        )
    title = (
        f"Calibration of {md.text(record.judge)} (version {md.code(record.version) or 'not noted'})"
        f" on {md.text(record.labels)} items with people's labels"
    )
    notes = [f"warning: {md.text(warning)}" for warning in record.warnings]
    if not record.opens_gates:
        notes.append(f"no gate believes it: {md.text(record.doubt)}")
    return "\n\n".join(filter(None, [f"{title}:", md.table(["", ""], rows), md.bullets(notes)]))


def _number(raw: Any) -> float | None:
    plain = isinstance(raw, int | float) and not isinstance(raw, bool)
    return float(raw) if plain else None
