"""The card's sections on how the model was trained, and on compute and energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnomon.report import compute as flops
from gnomon.report import markdown as md
from gnomon.report.compute import Part, Third, Training
from gnomon.report.facts import Facts
from gnomon.report.format import duration, flatten, number
from gnomon.runs.peak import in_words
from gnomon.runs.read import StageView

_PRIVATE = ("url", "extra", "api_key_env", "cache", "folder")
"""Keys of options that say where things are, not how the model was trained."""
_SETTINGS = ("settings", "lora", "rollout", "reward", "environment")
"""Of a recipe's stage: what is shown beside the length and the optimizer."""
GUIDELINES = (
    "European Commission, Guidelines on the scope of the obligations for general-purpose AI models "
    "under Regulation (EU) 2024/1689, 18 July 2025, section 3.2 and annex A"
)


def training_section(facts: Facts) -> str:
    """Each stage's method, start, length, optimizer and settings, and why."""
    parts = []
    if facts.stated.rationale:
        parts.append(f"Why, as stated: {md.text(facts.stated.rationale, 2000)}")
    parts += [_stage(facts, view) for view in facts.stages]
    return "\n\n".join(parts) or "No record of a stage."


def _stage(facts: Facts, view: StageView) -> str:
    info, spec = view.info, facts.spec(view.name)
    train = spec.get("train")
    train = train if isinstance(train, Mapping) else {}
    rows: list[tuple[str, str]] = [
        ("status", md.text(info.status) + (f": {md.text(info.error)}" if info.error else "")),
        ("iterations", md.text(info.iterations) if info.iterations is not None else "*no record*"),
    ]
    if info.idle_iterations:
        rows.append(("iterations that trained nothing", md.text(info.idle_iterations)))
    if kept := in_words(info):
        rows.append(("peak", md.text(kept)))
    if "batch_size" in train:
        rows.append(("prompts an iteration", md.text(train["batch_size"])))
    optimizer = facts.run.manifest.optimizer.get(view.name)
    if isinstance(optimizer, Mapping):
        rows.append(("optimizer", md.text(_inline(optimizer))))
    for key in _SETTINGS:
        if spec.get(key) and (key != "rollout" or _samples(spec)):
            rows.append((key, md.text(_inline({key: spec[key]}, strip=key), 1500)))
    if info.reference:
        rows.append(("cached reference", md.text(_inline(info.reference))))
    title = f"**{md.text(view.name)}**: {md.text(info.algorithm or 'unknown')}"
    return f"{title}\n\n{md.table(['', ''], rows)}"


def _samples(spec: Mapping[str, Any]) -> bool:
    """Whether a stage samples: its rollout settings mean nothing else."""
    settings = spec.get("settings")
    labelled = isinstance(settings, Mapping) and settings.get("labellers")
    return bool(spec.get("reward") or spec.get("environment") or labelled)


def _inline(raw: Mapping[str, Any], strip: str = "") -> str:
    """A nested mapping on one line; what is not set is left out."""
    if strip and isinstance(raw[strip], list):
        items = raw[strip]
        raw = items[0] if len(items) == 1 else {str(i): item for i, item in enumerate(items)}
    elif strip and isinstance(raw[strip], Mapping):
        raw = raw[strip]
    pairs = [(k, v) for k, v in flatten(_set(raw)) if v not in ("n/a", "")]
    return ", ".join(f"{key} {value}" for key, value in pairs)


def _set(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key): _set(value) if isinstance(value, Mapping) else value
        for key, given in raw.items()
        if key not in _PRIVATE and (value := _by_name(given)) not in (None, {}, [], "")
    }


def _by_name(raw: Any) -> Any:
    """A list of mappings as a mapping by their names or places; anything else as it is."""
    if isinstance(raw, list) and raw and all(isinstance(item, Mapping) for item in raw):
        return {str(item.get("name") or i): item for i, item in enumerate(raw, start=1)}
    return raw


