"""How often detectors that read answers are right, on answers of real models.

    python benchmarks/real_texts.py contradiction --data ../shared/data [--draws 40]
    python benchmarks/real_texts.py changes --data ../shared/data [--draws 4]

``contradiction``: each question has the answers of four models. Sound: GSM8K graded rightly, and
questions in prose whose marks have nothing to do with a number (given by chance to 6 of 10). Leaky:
GSM8K where a share of the wrong answers gets the mark as well. ``changes``: a run begins with one
model's answers and ends with another's, for a higher reward, and every detector is asked.

The rules about numbers were written knowing how often the answers of these models end in one, and
before any alarm was counted.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path

from gnomon.audit.contradiction import contradiction
from gnomon.audit.detectors import load_detectors
from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.stats.intervals import weighted_proportion
from off_topic import Answers, rows, run_of, testing, tuning

SIZES = (24, 60, 180)
"""Prompts at the beginning, and at the end."""
LEAKS = (0.0, 0.1, 0.3, 1.0)
PASSED = 0.6
"""Share of the answers in prose that get the mark."""
MODELS = ("6b_finetuning", "175b_finetuning", "6b_verification", "175b_verification")
"""Of GSM8K's solutions, from the fewest right ones to the most."""
Questions = Mapping[str, Sequence[tuple[str, bool]]]
"""By question: answers, and whether each is right."""


def maths(data: Path) -> Questions:
    """GSM8K's questions with four models' solutions."""
    return {
        r["question"]: [(r[m]["solution"], bool(r[m]["is_correct"])) for m in MODELS]
        for r in rows(data / "gsm8k" / "example_model_solutions.jsonl.gz")
    }


def prose(data: Path) -> dict[str, Questions]:
    """Questions in prose with four models' answers."""
    farm, gemma = tuning(data)
    pair, _ = testing(data)
    return {
        "AlpacaFarm": _shared([*farm.values()]),
        "AlpacaEval": _shared([*gemma.values(), *pair.values()]),
    }


def _shared(models: Sequence[Answers]) -> Questions:
    """The questions that all of these models answer; nothing is right or wrong."""
    asked = set.intersection(*(set(model) for model in models))
    return {q: [(model[q], False) for model in models] for q in sorted(asked)}


Passes = Callable[[bool, random.Random], bool]
"""Whether an answer gets the mark, from whether it is right."""


def leaky(share: float) -> Passes:
    """A verifier that lets a share of the wrong answers pass."""
    return lambda right, draw: right or draw.random() < share


def graded_run(questions: Questions, n: int, passes: Passes, draw: random.Random) -> Evidence:
    """A stage that begins and ends with some of the questions, all their answers graded."""
    samples = [
        Sample(
            step, question, question, text, float(passes(right, draw)), {}, None, None,
            len(text.split()), finished=True, held_out=False,
        )
        for step in (1, 2)
        for question in draw.sample(sorted(questions), min(n, len(questions)))
        for text, right in questions[question]
    ]  # fmt: skip
    return Evidence("run", "policy", spec={"algorithm": "grpo"}, samples=samples)


def share(found: list[str]) -> str:
    """Alarms of so many runs, with their share's interval, and the runs that were not looked at."""
    rate = weighted_proportion([status == "alarm" for status in found])
    silent = found.count("not_looked")
    text = f"{found.count('alarm')} of {len(found)} [{rate.low:.2f}, {rate.high:.2f}]"
    return f"{text}, {silent} not looked at" if silent else text


def contradictions(data: Path, draws: int) -> None:
    """Print the table of ``contradiction``."""
    print("| questions | marks | " + " | ".join(f"{n} prompts" for n in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    for name, questions in prose(data).items():
        line(f"prose: {name}", "by chance", questions, lambda _, d: d.random() < PASSED, draws)
    questions = maths(data)
    for leak in LEAKS:
        marks = f"right, and {leak:.0%} of the wrong" if leak else "right"
        line("maths: GSM8K", marks, questions, leaky(leak), draws)


def line(name: str, marks: str, questions: Questions, passes: Passes, draws: int) -> None:
    """Print a row of it."""
    cells = []
    for n in SIZES:
        draw = random.Random(f"{name} {marks} {n}")
        runs = [graded_run(questions, n, passes, draw) for _ in range(draws)]
        cells.append(share([contradiction(run)[0].status for run in runs]))
    print(f"| {name} | {marks} | " + " | ".join(cells) + " |")


def changes(data: Path, draws: int) -> None:
    """Print the table of the sound changes: alarms of each detector that looked at any."""
    prose_pairs = [pair for models in testing(data) for pair in permutations(models.values(), 2)]
    solutions = _solutions(data)
    better = [(solutions[a], solutions[b]) for a, b in combinations(MODELS, 2)]
    found: dict[str, dict[str, list[str]]] = {}
    heads = []
    for title, pairs in (("prose", prose_pairs), ("GSM8K", better)):
        for n in SIZES[1:]:
            draw = random.Random(f"{title} {n}")
            runs = [run_of(a, b, n, 0.0, draw) for a, b in pairs for _ in range(draws)]
            heads.append(f"{title}: {len(pairs)} pairs, {n} prompts")
            for name, detector in load_detectors().items():
                said = [[f.status for f in detector(run)] for run in runs]
                found.setdefault(name, {})[heads[-1]] = [_worst(own) for own in said]
    print("| detector | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * len(heads))
    for name, by_head in found.items():
        if any(status != "not_looked" for own in by_head.values() for status in own):
            print(f"| `{name}` | " + " | ".join(share(by_head[head]) for head in heads) + " |")


def _worst(found: Sequence[str]) -> str:
    """One status for what a detector says of a run."""
    return next((s for s in ("alarm", "unclear", "clear") if s in found), "not_looked")


def _solutions(data: Path) -> dict[str, Answers]:
    """GSM8K's solutions by model."""
    questions = maths(data)
    return {
        model: {question: own[place][0] for question, own in questions.items()}
        for place, model in enumerate(MODELS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("contradiction", "changes"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, help="runs of each kind, or of each pair of models")
    args = parser.parse_args()
    if args.table == "contradiction":
        contradictions(args.data, args.draws or 40)
    else:
        changes(args.data, args.draws or 4)


if __name__ == "__main__":
    main()
