"""Several rollout servers as one: the same samples, whichever answers and whichever dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_world as tw
from gnomon.errors import ConfigError, DataError, EngineError
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.finished import Finished
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.local import LocalHost
from gnomon.rollout.pool import PoolHost, split
from gnomon.rollout.protocol import Completion, Host, Request, SamplingParams, StaleWeightsError
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.sampling import stream_keys
from gnomon.rollout.torch_host import TorchHost
from gnomon.training.prefetch import Prefetch, StoppedError
from ports import free_port
from served import EOS, PATIENCE, Process, own, policy

PARAMS = SamplingParams(max_new_tokens=12)
REQUESTS = [Request(f"p{i}", p.ids, 3 + i % 2, seed=i) for i, p in enumerate(tw.prompts(5))]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """The servers have one each, and the last bit of a log-prob follows from it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tw.save_tiny(tmp_path_factory.mktemp("pool") / "tiny")


LOADING = threading.Lock()


def here(model: Path, **more: Any) -> TorchHost:
    """A host in this process; transformers does not load two models at the same time."""
    with LOADING:
        return TorchHost(model, **more)


def engine(hosts: dict[str, Callable[[], Host]], folder: Path, **more: Any) -> ReplicaEngine:
    pool = PoolHost(hosts, share=3, **{"retries": 0} | more)
    return ReplicaEngine(HostReplica(policy(), pool, tw.tokenizer(), EOS, folder / "weights"))


def drawn(made: ReplicaEngine) -> list[Any]:
    """What is sampled, to the last bit."""
    made.sync_weights()
    return bits(made.generate(REQUESTS, PARAMS))


def bits(rows: list[list[Completion]]) -> list[Any]:
    return [[(c.ids, c.logprobs.tolist(), c.finish_reason) for c in row] for row in rows]


@pytest.fixture(scope="module")
def wanted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return drawn(engine({"one": lambda: here(model)}, tmp_path_factory.mktemp("one")))


class Flaky(Host):
    """A host that dies of its ``at``-th job (from 0) and is whole when it is made again."""

    def __init__(self, model: Path, at: int | None, error: Exception | None = None) -> None:
        self.inner, self.at = here(model), at
        self.error = error or EngineError("the power is off.")
        self.about, self.load, self.close = self.inner.about, self.inner.load, self.inner.close
        self.jobs: list[Any] = []

    def sample(self, job: Any, progress: Any) -> Any:
        self.jobs.append(job)
        if self.at is not None and len(self.jobs) > self.at:
            raise self.error
        return self.inner.sample(job, progress)


