"""What this machine does in a second, measured: matrices, memory, a training step, decoding.

A data sheet does not know what torch reaches here. The probe runs the real parts on a small Llama
with random weights, and solves for the five numbers that :mod:`gnomon.plan.cost` needs:

    matrices     the rate of a matrix multiplication as wide as a model's
    bandwidth    a vector times a matrix larger than the caches, as in decoding one row
    layer, step  what a layer's call costs: a training step on a few tokens, decoding one row
    half         a training step on short sequences, less what the above explain
    attention    a training step on one long sequence, less what the above explain

With one thread CPU time is taken, so that a machine that does other work too is measured as if it
were alone; with more threads, and on a GPU, the clock, and the quickest of several tries.

On a GPU the model is wider and the sequences longer, since launching the kernels of few tokens
takes longer than running them; steps are of float32 weights with bfloat16 products, as ``precision:
auto`` trains there; and the rate of float32 products is taken beside.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import Field
from transformers import LlamaConfig, LlamaForCausalLM

from gnomon.data.batch import Batch, pack
from gnomon.errors import ConfigError
from gnomon.models.logprobs import OutputHead, token_logprobs
from gnomon.models.packed import PackedForward
from gnomon.models.precision import Precision, pick_precision
from gnomon.models.smollm2 import cache_root
from gnomon.plan.cost import Work, work
from gnomon.plan.hardware import HERE, Gpu, Hardware, Reach, parse_hardware
from gnomon.plan.job import Job
from gnomon.plan.kernels import layer_kernels
from gnomon.plan.shapes import Shape
from gnomon.records import TokenGroup, TokenResponse
from gnomon.rollout.protocol import Request, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.runs.records import Record, now

TRIES, FEW = 3, 20
"""Of most parts, and of a training step of few tokens on a GPU, which other processes disturb."""
MODEL = Shape("probe", 6, 512, 1408, 8, 4, 64, 8192, tied=True)
SHORT, LONG, TINY = (8, 32, 96), (1, 128, 896), (1, 4, 4)
"""Groups, and tokens of their prompts and responses, of the three training steps."""
GPU_MODEL = Shape("probe", 4, 1024, 2816, 8, 4, 128, 8192, tied=True)
GPU_SHORT, GPU_LONG = (64, 32, 480), (1, 128, 32640)
"""The same for a GPU: of fewer tokens it would be the launching that is measured."""
LITTLE = Shape("little", 4, 64, 128, 4, 2, 16, 64, tied=True)
"""A model whose kernels take no time."""
DECODED = 24
READS = 8
"""Matrices read between two looks at the clock, for which a GPU is waited for."""


class Calibration(Record):
    """What a probe of a machine found.

    Attributes:
        machine: processor or GPU; ``threads`` of torch.
        made: when; ``took``: seconds.
        matrices: FLOP/s of wide matrices; ``attention``: FLOP/s of attention.
        bandwidth: bytes/s of weights read while decoding.
        half: width at which all that is no matrix takes as long as the matrices.
        layer, step: seconds of a layer's call, in training and in decoding.
        launch: on a GPU, seconds to launch a kernel.
        float32: FLOP/s of wide float32 matrices, where others are narrower; 0: as ``matrices``.
        memory: bytes.
        parts: what was timed: rates, and the seconds of a training step on a few tokens, on
            short sequences, on a long one, and of a step of decoding.
    """

    machine: str
    threads: int
    matrices: float
    attention: float
    bandwidth: float
    half: float
    layer: float
    step: float
    memory: float
    launch: float = 0.0
    float32: float = 0.0
    device: str = "cpu"
    parts: dict[str, float] = Field(default_factory=dict)
    torch: str = ""
    made: str = ""
    took: float = 0.0

    def hardware(self, price: float = 0.0, watts: float = 0.0) -> Hardware:
        """This machine as hardware of a plan.

        Args:
            price: euros an hour; ``watts``: at full load. Neither can be measured.
        """
        gpu = Gpu(
            name=f"{self.machine}, {self.threads} threads"
            if self.device == "cpu"
            else self.machine,
            memory=self.memory,
            flops=self.matrices,
            bandwidth=self.bandwidth,
            link=0.0,
            watts=watts,
            price=price,
            source=f"measured here, {self.made[:10]}",
            reach=self._reach(),
            measured=True,
            queued=self.device != "cpu",
            float32=self.float32,
        )
        return Hardware(1, gpu)

    def _reach(self) -> Reach:
        return Reach(
            top=1.0,
            half=self.half,
            attention=self.attention / self.matrices,
            bandwidth=1.0,
            float32=1.0,
            layer=self.layer,
            launch=self.launch,
            step=self.step,
        )


def machine_name(device: torch.device) -> str:
    """Of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def record_of(device: torch.device) -> Path:
    """Where the calibration of this machine is kept: one for a device, its threads and torch."""
    key = f"{machine_name(device)}|{device.type}|{torch.get_num_threads()}|{torch.__version__}"
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    return cache_root() / "calibrations" / f"{name}.json"


