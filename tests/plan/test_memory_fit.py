"""What fits on a GPU, and which change is the cheapest that makes it fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.plan.fit import HEADROOM, fit, vllm_share
from gnomon.plan.job import Job
from gnomon.plan.memory import memory
from gnomon.plan.shapes import shape_of

GB = 1e9


def job(model: str = "Qwen/Qwen3-0.6B", **more: Any) -> Job:
    settings: dict[str, Any] = {
        "method": "grpo",
        "prompts": 32,
        "samples": 8,
        "prompt_tokens": 256,
        "response_tokens": 512,
        "mean_prompt": 256,
        "mean_response": 512,
        "microbatch": 16384,
    }
    return Job(model=shape_of(model), **{**settings, **more})


def names(found: Any) -> list[str]:
    return [change.name for change in found.changes]


def test_what_fits_is_left_as_it_is() -> None:
    found = fit(job(), 1000 * GB)
    assert found.fits
    assert not found.changes
    assert found.job == replace(job(), device_bytes=1000 * GB)
    assert found.before == found.after == memory(job())


def test_the_cheapest_change_comes_first_and_says_how_a_recipe_has_it() -> None:
    peak = memory(job()).peak
    found = fit(job(), (peak - 1) / HEADROOM)
    assert found.fits
    assert names(found) == ["smaller micro-batches"]
    assert found.settings == (f"train.tokens_per_microbatch={found.job.microbatch}",)
    assert found.after.peak < found.before.peak == peak


def test_ever_less_room_takes_ever_dearer_changes() -> None:
    seen, before = [], 0
    for room in (200, 60, 30, 17, 9, 5, 3.0):
        found = fit(job(), room * GB)
        if not found.fits:
            break
        assert found.after.peak <= HEADROOM * room * GB
        assert found.after == memory(found.job)
        rank = max((ORDER.index(name) for name in names(found)), default=-1)
        assert rank >= before - 1
        before = rank + 1
        seen.append(names(found))
    assert seen[0] == []
    assert any("LoRA" in row for row in seen)


NARROWER = "mixed precision"
ORDER = ["smaller micro-batches", "recomputed layers", "fewer rows at once", "LoRA", NARROWER]


def test_a_change_that_is_not_needed_is_left_out() -> None:
    """Where recomputing is enough, the micro-batch stays as it was asked for."""
    asked = job(method="sft", samples=1, prompts=64)
    for share in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
        room = share * memory(asked).peak
        found = fit(asked, room / HEADROOM)
        for change in found.changes:
            others = [c for c in found.changes if c.name != change.name]
            again = asked
            for other in others:
                again = _with(again, other)
            assert memory(again).peak > room, (share, change.name)


def _with(asked: Job, change: Any) -> Job:
    from gnomon.plan.fit import FIELDS

    return replace(asked, **{name: getattr(change.job, name) for name in FIELDS[change.name]})


def test_a_model_that_one_gpu_cannot_hold_is_sharded_or_said_not_to_fit() -> None:
    large = job("meta-llama/Llama-3.1-70B")
    alone = fit(large, 80 * GB)
    assert not alone.fits
    assert alone.after.peak < alone.before.peak
    many = fit(large, 80 * GB, gpus=8)
    assert many.fits
    assert "sharded" in names(many)
    assert all(change.costs for change in many.changes)


def test_vllm_takes_its_own_weights_and_cache() -> None:
    with_vllm, without = job(engine="vllm"), job()
    assert vllm_share(without, 80 * GB) == 0
    share = vllm_share(with_vllm, 80 * GB)
    weights = 4 * with_vllm.model.parameters
    cache = 256 * 768 * with_vllm.model.cache_numbers * 4
    assert share == pytest.approx(1.1 * (weights + cache) / (80 * GB))
    held = memory(with_vllm).always
    assert held["sampler's weights"] == weights
    assert held["sampler's cache"] == cache


def test_a_gpu_without_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing fits"):
        fit(job(), 0)
