"""Memory, time and money of a recipe's stages, and what to change where they are too much."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gnomon.algorithms.collect_settings import CollectSettings
from gnomon.algorithms.revise_settings import ReviseSettings
from gnomon.errors import ConfigError
from gnomon.feedback.plan import Prices
from gnomon.judges.build import AI, ASK_PEOPLE
from gnomon.plan import fit as fits
from gnomon.plan.bill import HUMAN, Bill, Labels, ai_prices, bill
from gnomon.plan.facts import Facts
from gnomon.plan.hardware import Hardware, gpus, parse_hardware
from gnomon.plan.job import Job, Precision
from gnomon.plan.memory import Memory, memory
from gnomon.plan.recipe import LEAST_STEPS, SAMPLED, Way
from gnomon.plan.shapes import Shape, public_models, shape_of
from gnomon.recipe.load import apply_override

ROOM = fits.HEADROOM
"""Share of a GPU's memory that may be planned with; the rest is its driver's and its fragments."""
LEAST = 10
"""Steps below which a stage is not worth starting."""
WRITTEN = ("collect", "revise", *SAMPLED)
"""Methods whose answers are sampled."""
CHUNK = {"collect": CollectSettings().chunk, "revise": ReviseSettings().chunk}
"""Prompts between two saves of a stage that writes data."""
WEIGHTS: tuple[tuple[str, bool, Precision], ...] = (
    ("all weights in float32", False, "float32"),
    ("LoRA on bfloat16 weights", True, "mixed"),
)
CHEAP = (fits.MICROBATCH, fits.RECOMPUTE, fits.CACHE)
"""Changes of a stage that cost time alone."""
WAYS = tuple(Way(weights, lora, precision, False, 16384) for weights, lora, precision in WEIGHTS)
"""How to train, all stages alike; what a stage changes beside it is :mod:`gnomon.plan.fit`'s."""


@dataclass(frozen=True)
class Sized:
    """One stage and what it takes.

    Attributes:
        name, method: of the stage; ``steps`` of it; ``rows`` that it reads.
    """

    name: str
    method: str
    job: Job
    steps: int
    memory: Memory
    bill: Bill
    labels: Labels


@dataclass(frozen=True)
class Fit:
    """A recipe on hardware.

    Attributes:
        way: how it is trained there; ``shards`` GPUs hold the weights together (1: each has all).
        tried: peaks in bytes of the ways that did not fit, by label.
    """

    recipe: Mapping[str, Any]
    way: Way
    shards: int
    stages: tuple[Sized, ...]
    hardware: Hardware
    tried: Mapping[str, float]

    @property
    def peak(self) -> float:
        """Bytes of the largest stage."""
        return max(stage.memory.peak for stage in self.stages)

    @property
    def hours(self) -> float:
        return sum(stage.bill.hours for stage in self.stages)

    @property
    def euros(self) -> float:
        return sum(stage.bill.euros for stage in self.stages)

    @property
    def compute_euros(self) -> float:
        return sum(stage.bill.compute_euros for stage in self.stages)

    @property
    def unpriced(self) -> int:
        """Judgements by a model whose price nobody knows."""
        return sum(stage.bill.unpriced for stage in self.stages)

    @property
    def priced(self) -> bool:
        """Whether all prices are known."""
        return all(stage.bill.priced for stage in self.stages) and not self.unpriced


class TooLargeError(ConfigError):
    """Nothing makes it fit; the message says what would."""


Write = Callable[[Way], dict[str, Any]]


def sized(
    recipe: Mapping[str, Any], way: Way, facts: Facts, shape: Shape, on: Hardware, shards: int
) -> tuple[Sized, ...]:
    """Every stage of a recipe on hardware."""
    found, written = [], 0
    for spec in recipe["stages"]:
        rows = written if _made(spec) else rows_of(spec, facts)
        written = rows if spec["algorithm"] in ("collect", "revise") else written
        job = job_of(spec, recipe, way, facts, shape, shards)
        where = {"device_bytes": on.gpu.memory} if on.gpu.queued else {"device": "cpu"}
        job = replace(job, **where)
        steps = steps_of(spec, rows)
        asked = _labels(spec, rows, steps, job, facts)
        stage = bill(job, on, steps, labels=asked)
        found.append(Sized(spec["name"], spec["algorithm"], job, steps, memory(job), stage, asked))
    return tuple(found)


