"""What a stage comes to: hours, euros, labels and energy.

All money is euros. Energy is that of boards at full load for the whole time, so a bound from above;
what was really used, :mod:`gnomon.stages.energy` reads from meters while a stage runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gnomon.feedback.plan import Prices
from gnomon.plan.cost import Phase, Speed, longest, phases, speed_of
from gnomon.plan.hardware import Hardware, table_date
from gnomon.plan.job import Job

PUE = 1.25
"""Energy of the building for each joule of the boards: cooling and power supply."""
HUMAN = Prices(price=0.60, seconds=60.0)
"""Of a person's judgement of a pair: both are guesses. Lee et al. 2023 (RLAIF), as remembered,
reckon 0.67 dollars for one."""
READ, WRITTEN = 350, 120
"""Tokens that a judge reads beside prompt and answers, and that it writes, reason included."""


@dataclass(frozen=True)
class Labels:
    """Judgements of pairs that are still to be made.

    Attributes:
        human, ai: pairs to be judged by people and by a model; ``votes``: judgements of each.
        human_prices, ai_prices: euros and seconds of one judgement; None where nobody knows.
    """

    human: int = 0
    ai: int = 0
    votes: int = 1
    human_prices: Prices = HUMAN
    ai_prices: Prices | None = None

    @property
    def human_euros(self) -> float:
        return self.human * self.votes * self.human_prices.price

    @property
    def ai_euros(self) -> float:
        return self.ai * self.votes * self.ai_prices.price if self.ai_prices is not None else 0.0

    @property
    def unpriced(self) -> int:
        """Judgements whose price nobody knows."""
        return self.ai * self.votes if self.ai_prices is None else 0

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
        unpriced: judgements by a model whose price nobody knows; no sum has them.
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
    unpriced: int = 0
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
        """Every figure by its name, for JSON; null where a price is not known."""
        found = {**asdict(self), "label_euros": self.label_euros, "euros": self.euros}
        if not self.priced:
            found |= {"compute_euros": None, "euros": None}
        if self.unpriced:
            found |= {"ai_label_euros": None, "label_euros": None, "euros": None}
        return found


def ai_prices(job: Job, price_input: float, price_output: float, orders: int = 2) -> Prices:
    """What a model's judgement of a pair of the job's answers costs.

    Args:
        price_input, price_output: euros for a million tokens read and written, as a recipe's AI
            judge has them.
        orders: how often it is asked, the answers in another order each time.
    """
    read = READ + job.mean_prompt + 2 * job.mean_response
    euros = (read * price_input + WRITTEN * price_output) / 1e6
    return Prices(price=orders * euros)


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
    own = speed is None
    speed = speed or speed_of(hardware, job.model)
    labels = labels or Labels()
    found = phases(job, speed, hardware.count)
    seconds = sum(phase.seconds for phase in found)
    hours = steps * seconds / 3600
    by = {phase.name: phase for phase in found}
    training, decoding = by.get("training"), by.get("decoding")
    watts = hardware.count * hardware.gpu.watts
    most = hardware.count * hardware.gpu.flops
    return Bill(
        hardware=str(hardware),
        gpus=hardware.count,
        measured=hardware.gpu.measured and own,
        steps=steps,
        phases=found,
        seconds_per_step=seconds,
        utilisation=training.flop / training.seconds / most if training else 0.0,
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
        unpriced=labels.unpriced,
        assumptions=_assumptions(job, hardware, labels, pue),
    )


def _assumptions(job: Job, hardware: Hardware, labels: Labels, pue: float) -> tuple[str, ...]:
    """What the figures rest on, in words."""
    gpu, reach = hardware.gpu, hardware.gpu.reach
    said = []
    if gpu.measured:
        said.append(f"speed: {gpu.source}, by a probe that runs a small model")
    else:
        said.append(
            f"speed: {gpu.source}; of its arithmetic {reach.top:.0%} x H / (H + {reach.half:,.0f}) "
            f"for a model of width H, of its bandwidth {reach.bandwidth:.0%} while decoding; a "
            f"kernel every {1e6 * reach.launch:.0f} µs at most, as measured beside one H200"
        )
    if job.sampled:
        said.append(
            f"responses of {job.mean_response:,.0f} tokens on average; the longest of a batch has "
            f"{longest(job):,.0f}"
        )
    if gpu.price and not gpu.measured:
        said.append(f"{gpu.price:.2f} euros an hour for a GPU (table of {table_date()}; --price)")
    elif not gpu.price:
        said.append("no price of the hardware is known: give --price")
    if gpu.watts:
        said.append(f"{gpu.watts:.0f} W a board at full load, times {pue:g} for the building")
    if labels.human:
        said.append(
            f"{labels.human:,} judgements of a pair by people, a ranking of K answers being K - 1, "
            f"at {labels.human_prices.price:.2f} euros and {labels.human_prices.seconds:.0f} s each"
            " (a guess: --price-label)"
        )
    if labels.ai and labels.ai_prices is not None:
        said.append(
            f"{labels.ai:,} judgements of a pair by a model, at {labels.ai_prices.price:.2g} euros "
            f"each: {READ} tokens beside prompt and answers read and {WRITTEN} written, in both "
            "orders"
        )
    if hardware.count > 1:
        said.append("GPUs divide the work evenly; what they tell each other is hidden")
    return tuple(said)
