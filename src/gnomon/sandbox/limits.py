"""What a program may use, and what came of running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from gnomon.errors import ConfigError

Verdict = Literal["ran", "timeout", "output", "scratch", "died"]


@dataclass(frozen=True)
class Limits:
    """Limits of one program; each holds for every backend that says so in docs/rewards.md.

    Attributes:
        wall_s: seconds until the whole tree is killed (per test where a program is run per input).
        cpu_s: processor seconds of one process; None follows ``wall_s``.
        memory_mb: address space of one process.
        processes: how many processes at once; 1 also forbids exec.
        threads: threads on top of that, counted over the whole program.
        file_mb, scratch_mb: size of one file, and of all that lies in the scratch folder.
        open_files: descriptors at once.
        output_kb: stdout and stderr of one test together.
    """

    wall_s: float = 10.0
    cpu_s: float | None = None
    memory_mb: int = 512
    processes: int = 1
    threads: int = 16
    file_mb: int = 16
    scratch_mb: int = 64
    open_files: int = 64
    output_kb: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "threads" else 64 if field.name == "open_files" else 1e-3
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"sandbox limit {field.name}: {value} is not at least {least:g}")

    def to_job(self) -> dict[str, Any]:
        """The limits in the units the runner sets them in."""
        return {
            "wall_s": self.wall_s,
            "cpu_s": math.ceil(self.cpu_s if self.cpu_s is not None else self.wall_s),
            "memory_bytes": self.memory_mb * 2**20,
            "processes": self.processes,
            "file_bytes": self.file_mb * 2**20,
            "open_files": self.open_files,
            "output_bytes": self.output_kb * 2**10,
        }


@dataclass(frozen=True)
class Outcome:
    """What a sandboxed run reported.

    Attributes:
        frames: the runner's frames in order, without its greeting and farewell.
        complete: the runner said it was done: nothing was cut short.
        verdict: ran; timeout (killed at the wall clock); output or scratch (killed for writing too
            much); died (the sandbox ended before it was done).
        seconds: wall time.
    """

    frames: Sequence[Any]
    complete: bool
    verdict: Verdict
    seconds: float