def calibration(
    again: bool = False,
    device: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """The calibration of this machine: the kept one, or a new one in about half a minute.

    Args:
        again: measure in any case, and replace what was kept.
        device: which; this machine's GPU, or its processor where it has none, if not given.
        tell: is told of each part before it is measured.

    Raises:
        ConfigError: the record cannot be written.
    """
    place = torch.device(device or device_of("here"))
    file = record_of(place)
    if not again and file.is_file():
        try:
            return Calibration.read(file)
        except ValueError:
            pass  # damaged, or of an earlier version: measured again
    found = measure(place, tell)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        found.write(file)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the calibration in {file}: {error}. Set GNOMON_CACHE"
        ) from None
    return found


def device_of(text: str) -> str:
    """What is probed for a name of this machine (``HERE``): its GPU, where there is one and it is
    not the processor that is named."""
    return "cuda" if torch.cuda.is_available() and text.strip().lower() != "cpu" else "cpu"


def hardware_of(text: str, price: float | None = None) -> Hardware:
    """The hardware that ``8xH100`` names, or this machine (``here``), which is probed once.

    Raises:
        ConfigError: no such hardware.
    """
    if text.strip().lower() in HERE:
        return calibration(device=device_of(text)).hardware(price or 0.0)
    return parse_hardware(text, price)


# -- measuring ------------------------------------------------------------------------------------


def measure(device: torch.device, tell: Callable[[str], None] = lambda text: None) -> Calibration:
    """Probe this machine; nothing is kept, and torch's random numbers go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _measure(device, tell)


def _measure(device: torch.device, tell: Callable[[str], None]) -> Calibration:
    began = time.perf_counter()
    clock, precision = _Clock(device), pick_precision("auto", device)
    dtype = torch.float32 if precision.name == "float32" else torch.bfloat16
    tell("multiplying matrices")
    parts = {"matrices": _matrices(clock, dtype)}
    if dtype != torch.float32:
        parts["float32"] = _matrices(clock, torch.float32)
    tell("reading memory")
    parts["bandwidth"] = _bandwidth(clock, dtype)
    shape, short, long = _probed(device.type)
    model = _model(shape, device)
    tell("training steps of a small model")
    for name, size in (("tiny", TINY), ("short", short), ("long", long)):
        parts[name] = _training(model, size, clock, precision)
    tell("decoding with a small model")
    parts["decoding"] = _decoding(model, clock, precision)
    return Calibration(
        machine=machine_name(device),
        threads=torch.get_num_threads(),
        memory=_memory(device),
        device=device.type,
        torch=torch.__version__,
        made=now(),
        took=time.perf_counter() - began,
        parts=parts,
        **solve(parts, device.type),
    )


def _probed(device: str) -> tuple[Shape, tuple[int, int, int], tuple[int, int, int]]:
    """The model, and the groups of its training steps on short sequences and on a long one."""
    return (MODEL, SHORT, LONG) if device == "cpu" else (GPU_MODEL, GPU_SHORT, GPU_LONG)


def solve(parts: Mapping[str, float], device: str) -> dict[str, float]:
    """The figures of a :class:`Calibration` from what was timed.

    A training step took m (1 + half / H) / matrices + a / attention + calls x layer, with its own
    m and a: the tiny one gives ``layer``, the other two are two equations of two unknowns. What
    comes out below what can be is set to its bound.
    """
    matrices, bandwidth = parts["matrices"], parts["bandwidth"]
    shape, *sizes = _probed(device)
    weights = shape.parameters * 4 / bandwidth
    # a step on a few tokens reads the weights twice and writes their gradients
    layer = max(1e-6, (parts["tiny"] - 3 * weights) / (3 * shape.layers))
    read = weights if device == "cpu" else weights / 2  # narrow copies, which are kept
    step = max(1e-6, (parts["decoding"] - read) / shape.layers)
    rows = []
    for size, seconds in zip(sizes, (parts["short"], parts["long"]), strict=True):
        done = _work(shape, *size)
        calls = done.calls * layer if device == "cpu" else 0.0
        rows.append((done.matrices / matrices, done.attention, seconds - calls))
    (m1, a1, t1), (m2, a2, t2) = rows
    slope = (t2 / m2 - t1 / m1) / (a2 / m2 - a1 / m1)  # seconds a FLOP of attention
    slope = max(slope, 0.2 / matrices)
    share = max(1.0, (t1 - a1 * slope) / m1)
    return {
        "matrices": matrices,
        "bandwidth": bandwidth,
        "layer": layer,
        "step": step,
        "half": (share - 1) * shape.hidden,
        "attention": 1 / slope,
        "float32": parts.get("float32", 0.0),
        "launch": 0.0 if device == "cpu" else 3 * layer / _launched(shape),
    }


def _launched(shape: Shape) -> float:
    """Kernels of a layer's forward and backward pass in the probe."""
    kernels = layer_kernels(shape, cast=True)
    return kernels.forward + kernels.backward


