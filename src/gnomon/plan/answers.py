"""The three answers of ``gnomon plan``, joined: which method, how much memory, how long and how
much."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.feedback.constitution import read_constitution
from gnomon.plan.bill import HUMAN
from gnomon.plan.facts import DataFile, Facts, read_facts
from gnomon.plan.hardware import Hardware
from gnomon.plan.methods import Choice, choose
from gnomon.plan.reading import Reading
from gnomon.plan.recipe import NAMES, Asked, Way, make_recipe
from gnomon.plan.recipe_file import at_endpoint, to_yaml
from gnomon.plan.serving import Load, Serving, serving
from gnomon.plan.shapes import Shape
from gnomon.plan.sizing import LEAST, ROOM, Fit, cheapest, euros, fitted, least_euros, within
from gnomon.plan.split import Split, split
from gnomon.plan.start_model import is_tuned, shape_and_folder, tokenizer_of, window_of

_NAMED = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Plan:
    """What is recommended, what it takes, and the recipe.

    Attributes:
        fit: the recommendation on the hardware; ``asked_for`` it, or else the cheapest GPU.
        runner_up: the other way on the same hardware; None where there is none, or it is too large.
        cut: what was cut to stay within ``budget`` (euros); empty where nothing was.
        folder: that the recipe will lie in, and names its files from.
    """

    model: str
    facts: Facts
    files: tuple[DataFile, ...]
    choice: Choice
    fit: Fit
    runner_up: Fit | None
    asked_for: bool
    budget: float | None
    cut: str
    folder: Path

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.fit.recipe

    @property
    def serving(self) -> list[Serving]:
        """What the finished model takes to serve, engine by engine, on the same hardware."""
        return serving(self.fit.stages[-1].job.model, self.fit.hardware, self.load)

    @property
    def load(self) -> Load:
        """What it is served with: prompts and answers as the data's, else answers as it samples."""
        job = self.fit.stages[-1].job
        answer = self.facts.response_tokens or round(job.mean_response)
        return Load(max(1, self.facts.prompt_tokens), max(1, answer))

    @property
    def split(self) -> Split | None:
        """How GPUs that divide the weights divide the work of the largest stage."""
        if self.fit.shards == 1:
            return None
        largest = max(self.fit.stages, key=lambda stage: stage.bill.hours)
        try:
            return split(replace(largest.job, shards=1), self.fit.hardware)
        except ConfigError:
            return None

    @property
    def warnings(self) -> list[str]:
        """What to look at first."""
        found = list(self.choice.warnings)
        for file in self.files:
            found += [f"{file.path}: {file.repeats}"] if file.repeats else []
            which = f"(gnomon data inspect {file.path} lists them)"
            told = (w.replace("(listed below)", which) for w in file.seen.warnings)
            found += [f"{file.path}: {warning}" for warning in told]
        kinds = {file.check for file in self.files if file.check is not None}
        if len(kinds) > 1:
            found.append(
                "files are checked in different ways: the recipe takes the largest set alone; give "
                "the others a stage of their own"
            )
        if self.fit.hardware.count > 1:
            found.append(
                f"hours are of all {self.fit.hardware.count} GPUs at work, with a process on "
                "each (torchrun); one process alone trains on one of them"
            )
        if self.facts.leaked is None:
            looks = any("holdout" in spec for spec in self.recipe["stages"])
            own = "stages hold out a share of their rows themselves, but " if looks else ""
            found.append(
                f"no --held-out file: {own}nothing compares the result with the model before it"
            )
        found += self._unused()
        return list(dict.fromkeys(found))

    def _unused(self) -> list[str]:
        """What was given and is in no stage."""
        read = [
            (self.folder / str(one["path"])).resolve()
            for spec in self.recipe["stages"]
            for key in ("data", "eval_data", "normalise_on")
            for one in spec.get(key, ())
        ]
        found = [
            f"{file.path}: no stage reads it: this plan learns from something else that you have. "
            "Give it a stage of its own, or plan with it alone"
            for file in self.files
            if file.path.resolve() not in read
        ]
        asks = any("reward" in spec or "constitution" in spec.get("settings", {})
                   for spec in self.recipe["stages"])  # fmt: skip
        if self.facts.judge and not asks:
            found.append("--judge: no stage asks it: this plan learns from what is judged already")
        return found

    def recipe_text(self) -> str:
        """The recipe as a file."""
        rule = self.choice.rule
        stages = " -> ".join(spec["name"] for spec in self.recipe["stages"])
        reasons = [
            f"Written by gnomon plan: {stages}.",
            *_folded(f"{rule.because} ({rule.reference})"),
            f"Trained: {self.fit.way.label}. Sized for {self.fit.hardware}.",
            *([self.cut[0].upper() + self.cut[1:] + "."] if self.cut else []),
        ]
        notes: dict[str, str] = {}
        for method, addition in self.choice.settings:
            name = NAMES.get(method, method)
            added = ", ".join(f"{key}: {value}" for key, value in addition.settings.items())
            note = f"{added}: {addition.because} ({addition.reference})"
            notes[name] = "; ".join(filter(None, (notes.get(name), note)))
        return to_yaml(self.recipe, reasons, notes)

    def to_json(self) -> dict[str, Any]:
        """Every figure, each with its unit."""
        return {
            "model": {
                "name": self.model,
                "parameters": self.fit.stages[0].job.model.parameters,
                "tuned": self.facts.tuned,
            },
            "data": {
                "facts": _plain(asdict(self.facts)),
                "files": [
                    {
                        "path": str(f.path),
                        "kind": f.kind,
                        "format": f.seen.format,
                        "rows": f.seen.rows,
                    }
                    for f in self.files
                ],
            },
            "method": {
                "stages": [stage.method for stage in self.fit.stages],
                "rule": self.choice.rule.name,
                "because": self.choice.rule.because,
                "reference": self.choice.rule.reference,
                "runner_up": list(self.choice.runner_up),
                "runner_up_where": self.choice.rule.unless,
                "runner_up_hours": None if self.runner_up is None else self.runner_up.hours,
                "runner_up_euros": self.runner_up.euros
                if self.runner_up is not None and self.runner_up.priced
                else None,
                "more_data": self.choice.rule.more,
            },
            "hardware": {
                "name": str(self.fit.hardware),
                "gpus": self.fit.hardware.count,
                "asked_for": self.asked_for,
                "memory_bytes_per_gpu": self.fit.hardware.gpu.memory,
                "usable_share": ROOM,
            },
            "memory": {
                "trained": self.fit.way.label,
                "shards": self.fit.shards,
                "peak_bytes": self.fit.peak,
                "did_not_fit_bytes": dict(self.fit.tried),
                "stages": {
                    stage.name: {
                        "always_bytes": dict(stage.memory.always),
                        "instants_bytes": dict(stage.memory.instants),
                        "worst_instant": stage.memory.worst,
                        "peak_bytes": stage.memory.peak,
                    }
                    for stage in self.fit.stages
                },
            },
            "cost": {
                "hours": self.fit.hours,
                "euros": self.fit.euros if self.fit.priced else None,
                "budget_euros": self.budget,
                "cut": self.cut,
                "stages": {stage.name: stage.bill.to_json() for stage in self.fit.stages},
            },
            "serving": [asdict(one) for one in self.serving],
            "parallel": None if self.split is None else asdict(self.split),
            "units": UNITS,
            "warnings": self.warnings,
            "recipe": self.recipe,
        }


