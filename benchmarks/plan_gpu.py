"""How well the planner predicts a stage on a GPU: its peak memory, and the seconds of its step.

    python benchmarks/plan_gpu.py                  measure what is missing, and print the table
    python benchmarks/plan_gpu.py --table          the table of what was measured before
    python benchmarks/plan_gpu.py NAME ...         measure these again
    python benchmarks/plan_gpu.py --rows FILE      with rows in another file than plan/gpu.jsonl

Each configuration is a stage of the real code on a model with random weights, run for three steps
as the planner's probe runs it (:mod:`gnomon.stages.worst_step`), all in one process: in between
everything is given back to the GPU. Memory is what torch's allocator gave out at most
(``max_memory_allocated``), above what was taken before the model was loaded; the larger sum that it
held (``max_memory_reserved``) is beside it. Seconds are the quicker of the last two steps'.
Nothing is written that a disk's speed would decide: checkpoints are made up to the file.

A row holds the job in the planner's own numbers, so that ``--table`` predicts with the formulas as
they are now; ``--markdown`` prints the table of docs. Time's constants were chosen on ``TUNED``.
The step is predicted from the card's data sheet, from the half-minute probe of the machine
(:mod:`gnomon.plan.calibrate`), and as a dry run does (:mod:`gnomon.stages.clock`).

``--device cpu --tiny`` drives the same code at a size for a test, which measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gnomon.errors import ConfigError
from gnomon.models.load import read_config
from gnomon.plan.calibrate import Calibration, machine_name
from gnomon.plan.calibrate import measure as calibrate
from gnomon.plan.cost import Speed, speed_of, step_seconds, work
from gnomon.plan.hardware import Hardware, parse_hardware
from gnomon.plan.job import CACHED, Job
from gnomon.plan.memory import memory
from gnomon.plan.shapes import Shape
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_stage
from gnomon.stages.clock import measure as glance
from gnomon.stages.sizing import stage_job
from gnomon.stages.stage import run_stage
from gnomon.stages.worst_step import Meter, WorstStep, alone
from gnomon.training.callbacks import StepDone
from gnomon.training.loop import Loop
from plan_memory import JUDGE, Configuration, config_of, data_of
from worker import Finished

ROWS = Path(__file__).parent / "plan" / "gpu.jsonl"
STEPS = 3
GIB = 2**30
FROM = ("sheet", "probed", "glance")
"""What a step is predicted from: the data sheet, the machine's probe, a dry run's look at it."""

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {"kind": "Llama", "h": 576, "f": 1536, "n": 30, "heads": 9, "kv": 3, "d": 64,
             "v": 49152},
    "0.6b": {"kind": "Qwen3", "h": 1024, "f": 3072, "n": 28, "heads": 16, "kv": 8, "d": 128,
             "v": 151936},
    "1.7b": {"kind": "Qwen3", "h": 2048, "f": 6144, "n": 28, "heads": 16, "kv": 8, "d": 128,
             "v": 151936},
}  # fmt: skip
TUNED = (
    *("sft 0.6b, 2k", "sft 135m, 2k", "sft 135m, 32k in 16 rows", "sft 135m, LoRA, 32k"),
    *("sft 0.6b, LoRA, recomputed, 32k", "ppo 135m", "ppo 0.6b, LoRA", "dpo 0.6b, LoRA"),
)
"""Rows on which time's constants were chosen (plan/hardware.py, plan/cost.py), beside what
``benchmarks/gpu.py step`` and ``decode`` took."""
TINY = {"kind": "Qwen3", "h": 32, "f": 48, "n": 2, "heads": 4, "kv": 2, "d": 8, "v": 4096}


@dataclass(frozen=True)
class Case:
    """A configuration and the precision that it is run in."""

    stage: Configuration
    precision: str = "mixed"

    @property
    def name(self) -> str:
        return self.stage.name


def case(
    name: str,
    method: str,
    shape: str,
    size: tuple[int, int, int, int],
    budget: int,
    precision: str = "mixed",
    **more: Any,
) -> Case:
    """``size``: groups, responses of each, tokens of a prompt and of a response."""
    return Case(Configuration(name, "", method, shape, *size, budget, **more), precision)


LIVE, STORED = {"reference": "live"}, {"reference": "cached"}
CASES = (  # what decides most first: where time ends, the last are left out
    case("sft 0.6b, 8k", "sft", "0.6b", (4, 1, 256, 1792), 8192),
    case("sft 0.6b, 2k", "sft", "0.6b", (8, 1, 64, 192), 2048),
    case("sft 0.6b, recomputed, 32k", "sft", "0.6b", (1, 1, 768, 32000), 32768, recompute=True),
    case("sft 0.6b, LoRA, 8k", "sft", "0.6b", (4, 1, 256, 1792), 8192, lora=16),
    case("sft 0.6b, bfloat16, 8k", "sft", "0.6b", (4, 1, 256, 1792), 8192, "bfloat16"),
    case("sft 0.6b, float32, 4k", "sft", "0.6b", (4, 1, 256, 768), 4096, "float32"),
    case("dpo 0.6b, cached", "dpo", "0.6b", (4, 2, 512, 512), 8192, settings=STORED),
    case("dpo 0.6b, live", "dpo", "0.6b", (4, 2, 512, 512), 8192, settings=LIVE),
    case("reward model 0.6b", "reward_model", "0.6b", (8, 2, 256, 256), 8192),
    case("grpo 135m, K 8", "grpo", "135m", (8, 8, 256, 128), 8192),
    case("ppo 135m", "ppo", "135m", (16, 1, 256, 96), 8192, reward="model"),
    case("grpo 0.6b, LoRA, K 8", "grpo", "0.6b", (8, 8, 512, 96), 16384, lora=16),
    case("sft 1.7b, bfloat16, 8k", "sft", "1.7b", (4, 1, 256, 1792), 8192, "bfloat16"),
    case("sft 135m, 2k", "sft", "135m", (8, 1, 64, 192), 2048),
    case("sft 135m, 8k", "sft", "135m", (4, 1, 256, 1792), 8192),
    case("sft 135m, 32k in one row", "sft", "135m", (1, 1, 768, 32000), 32768),
    case("sft 135m, 32k in 16 rows", "sft", "135m", (16, 1, 256, 1792), 32768),
    case("sft 135m, float32, 8k", "sft", "135m", (4, 1, 256, 1792), 8192, "float32"),
    case("sft 135m, LoRA, 32k", "sft", "135m", (16, 1, 256, 1792), 32768, lora=16),
    case("sft 0.6b, 16k in four parts", "sft", "0.6b", (8, 1, 256, 1792), 4096),
    case("sft 0.6b, LoRA, recomputed, 32k", "sft", "0.6b", (16, 1, 256, 1792), 32768, lora=16,
         recompute=True),
    case("dpo 0.6b, LoRA", "dpo", "0.6b", (4, 2, 512, 512), 8192, lora=16),
    case("ppo 0.6b, LoRA", "ppo", "0.6b", (8, 1, 512, 64), 8192, lora=16),
    case("grpo 0.6b, recomputed, 256 rows", "grpo", "0.6b", (16, 16, 256, 64), 16384,
         recompute=True),
    case("sft 1.7b, recomputed, 16k", "sft", "1.7b", (8, 1, 256, 1792), 16384, recompute=True),
    case("sft 0.6b, bfloat16, recomputed, 64k", "sft", "0.6b", (32, 1, 256, 1792), 65536,
         "bfloat16", recompute=True),
)  # fmt: skip
STALE = tuple(found.name for found in CASES if "recomputed" in found.name)
"""Rows whose steps were timed when each recomputed layer cost the host some milliseconds more:
their memory counts."""


def small(found: Case) -> Case:
    """The same way to train with a tiny model and few tokens."""
    s = found.stage
    sizes = {"G": min(s.G, 4), "K": min(s.K, 2), "P": 8, "T": 8, "budget": 64, "shape": "tiny"}
    return replace(found, stage=replace(s, **sizes))


# -- one configuration ----------------------------------------------------------------------------


@dataclass
class Moments:
    """Bytes above the base within the training of a step, at most: ``held`` when each moment ended,
    and ``peak`` during it."""

    held: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)

    def see(self, name: str, held: float, peak: float) -> None:
        self.held[name] = max(held, self.held.get(name, 0.0))
        self.peak[name] = max(peak, self.peak.get(name, 0.0))


class FinerMeter(Meter):
    """A meter that looks into the training of a step, and at what the allocator holds.

    Attributes:
        reserved: most bytes that the allocator held, those before the model was loaded among them.
        steps: seconds of each step, by phase, and ``whole``.
        moments: of the last step.
    """

    def __init__(self, device: torch.device) -> None:
        self.reserved = 0.0
        self.steps: list[dict[str, float]] = []
        self.moments = self._next = Moments()
        super().__init__(device)

    def note(self) -> None:
        super().note()
        if self.cuda:
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())

    def mark(self, moment: str) -> None:
        """End a moment of training."""
        self.note()
        self._next.see(moment, self._now() - self.base, self._highest() - self.base)
        self._reset()

    def on_step(self, event: StepDone) -> None:
        super().on_step(event)
        self.steps.append(self.seconds | {"whole": float(event.metrics["seconds"])})
        self.moments, self._next = self._next, Moments()

    def best(self) -> dict[str, float]:
        """Seconds of the quickest step after the first, by phase."""
        return min(self.steps[1:], key=lambda step: step["whole"])


class MarkedStep(WorstStep):
    """A worst-case step whose training is measured moment by moment, and that writes nothing."""

    def _loop(self, *given: Any) -> Loop:
        loop = super()._loop(*given)
        updater: Any = loop.updater
        store: Any = loop.checkpoints
        meter: Any = self.meter
        step, optimizer, strategy = updater.step, updater.optimizer, updater.strategy
        backward, move = strategy.backward, optimizer.step
        parts = [0]

        def begin(*args: Any) -> Any:
            parts[0] = 0
            meter.mark("before")
            return step(*args)

        def down(loss: Any) -> None:
            later = "later " if parts[0] else ""
            meter.mark(f"{later}forward")
            backward(loss)
            meter.mark(f"{later}backward")
            parts[0] += 1

        def moved() -> None:
            meter.mark("clipping")
            move()
            meter.mark("optimizer")

        def written(*args: Any, **more: Any) -> None:
            raise Finished

        updater.step, strategy.backward, optimizer.step = begin, down, moved
        store.save = written
        return loop


def measure(found: Case, model: Path, device: torch.device) -> dict[str, Any]:
    """The row of a configuration; one that fails holds what was said."""
    began = time.perf_counter()
    row: dict[str, Any] = {"name": found.name, "card": machine_name(device)}
    row |= {"torch": torch.__version__, "precision": found.precision}
    with tempfile.TemporaryDirectory(prefix="plan-gpu-") as folder:
        place = Path(folder)
        recipe = _recipe(found, place, model, device)
        single = alone(recipe, recipe.stages[-1], place / "work", place)
        spec = single.stages[0]
        train = spec.train.model_copy(update={"steps": STEPS, "checkpoint_every": STEPS})
        spec = spec.model_copy(update={"train": train})
        single = single.model_copy(update={"stages": [spec]})
        run = RunFolder(single)
        stage = MarkedStep(single, spec, run, place)
        check_stage(stage)
        run.open(False)
        _give_back(device)
        stage.meter = meter = FinerMeter(device)
        try:
            run_stage(stage, False, callbacks=[meter])
        except Finished:
            meter.switch("end")
        except Exception as error:
            row["error"] = "".join(traceback.format_exception(error))[-2000:]
        _give_back(device)
        row |= _measured(meter) | _predicted(stage)
    row["wall"] = time.perf_counter() - began
    return row


def _measured(meter: FinerMeter) -> dict[str, Any]:
    instants = {name: size for name, size in meter.peaks.items() if name != "end"}
    return {
        "peak": max(instants.values(), default=0.0),
        "reserved": meter.reserved,
        "base": meter.base,
        "instants": instants,
        "moments": asdict(meter.moments),
        "seconds": meter.best() if len(meter.steps) > 1 else {},
        "steps": meter.steps,
        "tokens": meter.tokens,
    }


def _predicted(stage: WorstStep) -> dict[str, Any]:
    """The job, and what the formulas say of it as they are now."""
    job = stage_job(stage, stage.longest)
    estimate = memory(job)
    speed = glance(read_config(Path(stage.recipe.model)), stage.precision.frozen, stage.device)
    return {
        "job": asdict(job),
        "always": dict(estimate.always),
        "added": dict(estimate.instants),
        "glance": asdict(speed),
    }


def _give_back(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _recipe(found: Case, place: Path, model: Path, device: torch.device) -> Recipe:
    """The recipe of a configuration, with its data."""
    s = found.stage
    (place / "judge.py").write_text(JUDGE)
    lora = {"lora": {"rank": s.lora}} if s.lora else {}
    train = {
        "batch_size": s.G,
        "tokens_per_microbatch": s.budget,
        "gradient_checkpointing": s.recompute,
        "lr": 1e-6,
    }
    stage: dict[str, Any] = {"name": "stage", "algorithm": s.method, "data": data_of(s, place)}
    stage |= {"train": train, "settings": s.settings, **lora}
    stages = [stage]
    if s.method in ("ppo", "grpo"):
        stage["rollout"] = {"samples": s.K, "max_new_tokens": s.T}
        stage["reward"] = [{"function": "judge.py:length"}]
        if s.reward == "model":
            stages.insert(0, {"name": "rm", "algorithm": "reward_model", "data": "pairs", **lora})
            stage["reward"] = [{"model": "rm"}]
    recipe = {
        "name": "memory",
        "model": str(model),
        "output": str(place / "runs"),
        "device": device.type,
        "precision": found.precision,
        "template": "raw",
        "max_length": s.P + s.T + 16,
        "stages": stages,
    }
    return parse_recipe(recipe)


def save_model(shape: str, place: Path, device: torch.device) -> Path:
    """A model with random weights in bfloat16, and the tunnel's tokenizer; made once."""
    import transformers

    from gnomon.tasks.tunnel.tokenizer import build_tokenizer

    if place.is_dir():
        return place
    config = config_of(SHAPES.get(shape, TINY), window=40960)
    torch.manual_seed(0)
    with device:
        made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return place