@dataclass(frozen=True)
class _Clock:
    """Seconds of a call: the quickest of several tries."""

    device: torch.device

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    def best(self, call: Callable[[], Any], tries: int = TRIES) -> float:
        call()
        found = []
        for _ in range(tries):
            began = self.now()
            call()
            found.append(self.now() - began)
        return min(found)


def launch(device: torch.device) -> float:
    """Seconds from one kernel to the next in a training step of a few tokens."""
    with torch.random.fork_rng(devices=[]):
        model = _model(LITTLE, device)
        spent = _training(model, TINY, _Clock(device), pick_precision("auto", device))
    return spent / LITTLE.layers / _launched(LITTLE)


def _matrices(clock: _Clock, dtype: torch.dtype) -> float:
    rows, wide = (512, 1024) if clock.device.type == "cpu" else (8192, 8192)
    a = torch.randn(rows, wide, device=clock.device, dtype=dtype)
    b = torch.randn(wide, 3 * wide, device=clock.device, dtype=dtype)
    calls = 1 if clock.device.type == "cuda" and dtype == torch.float32 else 8
    seconds = clock.best(lambda: [a @ b for _ in range(calls)], 2 * TRIES)
    return calls * 2.0 * rows * wide * 3 * wide / seconds


def _bandwidth(clock: _Clock, dtype: torch.dtype) -> float:
    wide = 8192
    matrix = torch.randn(wide, wide, device=clock.device, dtype=dtype)
    vector = torch.randn(1, wide, device=clock.device, dtype=dtype)
    reads = 1 if clock.device.type == "cpu" else READS
    multiply = torch.nn.functional.linear
    seconds = clock.best(lambda: [multiply(vector, matrix) for _ in range(reads)], 2 * TRIES)
    return reads * matrix.numel() * matrix.element_size() / seconds


def _model(shape: Shape, device: torch.device) -> LlamaForCausalLM:
    """A Llama of the probe's shape, with random weights."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )
    made: LlamaForCausalLM = LlamaForCausalLM(config).to(device=device)
    return made


def _batch(size: tuple[int, int, int]) -> Batch:
    groups, prompt, response = size
    said = TokenResponse([5] * response, [True] * response)
    return pack([TokenGroup(str(i), [3] * prompt, (said,)) for i in range(groups)])


def _training(
    model: LlamaForCausalLM, size: tuple[int, int, int], clock: _Clock, precision: Precision
) -> float:
    """Seconds of a forward and backward pass over the groups."""
    packed, head = PackedForward(model, probe=False), OutputHead.of(model)
    batch = _batch(size).to(clock.device)

    def step() -> None:
        with precision.arithmetic(model, keep=False):
            loss = -token_logprobs(packed.hidden(batch), head, batch).logprobs.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    few = clock.device.type == "cuda" and batch.num_tokens == TINY[0] * sum(TINY[1:])
    return clock.best(step, FEW if few else TRIES)


def _decoding(model: LlamaForCausalLM, clock: _Clock, precision: Precision) -> float:
    """Seconds of a step of decoding one row."""
    engine = TorchEngine(
        model.eval(),
        _NoText(),
        activate=partial(precision.arithmetic, model, keep=True),
        eos_token_ids=[],
    )

    def write(tokens: int) -> None:
        params = SamplingParams(max_new_tokens=tokens)
        engine.generate([Request("probe", (3,) * 32, 1)], params)

    more = clock.best(lambda: write(2 * DECODED)) - clock.best(lambda: write(DECODED))
    return max(1e-6, more / DECODED)


class _NoText:
    """Stands in for a tokenizer: what the probe writes is not read."""

    eos_token_id = None
    all_special_tokens: tuple[str, ...] = ()

    def batch_decode(self, rows: Any, **unused: Any) -> list[str]:
        return ["" for _ in rows]


def _work(shape: Shape, groups: int, prompt: int, response: int) -> Work:
    job = Job("sft", shape, groups, 1, prompt, response, prompt, response, 10**9)
    return work(job)["training"]


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(psutil.virtual_memory().total)
