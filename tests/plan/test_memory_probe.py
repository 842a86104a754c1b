"""The probe: a real worst-case step, its record, and how it corrects an estimate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gnomon.errors import ConfigError
from gnomon.plan.job import Job
from gnomon.plan.memory import Memory, memory
from gnomon.plan.probe import PROBE, ProbeRecord, corrected
from gnomon.plan.shapes import shape_of
from gnomon.recipe.load import load_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.plan import make_plan
from gnomon.stages.stage import open_stage
from gnomon.stages.worst_step import PHASES, probe


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> Path:
    """Preferences, a reward model on them and PPO; nothing of it has run."""
    words = " ".join(["red"] * 12)
    pairs = [
        {"prompt": f"blue {words}{' red' * (i % 2 * 4)}", "chosen": "red", "rejected": "blue blue"}
        for i in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    train = {"batch_size": 2, "steps": 50, "lr": 1e-4}
    stages = [
        {"name": "rm", "algorithm": "reward_model", "data": "pairs.jsonl", "train": train},
        {
            "name": "ppo",
            "algorithm": "ppo",
            "data": "pairs.jsonl",
            "train": train,
            "reward": [{"model": "rm"}],
            "rollout": {"samples": 2, "max_new_tokens": 24},
        },
    ]
    raw = {
        "name": "probed",
        "model": str(tiny_folder),
        "output": str(tmp_path / "runs"),
        "template": "raw",
        "max_length": 120,
        "device": "cpu",
        "stages": stages,
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def test_a_worst_step_is_run_whole_and_leaves_only_its_record(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "probe"
    record = probe(recipe, out, stage="ppo")
    assert [file.name for file in out.iterdir()] == [PROBE]
    assert not (tmp_path / "runs").exists()
    assert ProbeRecord.read(out / PROBE) == record
    assert record.group == 17 + 2 * 24
    # sampled to the very end: 2 prompts, 2 answers each, 24 tokens, whatever the model wants
    assert record.tokens["sampling"] == 2 * 2 * 24
    assert set(record.seconds) == set(PHASES)
    assert all(seconds > 0 for seconds in record.seconds.values())
    # the longest rows: 1 + 12 + 4 words, shared by both answers; two passes over them
    longest = 17 + 2 * 24
    assert record.tokens["training"] == 2 * 2 * longest
    assert record.peak_bytes == max(record.instants.values())
    assert record.predicted_bytes == max(record.predicted_instants.values())
    assert record.method == "ppo"


def test_the_stage_that_takes_most_is_probed_and_others_by_name(
    recipe: Path, tmp_path: Path
) -> None:
    found = load_recipe(recipe)
    run, sizes = RunFolder(found), {}
    for spec in found.stages:
        sizes[spec.name] = memory(open_stage(found, spec, run, tmp_path).job()).peak
    record = probe(recipe, tmp_path / "probe")
    assert record.stage == max(sizes, key=sizes.__getitem__)
    with pytest.raises(ConfigError, match=r"'pp' does not train.*rm, ppo"):
        probe(recipe, tmp_path / "other", stage="pp")


def test_a_stage_that_reads_what_is_not_written_yet_is_refused(
    recipe: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load(recipe.read_text())
    raw["stages"][1] = {
        "name": "best",
        "algorithm": "collect",
        "data": "pairs.jsonl",
    }
    raw["stages"].append({"name": "sft", "algorithm": "sft", "data": "stage:best"})
    recipe.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="reads what 'best' writes"):
        probe(recipe, tmp_path / "probe", stage="sft")


def test_a_record_scales_an_estimate_of_steps_as_large_alone() -> None:
    record = ProbeRecord(
        stage="s", method="sft", model="m", peak_bytes=3.0e9, predicted_bytes=2.0e9
    )
    estimate = Memory({"policy": 4.0}, {"optimizer": 2.0, "forward and backward": 6.0})
    more = corrected(estimate, record)
    assert more.peak == 1.5 * estimate.peak
    assert more.worst == estimate.worst
    job = Job("sft", shape_of("Qwen/Qwen3-0.6B"), 4, 1, 100, 300, 100.0, 300.0, 1024)
    alike = record.model_copy(update={"group": 400, "microbatch": 1024})
    assert alike.same_size(job)
    assert alike.same_size(replace(job, prompt_tokens=190))
    assert not alike.same_size(replace(job, prompt_tokens=210))
    assert not alike.same_size(replace(job, microbatch=4096))
    assert not record.same_size(job)  # an older record says nothing of its size


def test_the_dry_run_sizes_a_stage_as_the_planner_does(recipe: Path, tmp_path: Path) -> None:
    """The dry run's job has the data's lengths, and its peak is that of the same numbers."""
    rm, ppo = make_plan(load_recipe(recipe), tmp_path)
    assert rm.job is not None
    assert ppo.job is not None
    assert (rm.job.prompt_tokens, rm.job.samples) == (17, 2)
    assert (ppo.job.prompt_tokens, ppo.job.response_tokens, ppo.job.samples) == (17, 24, 2)
    assert ppo.job.reward is not None
    assert (ppo.job.trained_roles, ppo.job.frozen_copies) == (2, 1)
    assert (ppo.job.epochs, ppo.job.minibatches) == (2, 2)
