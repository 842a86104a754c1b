"""lm-eval's tasks on gnomon's engine and on lm-eval's own `hf` model: the same scores, how fast.

    python benchmarks/evals.py                           # 300 five-shot questions of MMLU's STEM
    python benchmarks/evals.py --task truthfulqa_mc2     # choices of several tokens
    python benchmarks/evals.py --questions 40            # fewer: of fewer subjects
    python benchmarks/evals.py --tiny                    # a tiny model, as a smoke test

Both sides run in one process on one thread, on the same weights, with lm-eval's own requests; `hf`
takes the fastest of several batch sizes, tried on some of the requests before. Loading, the making
of prompts and the tries are not timed; tokenising is. Times are of the processor.
SmolLM2-135M-Instruct comes from the ``quickstart`` extra, the questions from ``../shared/data``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from gnomon.evals.lm_eval_model import EngineLM
from gnomon.evals.lm_eval_run import without_bars
from gnomon.evals.lm_eval_tasks import Loaded, load_tasks
from gnomon.evals.rows import Rows
from gnomon.models.load import load_causal_lm
from gnomon.models.roles import Role, Trunk
from gnomon.rollout.torch_engine import TorchEngine
from rows import DEFAULT_DATA

SHOTS = 5
PER_SUBJECT = 17
"""Questions of a subject: 300 of MMLU's 18 STEM subjects are about as many."""
BATCHES = (1, 2, 8)
TRIED = 8
"""Questions that each batch size is tried on."""


def read(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def mmlu_stem(data: Path, folder: Path, questions: int) -> tuple[str, dict[str, Path]]:
    """The first rows of each subject as shots (the published dev rows are not in the file), the
    next ones as questions."""
    by_subject: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(data / "mmlu_stem" / "test.jsonl.gz"):
        by_subject[row["topic"]].append(row)
    shots, asked = [], []
    for rows in by_subject.values():
        shots += rows[:SHOTS]
        asked += rows[SHOTS : SHOTS + PER_SUBJECT]
    files = {"dev": write(folder / "dev.jsonl", shots)}
    return "mmlu_stem", {**files, "test": write(folder / "test.jsonl", asked[:questions])}


def truthfulqa(task: str, data: Path, folder: Path, questions: int) -> tuple[str, dict[str, Path]]:
    rows = read(data / "truthfulqa" / "TruthfulQA.jsonl.gz")[:questions]
    return task, {"": write(folder / "questions.jsonl", rows)}


def tiny_rows(folder: Path, questions: int) -> tuple[str, dict[str, Path]]:
    """Sums as questions of one subject."""
    rows = [
        {"question": f"{i} + {i}?", "options": [str(2 * i), "1", "2", "3"], "answer": "A",
         "topic": "abstract_algebra"}
        for i in range(questions + SHOTS)
    ]  # fmt: skip
    files = {"dev": write(folder / "dev.jsonl", rows[:SHOTS])}
    return "mmlu_abstract_algebra", {**files, "test": write(folder / "test.jsonl", rows[SHOTS:])}


def requests_of(loaded: Loaded) -> list[Any]:
    """lm-eval's own requests of every task."""
    found = []
    with without_bars():
        for task in loaded.tasks.values():
            task.build_all_requests()
            found += task.instances
    return found


def timed(work: Callable[[], list[tuple[float, bool]]]) -> tuple[float, list[tuple[float, bool]]]:
    """Processor seconds, which other programs on the machine do not change, and the result."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def hf_model(trunk: Trunk, batch: int) -> HFLM:
    return HFLM(pretrained=trunk.model, tokenizer=trunk.tokenizer, batch_size=batch, device="cpu")


def best_batch(trunk: Trunk, requests: list[Any]) -> tuple[int, dict[int, float]]:
    """The fastest batch size on whole questions from the middle, and what each took."""
    places = list(dict.fromkeys((r.task_name, r.doc_id) for r in requests))
    chosen = set(places[len(places) // 2 :][:TRIED])
    some = [r for r in requests if (r.task_name, r.doc_id) in chosen]
    took = {n: timed(lambda n=n: hf_model(trunk, n).loglikelihood(some, True))[0] for n in BATCHES}
    return min(took, key=lambda n: took[n]), took


def scores(loaded: Loaded, requests: list[Any], found: list[tuple[float, bool]]) -> list[float]:
    """Each item's score by lm-eval's own metric, in order."""
    answers: dict[tuple[str, int], list[tuple[float, bool]]] = defaultdict(list)
    docs = {}
    for request, one in zip(requests, found, strict=True):
        answers[request.task_name, request.doc_id].append(one)
        docs[request.task_name, request.doc_id] = request.doc
    return [
        float(loaded.tasks[place[0]].process_results(docs[place], results)["acc"])
        for place, results in answers.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="mmlu_stem",
                        choices=["mmlu_stem", "truthfulqa_mc1", "truthfulqa_mc2"])  # fmt: skip
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--batch", type=int, help="of hf; default: the fastest of some")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.tiny:
            task, files = tiny_rows(folder, args.questions)
        elif args.task == "mmlu_stem":
            task, files = mmlu_stem(args.data, folder, args.questions)
        else:
            task, files = truthfulqa(args.task, args.data, folder, args.questions)
        shots = None if args.task.startswith("truthfulqa") else SHOTS
        loaded = load_tasks([task], {task: files}, base=folder, shots=shots)
        requests = requests_of(loaded)
        trunk = Trunk.from_loaded(load_causal_lm("tunnel" if args.tiny else "smollm2-135m"))
        compare(args, trunk, loaded, requests, folder)


def compare(
    args: argparse.Namespace, trunk: Trunk, loaded: Loaded, requests: list[Any], folder: Path
) -> None:
    items = len({(r.task_name, r.doc_id) for r in requests})
    print(f"{', '.join(loaded.tasks)}: {items} questions, {len(requests)} requests", flush=True)
    if args.batch:
        batch = args.batch
    else:
        batch, took = best_batch(trunk, requests)
        print("hf's batch sizes: " + ", ".join(f"{n}: {s:.1f} s" for n, s in took.items()))
    role = Role("model", trunk)
    engine = TorchEngine(trunk.model, trunk.tokenizer)
    role.trunk.packed  # noqa: B018  # tries the packed forward out

    def ours(turn: str) -> tuple[float, list[tuple[float, bool]]]:
        model = EngineLM(role, engine, Rows(folder / f"{turn}.jsonl", "benchmark"))
        return timed(lambda: model.loglikelihood(requests))

    before, found = ours("before")
    print(f"gnomon  {before:8.1f} s", flush=True)
    slow, wanted = timed(lambda: hf_model(trunk, batch).loglikelihood(requests, True))
    print(f"hf      {slow:8.1f} s   batch {batch}", flush=True)
    after, _ = ours("after")  # what the machine did meanwhile is seen by the two
    print(f"gnomon  {after:8.1f} s   hf takes {2 * slow / (before + after):.2f}x as long")
    gap = max(abs(a - b) for (a, _), (b, _) in zip(found, wanted, strict=True))
    other = sum(a != b for (_, a), (_, b) in zip(found, wanted, strict=True))
    print(f"log-probs differ by at most {gap:.1e} nats; greedy differs in {other} requests")
    mine, theirs = scores(loaded, requests, found), scores(loaded, requests, wanted)
    print(
        f"acc {sum(mine) / items:.4f} and {sum(theirs) / items:.4f}; items whose score differs by "
        f"more than 1e-4: {sum(abs(a - b) > 1e-4 for a, b in zip(mine, theirs, strict=True))}"
    )


if __name__ == "__main__":
    main()
