"""What a run's process holds on a CPU beside its tensors, which the planner does not count.

    python benchmarks/plan_held.py smollm2     stages with the first layers of SmolLM2-135M
    python benchmarks/plan_held.py random      with narrow models of other shapes, random weights
    python benchmarks/plan_held.py NAME ...    these
    MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/plan_held.py NAME ...

Each stage is run for two steps as by ``gnomon run``, in a copy of a process that has run a tiny
one, so that libraries are there, with the allocator as it is, on rows of uneven lengths (5 to 10
seconds of an idle processor each with random weights). Measured is the peak that the run records
(``peak_rss_gb``), less what the process took before it loaded the model; planned is
``gnomon.plan.memory`` on the stage's own rows, as the dry run shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import psutil
import torch
import transformers

from gnomon.models.smollm2 import cached_folder
from gnomon.plan.memory import memory
from gnomon.recipe.load import load_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import stage_encoder
from gnomon.stages.run import run_recipe
from gnomon.stages.stage import open_stage
from gnomon.stages.usable import usable_rows
from gnomon.tasks.tunnel.tokenizer import build_tokenizer
from plan_memory import config_of

SAMPLED = ("grpo", "ppo")
JUDGE = "def length(completions, **more):\n    return [len(c) % 7.0 for c in completions]\n"
WORDS = ("the", "of", "to", "and", "in", "is", "that", "for", "was", "on", "are", "as", "with")
OTHER_WORDS = ("house", "cow", "cold", "owl", "light", "sand", "city", "road", "leaf", "hat")
"""Each a token of the tunnel's tokenizer, which the models with random weights have."""
SHAPES: dict[str, dict[str, Any]] = {
    "narrow": {"kind": "Llama", "h": 96, "f": 384, "n": 6, "heads": 3, "kv": 3, "v": 4000},
    "deep": {"kind": "Llama", "h": 64, "f": 192, "n": 24, "heads": 2, "kv": 1, "v": 2000},
    "words": {"kind": "Qwen3", "h": 64, "f": 256, "n": 4, "heads": 2, "kv": 1, "v": 60000},
    "norms": {"kind": "Gemma3Text", "h": 96, "f": 384, "n": 6, "heads": 3, "kv": 1, "v": 16000},
    "tiny": {"kind": "Llama", "h": 32, "f": 48, "n": 2, "heads": 2, "kv": 2, "v": 2000},
    "wide": {"kind": "Llama", "h": 128, "f": 2560, "n": 3, "heads": 4, "kv": 4, "v": 2000},
}


@dataclass(frozen=True)
class Stage:
    """A stage to run.

    Attributes:
        model: so many layers of SmolLM2-135M, or one of ``SHAPES`` with random weights.
        prompts: of a step.
        answers: of a prompt, where it is none of pairs.
        long: by how much rows are longer than usual.
        train: settings beside the usual ones.
    """

    method: str
    model: int | str
    prompts: int
    lora: bool
    answers: int = 0
    long: int = 1
    train: dict[str, Any] = field(default_factory=dict)


SMOLLM2 = {
    f"{method}, {'LoRA' if lora else 'full'}": Stage(method, 6, 4, lora)
    for method in ("sft", "dpo", "reward_model", "grpo")
    for lora in (True, False)
} | {
    "dpo, LoRA, 8 pairs": Stage("dpo", 6, 8, True),
    "kto, LoRA": Stage("kto", 6, 8, True),
    "sft, full, 10 layers": Stage("sft", 10, 8, False),
    "dpo, LoRA, recomputed": Stage("dpo", 6, 4, True, train={"gradient_checkpointing": True}),
}
RANDOM = {
    "ppo, full": Stage("ppo", "narrow", 8, False, answers=2),
    "ppo, LoRA": Stage("ppo", "norms", 8, True, answers=2),
    "orpo, LoRA": Stage("orpo", "narrow", 8, True),
    "simpo, full": Stage("simpo", "norms", 8, False),
    "rankings of 4, LoRA": Stage("reward_model", "narrow", 8, True, answers=4),
    "sft, LoRA, 24 layers": Stage("sft", "deep", 12, True),
    "sft, LoRA, 60,000 words": Stage("sft", "words", 16, True),
    "sft, full, in parts": Stage("sft", "narrow", 16, False, train={"tokens_per_microbatch": 1024}),
    "dpo, LoRA, rows of 2,000 tokens": Stage("dpo", "narrow", 2, True, long=5),
    "sft, LoRA, wide": Stage("sft", "wide", 16, True),
    "kto, full": Stage("kto", "words", 16, False),
    "grpo, LoRA, 8 answers, in parts": Stage(
        "grpo", "norms", 8, True, answers=8, train={"tokens_per_microbatch": 4096}
    ),
}
WARM = "warm"
STAGES = SMOLLM2 | RANDOM | {WARM: Stage("ppo", "tiny", 2, True, answers=2)}
SETS = {"smollm2": SMOLLM2, "random": RANDOM}