def compute_section(facts: Facts) -> str:
    """Tokens and FLOP by role, the rule of one third, time and energy."""
    done = flops.training(facts.stages, facts.chain)
    rows = [_part(view, part) for view in facts.stages for part in flops.parts(view.info.compute)]
    heads = ["stage", "role", "pass", "tokens", "parameters", "trained", "FLOP"]
    parts = [md.table(heads, rows) or "No stage noted how many tokens it computed."]
    if rows:
        parts.append(_totals(done))
    parts.append(_third(facts, done, bool(rows)))
    parts.append(_energy(facts))
    return "\n\n".join(parts)


def _part(view: StageView, part: Part) -> tuple[str, ...]:
    return (
        md.text(view.name),
        md.text(part.role),
        part.how,
        md.text(part.tokens),
        md.text(part.parameters),
        md.text(part.trained) if part.trained else "",
        md.text(flop(part.flop)),
    )


def flop(value: float) -> str:
    """FLOP to three significant figures, as powers of ten: 1.23e+15."""
    return f"{value:.2e}"


def _totals(done: Training) -> str:
    lines = [
        f"Updates of this model's weights: {flop(done.updates)} FLOP (its full passes; what the "
        "guidelines' annex A.1 calls training compute of a model without systemic risk).",
        f"Everything counted: {flop(done.everything)} FLOP (with reference, reward and value "
        "models, sampling and recomputation, most of which annex A.1 lets one leave out).",
        "Formula: full pass = (4 P + 2 T) x tokens, forward and recomputed = 2 P x tokens, for P "
        "parameters of which T numbers are trained (Kaplan et al. 2020, section 2.1; 6 P x tokens "
        "where all are trained, as in the guidelines' annex A.2.2). Attention over the context, "
        "evaluations and the base's own training are not in it.",
    ]
    if done.uncounted:
        names = ", ".join(map(md.text, done.uncounted))
        lines.append(f"Not, or not wholly, counted, for want of a record: {names}.")
    return md.bullets(lines)


def third_of(facts: Facts, done: Training, counted: bool) -> Third:
    """The rule of one third with what is stated of the base."""
    stated = facts.stated
    return flops.third(done, stated.base_training_flop, stated.base_systemic_risk, counted)


def _third(facts: Facts, done: Training, counted: bool) -> str:
    rule = third_of(facts, done, counted)
    verdict = {
        True: "**The modification passes it**: whoever places the model on the Union's market is "
        "then taken to be its provider, with a provider's duties for the modification.",
        False: "The modification does not pass it, even with everything counted.",
        None: "**What was counted does not decide whether the modification passes it.**",
    }[rule.passes]
    return (
        f"A third of {md.text(rule.of)}: {flop(rule.threshold)} FLOP. {verdict} "
        f"Source: {GUIDELINES}. It is an indicative criterion; this is no legal advice."
    )


def _energy(facts: Facts) -> str:
    stated = facts.stated
    rows, total, words = [], 0.0, []
    whole = True
    for view in facts.stages:
        used = flops.energy(view, facts.gpus, stated.watts_per_cpu, stated.watts_per_gpu)
        whole = whole and used.joules is not None
        total += used.joules or 0.0
        words.append(used.how)
        rows.append(
            (
                md.text(view.name),
                md.text(duration(view.info.seconds)),
                md.text(duration(view.info.cpu_seconds)),
                "*no record*" if used.joules is None else md.text(f"{number(used.joules)} J"),
                md.text(used.how),
            )
        )
    table = md.table(["stage", "time", "processor time, all cores", "energy", "how"], rows)
    if not rows:
        return "No record of time or energy."
    if not whole:
        return f"{table}\n\nThe energy of the whole is not known."
    note = "" if all("estimated" not in w for w in words) else ", wholly or partly an estimate"
    mwh = total / flops.JOULES_PER_MWH
    return f"{table}\n\nIn all {md.text(number(total))} J ({mwh:.2g} MWh{note})."
