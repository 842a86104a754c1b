"""A folder of runs whose every figure is known, written by the records' own classes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from starlette.testclient import TestClient

from gnomon.runs.answers import Answer, write_answers
from gnomon.runs.audit import AUDIT, GATES, Audit, Exhibit, Finding, GateResult, Gates
from gnomon.runs.manifest import Manifest
from gnomon.runs.records import STAGE, StageInfo
from gnomon.runs.rows import MetricsStore, SampleStore
from gnomon.stats.intervals import Interval
from gnomon.view.app import make_app
from gnomon.web.guard import Guard

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
STEPS = 40
PROMPTS = 12


def metric_row(step: int) -> dict[str, float]:
    return {"step": step, "iteration": step, "reward": step / STEPS, "kl": step / 10, "length": 9.0}


def sample_row(step: int, i: int, held_out: bool, response: str = "") -> dict[str, object]:
    """A reward that is in no order, every fourth cut off, every sixth failed."""
    failed = i % 6 == 5
    return {
        "step": step,
        "prompt_id": f"p{i}",
        "category": ("lists", "facts")[i % 2],
        "prompt": f"Question {i}?",
        "response": response or f"Answer {i} of step {step}" + (" lighthouse" * (i % 5 == 0)),
        "reward": None if failed else ((i * 7) % PROMPTS) / PROMPTS,
        "parts": None,
        "error": "no verdict" if failed else None,
        "length": 3 + i,
        "finished": i % 4 != 0,
        "evaluation": step if held_out else None,
        "policy_iteration": None if held_out else step,
    }


def write_run(folder: Path, *, beta: float = 0.1, done: bool = True, steps: int = STEPS) -> Path:
    """sft, done, then ppo, which is done too or still at work."""
    folder.mkdir(parents=True)
    stages = [
        {"name": "sft", "algorithm": "sft", "train": {"steps": STEPS}},
        {"name": "ppo", "algorithm": "ppo", "train": {"steps": STEPS}, "settings": {"beta": beta},
         "reward": [{"function": "rewards.py:words"}]},
    ]  # fmt: skip
    recipe = {"name": folder.name, "seed": 7, "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    Manifest(name=folder.name, seed=7, started="2026-01-01T00:00:00+0000").write(
        folder / "manifest.json"
    )
    for number, name in enumerate(("sft", "ppo"), start=1):
        stage = folder / "stages" / f"{number:02d}-{name}"
        ended = done or name == "sft"
        info = StageInfo(name=name, algorithm=name, status="done" if ended else "running")
        stage.mkdir(parents=True)
        info.write(stage / STAGE)
        metrics = MetricsStore(stage / "metrics.parquet")
        for step in range(1, steps + 1):
            metrics.append(metric_row(step))
        stores = [metrics]
        if name == "ppo":
            samples = SampleStore(stage / "samples.parquet")
            stores.append(samples)
            for step, held_out in ((1, True), (20, False), (steps, True)):
                for i in range(PROMPTS):
                    samples.append(sample_row(step, i, held_out))
        for store in stores:
            store.finish() if ended else None
            store.close()
    return folder


def add_alarm(folder: Path, text: str = "it repeats itself") -> None:
    alarm = Finding(
        name="reward_hacking", detector="drift", stage="ppo", status="alarm", text=text,
        measure="share", figure=Interval(0.19, 0.12, 0.26, 32), limit=0.1, curves=["reward", "kl"],
        since=24, exhibits=[Exhibit(prompt=text, response=text, reward=1.0, step=40, shows=text)],
    )  # fmt: skip
    Audit(findings=[alarm]).write(folder / AUDIT)
    Gates({"ppo": [GateResult(condition="x >= 1", stage="ppo", passed=False, text=text)]}).write(
        folder / GATES
    )


def add_answers(folder: Path, old: str = "base", new: str = "ppo") -> None:
    """Answers of two models to ten prompts: to the last both say the same."""
    rows = [
        Answer(model=model, prompt_id=f"q{i}", category="lists", prompt=f"Ask {i}",
               response="the same" if i == 9 else f"{word} {i}")
        for model, word in ((old, "alpha"), (new, "omega"))
        for i in range(10)
    ]  # fmt: skip
    write_answers(folder, rows)


def append_line(file: Path, row: dict[str, object] | str) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(row if isinstance(row, str) else json.dumps(row) + "\n")


def open_client(folder: Path, **guard: object) -> TestClient:
    app = Guard(make_app(folder), **guard)  # type: ignore[arg-type]
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
