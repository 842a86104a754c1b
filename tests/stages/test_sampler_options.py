"""What a recipe says of the way to its sampler, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gnomon.cli.run import placed_by_ray
from gnomon.errors import ConfigError
from gnomon.plan.fit import vllm_share
from gnomon.plan.job import Job
from gnomon.plan.shapes import Shape
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.placement import RaySpec
from gnomon.recipe.rollout import RolloutSpec
from gnomon.stages.engines import check_engine
from gnomon.stages.machine_checks import check_placement
from gnomon.stages.sampler import gpu_share, share_line, vllm_options

CUDA = torch.device("cuda", 0)
URL = "http://127.0.0.1:1"


URLS = ["http://127.0.0.1:1", "http://127.0.0.1:2"]


def workers(engine: str = "torch", **options: Any) -> RolloutSpec:
    return RolloutSpec(engine=engine, workers=2, options=options)


def spec(url: str | None = None, **options: Any) -> RolloutSpec:
    return RolloutSpec(engine="vllm", url=url, options=options)


@pytest.mark.parametrize(
    ("rollout", "rank", "said"),
    [
        (spec(URL, transfer="nccl"), 0, "the trainer has no GPU"),
        (spec(URL, transfer="nvvl"), 0, "did you mean 'nccl'"),
        (spec(URL, transfer="memory"), 0, "a sampler in this process"),
        (spec(URL, transfre="file"), 0, "use transfer, retries, timeout"),
        (spec(transfer="gloo"), 0, "behind a url"),
        (spec(sleep="deep"), 0, "use true or false"),
        (spec(sleep=True), 0, "there is no GPU"),
        (spec(enable_lora=True), 0, "trains all weights"),
        (spec(enable_lora=True, max_lora_rank=8), 16, "below the adapter's rank of 16"),
        (spec(max_lora_rank=8), 4, "goes with enable_lora"),
        (workers(devise="cpu"), 0, "devise: did you mean 'device'"),
        (workers(cache_gib=1), 0, "cache_gib: workers of engine torch take device"),
        (workers(transfer="gloo"), 0, "several servers are sent files"),
        (RolloutSpec(url=URLS, options={"transfer": "gloo"}), 0, "several servers are sent files"),
        (workers(max_lora_rank=8), 0, "max_lora_rank sends adapters, and this stage trains all"),
        (workers(max_lora_rank=2), 4, "below the adapter's rank of 4"),
        (workers(max_lora_rank="8"), 4, "max_lora_rank is '8': use a number"),
        (RolloutSpec(url=URLS, workers=2), 0, "give one of them"),
        (RolloutSpec(url=[URLS[0], URLS[0]]), 0, "each server's address once"),
        (RolloutSpec(url=[]), 0, "each server's address once"),
        (RolloutSpec(share=4), 0, "share is how several servers split"),
        (RolloutSpec(url=URL, share=4), 0, "share is how several servers split"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(rollout: RolloutSpec, rank: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_engine(rollout, rank)


@pytest.mark.parametrize(
    ("rollout", "rank"),
    [
        (RolloutSpec(url=URLS, share=4, options={"retries": 2}), 0),
        (workers(transfer="file", device="cpu"), 0),
        (workers(max_lora_rank=8), 4),
        (RolloutSpec(workers=2, max_staleness=1, share=1), 0),
    ],
    ids=str,
)
def test_what_can_be_is_taken(rollout: RolloutSpec, rank: int) -> None:
    check_engine(rollout, rank)


def test_ray_without_workers_is_refused_and_so_is_a_ray_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage: dict[str, Any] = {"name": "s", "algorithm": "grpo", "data": "x", "reward": "gold"}
    plain = parse_recipe({"name": "r", "model": "m", "stages": [stage]})
    check_placement(plain)
    with pytest.raises(ConfigError, match=r"nor a reward asks for any: set STAGE\.rollout"):
        check_placement(placed_by_ray(plain))
    stage["rollout"] = {"workers": 2}
    asked = placed_by_ray(parse_recipe({"name": "r", "model": "m", "stages": [stage]}))
    assert asked.ray == RaySpec()
    monkeypatch.setattr("gnomon.stages.machine_checks.find_spec", lambda name: None)
    monkeypatch.setattr("gnomon.workers.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'gnomon-rlhf\[ray\]'"):
        check_placement(asked)


def test_what_is_chosen_where_the_recipe_does_not_say() -> None:
    chosen = vllm_options(spec(transfer="file"), CUDA, 0.31)
    assert chosen == {"max_num_seqs": 256, "sleep": True, "gpu_memory_utilization": 0.31}
    said = vllm_options(spec(sleep=False, gpu_memory_utilization=0.5), CUDA, 0.31)
    assert (said["sleep"], said["gpu_memory_utilization"]) == (False, 0.5)
    ahead = RolloutSpec(engine="vllm", max_staleness=1)
    assert vllm_options(ahead, CUDA, None) == {"max_num_seqs": 256, "sleep": False}
    assert vllm_options(spec(), torch.device("cpu"), None) == {"max_num_seqs": 256}
    lora = vllm_options(spec(enable_lora=True), torch.device("cpu"), None, 12)
    assert lora["max_lora_rank"] == 16


def test_the_share_of_a_gpu_follows_from_the_plan() -> None:
    shape = Shape("tiny", 3, 64, 160, 4, 2, 16, 512, tied=True)
    job = Job("grpo", shape, 8, 8, 512, 512, 512, 512, 4096, engine="vllm")
    room = vllm_share(job, 1.0) * 4  # a GPU of which it needs a quarter
    share = gpu_share(spec(), job, room)
    assert share is not None
    assert 0.25 <= share <= 0.26
    assert gpu_share(spec(gpu_memory_utilization=0.4), job, room) is None
    assert gpu_share(spec(), job, room * 1e6) == 0.05
    assert gpu_share(spec(), job, room / 1e6) == 0.92
    line = share_line(spec(), job, room)
    assert line is not None
    assert "of the GPU" in line
    assert share_line(spec(), job, 0.0) is None
