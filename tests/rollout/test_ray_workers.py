"""Workers on a local Ray cluster: placed, killed, replaced. Skipped without Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny_world as tw
from gnomon.errors import ConfigError, EngineError
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import judged
from gnomon.judges.workers import Workplace
from gnomon.recipe.placement import RaySpec
from gnomon.recipe.rollout import RolloutSpec
from gnomon.recipe.schema import RewardSpec
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.pool import PoolHost
from gnomon.rollout.protocol import Completion, Engine, Host, Request, SamplingParams
from gnomon.rollout.ray_workers import RayFleet, RayHost
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.torch_host import TorchHost
from gnomon.stages.engines import make_engine
from gnomon.workers import cluster as ray_cluster
from gnomon.workers.cluster import Fleet, connect
from judging import OWN, groups, scores
from ports import free_port
from served import EOS, policy

PARAMS = SamplingParams(max_new_tokens=12)
REQUESTS = [Request(f"p{i}", p.ids, 4, seed=i) for i, p in enumerate(tw.prompts(6))]
SPEC = RaySpec(address="local", cpus_per_worker=0.5)


def drawn(engine: Engine) -> list[list[Completion]]:
    engine.sync_weights()
    return engine.generate(REQUESTS, PARAMS)


def bits(rows: list[list[Completion]]) -> list[Any]:
    return [[(c.ids, c.logprobs.tolist(), c.finish_reason) for c in row] for row in rows]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not in this environment")
    os.environ["OMP_NUM_THREADS"] = "1"
    kept = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=80_000_000,
    )
    signal.signal(signal.SIGTERM, kept)  # Ray's own would end the tests' process
    yield ray
    ray.shutdown()


def test_kill_9_of_one_of_two_workers_in_the_middle(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same prompts, nothing doubled or lost, and so the same lengths: every bit is the same."""
    model = tw.save_tiny(tmp_path / "tiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = PoolHost({"one": lambda: TorchHost(model)}, share=3)
        one = HostReplica(policy(), alone, tw.tokenizer(), EOS, tmp_path / "a")
        wanted = drawn(ReplicaEngine(one))
    finally:
        torch.set_num_threads(threads)
    made: list[RayHost] = []
    place = RayFleet.host

    def worker(fleet: RayFleet) -> Host:
        if len(made) == 2:
            return TorchHost(model)  # in its place: another actor would import torch once more
        host = place(fleet)
        made.append(host)
        if len(made) == 1:  # its first share is under way when it is killed
            real, jobs = host.sample, []

            def sample(job: Any, progress: Any) -> Any:
                jobs.append(job)
                if len(jobs) == 1:
                    os.kill(host.pid, signal.SIGKILL)
                return real(job, progress)

            host.sample = sample  # type: ignore[method-assign]
        return host

    monkeypatch.setattr(RayFleet, "host", worker)
    asked = RolloutSpec(workers=2, share=3)
    encoder: Any = SimpleNamespace(tokenizer=tw.tokenizer(), stop_ids=EOS)
    with ExitStack() as closing:
        engine = make_engine(asked, policy(), encoder, tmp_path / "b", closing, ray=SPEC)
        with pytest.warns(UserWarning, match="worker . failed: a Ray worker is gone"):
            found = drawn(engine)
    assert bits(found) == bits(wanted)
    assert not (tmp_path / "b").exists()


def test_a_judge_among_actors_loses_and_doubles_nothing_with_one_of_them(
    cluster: Any, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    spec = RewardSpec(function="own.py:score", workers=2)
    here = one_judge(spec, base=tmp_path, load=pytest.fail)
    wanted = scores(judged(here, groups()))
    (tmp_path / "asked").unlink()
    (tmp_path / "die").touch()
    with ExitStack() as closing:
        place = Workplace(closing, lambda name: tmp_path / name, ray=SPEC)
        judge: Any = one_judge(spec, base=tmp_path, load=pytest.fail, place=place)
        with pytest.warns(UserWarning, match="worker . of score failed: a Ray worker is gone"):
            assert scores(judged(judge, groups())) == wanted
        lines = [line.split(" ", 1) for line in (tmp_path / "asked").read_text().splitlines()]
        assert sorted(text for _, text in lines) == sorted(
            r.text for g in groups() for r in g.responses
        )
        assert str(os.getpid()) not in {pid for pid, _ in lines}
        assert scores(judged(judge, groups())) == wanted
        assert len(judge._crew.workers) == 2  # it was replaced
        assert judge.version == here.version


def test_no_room_and_a_judge_that_cannot_be_made_are_said(cluster: Any, tmp_path: Path) -> None:
    huge = RaySpec(address="local", cpus_per_worker=64, start_seconds=1)
    with pytest.raises(EngineError, match="has the cluster room for it"):
        Fleet(huge, "gnomon.judges.workers:Served", {}, {}).worker()
    spec = RewardSpec(function="lost.py:score", workers=1)
    place = Workplace(ExitStack(), lambda name: tmp_path / name, ray=SPEC)
    with pytest.raises(ConfigError, match=r"lost.py"):
        one_judge(spec, base=tmp_path, load=pytest.fail, place=place)


def test_a_cluster_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not in this environment")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for address in (f"127.0.0.1:{free_port()}", "nowhere:many"):
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}"):
            connect(RaySpec(address=address))


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'gnomon-rlhf\[ray\]'"):
        connect(RaySpec())
