"""How often the detector ``off_topic`` is right, on answers of real models to real questions.

    python benchmarks/off_topic.py --data ../shared/data [--draws 40]

Sound: a run that begins with one model's answers and ends with another's, both of which answer
what they are asked. Planted: in a share of the answers at the end, the answer to another question.
The limit was set on the first half of the models (AlpacaFarm's, Gemma, GPT-4); the other half
(Claude 2.1, Vicuna; Tulu's) is for judging it. The trained reward rises in all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.audit.topics import off_topic
from gnomon.stats.intervals import weighted_proportion

SIZES = (24, 60, 180)
"""Prompts on each side."""
PLANTED = (0.0, 0.2, 0.3, 0.5, 0.8)
Answers = Mapping[str, str]
"""By question."""


def rows(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def tuning(data: Path) -> list[dict[str, Answers]]:
    """Models that the limit was set on; those of one entry answer the same questions."""
    farm = {
        file.name: {f"{r['instruction']}\n{r['input']}": r["output"] for r in rows(file)}
        for file in sorted((data / "alpaca_farm").glob("outputs_*.jsonl.gz"))
    }
    gemma = list(rows(data / "alpaca_eval" / "gemma-7b-it.jsonl.gz"))
    return [farm, {f"output_{i}": _column(gemma, f"output_{i}") for i in (1, 2)}]


def testing(data: Path) -> list[dict[str, Answers]]:
    """Models that it is judged on."""
    names = ("claude-2.1", "vicuna-7b-v1.5")
    files = {name: data / "alpaca_eval" / f"{name}.jsonl.gz" for name in names}
    pair = {name: _column(list(rows(file)), "output_2") for name, file in files.items()}
    tulu: dict[str, dict[str, str]] = {}
    for r in rows(next((data / "tulu_human_eval").glob("*.jsonl.gz"))):
        for side in ("a", "b"):
            tulu.setdefault(r[f"model_{side}"], {})[r["prompt"]] = r[f"completion_{side}"]
    return [pair, tulu]


def _column(of: list[dict[str, Any]], key: str) -> Answers:
    return {r["instruction"]: r[key] for r in of}


def run_of(before: Answers, after: Answers, n: int, share: float, draw: random.Random) -> Evidence:
    """A stage that begins with some answers and ends with others to other questions, ``share`` of
    them about something else."""
    first, last = (draw.sample(sorted(of), min(n, len(of))) for of in (before, after))
    said = {question: after[question] for question in last}
    strayed = last[: round(share * len(last))]
    said |= {q: after[draw.choice([o for o in last if o != q])] for q in strayed}
    samples = [_sample(1, q, before[q], draw.random()) for q in first]
    samples += [_sample(2, q, said[q], 1 + draw.random()) for q in last]
    return Evidence("run", "policy", spec={"algorithm": "grpo"}, samples=samples)


def _sample(step: int, question: str, answer: str, reward: float) -> Sample:
    length = len(answer.split())
    return Sample(
        step, question, question, answer, reward, {}, None, None, length, finished=True,
        held_out=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=40, help="runs of each pair of models")
    args = parser.parse_args()
    print("| models | off topic | " + " | ".join(f"{n} prompts" for n in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    for half, groups in (("tuning", tuning(args.data)), ("testing", testing(args.data))):
        pairs = [(a, b) for models in groups for a, b in permutations(models.values(), 2)]
        for share in PLANTED:
            cells = []
            for n in SIZES:
                draw = random.Random(f"{n} {share}")
                found = [
                    off_topic(run_of(a, b, n, share, draw))[0].status == "alarm"
                    for a, b in pairs
                    for _ in range(args.draws)
                ]
                rate = weighted_proportion(found)
                cells.append(f"{sum(found)} of {len(found)} [{rate.low:.2f}, {rate.high:.2f}]")
            print(f"| {half}: {len(pairs)} pairs | {share:.0%} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
