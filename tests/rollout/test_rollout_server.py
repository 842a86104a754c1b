"""The rollout server and its client, around the torch engine: samples, sync, tokens, death."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

import tiny_world as tw
from gnomon.errors import ConfigError, DataError, EngineError
from gnomon.models.roles import Role
from gnomon.rollout import server as server_module
from gnomon.rollout.host import HostReplica, Job, Sampled
from gnomon.rollout.protocol import Request, SamplingParams
from gnomon.rollout.remote import RemoteHost
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.serve import serve as serve_model
from gnomon.rollout.server import RolloutServer
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.torch_host import TorchHost

EOS = (tw.EOS, *range(8, 40))
PARAMS = SamplingParams(max_new_tokens=8, temperature=0.9, top_p=0.8, stop=("e",))
REQUESTS = [Request("a", [5, 9, 60], n=9, seed=3), Request("b", [7, 80], n=3, seed=4)]
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers in threads of this process; gives their addresses."""
    running: list[tuple[RolloutServer, threading.Thread]] = []

    def start(host: Any, port: int = 0, token: str | None = None) -> str:
        server = RolloutServer(host, port=port, token=token)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        return server.url

    yield start
    for server, thread in running:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def policy() -> Role:
    return Role("policy", tw.trunk(0), trainable=True)


def client(role: Role, url: str, folder: Path, **more: Any) -> ReplicaEngine:
    more = {"retries": 2, "sleep": lambda seconds: None} | more
    host = RemoteHost(url, **more)
    return ReplicaEngine(HostReplica(role, host, tw.tokenizer(), EOS, folder / "weights"))


def own(role: Role) -> TorchEngine:
    return TorchEngine(role.trunk.model, tw.tokenizer(), eos_token_ids=EOS)


def flat(rows: Any) -> list[tuple[Any, ...]]:
    return [(c.ids, c.finish_reason, c.text) for row in rows for c in row]


