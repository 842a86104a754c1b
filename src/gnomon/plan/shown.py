"""A plan on a terminal: the three answers first, then what they rest on."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gnomon.plan.allocator import ADVICE, keeps_freed
from gnomon.plan.answers import Plan
from gnomon.plan.facts import TOKENS_A_WORD, Facts
from gnomon.plan.probe import ProbeRecord, corrected
from gnomon.plan.serving import table as serving_table
from gnomon.plan.sizing import WEIGHTS, Fit, Sized, euros
from gnomon.report.format import duration


def parts(plan: Plan) -> Iterator[RenderableType]:
    """What to print, in order."""
    fit, rule = plan.fit, plan.choice.rule
    yield Text(f"Method  {_stages(fit)}", style="bold")
    yield Text(f"Memory  {memory_line(fit)}", style="bold")
    yield Text(f"Cost    {cost_line(plan)}", style="bold")
    yield Text(f"Runs    {runs_line(fit)}", style="bold")
    yield Text()
    if plan.cut:
        yield Text(plan.cut, style="yellow")
    yield Text(f"Why: {rule.because} ({rule.reference})")
    for stage, addition in plan.choice.settings:
        added = ", ".join(f"{key}: {value}" for key, value in addition.settings.items())
        yield Text(f"  {stage} has {added}: {addition.because} ({addition.reference})")
    yield Text(_otherwise(plan))
    yield Text(f"More data: {rule.more}")
    for line in data_lines(plan):
        yield Text(line)
    yield Text()
    yield _table(plan)
    if tried := _does_not_fit(fit):
        yield Text(tried)
    if not fit.hardware.gpu.queued and keeps_freed():
        yield Text(ADVICE)
    if plan.split is not None:
        found = plan.split
        yield Text(f"Layout: {found.layout}, {found.cost} for a thousand steps")
        for reason in found.reasons:
            yield Text(f"  {reason}")
    yield serving_table(plan.serving, plan.load, plan.fit.hardware)
    if not plan.facts.counted:
        yield Text(
            f"assumed: {TOKENS_A_WORD} tokens a word, since the model's tokenizer is not here"
        )
    for line in dict.fromkeys(line for stage in fit.stages for line in stage.bill.assumptions):
        yield Text(f"assumed: {line}")
    for warning in plan.warnings:
        yield Text(f"! {warning}", style="yellow")


def memory_line(fit: Fit) -> str:
    """How much memory, where the most of it."""
    largest = max(fit.stages, key=lambda stage: stage.memory.peak)
    shared = f" on each of {fit.shards} GPUs that divide the weights" if fit.shards > 1 else ""
    return (
        f"{gigabytes(fit.peak)} of {gigabytes(fit.hardware.gpu.memory)} ({fit.hardware.gpu.name})"
        f"{shared}, in {largest.name} ({largest.memory.worst}): {fit.way.label}"
    )


def runs_line(fit: Fit) -> str:
    """The precision, and how many processes train."""
    count, nodes = fit.hardware.count, fit.hardware.nodes
    said = f"precision: {fit.way.precision}, "
    if count == 1:
        return said + "one process"
    divided = "the weights divided among them", "fsdp2"
    how, strategy = divided if fit.shards > 1 else ("a copy of the weights in each", "ddp")
    machines = f"--nnodes {nodes} " * (nodes > 1)
    return (
        f"{said}{count} processes, {how}: torchrun {machines}--nproc-per-node {-(-count // nodes)} "
        f"-m gnomon run RECIPE strategy={strategy}"
    )


def _does_not_fit(fit: Fit) -> str:
    """What the plainer ways take, and where none of a kind fits, what the least of it takes; empty
    where the plainest fits."""
    said = []
    for weights, lora, _ in WEIGHTS:
        peaks = [peak for label, peak in fit.tried.items() if label.startswith(weights)]
        if peaks and lora == fit.way.lora:
            said.append(f"{weights} as they are, {gigabytes(peaks[0])}")
        elif peaks:
            least = f", {gigabytes(min(peaks))} with all that saves memory"
            said.append(f"{weights}, {gigabytes(peaks[0])}{least}")
    return f"Does not fit: {'; '.join(said)}" if said else ""


def cost_line(plan: Plan) -> str:
    """How long and how much."""
    fit = plan.fit
    energy = [stage.bill.kilowatt_hours for stage in fit.stages]
    power = sum(one for one in energy if one is not None)
    chosen = "" if plan.asked_for else ", the cheapest GPU of the table"
    return (
        f"{duration(3600 * fit.hours)}, {_money(fit)}"
        + (f", {power:.2g} kWh" if power else "")
        + f" on {fit.hardware}{chosen}"
    )


def _money(fit: Fit) -> str:
    """What it costs, and what of that nobody knows."""
    labels = sum(stage.bill.label_euros for stage in fit.stages)
    if fit.hardware.price:
        said = euros(fit.euros) + (f" ({euros(labels)} of it for labels)" if labels else "")
    else:
        said = "at a price that nobody knows (--price)"
        said += f" and {euros(labels)} for labels" if labels else ""
    if fit.unpriced:
        said += f" without {fit.unpriced:,} judgements by a model (--price-input, --price-output)"
    return said


def data_lines(plan: Plan) -> Iterator[str]:
    """What was read."""
    for file in plan.files:
        yield f"Data: {file.path}: {_counts(file.facts)} ({file.seen.format})"
    facts = plan.facts
    if facts.agreement is not None:
        a = facts.agreement
        yield f"  two people agree on {a.value:.0%} of pairs [{a.low:.0%}, {a.high:.0%}]"
    if facts.longer is not None:
        yield f"  the better answer is the longer one in {facts.longer:.0%}"
    if facts.off_policy is not None:
        gap = facts.off_policy
        yield (
            f"  the model's own answers are likelier to it by {gap.value:.2f} nats a token "
            f"[{gap.low:.2f}, {gap.high:.2f}]"
        )
    if facts.leaked is not None:
        yield f"  {facts.leaked:,} prompts are in the held-out file too"


def _counts(facts: Facts) -> str:
    judged = facts.compared
    found = [
        (facts.demonstrations - judged, "demonstrations"),
        (facts.pairs, "pairs"),
        (facts.rankings, "rankings"),
        (facts.good, "good answers"),
        (facts.bad, "bad answers"),
        (facts.checkable, "checkable prompts"),
    ]
    named = [f"{count:,} {words}" for count, words in found if count > 0]
    return ", ".join(named) or f"{facts.prompts:,} prompts"


def _stages(fit: Fit) -> str:
    return ", then ".join(
        stage.name if stage.name == stage.method else f"{stage.name} ({stage.method})"
        for stage in fit.stages
    )


def _otherwise(plan: Plan) -> str:
    if not plan.choice.runner_up:
        return "Instead: nothing else can be learned from this data"
    if plan.runner_up is None:
        named = ", then ".join(plan.choice.runner_up)
        return f"Instead: {named}, where {plan.choice.rule.unless}; it does not fit here"
    other = plan.runner_up
    first = "" if not plan.cut or "runner-up" not in plan.cut else ", with a larger budget"
    where = first or f", where {plan.choice.rule.unless}"
    money = f", {euros(other.euros)}" if other.priced else ""
    return f"Instead: {_stages(other)}{where}: {duration(3600 * other.hours)}{money}"


def _table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("stage", no_wrap=True)
    for column in ("steps", "a step", "time", "euros"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("mostly")
    for column in ("always", "peak"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("at its peak")
    for stage in plan.fit.stages:
        table.add_row(
            stage.name,
            f"{stage.steps:,}" if stage.job.trained_roles else "",
            duration(stage.bill.seconds_per_step) if stage.job.trained_roles else "",
            duration(3600 * stage.bill.hours),
            "?"
            if not stage.bill.priced or stage.bill.unpriced
            else euros(stage.bill.euros).removesuffix(" euros"),
            _mostly(stage),
            gigabytes(stage.memory.persistent),
            gigabytes(stage.memory.peak),
            stage.memory.worst,
        )
    return table


def probed(plan: Plan, record: ProbeRecord) -> Iterator[str]:
    """What a worst-case step took here, and the peaks as it corrects them."""
    yield (
        f"Probe: a step of {record.stage} took {gigabytes(record.peak_bytes)} on {record.device}, "
        f"and {gigabytes(record.predicted_bytes)} were predicted"
    )
    for stage in plan.fit.stages:
        if not record.is_of(stage.job):
            continue
        if record.same_size(stage.job):
            peak = corrected(stage.memory, record).peak
            yield f"  corrected by x {record.ratio:.2f}, {stage.name} takes {gigabytes(peak)}"
        else:
            yield (
                f"  {stage.name} is not corrected by it: the data's longest group has "
                f"{record.group:,} tokens, and the recipe leaves room for {stage.job.group:,}"
            )


def _mostly(stage: Sized) -> str:
    """The phase that takes the longest, and what bounds it."""
    phase = max(stage.bill.phases, key=lambda one: one.seconds)
    share = phase.seconds / max(1e-12, stage.bill.seconds_per_step)
    return f"{phase.name} {share:.0%} ({phase.bound})"


def gigabytes(bytes_: float) -> str:
    """As ``1.2 GB``, of 10^9 bytes."""
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:.1f} MB"