UNITS = {
    "*_bytes": "bytes (1 GB = 1e9 bytes)",
    "hours, *_hours": "hours; gpu_hours over all GPUs, human_hours of people's work",
    "euros, *_euros": "euros; null where a price is not known",
    "seconds, *_per_step": "seconds",
    "flop": "floating-point operations",
    "kilowatt_hours": "kilowatt-hours, building included",
    "*_tokens": "tokens",
    "serving: memory, first_token, one, all": "bytes on a GPU, seconds, tokens a second",
    "off_policy": "nats a token",
    "agreement, longer, utilisation, usable_share": "shares from 0 to 1",
}


def make(
    paths: Sequence[Path],
    model: str,
    *,
    hardware: Hardware | None = None,
    budget: float | None = None,
    judge: str | None = None,
    constitution: str | None = None,
    held_out: Path | None = None,
    likelihood: bool = False,
    prices: tuple[float, float] | None = None,
    label_price: float | None = None,
    out: Path = Path("recipe.yaml"),
    reading: Reading | None = None,
    watch: Any = None,
) -> Plan:
    """The plan for data and a model.

    Args:
        hardware: None for the cheapest GPU of the table.
        budget: euros, for hardware and labels.
        likelihood: ask the model whether the data's answers are such as it writes.
        prices: euros for a million tokens that a judge at an endpoint reads, and writes.
        label_price: euros for a person's judgement of a pair; None for a guess.
        reading: the files' own names of columns, and what their labels mean; the recipe
            says so too.
        out: where the recipe will be: what it names is relative to that folder.

    Raises:
        ConfigError: an unknown model, a model that is too large, a budget that is too small, too
            little data.
        DataError: a file that cannot be used.
    """
    if budget is not None and not 0 <= budget < math.inf:
        raise ConfigError(f"--budget {budget:g}: give euros, as in --budget 200")
    if constitution is not None:
        read_constitution(constitution)
    shape, folder = shape_and_folder(model)
    if prices is not None and not at_endpoint(judge):
        raise ConfigError(
            "--price-input and --price-output are of a judge at an endpoint: name its model, as in "
            "--judge gpt-4.1"
        )
    tokenizer = tokenizer_of(folder)
    known: dict[str, Any] = {"judge": judge is not None, "tuned": is_tuned(model, folder)}
    known["label_price"] = HUMAN.price if label_price is None else label_price
    known["constitution"] = constitution is not None
    facts, found = read_facts(paths, held_out, tokenizer, reading, **known)
    kept = None
    if held_out is not None:
        own = Reading() if reading is None else reading.of(held_out)
        kept = read_facts([held_out], None, tokenizer, own)[1][0]
    if likelihood:
        facts = _with_likelihood(facts, found, model, watch)
    choice = choose(facts)
    asked = Asked(
        name=_NAMED.sub("-", out.stem).strip("-.") or "planned",
        model=model if folder is None or model in ("tunnel", "smollm2-135m") else str(folder),
        shape=shape,
        tuned=facts.tuned,
        window=window_of(folder),
        judge=judge,
        constitution=constitution,
        held_out=kept,
        folder=out.absolute().parent,
        prices=prices,
    )

    def write(stages: Sequence[str], way: Way) -> dict[str, Any]:
        return make_recipe(stages, facts, found, asked, way)

    fit = _on(partial(write, choice.stages), facts, shape, hardware)
    second = choice.runner_up
    other = _runner_up(partial(write, second), facts, shape, fit) if second else None
    files, named = tuple(found), hardware is not None
    plan = Plan(model, facts, files, choice, fit, other, named, budget, "", asked.folder)
    return plan if budget is None else _affordable(plan, budget, shape)


