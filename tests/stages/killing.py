"""Runs a recipe in a process of its own and kills it with SIGKILL at an exact place.

Processes are forked from a server that has imported everything and computed nothing, so each costs
little, and no thread pool is copied.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from forked import CONTEXT, settle


def run_and_die(raw: dict[str, Any], at: tuple[str, str, int] | None, resume: bool) -> int:
    """Run a recipe, killed at ``(stage, what, number)``; returns the exit code (-9 when killed)."""
    process = CONTEXT.Process(target=_child, args=(raw, at, resume))
    process.start()
    process.join(300)
    code = process.exitcode
    if code is None:
        process.kill()
        raise AssertionError(f"{at}: still running after five minutes")
    return code


def _child(raw: dict[str, Any], at: tuple[str, str, int] | None, resume: bool) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    from gnomon.recipe.load import parse_recipe
    from gnomon.stages import run

    run.write_report = lambda folder: None  # drawing plots takes longer than all the rest
    settle()
    if at is not None:
        _arm(*at)
    run.run_recipe(parse_recipe(raw), base=Path.cwd(), resume=resume, announce=lambda text: None)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(stage: str, what: str, number: int) -> None:
    """Patch the one function whose call is the place to die at."""
    import transformers

    from gnomon.runs import checkpoint
    from gnomon.stages import chunks, compare
    from gnomon.training import loop, update

    running = {"stage": "", "iteration": 0}
    real_run, real_iteration = loop.Loop.run, loop.Loop._iteration
    real_clip, real_save = update.clip_grads, checkpoint.save_file
    real_write = chunks.write_text

    def run(self: loop.Loop, resume: bool = False) -> Any:
        running["stage"] = self.folder.name.split("-", 1)[1]
        return real_run(self, resume)

    def iteration(self: loop.Loop, i: int) -> Any:
        running["iteration"] = i + 1
        return real_iteration(self, i)

    def clip(*args: Any) -> None:
        """After the backward pass, before the optimiser's step."""
        if what == "step" and running == {"stage": stage, "iteration": number}:
            _die()
        real_clip(*args)

    def save(tensors: Any, path: Path, *more: Any) -> None:
        """With half of a checkpoint's file on disk."""
        real_save(tensors, path, *more)
        here = f"step-{number:06d}" in str(path) and running["stage"] == stage
        if what == "checkpoint" and here and path.name == "state.safetensors":
            os.truncate(path, path.stat().st_size // 2)
            _die()

    def tokenizer_saved(self: Any, folder: Any, *args: Any, **kw: Any) -> Any:
        """With the weights of the model's folder written and its tokenizer not."""
        if what == "model" and running["stage"] == stage:
            _die()
        return real_tokenizer(self, folder, *args, **kw)

    def write(path: Path, text: str) -> None:
        if what == "chunk" and path.name == f"{number:08d}.jsonl":
            _die()
        real_write(path, text)

    real_tokenizer = transformers.PreTrainedTokenizerBase.save_pretrained
    transformers.PreTrainedTokenizerBase.save_pretrained = tokenizer_saved
    loop.Loop.run, loop.Loop._iteration = run, iteration
    update.clip_grads, checkpoint.save_file = clip, save
    chunks.write_text = write
    if what == "compare":
        compare.Comparison.write = lambda *args: _die()
