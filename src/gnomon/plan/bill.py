"""What a stage comes to: hours, euros, labels and energy, and what a budget buys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gnomon.feedback.plan import Prices
from gnomon.plan.cost import Phase, Speed, phases, speed_of
from gnomon.plan.hardware import Hardware
from gnomon.plan.job import Job

PUE = 1.25
"""Energy of the building for each joule of the boards: cooling and power supply."""
HUMAN = Prices(price=0.60, seconds=60.0)
"""Of a person's judgement of a pair; Lee et al. 2023 (RLAIF), appendix on cost: 0.67 dollars."""
AI = Prices(price=0.005, seconds=2.0)
"""Of a model's judgement of a pair; :func:`ai_price` says what it is for a price a token."""


@dataclass(frozen=True)
class Labels:
    """Judgements of pairs that are still to be made.

    Attributes:
        human, ai: pairs to be judged by people and by a model; ``votes``: judgements of each.
        human_prices, ai_prices: euros and seconds of one judgement.
    """

    human: int = 0
    ai: int = 0
    votes: int = 1
    human_prices: Prices = HUMAN
    ai_prices: Prices = AI

    @property
    def human_euros(self) -> float:
        return self.human * self.votes * self.human_prices.price

    @property
    def ai_euros(self) -> float:
        return self.ai * self.votes * self.ai_prices.price

    @property
    def human_hours(self) -> float:
        """Of people's work."""
        return self.human * self.votes * self.human_prices.seconds / 3600


@dataclass(frozen=True)
class Bill:
    """What so many steps come to.

    Attributes:
        hardware: as in ``8 x H100``; ``gpus`` of it.
        measured: whether its speed is a probe's, rather than a data sheet's.
        steps: of the optimizer.
        phases: of one step, one after the other: FLOP, seconds, tokens, what bounds it.
        seconds_per_step: of all phases together.
        utilisation: share of the hardware's most FLOP/s that training reaches; 0 where nothing
            is trained.
        trained_tokens_per_second, sampled_tokens_per_second: while training, while sampling;
            0 where there is nothing of it.
        hours: on the clock; ``gpu_hours``: over all GPUs.
        flop: of all steps.
        compute_euros: for the hardware; ``priced``: whether its price is known.
        kilowatt_hours: of the boards at full load, times ``pue`` for the building; None where
            their power is not known.
        label_euros: of people and models; ``human_hours`` of people's work.
        assumptions: in words, what the figures rest on.
    """

    hardware: str
    gpus: int
    measured: bool
    steps: int
    phases: tuple[Phase, ...]
    seconds_per_step: float
    utilisation: float
    trained_tokens_per_second: float
    sampled_tokens_per_second: float
    hours: float
    gpu_hours: float
    flop: float
    compute_euros: float
    priced: bool
    kilowatt_hours: float | None
    pue: float
    human_label_euros: float
    ai_label_euros: float
    human_hours: float
    assumptions: tuple[str, ...] = ()

    @property
    def label_euros(self) -> float:
        return self.human_label_euros + self.ai_label_euros

    @property
    def euros(self) -> float:
        """Hardware and labels."""
        return self.compute_euros + self.label_euros

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of all steps, by phase."""
        return {phase.name: self.steps * phase.seconds for phase in self.phases}

    def to_json(self) -> dict[str, Any]:
        """Every figure by its name, for JSON."""
        return {**asdict(self), "label_euros": self.label_euros, "euros": self.euros}


def bill(
    job: Job,
    hardware: Hardware,
    steps: int,
    *,
    speed: Speed | None = None,
    labels: Labels | None = None,
    pue: float = PUE,
) -> Bill:
    """What ``steps`` steps of a stage come to on ``hardware``.

    Args:
        speed: instead of the hardware's own.
        labels: what is still to be labelled for it.
        pue: energy of the building for each joule of the boards.
    """
    speed = speed or speed_of(hardware, job.model)
    labels = labels or Labels()
    found = phases(job, speed, hardware.count)
    seconds = sum(phase.seconds for phase in found)
    hours = steps * seconds / 3600
    by = {phase.name: phase for phase in found}
    training, decoding = by.get("training"), by.get("decoding")
    watts = hardware.count * hardware.gpu.watts
    return Bill(
        hardware=str(hardware),
        gpus=hardware.count,
        measured=hardware.gpu.measured,
        steps=steps,
        phases=found,
        seconds_per_step=seconds,
        utilisation=0.0
        if training is None
        else training.flop / training.seconds / (hardware.count * hardware.gpu.flops),
        trained_tokens_per_second=training.tokens_per_second if training else 0.0,
        sampled_tokens_per_second=decoding.tokens_per_second if decoding else 0.0,
        hours=hours,
        gpu_hours=hours * hardware.count,
        flop=steps * sum(phase.flop for phase in found),
        compute_euros=hours * hardware.price,
        priced=hardware.price > 0,
        kilowatt_hours=hours * watts * pue / 1000 if watts else None,
        pue=pue,
        human_label_euros=labels.human_euros,
        ai_label_euros=labels.ai_euros,
        human_hours=labels.human_hours,
    )
