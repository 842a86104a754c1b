"""How many programs a second the sandbox runs, and what the walls cost.

    python benchmarks/sandbox.py [--backend bubblewrap] [--programs 200] [--humaneval FILE]

Small programs by default; with ``--humaneval`` HumanEval's canonical solutions and their tests,
which must all pass. Prints one line of JSON per backend: programs a second by the clock, the middle
and slowest time of one program, and the machine's load (other work makes all of them slower).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gnomon.judges.code import CodeReward
from gnomon.judges.protocol import Sample
from gnomon.records import Prompt
from gnomon.sandbox import probe

SMALL = "def f(n):\n    return sum(i * i for i in range(n))\n"
SMALL_TESTS = [
    {"function": "f", "args": [n], "expected": sum(i * i for i in range(n))} for n in range(5)
]


def small_samples(count: int) -> list[Sample]:
    """``count`` small programs with five calls each."""
    return [Sample(Prompt(f"small-{i}", meta={"tests": SMALL_TESTS}), SMALL) for i in range(count)]


def humaneval_samples(path: Path) -> list[Sample]:
    """HumanEval's own solutions, with its tests."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [Sample(Prompt(r["task_id"], meta=r), r["canonical_solution"]) for r in rows]


def measure(backend: str, samples: list[Sample], workers: int) -> dict[str, Any]:
    """Run all samples once and count."""
    reward = CodeReward(backend=backend, workers=workers)
    work: list[Callable[[], Any]] = [partial(reward.result, sample) for sample in samples]
    reward.sandbox.map(work[:2])
    began = time.perf_counter()
    results = reward.sandbox.map(work)
    wall = time.perf_counter() - began
    seconds = sorted(r.seconds for r in results)
    return {
        "backend": backend,
        "programs": len(samples),
        "passed": sum(r.all_passed for r in results),
        "workers": workers,
        "programs_per_s": round(len(samples) / wall, 1),
        "median_ms": round(1000 * statistics.median(seconds), 1),
        "slowest_ms": round(1000 * seconds[-1], 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Parse the arguments and print what was measured."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--backend", choices=["bubblewrap", "landlock"])
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--humaneval", type=Path, help="HumanEval.jsonl.gz")
    options = parser.parse_args()
    if options.humaneval:
        samples = humaneval_samples(options.humaneval)
    else:
        samples = small_samples(options.programs)
    for backend in [options.backend] if options.backend else ["bubblewrap", "landlock"]:
        found, reason = probe(backend)
        if found is None:
            print(json.dumps({"backend": backend, "skipped": reason}))
        else:
            print(json.dumps(measure(backend, samples, options.workers)), flush=True)


if __name__ == "__main__":
    main()
