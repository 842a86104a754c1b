"""Fifty people label at once, and the server is killed in the middle: is anything lost or doubled?

    python benchmarks/labelling_load.py [--people 50] [--each 20] [--think 0] [--store postgresql://...]

Starts ``gnomon label serve`` as its own process over a new store. Each simulated labeller joins by
the link, then asks for a question, saves a draft, and sends the answer, over HTTP, as fast as the
pages come (which no person does). A third of the answers is sent twice, as by a double click. When
half of the answers have been acknowledged the server is killed (SIGKILL) and started again on the
same port; whoever gets no answer sends the same form again, as a person would. In the end every
acknowledged answer has to be in the store, once, as it was sent.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Label
from gnomon.feedback.store import Campaign, Store
from gnomon.records import Message, Prompt, Response

_HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
_GONE = (httpx.TransportError,)


@dataclass
class Seen:
    """What the labellers saw, together."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[tuple[str, str], str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    resent: int = 0
    twice: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Served:
    """The server as a process of its own, on one port."""

    def __init__(self, store: str, port: int = 0) -> None:
        self.store = store
        self.port, self.cpu = port, 0.0
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("gnomon")), "label", "serve", self.store]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(4)]
        found = re.search(r"labellers:\s+(\S+)", lines[0])
        assert found is not None, lines
        self.joining = found[1]
        self.port = urlsplit(self.joining).port or 0

    def kill(self) -> None:
        used = psutil.Process(self.process.pid).cpu_times()
        self.cpu += used.user + used.system
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--people", type=int, default=50)
    asked.add_argument("--each", type=int, default=20)
    asked.add_argument("--store", default="", help="a PostgreSQL URL; a new SQLite file without it")
    asked.add_argument("--think", type=float, default=0.0, help="mean seconds before an answer")
    asked.add_argument("--no-kill", action="store_true")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or str(Path(folder) / "labels.db")
        run(store, given.people, given.each, not given.no_kill, given.think)


