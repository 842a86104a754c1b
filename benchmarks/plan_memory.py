"""How well the planner predicts a stage's peak memory: configurations measured here, on a CPU.

    python benchmarks/plan_memory.py             measure what is missing, and print the table
    python benchmarks/plan_memory.py --table     the table of what was measured before
    python benchmarks/plan_memory.py NAME ...    measure these again

Each configuration is a stage of the real code on a model with random weights, run for two steps in
a process of its own by the probe (:mod:`gnomon.stages.worst_step`). Measured is the kernel's
high-water mark of resident memory (VmHWM, reset at each instant) above what was resident before the
model was loaded; the process is a copy of one that has run small stages, so that libraries are
there. glibc is told to give back what is freed (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), so
that what is measured is what is used. Rows go to benchmarks/plan/memory.jsonl, one by one; a run
that was cut off goes on.

The formulas were tuned on the configurations marked ``tune`` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = Path(__file__).parent / "plan" / "memory.jsonl"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}
WITHIN, UNDER = 0.15, -0.10
"""What the prediction has to be within, and how far below it may be."""

SHAPES: dict[str, dict[str, Any]] = {
    "llama-25m": {"kind": "Llama", "h": 384, "f": 1024, "n": 8, "heads": 6, "kv": 2, "v": 32000},
    "untied-29m": {"kind": "Llama", "h": 512, "f": 1408, "n": 4, "heads": 8, "kv": 8, "v": 16000},
    "llama": {"kind": "Llama", "h": 256, "f": 704, "n": 4, "heads": 4, "kv": 2, "v": 24000},
    "untied": {"kind": "Llama", "h": 320, "f": 896, "n": 3, "heads": 5, "kv": 5, "v": 12000},
    "qwen": {"kind": "Qwen3", "h": 256, "f": 768, "n": 3, "heads": 4, "kv": 1, "v": 32000},
    "gemma": {"kind": "Gemma3Text", "h": 192, "f": 768, "n": 4, "heads": 3, "kv": 1, "v": 40000},
    "smollm2": {"kind": "Llama", "h": 576, "f": 1536, "n": 30, "heads": 9, "kv": 3, "v": 49152},
}
JUDGE = "def length(completions, **more):\n    return [len(c) % 7.0 for c in completions]\n"
TINY = {"kind": "Llama", "h": 32, "f": 48, "n": 2, "heads": 4, "kv": 2}
UNTIED = ("untied", "untied-29m")


@dataclass(frozen=True)
class Configuration:
    """A stage to measure: G groups of K responses, prompts of P tokens and responses of T."""

    name: str
    half: str
    method: str
    shape: str
    G: int
    K: int
    P: int
    T: int
    budget: int
    lora: int = 0
    recompute: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    reward: str = ""


C = Configuration
CONFIGURATIONS = (
    C("sft, full", "tune", "sft", "llama-25m", 4, 1, 32, 224, 1024),
    C("sft, full, 64 tokens", "check", "sft", "untied-29m", 16, 1, 16, 48, 1024),
    C("ppo, full", "tune", "ppo", "llama", 4, 2, 48, 32, 1024, reward="model"),
    C("grpo, full, K=8", "check", "grpo", "llama", 4, 8, 32, 32, 2048),
    C("dpo, full, two parts", "tune", "dpo", "llama", 4, 2, 32, 112, 512),
    C("sft, full, 2048", "check", "sft", "llama", 1, 1, 64, 1984, 2048),
    C("grpo, LoRA, prompt 2048", "tune", "grpo", "untied", 1, 4, 1984, 32, 4096, lora=16),
    C("dpo, LoRA, 2176", "check", "dpo", "qwen", 1, 2, 128, 1024, 4096, lora=16),
    C("reward model, full", "tune", "reward_model", "untied", 4, 2, 64, 192, 4096),
    C("reward model, LoRA", "check", "reward_model", "gemma", 4, 2, 64, 128, 4096, lora=16),
    C("kto, LoRA", "tune", "kto", "qwen", 8, 1, 32, 96, 512, lora=16),
    C("kto, full, 2048", "check", "kto", "untied", 1, 1, 128, 1920, 2048),
    C("sft, full, two parts", "tune", "sft", "gemma", 4, 1, 64, 192, 512),
    C("ppo, LoRA", "check", "ppo", "qwen", 2, 2, 256, 32, 2048, lora=16, reward="model"),
    C("dpo, full, live reference", "tune", "dpo", "untied", 2, 2, 128, 320, 4096,
      settings={"reference": "live"}),
    C("dpo, full, recomputed", "check", "dpo", "gemma", 2, 2, 128, 320, 2048, recompute=True),
    C("sft, full, recomputed, 4096", "tune", "sft", "untied", 1, 1, 96, 4000, 4096, recompute=True),
    C("sft, LoRA, 135M", "check", "sft", "smollm2", 1, 1, 64, 192, 1024, lora=16),
    C("sft, LoRA, 4096", "tune", "sft", "llama", 1, 1, 96, 4000, 4096, lora=16),
    C("ppo, full, prompt 2048", "check", "ppo", "untied", 1, 1, 2016, 32, 4096),
)  # fmt: skip


# -- one configuration, in its own process --------------------------------------------------------


def measure(found: Configuration) -> dict[str, Any]:
    """Measure a configuration in this process."""
    from gnomon.stages.worst_step import probe

    with tempfile.TemporaryDirectory(prefix="plan-memory-") as folder:
        place = Path(folder)
        recipe = _recipe(found, place / "real")
        began = time.perf_counter()
        record = probe(recipe, place / "real", stage="stage")
        return record.model_dump() | {"model": found.shape, "wall": time.perf_counter() - began}


def work(names: Sequence[str]) -> None:
    """Measure configurations, each in a copy of this process, made once libraries are there."""
    for method, lora, reward in (("sft", 0, ""), ("ppo", 2, "model")):
        warm = Configuration("warm", "", method, "tiny", 2, 2, 8, 24, 512, lora, reward=reward)
        measure(warm)
    todo = [c for c in CONFIGURATIONS if c.name in names]
    for number, found in enumerate(todo, 1):
        print(f"{number}/{len(todo)} {found.name}", flush=True)
        child = os.fork()
        if not child:  # which ends here, whatever happens
            try:
                row = {"name": found.name, "half": found.half} | measure(found)
                ROWS.parent.mkdir(exist_ok=True)
                with ROWS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            print(f"{found.name}: failed, see above; measured again by the next call", flush=True)


def _recipe(found: Configuration, place: Path) -> Path:
    """The recipe of a configuration, with its model and data."""
    place.mkdir(parents=True)
    _save_model(found.shape, place / "model")
    (place / "judge.py").write_text(JUDGE)
    stage: dict[str, Any] = {
        "name": "stage",
        "algorithm": found.method,
        "data": data_of(found, place),
        "train": {
            "batch_size": found.G,
            "tokens_per_microbatch": found.budget,
            "gradient_checkpointing": found.recompute,
            "lr": 1e-5,
        },
        "settings": found.settings,
    }
    if found.lora:
        stage["lora"] = {"rank": found.lora}
    stages = [stage]
    if found.method in ("ppo", "grpo"):
        stage["rollout"] = {"samples": found.K, "max_new_tokens": found.T}
        stage["reward"] = [{"function": "judge.py:length"}]
        if found.reward == "model":
            rm = {"name": "rm", "algorithm": "reward_model", "data": "pairs.jsonl"}
            stages = [rm | ({"lora": stage["lora"]} if found.lora else {}), stage]
            stage["reward"] = [{"model": "rm"}]
    recipe = {
        "name": "memory",
        "model": str(place / "model"),
        "output": str(place / "runs"),
        "device": "cpu",
        "template": "raw",
        "max_length": 4200,
        "stages": stages,
    }
    file = place / "recipe.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    return file


def data_of(found: Configuration, place: Path) -> str:
    """Rows of the configuration's lengths: each word is a token."""
    prompt = " ".join(["red"] * found.P)
    answers = [" " + " ".join([word] * (found.T - 1)) for word in ("blue", "purple")]
    rows: list[dict[str, Any]] = []
    for i in range(2 * found.G):
        first = f"{'bank' if i % 2 else 'lion'} {prompt[4:]}"
        if found.method in ("dpo", "reward_model"):
            rows.append({"prompt": first, "chosen": answers[0], "rejected": answers[1]})
        elif found.method == "kto":
            rows.append({"prompt": first, "completion": answers[i % 2], "label": bool(i % 2)})
        elif found.method == "sft":
            rows.append({"prompt": first, "response": answers[0]})
        else:
            rows.append({"prompt": first})
    file = place / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.name