def _made(spec: Mapping[str, Any]) -> bool:
    return any(str(one["path"]).startswith("stage:") for one in spec["data"])


def rows_of(spec: Mapping[str, Any], facts: Facts) -> int:
    """About how many rows a stage reads from files."""
    kind = {one.get("kind") for one in spec["data"]}
    if spec["algorithm"] in WRITTEN:
        checked = spec["algorithm"] in ("grpo", "raft")
        if spec["algorithm"] in ("collect", "revise"):
            return facts.sampled
        return (facts.checkable if checked else 0) or facts.prompts
    if kind == {"unpaired"}:
        return facts.unpaired
    if kind <= {"preferences", "rankings"}:
        return facts.compared
    own = facts.demonstrations - facts.compared
    return own or facts.demonstrations or facts.good


def steps_of(spec: Mapping[str, Any], rows: int) -> int:
    """Steps of a stage: as it says, or the passes over its rows."""
    train = spec.get("train", {})
    if "steps" in train:
        return int(train["steps"])
    if not train:  # every prompt is answered once, so many between two saves
        return math.ceil(rows / CHUNK[spec["algorithm"]])
    kept = rows * (1 - spec.get("holdout", 0.0))
    return max(1, int(kept * train["epochs"] / train["batch_size"]))


def job_of(
    spec: Mapping[str, Any],
    recipe: Mapping[str, Any],
    way: Way,
    facts: Facts,
    shape: Shape,
    shards: int,
) -> Job:
    """A stage in the numbers that memory and time depend on."""
    method, rollout, train = spec["algorithm"], spec.get("rollout", {}), spec.get("train", {})
    sampled = method in WRITTEN
    new = rollout.get("max_new_tokens", 0)
    judged = 3 if facts.rankings > facts.pairs else 2
    samples = {"sft": 1, "kto": 1, "revise": 3}.get(method, rollout.get("samples", judged))
    prompt = recipe["max_prompt_length"]
    learned = any("model" in one for one in spec.get("reward", ())) or _local(spec)
    return Job(
        method="collect" if method == "revise" else method,
        model=shape,
        prompts=train["batch_size"] if train else CHUNK[method],
        samples=samples,
        prompt_tokens=prompt,
        response_tokens=new if sampled else recipe["max_length"] - prompt,
        mean_prompt=min(prompt, max(1.0, facts.mean_prompt)),
        mean_response=_mean_response(facts, new, sampled),
        microbatch=train.get("tokens_per_microbatch", way.microbatch),
        reward=shape if learned else None,
        lora=spec.get("lora", {}).get("rank", 0),
        precision=way.precision,
        recompute=train.get("gradient_checkpointing", False),
        rows=rollout.get("max_rows", way.rows),
        epochs=2 if method == "ppo" else 1,
        references=0 if spec.get("settings", {}).get("beta") == 0 else None,
        shards=shards,
    )


def _mean_response(facts: Facts, new: int, sampled: bool) -> float:
    """Tokens of a usual answer; where no data shows one, half of what is allowed."""
    known = facts.mean_response if facts.mean_response > 8 else 0.0
    return max(1.0, min(known or new / 2, new) if sampled else known or facts.mean_response)


def _local(spec: Mapping[str, Any]) -> bool:
    return any("local" in one.get("options", {}) for one in spec.get("reward", ()))