def _with_likelihood(facts: Facts, found: Sequence[DataFile], model: str, watch: Any) -> Facts:
    """The facts with how far the data's answers are from what the model writes itself."""
    from gnomon.plan.likelihood import off_policy

    template = None if facts.tuned else "chatml"
    new = min(256, max(16, facts.response_tokens))
    gap = off_policy(model, found, template=template, new_tokens=new, watch=watch)
    return replace(facts, off_policy=gap)


def _runner_up(write: Any, facts: Facts, shape: Shape, fit: Fit) -> Fit | None:
    """The other way on the same hardware; None where it does not go there."""
    try:
        return fitted(write, facts, shape, fit.hardware)
    except ConfigError:  # too large, or the data does not do for it
        return None


def _on(write: Any, facts: Facts, shape: Shape, hardware: Hardware | None) -> Fit:
    if hardware is None:
        return cheapest(write, facts, shape)
    return fitted(write, facts, shape, hardware)


def _affordable(plan: Plan, budget: float, shape: Shape) -> Plan:
    """The plan within a budget: cut, or else the runner-up's, cut where it has to be.

    Raises:
        ConfigError: it buys nothing.
    """
    if not plan.fit.hardware.price:
        raise ConfigError(
            f"--budget: nobody knows what an hour of {plan.fit.hardware} costs: "
            "give --price, or name other hardware"
        )
    if plan.fit.unpriced:
        raise ConfigError(
            f"--budget: nobody knows what {plan.fit.unpriced:,} judgements by the judge's model "
            "cost: give --price-input and --price-output, euros for a million tokens (0 where it "
            "is your own)"
        )
    cut = within(plan.fit, budget, plan.facts, shape)
    if cut is not None:
        return replace(plan, fit=cut[0], cut=cut[1])
    if plan.runner_up is not None:
        cut = within(plan.runner_up, budget, plan.facts, shape)
        if cut is not None:
            first = " -> ".join(stage.name for stage in plan.fit.stages)
            says = f"{first} costs {euros(plan.fit.euros)}, more than the budget of {budget:,.2f}"
            says += ", so this is the runner-up" + (f"; {cut[1]}" if cut[1] else "")
            return replace(plan, fit=cut[0], runner_up=plan.fit, cut=says)
    ways = [fit for fit in (plan.fit, plan.runner_up) if fit is not None]
    least = min(ways, key=least_euros)
    stages = " -> ".join(stage.name for stage in least.stages)
    raise ConfigError(
        f"a budget of {euros(budget)} is too small for anything: {LEAST} steps a stage of "
        f"{stages} on {least.hardware} cost {euros(least_euros(least))} (all of it "
        f"{euros(least.euros)}). Take fewer or shorter rows, a smaller model, or cheaper hardware"
    )


def _plain(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values; NaN, which JSON has not, is null."""
    out: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, Mapping):
            out[key] = _plain(value)
        else:
            out[key] = None if isinstance(value, float) and value != value else value
    return out


def _folded(text: str, width: int = 96) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)