def test_shares_hold_every_sample_once_with_its_own_key() -> None:
    requests = [Request("a", [1, 2], 5, seed=3), Request("b", [1, 2, 3], 2), Request("c", [4], 4)]
    shares = split(requests, 4)
    assert [sum(p.request.n for p in share) for share in shares] == [4, 4, 3]
    assert shares[0][0].request.id == "b"  # the longest prompt is begun first
    keys: dict[int, dict[int, int]] = {0: {}, 1: {}, 2: {}}
    for piece in (piece for share in shares for piece in share):
        for k, key in enumerate(stream_keys(piece.request)):
            assert piece.start + k not in keys[piece.place]
            keys[piece.place][piece.start + k] = key
    for i, request in enumerate(requests):
        assert [keys[i][k] for k in range(request.n)] == stream_keys(request)
    assert len(split([Request("a", [1], 64)])) == 8
    assert split([]) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_servers_changes_nothing(
    workers: int, model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    made = engine({f"w{i}": lambda: here(model) for i in range(workers)}, tmp_path)
    assert drawn(made) == wanted
    alone = own(policy()).generate(REQUESTS, PARAMS)
    assert [[c.ids for c in row] for row in alone] == [[c[0] for c in row] for row in wanted]


def test_a_host_that_dies_is_made_again_and_nothing_is_doubled_or_lost(
    model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    made: list[Flaky] = []

    def flaky() -> Host:
        made.append(Flaky(model, at=1 if not made else None))
        return made[-1]

    with pytest.warns(UserWarning, match="the power is off"):
        # alone, so that it surely gets the job that it dies of
        assert drawn(engine({"a": flaky}, tmp_path)) == wanted


def test_all_dead_is_said_with_each_ones_reason(model: Path, tmp_path: Path) -> None:
    hosts = {"a": lambda: Flaky(model, 0), "b": lambda: Flaky(model, 0, EngineError("on fire."))}
    with pytest.raises(EngineError, match=r"all 2 workers(.|\n)*power is off(.|\n)*--resume"):
        drawn(engine(hosts, tmp_path))


def test_a_bad_job_is_no_fault_of_a_server(model: Path, tmp_path: Path) -> None:
    hosts = {name: lambda: Flaky(model, 0, DataError("the prompt is empty")) for name in "ab"}
    with pytest.raises(DataError, match="the prompt is empty"):
        drawn(engine(hosts, tmp_path))


def test_one_that_lost_its_weights_is_sent_them_again(
    model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    class Forgets(Flaky):
        def sample(self, job: Any, progress: Any) -> Any:
            self.jobs.append(job)
            if len(self.jobs) == 1:
                raise StaleWeightsError("it serves the start weights")
            return self.inner.sample(job, progress)

    assert drawn(engine({"a": lambda: Forgets(model, None)}, tmp_path)) == wanted


def test_another_model_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    other = here(model, dtype="bfloat16")
    hosts: dict[str, Callable[[], Host]] = {"a": lambda: here(model), "b": lambda: other}
    with pytest.raises(ConfigError, match=r"do not serve the same model: dtype is \w+ at [ab]"):
        engine(hosts, tmp_path)


def test_weights_that_one_server_did_not_take_over_are_noticed(model: Path, tmp_path: Path) -> None:
    scored = threading.Event()

    def loaded(weights: Any, probe: Any, wanted: Any = None) -> Any:
        try:
            return first.inner.load(weights, probe, wanted)
        finally:
            scored.set()

    def lazily(weights: Any, probe: Any, wanted: Any = None) -> Any:
        assert scored.wait(PATIENCE)
        return [-9.0] * (len(probe) - 1)

    first, lazy = Flaky(model, None), Flaky(model, None)
    first.load, lazy.load = loaded, lazily  # type: ignore[method-assign]
    made = engine({"a": lambda: first, "b": lambda: lazy}, tmp_path)
    with pytest.warns(UserWarning, match="score a test sequence differently"):
        made.sync_weights()


def test_one_that_is_gone_while_nothing_is_sampled_stops_nothing(
    model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    rested: list[str] = []

    class Rests(Flaky):
        def rest(self) -> None:
            rested.append("rests")
            raise EngineError("it is gone")

    made = engine({name: lambda: Rests(model, None) for name in "ab"}, tmp_path)
    assert drawn(made) == wanted
    made.rest()
    assert rested == ["rests"] * 2


def test_who_no_longer_waits_ends_the_work(model: Path, tmp_path: Path) -> None:
    entered = threading.Event()

    class Endless(Flaky):
        def sample(self, job: Any, progress: Any) -> Any:
            entered.set()
            while True:
                progress(0, 1)

    made = engine({name: lambda: Endless(model, None) for name in "ab"}, tmp_path)
    made.sync_weights()

    def stop(done: int, total: int) -> None:
        assert total == sum(r.n for r in REQUESTS)
        if entered.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.generate(REQUESTS, PARAMS, stop)


def test_kill_9_of_one_of_two_url_servers_in_the_middle(
    model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    port = free_port()
    servers = [Process(model, port), Process(model, 0)]
    killed = threading.Event()

    def remote(url: str, victim: Process | None = None) -> Host:
        """The one that stays answers only when the other has been killed at its first share."""
        host = RemoteHost(url, retries=0)
        real, jobs = host.sample, []

        def sample(job: Any, progress: Any) -> Any:
            jobs.append(job)
            if victim is not None and len(jobs) == 1:
                victim.kill()
                killed.set()
            assert killed.wait(PATIENCE)
            return real(job, progress)

        host.sample = sample  # type: ignore[method-assign]
        return host

    first = [servers[0]]
    hosts = {
        servers[0].url: lambda: remote(servers[0].url, first.pop() if first else None),
        servers[1].url: lambda: remote(servers[1].url),
    }
    try:
        made = engine(hosts, tmp_path)
        with pytest.warns(UserWarning, match=f"127.0.0.1:{port} failed"):
            assert drawn(made) == wanted
        servers.append(Process(model, port))  # back again: it takes part from the next weights on
        tw.shake(made.replica._policy)  # type: ignore[attr-defined]
        assert drawn(made) != wanted
        assert len(made.replica._host._crew.workers) == 2  # type: ignore[attr-defined]
        made.close()
    finally:
        for server in servers:
            if server.process.is_alive():
                server.kill()


def test_shares_that_are_finished_when_a_run_is_killed_are_not_sampled_again(
    model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    """Sampled ahead, as the second iteration's; stopped in the fourth of six shares."""
    stuck = threading.Event()

    class Stuck(Flaky):
        def sample(self, job: Any, progress: Any) -> Any:
            if len(self.jobs) < 3:
                return super().sample(job, progress)
            stuck.set()
            while True:
                progress(0, 1)

    def ahead(made: ReplicaEngine) -> Prefetch[Any]:
        def sample(iteration: int) -> Any:
            if iteration == 0:
                return []
            made.sync_weights()
            return made.generate(REQUESTS, PARAMS)

        return Prefetch(made, sample, 1, 2)

    first = ahead(engine({"a": lambda: Stuck(model, None)}, tmp_path / "a"))
    assert first.take(0).rollouts == []
    assert stuck.wait(PATIENCE)
    torch.save(first.state(lambda rows: {}), tmp_path / "checkpoint")
    stopped = first._orders[1].future
    first.close()
    assert isinstance(stopped.exception(), StoppedError)
    again = Flaky(model, None)
    second = ahead(engine({"b": lambda: again}, tmp_path / "b"))
    second.restore(torch.load(tmp_path / "checkpoint"), lambda state: state)
    rows = second.take(1).rollouts
    assert bits(rows) == wanted
    assert len(again.jobs) == 3
    assert "finished" not in second.state(lambda rows: {})["orders"]["1"]
    second.close()


def test_a_share_that_is_all_of_its_call_is_not_taken_for_it() -> None:
    """Its completions have no text yet."""
    kept = Finished()
    raw, whole = (Completion((5,), torch.zeros(1), "eos", text) for text in ("", "five"))
    kept.add_share(REQUESTS[:1], PARAMS, [[raw]])
    resumed = Finished(kept.parts())
    assert resumed.call(REQUESTS[:1], PARAMS) is None
    assert resumed.share(REQUESTS[:1], PARAMS) == [[raw]]
    resumed.add_call(REQUESTS[:1], PARAMS, [[whole]])
    assert list(resumed.parts().values()) == [[[whole]]]


def test_a_process_of_this_machine_is_started_replaced_and_ended(
    model: Path, wanted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[LocalHost] = []

    def local() -> Host:
        if started:
            return here(model)
        started.append(LocalHost(model, "torch", {}, {"OMP_NUM_THREADS": "1"}))
        return started[-1]

    made = engine({"worker 1": local}, tmp_path)
    assert drawn(made) == wanted
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="worker 1 failed"):
        assert bits(made.generate(REQUESTS, PARAMS)) == wanted
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
    made.close()
    assert not list(tmp_path.glob("weights/*"))  # nor are there files left

    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("gnomon.workers.process.sys.executable", str(broken))
    with pytest.raises(EngineError, match="did not start on this machine: no room"):
        LocalHost(model, "torch", {})