def _labels(spec: Mapping[str, Any], rows: int, steps: int, job: Job, facts: Facts) -> Labels:
    """Judgements that people make, or a model at an endpoint."""
    asked = [one for one in spec.get("reward", ()) if one.get("builtin") in (AI, *ASK_PEOPLE)]
    if not asked or _local(spec):
        return Labels()
    samples = spec["rollout"]["samples"]
    prompts = rows if spec["algorithm"] == "collect" else steps * spec["train"]["batch_size"]
    if asked[0]["builtin"] != AI:  # they rank
        paid = Prices(facts.label_price, HUMAN.seconds)
        return Labels(human=prompts * (samples - 1), human_prices=paid)
    own = asked[0].get("options", {})
    known = "price_input" in own and "price_output" in own
    paid_by = ai_prices(job, own["price_input"], own["price_output"]) if known else None
    return Labels(ai=prompts * samples * (samples - 1) // 2, ai_prices=paid_by)


# -- what fits ------------------------------------------------------------------------------------


def fitted(write: Write, facts: Facts, shape: Shape, on: Hardware) -> Fit:
    """The plainest way that fits on one GPU, or else on all of them together.

    Raises:
        ConfigError: none does, with what would.
    """
    tried: dict[str, float] = {}
    for shards in (1, on.count) if on.count > 1 else (1,):
        for way in WAYS:
            recipe = write(way)
            plain = sized(recipe, way, facts, shape, on, shards)
            found = [fits.fit(stage.job, on.gpu.memory) for stage in plain]
            over = f", over {shards} GPUs" if shards > 1 else ""
            tried[way.label + over] = max(one.before.peak for one in found)
            if any(change.name not in CHEAP for one in found for change in one.changes):
                cheap = max(_least(stage.job) for stage in plain)
                tried[f"{way.label}{over}, with all that saves memory"] = cheap
                continue
            if not all(one.fits for one in found):
                tried[f"{way.label}{over}, with all that saves memory"] = max(
                    one.after.peak for one in found
                )
                continue
            changed = _changed(recipe, [one.settings for one in found])
            stages = tuple(
                replace(stage, job=one.job, memory=one.after, bill=_billed(stage, one.job, on))
                for stage, one in zip(plain, found, strict=True)
            )
            names = dict.fromkeys(c.name for one in found for c in one.changes)
            label = ", ".join((way.label, *names))
            if max(one.before.peak for one in found) <= found[0].room:
                tried.pop(way.label + over)
            return Fit(changed, replace(way, label=label), shards, stages, on, tried)
    raise TooLargeError(_too_large(write, facts, shape, on, tried))


def _least(job: Job) -> float:
    """The peak with every change that costs time alone."""
    group = max(fits.SMALLEST, job.group)
    rows = min(job.rows, fits.FEWEST_ROWS)
    return memory(replace(job, microbatch=group, recompute=True, rows=rows)).peak


def _changed(recipe: Mapping[str, Any], settings: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The recipe with each stage's overrides."""
    out = copy.deepcopy(dict(recipe))
    for stage, overrides in zip(out["stages"], settings, strict=True):
        for override in overrides:
            apply_override(stage, override)
    return out


def _billed(stage: Sized, job: Job, on: Hardware) -> Bill:
    return bill(job, on, stage.steps, labels=stage.labels)


def _too_large(
    write: Write, facts: Facts, shape: Shape, on: Hardware, tried: Mapping[str, float]
) -> str:
    """What would fit: other hardware, or a smaller model."""
    least = min(tried, key=lambda label: tried[label])
    says = (
        f"{shape.name} does not fit on {on}: {least} takes {tried[least] / 1e9:.0f} GB a GPU, "
        f"of {ROOM * on.gpu.memory / 1e9:.0f} GB that can be used."
    )
    way = WAYS[-1]
    recipe = write(way)
    room = {gpu.name: ROOM * gpu.memory for gpu in gpus().values()}

    def peak(model: Shape, shards: int) -> float:
        stages = sized(recipe, way, facts, model, on, shards)
        return max(_least(stage.job) for stage in stages)

    whole = peak(shape, 1)
    alone = [name for name, bytes_ in room.items() if bytes_ >= whole]
    counts = (2, 4, 8, 16, 32, 64, 128, 256)
    shared = next((n for n in counts if peak(shape, n) <= ROOM * on.gpu.memory), None)
    known = sorted(public_models(), key=lambda name: -shape_of(name).parameters)
    smaller = [
        name
        for name in known
        if shape_of(name).parameters < shape.parameters
        and peak(shape_of(name), 1) <= ROOM * on.gpu.memory
    ]
    ways = []
    if alone:
        ways.append(f"one {' or '.join(alone)}")
    if shared is not None:
        ways.append(f"{shared}x{on.gpu.name}, sharded")
    if smaller:
        ways.append(f"a smaller model, as {' or '.join(smaller[:2])}")
    return f"{says} What would fit: {'; '.join(ways) or 'nothing in the tables'}"


def cheapest(write: Write, facts: Facts, shape: Shape) -> Fit:
    """One GPU of the table on which everything costs least.

    Raises:
        ConfigError: no single GPU is large enough; how many of the largest are.
    """
    found = []
    for name in gpus():
        on = parse_hardware(name)
        try:
            found.append(fitted(write, facts, shape, on))
        except TooLargeError:
            continue
    priced = [fit for fit in found if fit.hardware.price > 0]
    if priced or found:
        return min(priced or found, key=lambda fit: fit.euros)
    largest = max(gpus().values(), key=lambda gpu: gpu.memory)
    problem = TooLargeError()
    for count in (2, 4, 8, 16, 32, 64):
        try:
            return fitted(write, facts, shape, parse_hardware(f"{count}x{largest.name}"))
        except TooLargeError as error:
            problem = error
    raise problem


# -- what a budget buys ---------------------------------------------------------------------------


def within(fit: Fit, budget: float, facts: Facts, shape: Shape) -> tuple[Fit, str] | None:
    """The recipe cut to a budget in euros, and what was cut; None where too little is left.

    Sampled stages are shortened first, to LEAST_STEPS at the fewest, then the others' passes.
    """
    if fit.euros <= budget:
        return fit, ""
    for least, which in ((LEAST_STEPS, "sampled stages"), (LEAST, "all stages")):
        cut = [one for one in fit.stages if one.job.trained_roles]
        cut = [one for one in cut if one.method in SAMPLED] if least == LEAST_STEPS else cut
        fixed = fit.euros - sum(one.bill.euros for one in cut)
        spent = sum(one.bill.euros for one in cut)
        if not cut or fixed >= budget:
            continue
        share = (budget - fixed) / spent
        steps = {one.name: int(one.steps * share) for one in cut}
        if all(steps[one.name] >= min(least, one.steps) for one in cut):
            shorter = replace(fit, **_shortened(fit, steps, facts, shape))
            listed = ", ".join(f"{name} to {n} of {_old(fit, name)}" for name, n in steps.items())
            return shorter, f"to stay within {euros(budget)}, steps of {which} are cut: {listed}"
    return None


def _old(fit: Fit, name: str) -> int:
    return next(one.steps for one in fit.stages if one.name == name)


def _shortened(fit: Fit, steps: Mapping[str, int], facts: Facts, shape: Shape) -> dict[str, Any]:
    """Recipe and stages with other numbers of steps."""

    def spec(stage: Mapping[str, Any]) -> dict[str, Any]:
        if stage["name"] not in steps:
            return dict(stage)
        kept = {k: v for k, v in stage["train"].items() if k not in ("epochs", "steps")}
        return {**stage, "train": {"steps": steps[stage["name"]], **kept}}

    recipe = {**fit.recipe, "stages": [spec(stage) for stage in fit.recipe["stages"]]}
    return {
        "recipe": recipe,
        "stages": sized(recipe, fit.way, facts, shape, fit.hardware, fit.shards),
    }


def euros(amount: float) -> str:
    """An amount in words: to the cent, and smaller ones as they are."""
    return f"{amount:,.2f} euros" if amount >= 0.01 or amount == 0 else f"{amount:.1g} euros"


def least_euros(fit: Fit) -> float:
    """What LEAST steps of every trained stage cost, with all that is written and labelled."""
    return sum(
        one.bill.euros * (min(1.0, LEAST / one.steps) if one.job.trained_roles else 1.0)
        for one in fit.stages
    )
