"""What the benchmarks share: jobs in fresh processes, honest peaks, the machine's speed, tables.

A side of a benchmark is a :class:`Job` that ``worker.py`` runs in a process of its own, so that its
peak memory is its own and nothing is warm that the other side has not warmed for itself too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rows import DEFAULT_DATA, Rows, save

WORKER = Path(__file__).with_name("worker.py")
LOSS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Job:
    """One side of a benchmark.

    Attributes:
        side: "gnomon" or "trl".
        algorithm: "sft", "reward_model" or "dpo".
        model: folder of the model; rows: file written by ``rows.save``.
        lr: the same constant rate on both sides.
        checkpointing: recompute activations in the backward pass (TRL's default, not gnomon's).
        microbatch_tokens: gnomon's budget of one forward pass.
        accumulate: TRL's gradient accumulation: its batch is cut into this many.
        lora: adapters of rank 16 on all linear layers, else all weights are trained.
        cached: DPO's reference log-probs are computed before the steps; else in each step.
        compile: gnomon: run the layers compiled.
        profile: gnomon: run one more step under torch's profiler and measure a plain matmul.
    """

    side: str
    algorithm: str
    model: str
    rows: str
    lr: float = 1e-6
    checkpointing: bool = False
    microbatch_tokens: int = 4096
    accumulate: int = 1
    lora: bool = False
    cached: bool = False
    profile: bool = False
    compile: bool = False


@dataclass
class Measured:
    """What a job took. Lists have one entry per optimiser step, the warm-up first.

    Attributes:
        losses: as the side itself reports them.
        checks: what the sides must agree on at step 0. For DPO, whose loss starts at log 2 whatever
            it computes, the mean log-prob of the step's answers in nats; else the loss.
        seconds, cpu_seconds: of the step, on the wall and on all cores together.
        before_seconds, before_cpu_seconds: of work before the first step that is part of the
            training (a pass of the reference, say); loading and tokenising are not.
        peak_rss_gb: the process's highest resident memory up to the end of the last step.
        speed: the machine's and the model's FLOP rates, and the profile; empty unless asked for.
        grad_norms: before clipping.  tokens: sampled.  phases: seconds of a step by what they were
            spent on. (On-line methods only.)
    """

    losses: list[float] = field(default_factory=list)
    checks: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    before_seconds: float = 0.0
    before_cpu_seconds: float = 0.0
    peak_rss_gb: float = 0.0
    speed: dict[str, float] = field(default_factory=dict)
    # of on-line methods
    grad_norms: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)

    def timed(self) -> float:
        """Seconds of all steps after the warm-up."""
        return sum(self.seconds[1:])

    def timed_cpu(self) -> float:
        """CPU seconds of all steps after the warm-up."""
        return sum(self.cpu_seconds[1:])


def run(job: Any, worker: Path = WORKER, threads: int | None = None) -> Measured:
    """Run a job (a dataclass with a ``side``) in a fresh process.

    Args:
        worker: the script that takes JOB.json and MEASURED.json.
        threads: of its torch; None leaves that to the environment.

    Raises:
        SystemExit: it failed; its own message has been printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "job.json"), Path(folder, "measured.json")
        asked.write_text(json.dumps(asdict(job)))
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if threads is not None:
            env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, str(worker), str(asked), str(answer)],
            env=env,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{job.side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return Measured(**json.loads(answer.read_text()))


def check_same_work(sides: dict[str, Measured]) -> float:
    """The largest relative difference between the sides' losses (checks) at step 0.

    Raises:
        SystemExit: it is above 1e-3: the sides do not compute the same thing, so nothing that was
            measured compares.
    """
    first = {name: m.checks[0] for name, m in sides.items()}
    low, high = min(first.values()), max(first.values())
    gap = (high - low) / max(abs(low), abs(high), 1e-8)
    if not gap <= LOSS_TOLERANCE:
        raise SystemExit(f"the sides differ by {gap:.1e} at step 0: {first}")
    return gap


# -- memory and speed of the machine --------------------------------------------------------------


def peak_rss_gb() -> float:
    """This process's highest resident memory so far, in GB (1e9 bytes).

    Linux's VmHWM starts from 0 with each program. getrusage's maximum, used elsewhere, does not: a
    child inherits it from a parent that was large when it started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def cpu_seconds() -> float:
    """CPU time of this process so far, user and system, over all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@torch.no_grad()
def matmul_gflops(
    sizes: Sequence[tuple[int, int, int]] = ((1024, 1024, 1024), (1024, 576, 1536)),
) -> dict[str, float]:
    """The best rate of float32 ``torch.mm`` over the sizes: GFLOP/s on the wall and per CPU second.

    The default sizes are a square one and a layer of SmolLM2-135M at 1024 tokens.
    """
    best = {"wall": 0.0, "cpu": 0.0}
    for n, k, m in sizes:
        a, b = torch.randn(n, k), torch.randn(k, m)
        torch.mm(a, b)
        for _ in range(5):
            wall, cpu, repeats = time.perf_counter(), cpu_seconds(), 0
            while time.perf_counter() - wall < 0.15:
                torch.mm(a, b)
                repeats += 1
            work = 2e-9 * n * k * m * repeats
            best["wall"] = max(best["wall"], work / (time.perf_counter() - wall))
            best["cpu"] = max(best["cpu"], work / max(1e-9, cpu_seconds() - cpu))
    return best


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Parameters of the trunk without its embedding table, and of one projection on the
    vocabulary: those that a token, and a response token, is multiplied with."""
    table = model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and head.weight is model.get_input_embeddings().weight  # type: ignore[operator]
    total = sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)
    trunk = total - table - (0 if tied or head is None else head.weight.numel())
    return trunk, 0 if head is None else head.weight.numel()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


# -- the command line -----------------------------------------------------------------------------


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the real data")
    made.add_argument("--model", default="smollm2-135m", help="as in a recipe")
    made.add_argument("--steps", type=int, default=2, help="timed optimiser steps, after a warm-up")
    made.add_argument(
        "--microbatch-tokens", type=int, default=1024, help="gnomon's budget of one forward pass"
    )
    made.add_argument("--tiny", action="store_true", help="seconds: a random model, random rows")
    made.add_argument("--json", type=Path, help="write the figures here as well")
    return made


@contextmanager
def workplace(args: argparse.Namespace) -> Iterator[Workplace]:
    """The model's folder, its tokenizer and room for the rows, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        if args.tiny:
            model = _tiny_model(Path(folder, "model"))
        elif args.model == "smollm2-135m":
            from gnomon.models.smollm2 import cached_folder

            model = cached_folder()
        else:
            model = Path(args.model)
        yield Workplace(model, Path(folder), None if args.tiny else _existing(args.data))


@dataclass
class Workplace:
    """Where a benchmark works: the model, a temporary folder, the data (None: random rows)."""

    model: Path
    folder: Path
    data: Path | None

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model)

    def vocabulary(self) -> int:
        return int(json.loads((self.model / "config.json").read_text())["vocab_size"])

    def keep(self, rows: Rows, name: str = "rows") -> str:
        """Write rows where both sides read them; returns the file's name."""
        path = self.folder / f"{name}.json"
        save(rows, path)
        return str(path)


def _existing(data: Path) -> Path | None:
    return data if data.is_dir() else None


def _tiny_model(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from gnomon.tasks.tunnel.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- results --------------------------------------------------------------------------------------


def rate(tokens_per_step: Sequence[float], measured: Measured, cpu: bool = False) -> float:
    """Median over the timed steps of tokens (or rows) per second."""
    seconds = measured.cpu_seconds if cpu else measured.seconds
    pairs = zip(tokens_per_step[1:], seconds[1:], strict=True)
    return statistics.median(tokens / max(s, 1e-9) for tokens, s in pairs)


def show(title: str, columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Print a table; floats get three significant digits."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for line in lines:
        table.add_row(*(_text(cell) for cell in line))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return "" if cell is None else str(cell)


def finish(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write the results as JSON where that was asked for."""
    if args.json is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        said = {"machine": machine(), "settings": settings, **results}
        args.json.write_text(json.dumps(said, indent=2, default=asdict) + "\n")
