"""Seconds of a training step: what ``gnomon plan --calibrate`` predicts, and what it takes.

    python benchmarks/plan_time.py            # measure what is missing, then the table
    python benchmarks/plan_time.py --table    # the table alone
    python benchmarks/plan_time.py --again    # measure all of it again

Each configuration is a random model of the given shape, trained with one thread by gnomon's own
method and Loop on random tokens of fixed lengths. Sampled responses have full length (EOS is
ignored), and their rewards are written down. The median of the steps after the first counts. Rows
go to ``plan_time.jsonl`` as each is done; a run that was stopped goes on.

Both CPU seconds (``time.process_time``) and those on the clock are measured. The prediction is
compared with **CPU seconds**: on a machine that does other work the clock says how busy it was.
The machine's speed is probed (``gnomon.plan.calibrate``) before every fourth configuration, and the
rows hold what was timed, so that predictions can be made again from the rows alone.

The constants of ``plan/cost.py`` were chosen on the configurations marked "tune"; the error that
counts is that of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gnomon.console import say, show
from gnomon.plan.job import Job
from gnomon.plan.shapes import Shape

FILE = Path(__file__).with_suffix(".jsonl")
TIMED = 2
PHASES = ("sampling", "frozen passes", "training")


def llama(layers: int, hidden: int, mlp: int, heads: int, kv_heads: int, vocabulary: int) -> Shape:
    """A small Llama with a tied head."""
    name = f"{layers}x{hidden}"
    return Shape(name, layers, hidden, mlp, heads, kv_heads, hidden // heads, vocabulary, tied=True)


SMALL = llama(6, 256, 768, 4, 2, 4096)
MIDDLE = llama(8, 512, 1408, 8, 4, 8192)
WIDE = llama(4, 1024, 2816, 16, 8, 16384)
DEEP = llama(30, 576, 1536, 9, 3, 49152)  # SmolLM2-135M's


@dataclass(frozen=True)
class Case:
    """A configuration; ``half``: whether constants were chosen on it."""

    name: str
    half: str
    job: Job


def case(
    name: str,
    half: str,
    method: str,
    model: Shape,
    size: tuple[int, int, int, int],
    **more: Any,
) -> Case:
    """``size``: prompts, responses of each, tokens of a prompt and of a response."""
    prompts, samples, prompt, response = size
    job = Job(
        method, model, prompts, samples, prompt, response, prompt, response, 4096, **more
    )  # fmt: skip
    return Case(name, half, job)


CASES = (
    case("sft, 256 tokens", "tune", "sft", MIDDLE, (8, 1, 64, 192)),
    case("sft, 1,024 tokens, small", "tune", "sft", SMALL, (4, 1, 128, 896)),
    case("sft, 256 tokens, SmolLM2's shape", "tune", "sft", DEEP, (4, 1, 64, 192)),
    case("dpo, 256 tokens", "tune", "dpo", MIDDLE, (4, 2, 128, 128)),
    case("grpo, K 8, small", "tune", "grpo", SMALL, (8, 8, 64, 64)),
    case("grpo, K 4, wide", "tune", "grpo", WIDE, (4, 4, 64, 32)),
    case("ppo, K 1", "tune", "ppo", MIDDLE, (16, 1, 48, 48), epochs=2),
    case("sft, LoRA, 256 tokens", "tune", "sft", MIDDLE, (8, 1, 64, 192), lora=16),
    case("sft, 256 tokens, wide", "held out", "sft", WIDE, (8, 1, 64, 192)),
    case("sft, 4,096 tokens, small", "held out", "sft", SMALL, (1, 1, 512, 3584)),
    case("reward model, K 4", "held out", "reward_model", MIDDLE, (4, 4, 128, 96)),
    case("dpo, 1,024 tokens, small", "held out", "dpo", SMALL, (2, 2, 256, 768)),
    case("grpo, K 8", "held out", "grpo", MIDDLE, (4, 8, 64, 64)),
    case("grpo, K 4, SmolLM2's shape", "held out", "grpo", DEEP, (2, 4, 64, 16)),
    case("ppo, K 4, small", "held out", "ppo", SMALL, (8, 4, 48, 48), epochs=2),
    case("grpo, LoRA, K 8", "held out", "grpo", MIDDLE, (4, 8, 64, 32), lora=16),
)


# -- measuring one --------------------------------------------------------------------------------


class Clock:
    """CPU and clock seconds of each step and of its phases."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.rows: list[dict[str, float]] = []
        self._spent: dict[str, float] = {}

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._spent[phase] = self._spent.get(phase, 0.0) + time.process_time() - began

        return call

    def start(self) -> None:
        self._spent = {}
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def step(self) -> None:
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        sampling, drawing = self._spent.get("sampling", 0.0), self._spent.get("drawing", 0.0)
        parts = (sampling, max(0.0, drawing - sampling), cpu - drawing)
        self.rows.append({"cpu": cpu, "wall": wall, **dict(zip(PHASES, parts, strict=True))})
        self.start()

    def medians(self) -> dict[str, float]:
        rows = self.rows[1:]
        return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def measure(job: Job, steps: int = TIMED + 1) -> dict[str, float]:
    """Seconds of a step of the job, here."""
    from gnomon.training.callbacks import Callback, StepDone
    from gnomon.training.loop import Loop
    from gnomon.training.optim import LoopOptions
    from worker import Finished

    clock = Clock(steps)

    class Ticks(Callback):
        def on_step(self, event: StepDone) -> None:
            clock.step()
            if event.iteration == steps:
                raise Finished

        def note(self, text: str) -> None:
            raise RuntimeError(text)

    options = LoopOptions(steps + 1, 1e-6, "constant", checkpoint_every=10**9, sample_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        learner: Any = _learner(job, Path(folder), steps, clock)
        learner.experience = clock.timed("drawing", learner.experience)
        ticks: Any = Ticks()
        loop = Loop(learner, options, Path(folder), ticks)
        clock.start()
        with suppress(Finished):
            loop.run()
    return clock.medians()


def _learner(job: Job, folder: Path, steps: int, clock: Clock) -> Any:
    """What the Loop trains: the job's method on random tokens."""
    from gnomon.algorithms.base import Workbench
    from gnomon.algorithms.registry import METHODS
    from gnomon.models.load import load_causal_lm
    from gnomon.recipe.schema import StageSpec
    from gnomon.recipe.training import LoraSpec, TrainSpec
    from gnomon.stages.names import stage_settings
    from gnomon.stages.roles import RoleBuilder
    from gnomon.training.learner import GivenSource, Learner

    given: dict[str, dict[str, Any]] = {
        "dpo": {"reference": "live"},
        "grpo": {"beta": 0.04},
        "ppo": {"epochs": job.epochs},
    }
    stage = StageSpec(
        name="benchmark",
        algorithm=job.method,
        lora=LoraSpec(rank=job.lora) if job.lora else None,
        train=TrainSpec(steps=steps, gradient_checkpointing=job.recompute),
        settings=given.get(job.method, {}),
    )
    method, settings = METHODS[job.method].algorithm, stage_settings(stage)
    loaded = load_causal_lm(str(_model(job.model, folder / "model")))
    roles = RoleBuilder(stage, loaded, seed=0).build(method.needs(settings), None)
    bench = Workbench(
        roles,
        method=job.method,
        iterations=steps,
        batch_size=job.prompts,
        samples=job.samples,
        longest_response=job.response_tokens,
        tokens_per_microbatch=job.microbatch,
    )
    algorithm = method(settings, bench)
    groups = _groups(job)
    source = (
        _sampled(job, algorithm, groups, loaded, clock)
        if job.sampled
        else GivenSource(algorithm, algorithm.prepare(groups, settings, training=True)[0])
    )
    return Learner(algorithm, source)


def _model(shape: Shape, folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from gnomon.tasks.tunnel.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _groups(job: Job) -> list[Any]:
    from rows import random_groups

    vocabulary = min(job.model.vocabulary, 1000)
    lengths = (job.prompt_tokens,) * 2, (job.response_tokens,) * 2
    return random_groups(job.prompts, job.samples, vocabulary, *lengths)


def _sampled(job: Job, algorithm: Any, groups: list[Any], loaded: Any, clock: Clock) -> Any:
    from gnomon.algorithms.rollouts import EncodedPrompt
    from gnomon.records import Message, Prompt
    from gnomon.rollout.protocol import SamplingParams
    from gnomon.rollout.torch_engine import TorchEngine
    from gnomon.training.sampled import Played, SampledSource, Sampling
    from grpo_worker import _scripted_judge

    prompts = [
        EncodedPrompt(Prompt(g.id, (Message("user", g.id),)), list(g.prompt_ids)) for g in groups
    ]
    engine: Any = TorchEngine(
        algorithm.roles["policy"].trunk.model, loaded.tokenizer, eos_token_ids=[]
    )
    engine.generate = clock.timed("sampling", engine.generate)
    sampling = Sampling(SamplingParams(max_new_tokens=job.response_tokens), job.samples)
    return SampledSource(algorithm, prompts, Played(engine, _scripted_judge(), sampling=sampling))


def measure_missing(again: bool) -> None:
    """Measure every configuration that has no row yet."""
    from gnomon.plan.calibrate import measure as probe

    if again:
        FILE.unlink(missing_ok=True)
    known = {row["name"] for row in read_rows()}
    missing = [c for c in CASES if c.name not in known]
    parts: dict[str, float] = {}
    for i, c in enumerate(missing):
        if i % 4 == 0:
            say("probing the machine")
            parts = probe(torch.device("cpu")).parts
        say(f"measuring {c.name}")
        found = measure(c.job)
        row = {"name": c.name, "half": c.half, "measured": found, "probe": parts}
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "load": os.getloadavg()[0]}) + "\n")


