"""Answers to the EU's Model Documentation Form, from the records of a run."""

from __future__ import annotations

from gnomon.report import compute as flops
from gnomon.report.card_training import flop
from gnomon.report.facts import Facts, titles
from gnomon.report.format import duration, number
from gnomon.report.forms import Answer, sourced, state

SIZES = (
    *((5e8, "1 to 500M"), (5e9, "500M to 5B"), (1.5e10, "5B to 15B"), (5e10, "15B to 50B")),
    *((1e11, "50B to 100B"), (5e11, "100B to 500B"), (1e12, "500B to 1T")),
)
MONTH = 365.25 / 12
"""Days."""


def name(facts: Facts) -> Answer:
    if facts.stated.model_name:
        return Answer("filled", facts.name, "recipe: card.model_name")
    lacks = "a name under which it is released"
    return Answer("partial", facts.name, "recipe: name, and the stage's", lacks)


def authenticity(facts: Facts) -> Answer:
    hashes = [f"{name} SHA-256 {digest}" for name, digest in facts.weights.items()]
    if not hashes:
        return Answer("missing", "", "stage.json: files")
    return Answer("filled", "; ".join(hashes), "stage.json: files")


def dependencies(facts: Facts) -> Answer:
    start = facts.stages[0].info.start if facts.stages and facts.chain else {}
    for view in facts.stages:
        if facts.chain and view.name == facts.chain[0]:
            start = view.info.start
    digest = f" (SHA-256 {start['sha256']})" if start.get("sha256") else ""
    if facts.stated.base_model:
        return Answer("filled", facts.stated.base_model + digest, "recipe: card.base_model")
    if not start.get("from"):
        return Answer("missing", "", "recipe: card.base_model")
    shown = str(start["from"]).rstrip("/").rpartition("/")[2]
    lacks = "the name under which it is on the market"
    return Answer("partial", shown + digest, "stage.json: start", lacks)


def architecture(facts: Facts) -> Answer:
    names = facts.config.get("architectures")
    if not isinstance(names, list) or not names:
        return Answer("missing", "", "model/config.json")
    return Answer("filled", ", ".join(map(str, names)), "model/config.json: architectures")


_DESIGN = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


def design(facts: Facts) -> Answer:
    known = {key: facts.config[key] for key in _DESIGN if key in facts.config}
    if not known:
        return Answer("missing", "", "model/config.json")
    value = ", ".join(f"{key} {given}" for key, given in known.items())
    return Answer("partial", value, "model/config.json", "rationale and assumptions")


def input(facts: Facts) -> Answer:
    most = facts.config.get("max_position_embeddings")
    if most is None:
        return Answer("partial", "text", "gnomon trains on text only", "the maximum size")
    return Answer("filled", f"text, at most {most} tokens", "model/config.json")


def output(facts: Facts) -> Answer:
    if facts.is_reward:
        return Answer("filled", "a number for each answer", "model/gnomon.json: kind")
    most = facts.config.get("max_position_embeddings")
    if most is None:
        return Answer("partial", "text", "gnomon trains on text only", "the maximum size")
    value = f"text, at most {most} tokens together with the input"
    return Answer("filled", value, "model/config.json")


def parameters(facts: Facts) -> Answer:
    if facts.parameters is None:
        return Answer("missing", "", "stage.json: compute.parameters")
    return Answer("filled", f"{facts.parameters:,}", "stage.json: compute.parameters")


def size(facts: Facts) -> Answer:
    if facts.parameters is None:
        return Answer("missing", "", "stage.json: compute.parameters")
    names = [name for most, name in SIZES if facts.parameters <= most]
    value = f"{names[0] if names else 'more than 1T'} parameters"
    return Answer("filled", value, "stage.json: compute.parameters")


def licence(facts: Facts) -> Answer:
    stated = facts.stated
    if not stated.licence:
        return Answer("missing", "", "recipe: card.licence")
    if not stated.licence_link:
        lacks = "a link to its text (card.licence_link), and the licences of further assets"
        return Answer("partial", stated.licence, "recipe: card.licence", lacks)
    value = f"{stated.licence}, {stated.licence_link}"
    return Answer("filled", value, "recipe: card.licence, card.licence_link")


def software(facts: Facts) -> Answer:
    versions = facts.run.manifest.versions
    if not versions:
        return Answer("missing", "", "manifest.json: versions")
    value = ", ".join(f"{k} {versions[k]}" for k in ("transformers", "torch") if k in versions)
    return Answer("partial", value, "manifest.json: versions", "what serving it needs")


def training(facts: Facts) -> Answer:
    if not facts.stages:
        return Answer("missing", "", "stages/")
    value = f"stages {titles(facts.stages)}; settings in recipe.yaml"
    lacks = "" if facts.stated.rationale else "what it is optimised for, in words"
    return Answer(state(lacks), value, "stage.json, recipe.yaml", lacks)


def kinds(facts: Facts) -> Answer:
    if not facts.sources():
        return Answer("missing", "", "manifest.json: data")
    return Answer("filled", "text", "gnomon trains on text only")


def points(facts: Facts) -> Answer:
    sources = [s for s in facts.sources() if s.rows is not None]
    if not sources:
        return Answer("missing", "", "manifest.json: data")
    value = "; ".join(f"{s.stage}, {s.shown}: {s.rows} rows" for s in sources)
    return Answer("filled", value, "manifest.json: data")


