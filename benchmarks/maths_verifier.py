"""How fast and how exact the maths reward is, compared with math-verify alone.

python benchmarks/maths_verifier.py [--gsm8k SOLUTIONS.jsonl.gz] [--math500 test.jsonl.gz]

Processor seconds per 1,000 answers on one core, in this process, with nothing but the start left
out; answers graded otherwise than their labels say; and the public forms of
``tests/judges/maths_forms.jsonl``: wrong answers accepted and right ones refused by each side.
MATH's answers are each reference in a box against itself (right) and against the next (wrong
unless they are the same). Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from gnomon.judges.verifiers.maths import maths_verifier

FORMS = Path(__file__).parents[1] / "tests" / "judges" / "maths_forms.jsonl"
Case = tuple[str, str, bool]
"""(response, truth, whether it is right)."""


def alone(response: str, truth: str) -> bool:
    """math-verify's own verdict, the truth in a box as its users give it."""
    gold = parse(f"\\boxed{{{truth}}}", parsing_timeout=None)
    return bool(verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None))


def measure(name: str, cases: Sequence[Case], side: str, grade: Callable[[str, str], bool]) -> None:
    """Grade all cases once and print what it took and what was misgraded."""
    grade(*cases[0][:2])
    began = time.process_time()
    verdicts = [grade(response, truth) for response, truth, _ in cases]
    seconds = time.process_time() - began
    labels = [right for _, _, right in cases]
    pairs = list(zip(verdicts, labels, strict=True))
    wrong, right = labels.count(False), labels.count(True)
    accepted = sum(given and not label for given, label in pairs)
    refused = sum(label and not given for given, label in pairs)
    said: dict[str, Any] = {
        "cases": name,
        "side": side,
        "right": right,
        "wrong": wrong,
        "false_accepts": accepted,
        "false_rejects": refused,
        "false_accept_rate": round(accepted / max(1, wrong), 4),
        "false_reject_rate": round(refused / max(1, right), 4),
        "cpu_s_per_1000": round(1000 * seconds / len(cases), 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(said), flush=True)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl or .jsonl.gz."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def gsm8k(path: Path) -> list[Case]:
    """The labelled solutions of GSM8K's four example systems."""
    return [
        (system["solution"], row["ground_truth"].rsplit("A: ", 1)[-1], bool(system["is_correct"]))
        for row in rows_of(path)
        for system in row.values()
        if isinstance(system, dict)
    ]


def math500(path: Path) -> list[Case]:
    """Each reference against itself and, where it differs, against its neighbour."""
    answers = [row["answer"] for row in rows_of(path)]
    same = [(f"\\boxed{{{a}}}", a, True) for a in answers]
    pairs = list(itertools.pairwise(answers))
    return same + [(f"\\boxed{{{a}}}", b, False) for a, b in pairs if a != b and f"x={a}" != b]


def forms() -> list[Case]:
    """The committed forms; a bare answer is put in a box."""
    rows = rows_of(FORMS)
    boxed = [row.get("response", f"\\boxed{{{row.get('answer')}}}") for row in rows]
    return [(text, row["truth"], row["right"]) for text, row in zip(boxed, rows, strict=True)]


def main() -> None:
    """Parse the arguments and print what was measured."""
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--gsm8k", type=Path, help="example_model_solutions.jsonl.gz")
    parser.add_argument("--math500", type=Path, help="test.jsonl.gz")
    parser.add_argument("--limit", type=int, help="cases of each kind")
    options = parser.parse_args()
    verifier = maths_verifier(("boxed", "hash", "phrase", "number"), 0.0)
    sides: dict[str, Callable[[str, str], bool]] = {
        "gnomon": lambda response, truth: verifier(response, truth)[0] == 1.0,
        "math-verify": alone,
    }
    sets = {"forms": forms()}
    if options.gsm8k:
        sets["gsm8k"] = gsm8k(options.gsm8k)
    if options.math500:
        sets["math500"] = math500(options.math500)
    for name, cases in sets.items():
        for side, grade in sides.items():
            measure(name, cases[: options.limit], side, grade)


if __name__ == "__main__":
    main()
