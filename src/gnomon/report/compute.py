"""A run's training compute and energy, from the tokens that its stages noted.

A dense transformer with P parameters computes 2 P FLOP a token in a forward pass and 4 P in the
backward pass that follows: 2 P for the activations' gradients and 2 P for the weights' (Kaplan et
al. 2020, "Scaling laws for neural language models", section 2.1; the Commission's guidelines below,
annex A.2.2: C = 6 P D). With adapters the weights' part is only that of the T trained numbers:

    full pass  = (4 P + 2 T) x tokens       6 P x tokens where all is trained
    forward    =  2 P x tokens              reference, reward model, sampling, old log-probs
    recomputed =  2 P x tokens              gradient checkpointing

Attention's share, which grows with the context, is not in it; it is small where P is much larger
than a twelfth of the context's tokens (the guidelines' annex A.2.2).

The rule of one third is that of the European Commission's "Guidelines on the scope of the
obligations for general-purpose AI models established by Regulation (EU) 2024/1689", 18 July 2025,
section 3.2; what counts as training compute is its annex A.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gnomon.runs.read import StageView
from gnomon.runs.records import Compute

GENERAL_PURPOSE, SYSTEMIC_RISK = 1e23, 1e25
"""FLOP of training compute: the guidelines' section 2.1, and Article 51(2)."""
CONTROL = "control"
"""The method whose policy is no language model."""
EVAL, AVERAGE = "eval", "average"
"""The kinds of stage that train nothing: one measures, which the guidelines' annex A.1 leaves out,
and one averages weights, which is no work beside theirs."""
JOULES_PER_MWH = 3.6e9
INFERENCE_TOKENS = 100_000
"""Tokens of the task that the inference figure is of, as in the form's own example."""


def full_pass(parameters: float, trained: float, tokens: float) -> float:
    """FLOP of forward and backward passes over so many tokens."""
    return (4 * parameters + 2 * trained) * tokens


def forward_pass(parameters: float, tokens: float) -> float:
    """FLOP of forward passes alone."""
    return 2 * parameters * tokens


@dataclass(frozen=True)
class Part:
    """What one role of a stage computed in one way.

    Attributes:
        how: ``full pass``, ``forward`` or ``recomputed``.
        updates: whether it directly contributes to the updates of the stage's own model.
    """

    role: str
    how: Literal["full pass", "forward", "recomputed"]
    tokens: int
    parameters: int
    trained: int
    flop: float
    updates: bool = False


def parts(compute: Compute) -> list[Part]:
    """The parts of a stage's compute; roles whose size was not noted are left out."""
    result = "policy" if "policy" in compute.trained else next(iter(compute.trained), "")
    found: list[Part] = []
    for role, forward in compute.forward.items():
        size = compute.parameters.get(role)
        if size is None:
            continue
        backward, trained = compute.backward.get(role, 0), compute.trained.get(role, 0)
        alone = forward - backward
        own = role == result
        if backward:
            flop = full_pass(size, trained, backward)
            found.append(Part(role, "full pass", backward, size, trained, flop, own))
            if compute.recomputed:
                again = forward_pass(size, backward)
                found.append(Part(role, "recomputed", backward, size, 0, again))
        if alone:
            found.append(Part(role, "forward", alone, size, 0, forward_pass(size, alone)))
    return found


def unsized(compute: Compute) -> list[str]:
    """Roles that computed something, but whose size was not noted."""
    return [role for role in compute.forward if role not in compute.parameters]


@dataclass(frozen=True)
class Training:
    """The compute of several stages together.

    Attributes:
        updates: FLOP that directly contributed to updates of the model that the stages made.
        everything: all FLOP that were counted.
        uncounted: stages that trained or sampled and noted nothing, by name.
    """

    updates: float
    everything: float
    uncounted: tuple[str, ...] = ()


def training(stages: Sequence[StageView], chain: Sequence[str]) -> Training:
    """The compute of a model.

    Args:
        stages: all that had a part in it.
        chain: the names of those whose weights it continues, its own stage among them; the others
            (a reward model's, say) update other weights.
    """
    updates = everything = 0.0
    uncounted = []
    for stage in stages:
        compute = stage.info.compute
        if stage.info.algorithm not in (EVAL, AVERAGE) and (not compute or unsized(compute)):
            uncounted.append(stage.name)
        for part in parts(compute):
            everything += part.flop
            updates += part.flop if part.updates and stage.name in chain else 0.0
    return Training(updates, everything, tuple(uncounted))


@dataclass(frozen=True)
class Third:
    """Whether a modification passes a third of the base's training compute.

    Attributes:
        passes: None where what was counted does not decide it.
        threshold: in FLOP.
        of: what it is a third of, in words.
    """

    passes: bool | None
    threshold: float
    of: str


def third(
    done: Training, base_flop: float | None, systemic: bool | None, counted: bool = True
) -> Third:
    """The rule of one third, for the base's training compute in FLOP or for the substitute.

    Args:
        base_flop: None where it is not known: then the threshold for general-purpose models takes
            its place, or the one for systemic risk where the base is such a model.
        counted: whether anything was counted at all.
    """
    if base_flop is not None:
        whole, of = base_flop, "the base's training compute, as stated"
    elif systemic:
        whole, of = SYSTEMIC_RISK, "the threshold of systemic risk (the base's compute is unknown)"
    else:
        whole = GENERAL_PURPOSE
        of = "the threshold of general-purpose models (the base's compute is not stated)"
    threshold = whole / 3
    passes: bool | None = None
    if done.updates > threshold:
        passes = True
    elif counted and not done.uncounted and done.everything <= threshold:
        passes = False
    return Third(passes, threshold, of)


@dataclass(frozen=True)
class Energy:
    """Energy of a stage or of several.

    Attributes:
        joules: None where nothing says it.
        how: ``measured``, ``estimated``, both, or what is missing, in words.
    """

    joules: float | None
    how: str


def energy(
    stage: StageView, gpus: int, watts_per_cpu: float | None, watts_per_gpu: float | None
) -> Energy:
    """What a stage used: by meter where one was read, else by stated power; processors and cards
    each by themselves."""
    info = stage.info
    used, words = 0.0, []
    for part, meter, seconds, watts in (
        ("processors", "rapl", info.cpu_seconds, watts_per_cpu),
        ("cards", "nvml", None if info.seconds is None else info.seconds * gpus, watts_per_gpu),
    ):
        if part == "cards" and not gpus:
            continue
        metered = _metered(info.joules, meter)
        if metered is not None:
            used += metered
            words.append(f"{part} measured ({meter})")
        elif watts is not None and seconds is not None:
            used += watts * seconds
            words.append(f"{part} estimated from stated power")
        else:
            return Energy(None, f"not known: {part} had no meter that could be read, and no power "
                          "is stated")  # fmt: skip
    return Energy(used, "; ".join(words))


def _metered(joules: Mapping[str, float], meter: str) -> float | None:
    own = [value for name, value in joules.items() if name.split(":")[0] == meter]
    return sum(own) if own else None