def curation(facts: Facts) -> Answer:
    told = sourced("curation")(facts)
    skipped = [f"{v.name}: {v.info.skipped.count}" for v in facts.stages if v.info.skipped.count]
    if told.state == "filled" or not skipped:
        return told
    value = f"rows left out: {', '.join(skipped)}" + (f"; {told.value}" if told.value else "")
    return Answer("partial", value, f"stage.json: skipped; {told.source}", "the methods")


def _seconds(facts: Facts) -> float | None:
    known = [v.info.seconds for v in facts.stages if v.info.seconds is not None]
    return sum(known) if known and len(known) == len(facts.stages) else None


def time_range(facts: Facts) -> Answer:
    seconds = _seconds(facts)
    if seconds is None:
        return Answer("missing", "", "stage.json: seconds")
    months = seconds / 86400 / MONTH
    names = ((1, "less than 1 month"), (3, "1 to 3 months"), (6, "3 to 6 months"))
    value = next((name for most, name in names if months < most), "more than 6 months")
    return Answer("filled", value, "stage.json: seconds, of the stages together")


def time(facts: Facts) -> Answer:
    seconds = _seconds(facts)
    if seconds is None:
        return Answer("missing", "", "stage.json: seconds")
    known = [v.info.cpu_seconds for v in facts.stages if v.info.cpu_seconds is not None]
    lacks = "" if len(known) == len(facts.stages) else "the core-days of every stage"
    value = f"{seconds / 86400:.2g} days on the clock ({duration(seconds)})"
    value += f", {sum(known) / 86400:.2g} core-days" if known else ""
    if facts.gpus:
        value += f", {facts.gpus * seconds / 86400:.2g} card-days"
    source = "stage.json: seconds, cpu_seconds; manifest.json: hardware"
    return Answer(state(lacks), value, source, lacks)


def _done(facts: Facts) -> tuple[flops.Training, bool]:
    counted = any(view.info.compute for view in facts.stages)
    return flops.training(facts.stages, facts.chain), counted


def computation(facts: Facts) -> Answer:
    done, counted = _done(facts)
    if not counted:
        return Answer("missing", "", "stage.json: compute")
    value = (
        f"{flop(done.updates)} FLOP in updates of its weights; {flop(done.everything)} FLOP with "
        "all that was counted; the base's own training is not in it"
    )
    lacks = f"stages {', '.join(done.uncounted)}" if done.uncounted else ""
    return Answer(state(lacks), value, "stage.json: compute", lacks)


def order(facts: Facts) -> Answer:
    done, counted = _done(facts)
    if not counted or not done.everything:
        return Answer("missing", "", "stage.json: compute")
    value = f"10^{flop(done.everything).partition('e')[2].lstrip('+0') or '0'} FLOP"
    lacks = f"stages {', '.join(done.uncounted)}" if done.uncounted else ""
    return Answer(state(lacks), value, "stage.json: compute", lacks)


def compute_method(facts: Facts) -> Answer:
    if not _done(facts)[1]:  # a method that nothing was measured by
        return Answer("missing", "", "stage.json: compute")
    value = (
        "architecture-based (the guidelines' annex A.2.2): tokens of every forward and backward "
        "pass, counted as they ran, x (4 P + 2 T) for full passes and 2 P for forward passes; "
        "attention over the context is left out"
    )
    return Answer("filled", value, "gnomon.report.compute")


def _energies(facts: Facts) -> list[flops.Energy]:
    told = facts.stated
    return [
        flops.energy(view, facts.gpus, told.watts_per_cpu, told.watts_per_gpu)
        for view in facts.stages
    ]


def energy(facts: Facts) -> Answer:
    found = _energies(facts)
    known = [energy.joules for energy in found if energy.joules is not None]
    source = "stage.json: joules; recipe: card.watts_per_cpu, card.watts_per_gpu"
    if not known:
        return Answer("missing", "", source)
    value = f"{sum(known) / flops.JOULES_PER_MWH:.2g} MWh ({number(sum(known))} J)"
    lacks = "" if len(known) == len(found) else "stages without a meter or a stated power"
    return Answer(state(lacks), value, source, lacks)


def energy_method(facts: Facts) -> Answer:
    ways = dict.fromkeys(energy.how for energy in _energies(facts) if energy.joules is not None)
    if not ways:
        return Answer("missing", "", "stage.json: joules")
    value = "; ".join(ways) + "; rapl and nvml count the whole machine's, without memory and losses"
    return Answer("filled", value, "stage.json: joules, cpu_seconds, seconds")


def inference(facts: Facts) -> Answer:
    if facts.parameters is None:
        return Answer("missing", "", "stage.json: compute.parameters")
    value = flops.forward_pass(facts.parameters, flops.INFERENCE_TOKENS)
    lacks = "a measurement: it is computed, without attention over the context"
    return Answer("partial", f"{flop(value)} FLOP", "stage.json: compute.parameters", lacks)


def inference_method(facts: Facts) -> Answer:
    if facts.parameters is None:
        return Answer("missing", "", "stage.json: compute.parameters")
    value = f"2 P FLOP a token, for generating {flops.INFERENCE_TOKENS} tokens"
    return Answer("partial", value, "gnomon.report.compute", "the hardware of a benchmark")