def read_rows() -> list[dict[str, Any]]:
    if not FILE.is_file():
        return []
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def predicted(case: Case, parts: dict[str, float]) -> dict[str, float]:
    """Seconds of a step by the same phases, from what the probe timed."""
    from gnomon.plan.calibrate import Calibration, solve
    from gnomon.plan.cost import speed_of, step_seconds

    found = Calibration(machine="", threads=1, memory=2e10, parts=parts, **solve(parts, "cpu"))
    hardware = found.hardware()
    seconds = step_seconds(case.job, speed_of(hardware, case.job.model))
    sampling = seconds.pop("prefill", 0.0) + seconds.pop("decoding", 0.0)
    training = seconds.pop("training") + seconds.pop("optimizer")
    parts_of = dict(zip(PHASES, (sampling, sum(seconds.values()), training), strict=True))
    return {"cpu": sum(parts_of.values()), **parts_of}


def table() -> None:
    """Predicted and measured, and the error of each half."""
    from rich.table import Table

    known = {case.name: case for case in CASES}
    shown = Table(title="seconds of a step, one thread, CPU time", title_justify="left")
    for i, head in enumerate(("configuration", "", "measured", "predicted", "error", *PHASES)):
        shown.add_column(head, justify="left" if i < 2 else "right")
    errors: dict[str, list[float]] = {}
    for row in read_rows():
        measured = row["measured"]
        found = predicted(known[row["name"]], row["probe"])
        error = found["cpu"] / measured["cpu"] - 1
        errors.setdefault(row["half"], []).append(error)
        parts = (
            f"{measured[p]:.2f} / {found[p]:.2f}" if measured[p] > 0.01 else "" for p in PHASES
        )
        shown.add_row(
            row["name"], row["half"], f"{measured['cpu']:.2f}", f"{found['cpu']:.2f}",
            f"{error:+.0%}", *parts,
        )  # fmt: skip
    show(shown)
    say("phases: measured / predicted")
    for half, found_errors in errors.items():
        size = [abs(e) for e in found_errors]
        say(
            f"{half}: {sum(e <= 0.3 for e in size)} of {len(size)} within 30%, mean "
            f"{statistics.fmean(size):.0%}, largest {max(size):.0%}"
        )


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--again", action="store_true", help="measure all of it again")
    made.add_argument("--table", action="store_true", help="measure nothing")
    args = made.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        measure_missing(args.again)
    table()


if __name__ == "__main__":
    main()