# -- all of them ----------------------------------------------------------------------------------


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by configuration; of one measured twice the last."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {row["name"]: row for line in lines if (row := json.loads(line))}


def keep(file: Path, row: dict[str, Any]) -> None:
    """Append a row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def measure_all(
    cases: Sequence[Case], file: Path, device: torch.device, seconds: float, warm: bool
) -> None:
    """Measure configurations one by one, as many as are begun within so many seconds.

    Args:
        warm: run a small one first, so that libraries are there and their memory is taken, and
            probe the machine.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="plan-models-") as folder:
        models = Path(folder)
        if warm:
            _warm(file, models, device)
            print(f"the machine is probed, {time.perf_counter() - began:.0f} s", flush=True)
        for found in cases:
            spent = time.perf_counter() - began
            if spent > seconds:
                print(f"{found.name}: not begun, {spent:.0f} s are over", flush=True)
                continue
            try:
                model = save_model(found.stage.shape, models / found.stage.shape, device)
                row = measure(found, model, device)
            except Exception as error:
                row = {"name": found.name, "error": "".join(traceback.format_exception(error))}
            keep(file, row)
            print(_line(row), flush=True)


def _warm(file: Path, models: Path, device: torch.device) -> None:
    """Run a small configuration, and probe the machine."""
    try:
        measure(small(CASES[0]), save_model("tiny", models / "tiny", device), device)
        keep(file, {"name": "calibration"} | calibrate(device).model_dump())
    except Exception:
        print(f"the machine's probe failed: {traceback.format_exc()[-600:]}", flush=True)


