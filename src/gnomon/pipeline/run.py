"""Running a recipe: its stages in order, those done already skipped, then the comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gnomon.algorithms.collect_settings import COLLECT
from gnomon.pipeline.check import check_recipe
from gnomon.pipeline.compare import compare
from gnomon.pipeline.memory import memory_info
from gnomon.pipeline.resolve import policy_stages
from gnomon.pipeline.rundir import RunFolder
from gnomon.pipeline.stage import StageRun
from gnomon.recipe.schema import Recipe
from gnomon.report.html import write_report
from gnomon.train.progress import Progress

Announce = Callable[[str], None]


def run_recipe(
    recipe: Recipe,
    *,
    base: Path,
    resume: bool = False,
    announce: Announce = print,
) -> Path:
    """Run every stage that is not done, compare the policies, write the report.

    Args:
        recipe: what to run.
        base: the folder that the recipe's relative paths start from.
        resume: go on with an earlier run of the same recipe.
        announce: is told what begins and what came of it.

    Returns:
        The run's folder.

    Raises:
        GnomonError: whatever the user can mend; everything saved so far stays usable.
    """
    run = RunFolder(recipe)
    check_recipe(recipe, run, base)
    if not run.open(resume) and resume:
        announce(f"{run.path} holds no run yet: nothing to resume, so it starts from the beginning")
    began = time.time()
    worked = False
    for stage in recipe.stages:
        folder = run.stage(stage.name)
        if resume and folder.done():
            announce(f"{stage.name}: done already")
            continue
        worked = True
        memory = {} if stage.algorithm == COLLECT else memory_info(recipe, stage)
        announce(f"{stage.name}: {stage.algorithm} begins{_memory(memory)}")
        if recipe.dtype == "bfloat16" and stage.lora is None and stage.algorithm != COLLECT:
            announce(
                f"{stage.name}: warning: all weights are trained in bfloat16, which rounds steps "
                "below about 1/256 of a weight away; give it lora, or set dtype=float32"
            )
        info = StageRun(recipe, stage, run, base, memory).execute(resume)
        announce(f"{stage.name}: {_summary(info)}")
    if recipe.compare is not None and not (run.path / "comparison.json").is_file():
        worked = True
        with Progress("compare", 1 + len(policy_stages(recipe))) as progress:
            compare(recipe, run, base, progress)
    if worked:
        run.update_manifest(
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            seconds={"last call": round(time.time() - began, 1)},
        )
    if worked or not (run.path / "report.html").is_file():
        write_report(run.path)
    return run.path


def _memory(memory: Mapping[str, str]) -> str:
    if not memory:
        return ""
    ways = [f"{memory[way]} as {way}" for way in list(memory)[1:]]
    return f"; it runs as {memory['runs as']}; estimated memory {', '.join(ways)}"


def _summary(info: dict[str, Any]) -> str:
    seen = info["summary"]
    keys = ["reward", "gold", "kl", "length", "groups"]
    if "reward" not in seen:
        keys = ["loss", "accuracy", *keys]
    figures = [f"{k} {seen[k]:.3g}" for k in keys if k in seen]
    kept = info.get("held_out", {})
    held_out = [f"{k} {kept[k]:.3g}" for k in keys if k in kept]
    if "accuracy_low" in kept:
        held_out[-1] += f" [{kept['accuracy_low']:.3g}, {kept['accuracy_high']:.3g}]"
    if held_out:
        figures.append("held out: " + ", ".join(held_out))
    skipped = info["skipped"]["count"]
    tail = f", {skipped} rows skipped (see skipped.txt)" if skipped else ""
    return f"{info['seconds']:.0f} s, {', '.join(figures)}{tail}"