def config_of(shape: dict[str, Any], window: int, tied: bool = True) -> Any:
    """transformers' configuration of a shape; a head is as wide as ``d``, or its share of ``h``."""
    import transformers

    return getattr(transformers, shape["kind"] + "Config")(
        vocab_size=shape["v"],
        hidden_size=shape["h"],
        intermediate_size=shape["f"],
        num_hidden_layers=shape["n"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        head_dim=shape.get("d", shape["h"] // shape["heads"]),
        max_position_embeddings=window,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _save_model(shape: str, place: Path) -> None:
    """A model with random weights and the tunnel's tokenizer."""
    import torch
    import transformers

    from gnomon.tasks.tunnel.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    s = SHAPES.get(shape, TINY | {"v": len(tokenizer)})
    config = config_of(s, window=8192, tied=shape not in UNTIED)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    tokenizer.save_pretrained(place)


# -- all of them ----------------------------------------------------------------------------------


def _rows() -> dict[str, dict[str, Any]]:
    """What was measured, by configuration; of one measured twice the last."""
    if not ROWS.exists():
        return {}
    return {row["name"]: row for line in ROWS.read_text().splitlines() if (row := json.loads(line))}


def measure_missing(names: Sequence[str]) -> None:
    """Measure the named configurations, or those without a row."""
    done = _rows()
    todo = [c.name for c in CONFIGURATIONS if (c.name in names if names else c.name not in done)]
    if todo:
        command = [sys.executable, __file__, "--work", *todo]
        subprocess.run(command, env=os.environ | ENVIRONMENT, check=True)


def predicted(found: Configuration) -> tuple[float, str]:
    """The formulas' peak as they are now, and its instant."""
    from gnomon.plan.memory import memory

    estimate = memory(job_of(found))
    return estimate.peak, estimate.worst


def job_of(found: Configuration) -> Any:
    """The configuration as the planner sees it: numbers, no model and no data."""
    from gnomon.plan.job import Job
    from gnomon.plan.shapes import Shape

    s = SHAPES[found.shape]
    family: dict[str, Any] = {
        "Qwen3": {"qk_norm": True},
        "Gemma3Text": {"norms": 4, "qk_norm": True, "wide_norms": True},
    }.get(s["kind"], {})
    shape = Shape(
        found.shape, s["n"], s["h"], s["f"], s["heads"], s["kv"], s["h"] // s["heads"], s["v"],
        tied=found.shape not in UNTIED, **family,
    )  # fmt: skip
    ppo = found.method == "ppo"
    watched = found.method == "grpo" and not found.lora  # the monitors' copy of a small model
    return Job(
        method=found.method, model=shape, prompts=found.G, samples=found.K,
        prompt_tokens=found.P, response_tokens=found.T, mean_prompt=found.P, mean_response=found.T,
        microbatch=found.budget, lora=found.lora, recompute=found.recompute, device="cpu",
        reward=shape if found.reward == "model" else None,
        epochs=2 if ppo else 1, minibatches=2 if ppo else 1,
        references=1 if ppo or watched or found.settings.get("reference") == "live" else 0,
    )  # fmt: skip


def table() -> None:
    """Predicted, measured and the error, the two halves apart."""
    rows = _rows()
    shown = Table(title="peak memory of a stage, MB above what was there before the model")
    for column in ("", "half", "decides", "measured", "predicted", "measured", "error"):
        shown.add_column(column, justify="left" if column in ("", "half", "decides") else "right")
    errors: dict[str, list[float]] = {"tune": [], "check": []}
    for found in CONFIGURATIONS:
        row = rows.get(found.name)
        if row is None:
            continue
        peak, worst = predicted(found)
        error = peak / row["peak_bytes"] - 1
        errors[found.half].append(error)
        measured = max(row["instants"], key=row["instants"].get)
        bad = not UNDER <= error <= WITHIN
        numbers = (f"{peak / 1e6:.0f}", f"{row['peak_bytes'] / 1e6:.0f}", f"{error:+.1%}")
        shown.add_row(found.name, found.half, worst, measured, *numbers, style="red" if bad else "")
    console = Console(width=130)
    console.print(shown)
    for half, found_errors in errors.items():
        if found_errors:
            mean = sum(map(abs, found_errors)) / len(found_errors)
            console.print(
                f"{half}: {len(found_errors)} configurations, mean absolute error {mean:.1%}, "
                f"from {min(found_errors):+.1%} to {max(found_errors):+.1%}"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="configurations to measure again")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.names)
        return
    if not asked.table:
        measure_missing(asked.names)
    table()


if __name__ == "__main__":
    main()
