"""What serving the finished model takes: first token, tokens a second, memory, for each engine.

For a model of W bytes of weights, prompts of p tokens and answers after them, n at a time:

    memory        W + n x (p + answer) x the cache of a token + what the engine takes itself
    first token   2 P p FLOP and attention at the engine's rate, or W read once if that is longer,
                  and a call of every layer
    a step        W read (of experts, those that some answer chose) + the caches read
                  + n x 2 P FLOP at the engine's rate + a call of every layer
    tokens/s      n / a step

Quantised weights are read as they lie and multiplied as they are unpacked: on a GPU at the rate of
bfloat16, on a processor at ``UNPACKED`` times the rate of float32. Nothing waits for requests here:
these are the engine's figures, not those of a service with a queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from gnomon.plan.cost import GRAPHED, Speed, speed_of, touched
from gnomon.plan.hardware import Hardware
from gnomon.plan.shapes import Shape
from gnomon.report.compute import forward_pass

BITS: dict[str, float] = {
    "F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.68, "Q4_K_M": 4.84, "Q4_1": 5.0,
    "Q3_K_M": 3.91, "Q2_K": 3.35,
}  # fmt: skip
"""Bits a weight of llama.cpp's formats, scales included: examples/quantize of llama.cpp, for
Llama 2 7B; of small models, whose embeddings keep more, up to 10% more."""
UNPACKED = 0.2
"""Rate of products with quantised weights on a processor, to that of float32 matrices: chosen on
one measurement (benchmarks/plan_serving.py) of a build without AVX-512. A native one is faster."""
LLAMA_STEP = 4e-5
"""Seconds of a layer's step in llama.cpp beside reading and multiplying."""
OWN = {"torch": 1.5e9, "vllm": 2.5e9, "llama.cpp": 0.5e9}
"""Bytes that an engine takes on a GPU beside weights and cache: context, kernels, graphs."""
OWN_CPU = {"torch": 0.4e9, "vllm": 1.2e9, "llama.cpp": 0.05e9}
"""The same of processes on a processor: Python and its libraries."""


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        prompt, answer: tokens; ``together``: answers written at once.
    """

    prompt: int = 512
    answer: int = 256
    together: int = 16


@dataclass(frozen=True)
class Serving:
    """One engine serving the model.

    Attributes:
        engine: torch, vllm or llama.cpp; ``weights``: their format.
        memory: bytes on each GPU (or of the process); ``fits``: whether the hardware has that.
        first_token: seconds from a prompt to its first token, alone.
        one: tokens a second of one answer alone; ``all``: of all answers written together.
        note: what to know.
    """

    engine: str
    weights: str
    memory: float
    fits: bool
    first_token: float
    one: float
    all: float
    note: str = ""


def serving(shape: Shape, hardware: Hardware, load: Load | None = None) -> list[Serving]:
    """The engines that could serve a model on the hardware, each with its figures.

    With several GPUs the weights are divided over them and every one reads its part (vLLM's tensor
    parallelism); the torch engine of gnomon and llama.cpp are given one GPU.
    """
    load = load or Load()
    processor = not hardware.gpu.queued
    plain = ("float32", 32.0) if processor else ("bfloat16", 16.0)
    rows: Sequence[tuple[str, str, float]] = [
        ("torch", *plain),
        ("vllm", *plain),
        *(("llama.cpp", name, bits) for name, bits in BITS.items() if name != "Q4_1"),
    ]
    return [serve(shape, hardware, engine, name, bits, load) for engine, name, bits in rows]


def table(rows: Sequence[Serving], load: Load, hardware: Hardware) -> Table:
    """The engines side by side."""
    title = f"Serving the finished model on {hardware}: prompts of {load.prompt:,} tokens, answers"
    made = Table(
        title=f"{title} of {load.answer:,}", title_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    for i, head in enumerate(
        ("engine", "weights", "memory", "first token", "tokens/s, one", f"{load.together} together")
    ):
        made.add_column(head, justify="left" if i < 2 else "right")
    for row in rows:
        made.add_row(
            row.engine, row.weights,
            f"{row.memory / 1e9:.1f} GB" + ("" if row.fits else ", too large"),
            f"{1000 * row.first_token:,.0f} ms", f"{row.one:,.1f}", f"{row.all:,.0f}",
            style="" if row.fits else "dim",
        )  # fmt: skip
    return made


def serve(
    shape: Shape, hardware: Hardware, engine: str, weights: str, bits: float, load: Load
) -> Serving:
    """One engine's figures.

    Args:
        bits: of a weight, scales included.
    """
    count = hardware.count if engine == "vllm" else 1
    one = Hardware(count, hardware.gpu)
    speed = speed_of(one, shape)
    processor = not hardware.gpu.queued
    size = bits / 8
    cache = shape.cache_numbers * (4 if processor and engine != "llama.cpp" else 2)
    tokens = load.together * (load.prompt + load.answer)
    own = (OWN_CPU if processor else OWN)[engine]
    memory = (shape.parameters * size + tokens * cache) / count + own
    step = _step_seconds(engine, speed)
    rate = _rate(engine, bits, speed, processor)
    first = _first_token(shape, speed, rate, size, load.prompt) + shape.layers * step

    def rest(rows: int) -> float:
        """Seconds of a step of so many answers."""
        context = load.prompt + load.answer / 2
        read = touched(shape, rows) * size + rows * context * cache
        work = rows * (forward_pass(shape.active_parameters, 1) + shape.attended(context))
        return read / speed.bandwidth + work / rate + shape.layers * step

    return Serving(
        engine=engine,
        weights=weights,
        memory=memory,
        fits=memory <= 0.95 * hardware.gpu.memory,
        first_token=first,
        one=1 / rest(1),
        all=load.together / rest(load.together),
        note=_note(engine, hardware),
    )


def _step_seconds(engine: str, speed: Speed) -> float:
    return {"vllm": GRAPHED, "llama.cpp": LLAMA_STEP}.get(engine, speed.step)


def _rate(engine: str, bits: float, speed: Speed, processor: bool) -> float:
    """FLOP/s of the engine's products with many rows."""
    wide = speed.wide or speed.flops
    return wide * UNPACKED if engine == "llama.cpp" and processor and bits < 16 else wide


def _first_token(shape: Shape, speed: Speed, rate: float, size: float, prompt: int) -> float:
    """Seconds of the prompt's pass."""
    matrices = forward_pass(shape.active_parameters - shape.embedding, prompt)
    attention = prompt * shape.attended(prompt / 2)
    share = rate / (speed.wide or speed.flops)  # of what the engine reaches
    computed = matrices / (speed.flops * share) + attention / (speed.attention or rate)
    return max(computed, touched(shape, prompt) * size / speed.bandwidth)


def _note(engine: str, hardware: Hardware) -> str:
    if engine == "torch":
        return "for trials: gnomon's sampler, no server"
    if engine == "llama.cpp" and hardware.count > 1:
        return "on one of the GPUs"
    if engine == "vllm" and not hardware.gpu.queued:
        return "vLLM's build for processors; its figures here are formulas of those for GPUs"
    return ""