def run(store: str, people: int, each: int, kill: bool, think: float = 0.0, port: int = 0) -> None:
    make(store, items=max(10, people * each // 2), overlap=3)
    served, seen = Served(store, port), Seen()
    want = people * each
    start = time.perf_counter()
    with ThreadPoolExecutor(people) as pool:
        done = [pool.submit(label, served, seen, f"sim-{i}", each, think) for i in range(people)]
        if kill:
            while len(seen.acknowledged) < want // 2 and not all(d.done() for d in done):
                time.sleep(0.01)
            served.kill()
            time.sleep(0.2)
            served.start()
        for one in done:
            one.result()
    wall = time.perf_counter() - start
    served.kill()
    with Store.open(store, create=False) as opened:
        problems = check(seen, list(opened.labels("load")))
    report(seen, people, wall, kill, problems)
    share = 1000 * served.cpu / want
    print(f"the server: {served.cpu:.1f} s of CPU, {share:.0f} ms an answer")
    print(f"the machine: a load of {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    if problems:
        sys.exit(1)


def make(store: str, items: int, overlap: int) -> None:
    """A campaign of pairs, each with a few paragraphs to render."""
    text = (
        "An answer with **words**, `code`, a list:\n\n- one\n- two\n\nand $x^2 + \\frac{1}{2}$.\n\n"
        * 4
    )
    with Store.open(store) as opened:
        opened.set_campaign(Campaign("load", overlap=overlap))
        opened.add_items(
            make_item(
                Prompt(f"p{i}", (Message("user", f"Question {i}: what is {i} + {i}?"),)),
                [Response((Message("assistant", f"{2 * i + k}\n\n" + text),))
                 for k in range(2)],
                campaign="load",
            )
            for i in range(items)
        )  # fmt: skip


def label(served: Served, seen: Seen, name: str, each: int, think: float) -> None:
    """One person's work."""
    chance = random.Random(name)
    at = f"http://127.0.0.1:{served.port}"
    token = urlsplit(served.joining).query.partition("token=")[2]
    with httpx.Client(base_url=at, timeout=120) as client:
        name = join(client, seen, token, name)
        for _ in range(each):
            page = get(client, seen)
            path = re.search(r'action="(/label/\w+)"', page)
            if path is None:
                return
            fields = dict(_HIDDEN.findall(page[page.index('id="ask"') :]))
            fields |= {
                "choice": chance.choice(("1", "2", "tie")),
                "seconds": f"{chance.random():.2f}",
            }
            send(client, seen, "draft", path[1].replace("/label/", "/draft/"), fields)
            time.sleep(chance.expovariate(1 / think) if think else 0)
            fields |= {"action": "save", "comment": f"{name} {chance.random()}"}
            send(client, seen, "answer", path[1], fields)
            with seen.lock:
                seen.acknowledged[name, path[1].removeprefix("/label/")] = fields["comment"]
            if chance.random() < 1 / 3:
                send(client, seen, "again", path[1], fields)
                with seen.lock:
                    seen.twice += 1


def join(client: httpx.Client, seen: Seen, token: str, name: str) -> str:
    """Join under a pseudonym; under another where the answer to the first was cut off."""
    while True:
        sent = seen.resent
        try:
            send(client, seen, "join", "/join", {"token": token, "name": name})
            return name
        except TakenError:
            if sent == seen.resent:
                raise
            name += "-again"


class TakenError(RuntimeError):
    """A pseudonym that is somebody's."""


def get(client: httpx.Client, seen: Seen) -> str:
    while True:
        start = time.perf_counter()
        try:
            answered = client.get("/label")
        except _GONE:
            time.sleep(0.2)
            continue
        if answered.status_code == 200:
            with seen.lock:
                seen.seconds["question"].append(time.perf_counter() - start)
            return answered.text
        note(seen, "question", answered)


def send(client: httpx.Client, seen: Seen, what: str, path: str, fields: dict[str, str]) -> None:
    """Send a form until it is acknowledged."""
    while True:
        start = time.perf_counter()
        try:
            answered = client.post(path, data=fields)
        except _GONE:
            with seen.lock:
                seen.resent += 1
            time.sleep(0.2)
            continue
        if answered.status_code in (200, 303):
            with seen.lock:
                seen.seconds[what].append(time.perf_counter() - start)
            return
        note(seen, what, answered)


def note(seen: Seen, what: str, answered: httpx.Response) -> None:
    """Count a refusal; all but "too fast" end the run."""
    with seen.lock:
        seen.refused[f"{what} {answered.status_code}"] += 1
    if answered.status_code == 422 and "somebody already" in answered.text:
        raise TakenError(answered.text[-600:])
    if answered.status_code != 429:
        raise RuntimeError(f"{what}: {answered.status_code} {answered.text[-600:]}")
    time.sleep(float(answered.headers["Retry-After"]))


def check(seen: Seen, kept: list[Label]) -> list[str]:
    """What is lost, doubled, not as it was sent, or there without having been sent."""
    by_key: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for one in kept:
        by_key[one.labeller, one.item].append(one)
    lost = sum(key not in by_key for key in seen.acknowledged)
    doubled = sum(len(labels) > 1 for labels in by_key.values())
    other = sum(
        by_key[key][0].comment != comment
        for key, comment in seen.acknowledged.items()
        if by_key[key]
    )
    extra = sum(key not in seen.acknowledged for key in by_key)
    found = {"lost": lost, "doubled": doubled, "other than sent": other, "never sent": extra}
    return [f"{count} {what}" for what, count in found.items() if count]


def report(seen: Seen, people: int, wall: float, kill: bool, problems: list[str]) -> None:
    print(f"{people} labellers, {len(seen.acknowledged)} answers acknowledged in {wall:.1f} s"
          f" ({len(seen.acknowledged) / wall:.1f}/s)")  # fmt: skip
    after = " after the server was killed" if kill else ""
    print(f"{seen.twice} of them sent twice; {seen.resent} requests sent again{after}; "
          f"refused: {dict(seen.refused)}")  # fmt: skip
    for what, seconds in sorted(seen.seconds.items()):
        half, most, worst = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.95, 1.0))
        print(f"{what:9} n={len(seconds):5}  p50 {half:6.0f} ms  p95 {most:6.0f} ms  "
              f"max {worst:6.0f} ms")  # fmt: skip
    print("in the store: " + ("; ".join(problems) or "every answer once, as it was sent"))


if __name__ == "__main__":
    main()
