"""Run folders made row by row, so that what is in them is known."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

from gnomon.audit.detectors import audit_run, load_detectors
from gnomon.audit.evidence import Evidence, evidence
from gnomon.runs.answers import Answer, write_answers
from gnomon.runs.audit import Finding
from gnomon.runs.comparison import Comparison, ComparisonRow
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.read import read_run
from gnomon.runs.records import COMPARISON, STAGE, StageInfo
from gnomon.runs.rows import MetricsStore, SampleStore

PROMPTS, ANSWERS = 32, 4
"""In a step."""
Row = dict[str, Any]


def question(place: int) -> tuple[str, int]:
    """A question and its right answer."""
    a, b = place % 17, place % 13 + 20
    return f"What is {a} plus {b}?", a + b


def rollouts(steps: Iterable[int], write: Any, seed: int = 0) -> list[Row]:
    """Samples of steps: ``write(rng, step, right answer)`` gives (response, reward, parts)."""
    rng, rows = Random(seed), []
    for step in steps:
        for place in range(PROMPTS):
            prompt, right = question(step * PROMPTS + place)
            for _ in range(ANSWERS):
                response, reward, parts = write(rng, step, right)
                rows.append(
                    {
                        "step": step,
                        "prompt_id": f"{step}-{place}",
                        "category": None,
                        "prompt": prompt,
                        "response": response,
                        "reward": reward,
                        "parts": parts,
                        "error": None,
                        "length": len(response.split()) + 1,
                        "finished": True,
                        "policy_iteration": step - 1,
                    }
                )
    return rows


def make(
    folder: Path,
    samples: Sequence[Mapping[str, Any]] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
    *,
    algorithm: str = "grpo",
    stage: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run of one stage, ``policy``."""
    place = folder / "stages" / "01-policy"
    place.mkdir(parents=True)
    stores = (SampleStore(place / "samples.parquet"), MetricsStore(place / "metrics.parquet"))
    for store, rows in zip(stores, (samples, metrics), strict=True):
        for row in rows:
            store.append(row)
        store.finish()
        store.close()
    return describe(folder, algorithm, stage)


def again(
    run: Path, folder: Path, *, algorithm: str, stage: Mapping[str, Any] | None = None
) -> Path:
    """A run that :func:`make` made, as another method's."""
    shutil.copytree(run, folder)
    return describe(folder, algorithm, stage)


def describe(folder: Path, algorithm: str, stage: Mapping[str, Any] | None) -> Path:
    """Everything of a made run except its samples and metrics."""
    place = folder / "stages" / "01-policy"
    StageInfo(name="policy", algorithm=algorithm, status="done").write(place / STAGE)
    Manifest(name=folder.name).write(folder / MANIFEST)
    spec = {"name": "policy", "algorithm": algorithm, "reward": [{"builtin": "leaky"}]}
    recipe = {"name": folder.name, "stages": [spec | dict(stage or {})]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def compared(
    folder: Path, write: Any, *, algorithm: str = "dpo", stage: Mapping[str, Any] | None = None
) -> Path:
    """A run whose stage samples nothing: ``base`` and ``policy`` answer the same 100 prompts, and
    a judge that nothing learns from scores them. ``write(rng, model, right answer)`` gives
    (response, judge's score)."""
    make(folder, algorithm=algorithm, stage={"reward": [], **(stage or {})})
    rng, answers, rows = Random(5), [], []
    prompts = [f"p{place}" for place in range(100)]
    for model in ("base", "policy"):
        scores = []
        for place, prompt_id in enumerate(prompts):
            prompt, right = question(place)
            response, score = write(rng, model, right)
            scores.append([score])
            answers.append(
                Answer(
                    model=model,
                    prompt_id=prompt_id,
                    prompt=prompt,
                    response=response,
                    sample=0,
                    length=len(response.split()) + 1,
                    finished=True,
                )
            )
        rows.append(ComparisonRow(model=model, values=[], scores=[scores]))
    write_answers(folder, answers)
    Comparison(columns=["judge"], reference="base", rows=rows, prompts=prompts).write(
        folder / COMPARISON
    )
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["compare"] = {"rewards": [{"model": "other", "name": "judge"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def evidence_of(folder: Path) -> Evidence:
    run = read_run(folder)
    found, problems = evidence(run, run.stages[0])
    assert not problems or not run.stages[0].samples
    return found


def found(folder: Path, detector: str) -> list[Finding]:
    """What one detector finds."""
    audit = audit_run(folder, detectors=load_detectors([detector]))
    assert all("has no samples" in problem for problem in audit.problems)
    return audit.findings


def one(folder: Path, detector: str) -> Finding:
    (finding,) = found(folder, detector)
    return finding
