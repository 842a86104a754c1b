"""What one worst-case step took on the machine at hand, and how it corrects an estimate."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gnomon.plan.job import Job
from gnomon.plan.memory import Memory
from gnomon.runs.records import Record

PROBE = "probe.json"
"""The record's file."""
SIZE = 1.25
"""Sizes of two steps by which they differ at most to be called alike."""


class ProbeRecord(Record):
    """One measured step of a stage, sampling and judging included.

    Attributes:
        stage, method, model, precision, lora, microbatch: what was run, as in
            :class:`~gnomon.plan.job.Job`; ``group``: tokens of its longest group.
        device: "cpu", or the GPU's name.
        peak_bytes: most memory taken; ``predicted_bytes``: by the formulas, of the same step.
        instants: bytes above what was taken before the model was loaded, by instant.
        predicted_instants: the same by the formulas, what is always there included.
        seconds: of the step by phase: sampling, reference, reward, training.
        tokens: that each phase computed.
        created: when, in UTC.
    """

    stage: str
    method: str
    model: str
    precision: str = "float32"
    lora: int = 0
    group: int = 0
    microbatch: int = 0
    device: str = "cpu"
    peak_bytes: float
    predicted_bytes: float
    instants: dict[str, float] = Field(default_factory=dict)
    predicted_instants: dict[str, float] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    tokens: dict[str, int] = Field(default_factory=dict)
    created: str = ""

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.peak_bytes / self.predicted_bytes

    def is_of(self, job: Job) -> bool:
        """Whether it says something of this job: the same method, precision and way to train."""
        same = self.method == job.method and self.precision == job.precision
        return same and bool(self.lora) == bool(job.lora)

    def same_size(self, job: Job) -> bool:
        """Whether this job's steps are about as large: what a probe of short rows shows is not so
        of long ones."""
        sizes = ((self.group, job.group), (self.microbatch, job.microbatch))
        return all(mine <= SIZE * its and its <= SIZE * mine for mine, its in sizes)


def corrected(estimate: Memory, record: ProbeRecord) -> Memory:
    """An estimate, every part of it scaled by measured over predicted."""

    def scaled(parts: Mapping[str, float]) -> dict[str, float]:
        return {name: size * record.ratio for name, size in parts.items()}

    return Memory(scaled(estimate.always), scaled(estimate.instants))