def rows(stage: Stage) -> list[dict[str, Any]]:
    """Prompts of 20 to 150 words, answers of 20 to 300, or so many times as long."""
    draw = random.Random(0)
    words = OTHER_WORDS if isinstance(stage.model, str) else WORDS

    def text(low: int, high: int) -> str:
        count = stage.long * draw.randint(low, high)
        return " ".join(draw.choice(words) for _ in range(count))

    found = []
    for i in range(16):
        prompt, better, worse = text(20, 150), text(20, 300), text(20, 300)
        judged: dict[str, Any] = {"chosen": better, "rejected": worse}
        if stage.method == "reward_model" and stage.answers:
            texts = [better, worse, *(text(20, 300) for _ in range(stage.answers - 2))]
            judged = {"responses": [{"text": t, "rank": k} for k, t in enumerate(texts, 1)]}
        own = {
            "sft": {"response": better},
            "kto": {"completion": better, "label": bool(i % 2)},
        } | {name: {} for name in SAMPLED}
        found.append({"prompt": prompt} | own.get(stage.method, judged))
    return found


def save_model(asked: int | str, place: Path) -> str:
    """The first layers of SmolLM2-135M, or a shape with random weights."""
    torch.manual_seed(0)
    if isinstance(asked, str):
        config = config_of(SHAPES[asked], 8192, tied=True)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
        build_tokenizer().save_pretrained(place)
        return asked
    whole = transformers.AutoModelForCausalLM.from_pretrained(cached_folder())
    whole.model.layers = torch.nn.ModuleList(list(whole.model.layers)[:asked])
    whole.config.num_hidden_layers = asked
    if getattr(whole.config, "layer_types", None):
        whole.config.layer_types = whole.config.layer_types[:asked]
    whole.save_pretrained(place)
    transformers.AutoTokenizer.from_pretrained(cached_folder()).save_pretrained(place)
    return str(asked)


def write_recipe(stage: Stage, place: Path) -> Path:
    """The recipe of a stage, with its data."""
    (place / "judge.py").write_text(JUDGE)
    (place / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(stage)))
    train = {"steps": 2, "batch_size": stage.prompts} | stage.train
    spec: dict[str, Any] = {"name": "stage", "algorithm": stage.method, "train": train}
    spec["data"] = "rows.jsonl"
    if stage.lora:
        spec["lora"] = {"rank": 16}
    if stage.method in SAMPLED:
        spec["rollout"] = {"samples": stage.answers or 4, "max_new_tokens": 96}
        spec["reward"] = [{"function": "judge.py:length"}]
    whole = {"name": "held", "model": str(place / "model"), "output": str(place / "runs")}
    whole |= {"device": "cpu", "max_length": 1024 * stage.long, "stages": [spec]}
    file = place / "recipe.yaml"
    file.write_text(json.dumps(whole))  # JSON is YAML
    return file


def measure(name: str, place: Path) -> str:
    """Run a stage in this process; a line of the table."""
    recipe = load_recipe(write_recipe(STAGES[name], place))
    stage = open_stage(recipe, recipe.stages[0], RunFolder(recipe), place)
    job = stage.job(usable_rows(stage, stage_encoder(stage), code=True).lengths)
    assert job is not None
    planned = memory(job).peak
    before, began = psutil.Process().memory_info().rss, time.process_time()
    run_recipe(recipe, base=place)
    seconds = time.process_time() - began
    log = next(place.glob("runs/**/metrics.jsonl"))
    peaks = [json.loads(line).get("peak_rss_gb") or 0.0 for line in log.read_text().splitlines()]
    measured = max(peaks) * 1e9 - before
    return (
        f"| {name} | {planned / 1e6:.0f} | {measured / 1e6:.0f} | {measured / planned:.2f} "
        f"| {seconds:.0f} |"
    )


def one(name: str) -> str:
    """Save a stage's model and run the stage."""
    with tempfile.TemporaryDirectory(prefix="plan-held-") as folder:
        place = Path(folder)
        save_model(STAGES[name].model, place / "model")
        return measure(name, place)


def apart(name: str, reading: int, writing: int) -> None:
    """Measure a stage in a copy of this process and print its line."""
    child = os.fork()
    if not child:  # which ends here, whatever happens
        code = 1
        try:
            os.dup2(2, 1)  # a run's own output
            os.write(writing, one(name).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if not os.waitpid(child, 0)[1]:
        print(os.read(reading, 4096).decode(), flush=True)


def main() -> None:
    """Measure each in a process of its own, so that none holds what another freed."""
    asked = [name for word in sys.argv[1:] or SETS for name in SETS.get(word, [word])]
    for shape in SHAPES.values():
        getattr(transformers, f"{shape['kind'].removesuffix('Text')}ForCausalLM")
    with contextlib.redirect_stdout(sys.stderr):
        one(WARM)
    print("| stage | planned MB | measured MB | ratio | processor s |")
    print("|---|---|---|---|---|", flush=True)
    pipe = os.pipe()
    for name in asked:
        apart(name, *pipe)


if __name__ == "__main__":
    main()