def test_samples_are_those_of_the_engine_behind_it(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    role = policy()
    engine = client(role, serve(TorchHost(tiny_folder)), tmp_path)
    tw.shake(role, size=0.2)
    told: list[tuple[int, int]] = []
    got = engine.generate(REQUESTS, PARAMS, lambda done, total: told.append((done, total)))
    wanted = own(role).generate(REQUESTS, PARAMS)
    assert flat(got) == flat(wanted)
    assert {c.finish_reason for row in got for c in row} >= {"stop", "eos"}
    for mine, theirs in zip(got, wanted, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.allclose(a.logprobs, b.logprobs, atol=1e-6)
    assert told[-1] == (12, 12)


def test_errors_come_back_as_what_they_are(serve: Serve, tiny_folder: Path, tmp_path: Path) -> None:
    engine = client(policy(), serve(TorchHost(tiny_folder)), tmp_path)
    with pytest.raises(DataError, match="'long': a prompt of 250 tokens"):
        engine.generate([Request("long", [5] * 250)], PARAMS)
    with pytest.raises(ConfigError, match="top_p is 0"):
        engine.generate(REQUESTS, SamplingParams(top_p=0.0))


def test_a_silent_task_sends_signs_of_life(
    serve: Serve, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes longer than the client's timeout is no dead server."""
    monkeypatch.setattr(server_module, "ALIVE_SECONDS", 0.02)
    go = threading.Event()

    class Slow(TorchHost):
        def sample(self, job: Job, progress: Any) -> Sequence[Sequence[Sampled]]:
            assert go.wait(10)
            return super().sample(job, progress)

    engine = client(policy(), serve(Slow(tiny_folder)), tmp_path, timeout=0.4, retries=0)
    engine.sync_weights()
    timer = threading.Timer(1.0, go.set)
    timer.start()
    assert len(engine.generate(REQUESTS, PARAMS)[1]) == 3
    timer.join()


def test_a_client_that_is_told_to_stop_does_so_while_the_server_is_silent(
    serve: Serve, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run that is stopped need not wait for a response that takes minutes."""
    monkeypatch.setattr(server_module, "ALIVE_SECONDS", 0.02)
    go, calls = threading.Event(), []

    class Silent(TorchHost):
        def sample(self, job: Job, progress: Any) -> Sequence[Sequence[Sampled]]:
            assert go.wait(10)
            return super().sample(job, progress)

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise StopError

    engine = client(policy(), serve(Silent(tiny_folder)), tmp_path)
    engine.sync_weights()
    with pytest.raises(StopError):
        engine.generate(REQUESTS, PARAMS, stop)
    assert calls == [(0, 12)] * 3
    go.set()


# -- who may come in, and with what ---------------------------------------------------------------


def test_a_token_is_asked_for(serve: Serve, tiny_folder: Path, tmp_path: Path) -> None:
    url = serve(TorchHost(tiny_folder), token="secret")
    for wrong in (None, "public"):
        with pytest.raises(ConfigError, match="token is missing or wrong"):
            client(policy(), url, tmp_path, token=wrong)
    assert client(policy(), url, tmp_path, token="secret").generate(REQUESTS, PARAMS)


def test_other_machines_need_a_token(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="GNOMON_ROLLOUT_TOKEN"):
        RolloutServer(TorchHost(tiny_folder), "0.0.0.0", 0)


def post(url: str, path: str, body: bytes) -> dict[str, Any]:
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    connection.request("POST", path, body)
    lines = connection.getresponse().read().splitlines()
    connection.close()
    return dict(json.loads(lines[-1]))


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/sample", b"no json", "not JSON"),
        ("/sample", b"[1]", "not a job"),
        ("/sample", json.dumps({"params": {"temperature": float("nan")}}).encode(), "not a job"),
        ("/weights?version=x&probe=1,2", b"\x80\x04pickled", "damaged"),
        ("/weights?version=x&probe=a", b"", "not understood"),
        ("/weights?probe=1", b"", "not understood"),
        ("/etc/passwd", b"", "nothing at"),
    ],
)
def test_what_is_not_understood_is_refused_and_the_server_goes_on(
    serve: Serve, tiny_folder: Path, tmp_path: Path, path: str, body: bytes, said: str
) -> None:
    url = serve(TorchHost(tiny_folder))
    assert said in post(url, path, body)["error"]
    assert client(policy(), url, tmp_path).generate(REQUESTS, PARAMS)


def test_a_file_too_large_for_the_model_is_not_even_read(serve: Serve, tiny_folder: Path) -> None:
    url = urlsplit(serve(TorchHost(tiny_folder)))
    connection = HTTPConnection(str(url.hostname), url.port, timeout=10)
    connection.putrequest("POST", "/weights?version=x&probe=1")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert b"too many" in connection.getresponse().read()
    connection.close()


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("Content-Length", "-1", "not understood"),
        ("Content-Length", "many", "not understood"),
        ("Origin", "http://evil.example", "not for browsers"),
    ],
)
def test_headers_that_no_trainer_sends_are_refused(
    serve: Serve, tiny_folder: Path, header: str, value: str, said: str
) -> None:
    """A length below 0 would be read without end; a page in a browser needs no token here."""
    url = urlsplit(serve(TorchHost(tiny_folder)))
    for path in ("/sample", "/weights?version=x&probe=1"):
        connection = HTTPConnection(str(url.hostname), url.port, timeout=5)
        connection.putrequest("POST", path)
        connection.putheader(header, value)
        connection.endheaders()
        assert said in json.loads(connection.getresponse().read().splitlines()[-1])["error"]
        connection.close()


def test_something_else_at_that_address_is_named(tmp_path: Path) -> None:
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    other = HTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        with pytest.raises(EngineError, match="no rollout server"):
            client(policy(), f"http://127.0.0.1:{other.server_port}", tmp_path)
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        RemoteHost("localhost:8300")


# -- death ----------------------------------------------------------------------------------------


def test_a_proxy_without_its_server_counts_as_a_server_that_is_away(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(502)

        def log_message(self, *args: Any) -> None: ...

    proxy = HTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        with pytest.raises(EngineError, match=r"is gone \(HTTP 502.*tried 3 times"):
            client(policy(), f"http://127.0.0.1:{proxy.server_port}", tmp_path)
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_a_server_that_is_not_there_is_named_after_a_bounded_number_of_tries(
    tmp_path: Path,
) -> None:
    pauses: list[float] = []
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=r"is gone .*tried 9 times.*--resume"):
        client(policy(), url, tmp_path, retries=8, sleep=pauses.append)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


class Process:
    """A server around the torch engine in a process of its own, forked from one that has imported
    everything and computed nothing."""

    def __init__(self, model: Path, port: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gnomon.pipeline.run", "gnomon.rollout.torch_host"])
        said, say = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(str(model), port, say))
        self.process.start()
        say.close()
        self.url = said.recv().split()[-1]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int | None:
        os.kill(self.process.pid or 0, how)
        self.process.join(20)
        return self.process.exitcode


def _serve(model: str, port: int, say: Any) -> None:
    serve_model(model, "torch", "127.0.0.1", port, {}, announce=say.send)


def test_killed_in_the_middle_of_a_rollout_and_started_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The new server has its start weights; the engine sends the policy's before it samples."""
    role = policy()
    first = Process(tiny_folder, 0)
    port = int(first.url.rsplit(":", 1)[1])
    revived: list[Process] = []
    killed: list[int] = []

    def revive(seconds: float) -> None:
        if not revived:
            revived.append(Process(tiny_folder, port))

    engine = client(role, first.url, tmp_path, sleep=revive, retries=3)
    tw.shake(role, size=0.2)
    engine.sync_weights()

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append(first.kill())

    many = [Request(f"r{i}", [5, 9, 60 + i], n=10, seed=i) for i in range(10)]
    params = SamplingParams(max_new_tokens=40)
    try:
        got = engine.generate(many, params, kill)
        assert killed == [-9]
        assert len(revived) == 1
        assert flat(got) == flat(own(role).generate(many, params))
        assert revived[0].kill(signal.SIGTERM) == 0
        with pytest.raises(EngineError, match="is gone"):
            engine.generate(REQUESTS, PARAMS)
    finally:
        for process in (first, *revived):
            if process.process.is_alive():
                process.kill()


def test_a_trainer_that_goes_away_does_not_hold_the_server_up(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    role = policy()
    url = serve(TorchHost(tiny_folder))
    engine = client(role, url, tmp_path)
    engine.sync_weights()

    class DiedError(Exception):
        pass

    def die(done: int, total: int) -> None:
        raise DiedError

    many = [Request(f"r{i}", [5, 9, 60 + i], n=40, seed=i) for i in range(20)]
    with pytest.raises(DiedError):
        engine.generate(many, SamplingParams(max_new_tokens=60), die)
    assert flat(engine.generate(REQUESTS, PARAMS)) == flat(own(role).generate(REQUESTS, PARAMS))
