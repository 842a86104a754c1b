"""What only a GPU can answer: attention's kernels, and no memory left."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gnomon.data.batch import TokenGroup, TokenResponse, pack
from gnomon.errors import MemoryExhaustedError
from gnomon.models.varlen import Attention, Kind, PassPlan
from gnomon.stages import run
from gpu_runs_bench import (
    Bench,
    Stops,
    UnexpectedError,
    check,
    item,
    spawned,
    tail,
)


def _attention(lengths: Sequence[int]) -> tuple[PassPlan, list[Tensor]]:
    """Rows of such lengths, and their queries, keys and values: 16 heads over 8, 128 wide."""
    groups = [
        TokenGroup(str(i), [1] * 8, (TokenResponse([1] * (n - 8), [True] * (n - 8)),))
        for i, n in enumerate(lengths)
    ]
    batch = pack(groups).to(torch.device("cuda"))
    draw = torch.Generator("cuda").manual_seed(0)
    given = [
        torch.randn(heads, batch.num_tokens, 128, device="cuda", generator=draw)
        .bfloat16()
        .requires_grad_()
        for heads in (16, 8, 8)
    ]
    return PassPlan.of(batch), given


def _gradients(
    way: Kind, plan: PassPlan, given: Sequence[Tensor], fixed: bool = False
) -> tuple[Tensor, ...]:
    out = Attention(plan, way, fixed).attend(*given)
    return torch.autograd.grad((out * torch.linspace(-1, 1, 128, device="cuda")).sum(), given)


def _milliseconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


@item("attention new shapes")
def new_shapes(bench: Bench) -> str:
    """Forward and backward over rows of lengths not seen before, and once more."""
    bench.needs_gpu()
    said = []
    for k, (way, kernel) in enumerate(
        (
            ("varlen", None),
            ("blocks", SDPBackend.FLASH_ATTENTION),
            ("blocks", SDPBackend.CUDNN_ATTENTION),
            ("blocks", None),
        )
    ):
        times: list[tuple[float, float]] = []
        for i in range(9):
            plan, given = _attention([300 + 40 * i + k] * 8)
            with contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel):
                work = functools.partial(_gradients, way, plan, given)
                times.append((_milliseconds(work), _milliseconds(work)))
        first, again = (statistics.median(column) for column in zip(*times[1:], strict=True))
        name = way if kernel is None else f"{way} by {kernel.name.split('_')[0].lower()}"
        said.append(f"{name} {first:.1f} ms, again {again:.1f}")
    return "; ".join(said)


@item("attention repeats")
def repeats(bench: Bench) -> str:
    """Gradients of long rows four times, as kernels add up by default and in a fixed order, where
    they must be the same; the time of one; and whether torch's switch is off again."""
    bench.needs_gpu()
    ways: tuple[Kind, ...] = ("varlen", "blocks")
    said, odd = [], []
    for way, longest, fixed in itertools.product(ways, (250, 2000, 16000), (False, True)):
        plan, given = _attention([longest, longest // 2])
        work = functools.partial(_gradients, way, plan, given, fixed)
        one, *others = (work() for _ in range(4))
        same = all(torch.equal(a, b) for other in others for a, b in zip(one, other, strict=True))
        name = f"{way} {longest}{' fixed' if fixed else ''}"
        said.append(f"{name}: {'the same' if same else 'OTHER'} bits, {_milliseconds(work):.1f} ms")
        odd += [name] if fixed and not same else []
        check(not torch.are_deterministic_algorithms_enabled(), f"{name}: the switch is left on")
    check(not odd, "; ".join(said))
    return "; ".join(said)


@item("memory runs out")
def exhausted(bench: Bench) -> str:
    """A step that does not fit: what is said, and whether the change that it names resumes."""
    bench.needs_gpu()
    train = {"batch_size": 512, "tokens_per_microbatch": 65536, "checkpoint_every": 1}
    raw = bench.recipe([bench.stage("sft", 4, train=train)], name="exhausted", precision="float32")
    peaks = _Peaks(1)
    with contextlib.suppress(run.RunStopped):
        bench.run(raw, callbacks=[peaks])
    torch.cuda.empty_cache()
    changes: list[str] = []
    texts: list[str] = []
    with _ballast(bench, int(0.5 * peaks.highest)):
        for _ in range(6):
            try:
                bench.run(raw, resume=True)
                break
            except MemoryExhaustedError as error:
                texts.append(str(error))
            print(texts[-1], file=bench.log)
            torch.cuda.empty_cache()
            named = re.findall(r"\.train\.(\w+)=(\w+)", texts[-1])
            check(bool(named) and "checkpoint" in texts[-1], f"it says: {texts[-1]}")
            changes += [f"{key}={value}" for key, value in named]
            for key, value in named:
                raw["stages"][0]["train"][key] = yaml.safe_load(value)
        else:
            raise UnexpectedError(f"still after {changes}: {texts[-1]}")
    check(bool(changes), "the step fitted into half of what it took")
    said = f"{peaks.highest / 1e9:.2f} GB into half of it; {changes} ran; {texts[0]}"
    check(len(texts) == 1, f"it took {len(texts)} attempts: {said}")
    return said


_HOLDS = """
import sys, torch
torch.empty(1, device="cuda")
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _ballast(bench: Bench, leaves: int) -> Iterator[None]:
    """Another process holds the GPU's memory but for so many bytes."""
    said = bench.folder / "ballast.txt"
    with spawned(said, "-c", _HOLDS, str(leaves)) as child:
        until = time.monotonic() + 60
        while "held" not in said.read_text():
            check(child.poll() is None, f"the other process ended: {tail(bench, said)}")
            check(time.monotonic() < until, "the other process does not start")
            time.sleep(0.05)
        yield


class _Peaks(Stops):
    """Notes the most bytes that tensors took in a step, until it stops the run."""

    highest = 0.0

    def on_step(self, event: Any) -> None:
        self.highest = 1e9 * event.metrics["peak_gpu_gb"]
        super().on_step(event)


@item("memory and dry run")
def planned(bench: Bench) -> str:
    """What the plan says of card, precision, memory and time, beside what a run took."""
    train = {"batch_size": bench.size(512, 4), "tokens_per_microbatch": bench.size(65536, 512)}
    stage = bench.stage("sft", bench.size(4, 2), train=train)
    raw = bench.recipe([stage], name="planned")
    said = bench.cli("run", str(bench.write(raw)), "--dry-run")
    how = next(line for line in said.splitlines() if "runs on" in line).strip()
    clock = next((line.strip() for line in said.splitlines() if "time:" in line), "no time")
    if bench.cuda:
        check("mixed precision" in how, how)
        check(torch.cuda.get_device_name() in how, how)
    made = bench.run(raw)
    guess = next((line for line in made.said if "estimated memory" in line), "")
    guess = guess.partition("estimated memory ")[2]
    peak = made.column("peak_gpu_gb")
    real = f"{peak[-1]:.2f} GB" if peak else "not counted on a CPU"
    took = f"{sum(made.column('seconds')):.1f} s"
    return f"{how[:90]}; {clock[:60]} (took {took}); predicted {guess}, real {real}"