def _line(row: dict[str, Any]) -> str:
    """What was measured, in a line."""
    if "error" in row:
        said = row["error"].strip().splitlines()
        return f"{row['name']}: failed: {' / '.join(said[-2:])[:300]}"
    peak, seconds = predicted(row).peak, row["seconds"]["whole"]
    return (
        f"{row['name']}: {row['peak'] / GIB:.2f} GiB, predicted {peak / GIB:.2f} "
        f"({_off(peak, row['peak']):+.0%}); step {seconds:.2f} s; {row['wall']:.0f} s in all"
    )


def _off(planned: float, taken: float) -> float:
    return planned / taken - 1 if taken else math.nan  # a tiny model fits what was freed before it


# -- the table ------------------------------------------------------------------------------------


def job_of(row: dict[str, Any]) -> Job:
    """A row's job."""
    raw = dict(row["job"])
    raw["model"] = _shape(raw["model"])
    raw["reward"] = None if raw["reward"] is None else _shape(raw["reward"])
    raw["others"] = tuple(_shape(other) for other in raw["others"])
    return Job(**raw)


def _shape(raw: dict[str, Any]) -> Shape:
    kept = raw["kept"]
    return Shape(**raw | {"kept": None if kept is None else tuple(kept)})


def predicted(row: dict[str, Any]) -> Any:
    """The formulas' memory of a row's job as they are now."""
    return memory(job_of(row))


def sheet_of(card: str) -> Hardware | None:
    """The card's row of the data sheets, if there is one."""
    with suppress(ConfigError):
        return parse_hardware(card)
    return None


def seconds_of(row: dict[str, Any], probed: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    """Seconds of a row's step by phase, for each of ``FROM`` that is there."""
    job, speeds = job_of(row), dict[str, Speed]()
    sheet = sheet_of(row["card"])
    if sheet is not None:
        speeds["sheet"] = speed_of(sheet, job.model)
    if probed is not None:
        fields = {key: value for key, value in probed.items() if key != "name"}
        speeds["probed"] = speed_of(Calibration(**fields).hardware(), job.model)
    if row["glance"].get("launch") is not None:  # a dry run's look before 2026-11-27 had none
        speeds["glance"] = Speed(**row["glance"])
    found = {name: step_seconds(job, speed) for name, speed in speeds.items()}
    if job.method in CACHED and not job.references:  # asked before the first step alone
        for seconds in found.values():
            seconds.pop("reference", None)
    return found


def mfu(row: dict[str, Any]) -> float:
    """Share of the data sheet's FLOP/s in training, what is computed again not counted."""
    sheet = sheet_of(row["card"])
    if sheet is None:
        return math.nan
    done = work(replace(job_of(row), recompute=False))["training"].flop
    return done / row["seconds"]["training"] / sheet.gpu.flops


def table(file: Path) -> None:
    """Predicted and measured, of each configuration."""
    rows = rows_of(file)
    probed = rows.pop("calibration", None)
    card = next((row["card"] for row in rows.values() if "card" in row), "nothing")
    version = next((row["torch"] for row in rows.values() if "torch" in row), "")
    print(f"{card}, torch {version}: GiB at the peak, and seconds of a step")
    heads = ("planned", "taken", "error", "reserved", *FROM, "taken", "tokens/s", "MFU")
    print(f"{'':38}" + "".join(f"{head:>9}" for head in heads) + "  planned worst, taken worst")
    errors = []
    for name, row in rows.items():
        if "error" in row:
            print(f"{name:38} failed: {row['error'].strip().splitlines()[-1][:100]}")
            continue
        estimate, seconds = predicted(row), seconds_of(row, probed)
        errors.append(_off(estimate.peak, row["peak"]))
        cells = (
            f"{estimate.peak / GIB:.2f}",
            f"{row['peak'] / GIB:.2f}",
            f"{errors[-1]:+.0%}",
            f"{row['reserved'] / GIB:.2f}",
            *(f"{sum(seconds[n].values()):.2f}" if n in seconds else "" for n in FROM),
            f"{row['seconds']['whole']:.2f}",
            f"{row['tokens']['training'] / row['seconds']['training']:,.0f}",
            "" if math.isnan(mfu(row)) else f"{mfu(row):.0%}",
        )
        worst = max(row["instants"], key=row["instants"].get)
        print(f"{name:38}" + "".join(f"{c:>9}" for c in cells) + f"  {estimate.worst}, {worst}")
    if errors:
        mean = sum(map(abs, errors)) / len(errors)
        print(
            f"memory: {len(errors)} configurations, mean absolute error {mean:.0%}, from "
            f"{min(errors):+.0%} to {max(errors):+.0%}"
        )
        print(*time_lines(rows, probed), sep="\n")


def time_lines(rows: dict[str, dict[str, Any]], probed: dict[str, Any] | None) -> list[str]:
    """How far the predicted seconds are off, for each of ``FROM`` and half of the rows."""
    said = []
    for source in FROM:
        for half in ("tune", "held out"):
            off = [
                _off(sum(found[source].values()), row["seconds"]["whole"])
                for name, row in rows.items()
                if (half == "tune") == (name in TUNED) and "error" not in row and name not in STALE
                if source in (found := seconds_of(row, probed))
            ]
            if off:
                mean = sum(map(abs, off)) / len(off)
                close = sum(abs(o) <= 0.3 for o in off)
                said.append(
                    f"seconds by {source}, {half}: {close} of {len(off)} within 30%, mean "
                    f"{mean:.0%}, from {min(off):+.0%} to {max(off):+.0%}"
                )
    return said


def markdown(file: Path) -> list[str]:
    """The table of docs: memory and seconds of each configuration, predicted and measured."""
    rows = rows_of(file)
    probed = rows.pop("calibration", None)
    known = [seconds_of(row, probed) for row in rows.values() if "error" not in row]
    sources = [name for name in FROM if any(name in seconds for seconds in known)]
    heads = (
        "stage",
        "half",
        "GiB planned",
        "GiB",
        "error",
        *(f"s by {name}" for name in sources),
        "s",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        if "error" in row:
            continue
        peak, seconds, taken = predicted(row).peak, seconds_of(row, probed), row["seconds"]["whole"]
        totals = (sum(seconds[source].values()) if source in seconds else 0.0 for source in sources)
        cells = (
            *(name, "tune" if name in TUNED else "held out"),
            *(f"{peak / GIB:.2f}", f"{row['peak'] / GIB:.2f}", f"{_off(peak, row['peak']):+.1%}"),
            *(
                f"{s:.2f} ({_off(s, taken):+.0%})" if s and name not in STALE else ""
                for s in totals
            ),
            "" if name in STALE else f"{taken:.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="configurations to measure again")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of rows")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--markdown", action="store_true", help="print it as docs have it")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few tokens")
    parser.add_argument(
        "--seconds", type=float, default=270, help="begin no configuration after so many"
    )
    args = parser.parse_args(given)
    if args.markdown:
        print(*markdown(args.rows), sep="\n")
        return
    if not args.table:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit(
                f"there is no CUDA device for torch {torch.__version__} here, so nothing can be "
                "measured. --device cpu --tiny drives the same code at a tiny size"
            )
        if args.device == "cpu" and not args.tiny:
            raise SystemExit("--device cpu goes with --tiny: plan_memory.py measures on a CPU")
        done = rows_of(args.rows)
        cases = [c for c in CASES if (c.name in args.names if args.names else c.name not in done)]
        cases = [small(c) for c in cases] if args.tiny else cases
        measure_all(cases, args.rows, torch.device(args.device), args.seconds, not args.tiny)
    table(args.rows)


if __name__ == "__main__":
    main()
