"""The trainer's side of a rollout server: what it says when the other side is odd, and Ctrl-C."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny_world as tw
from gnomon.errors import ConfigError, EngineError, RunError
from gnomon.rollout import client as remote_client
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.protocol import Job, RawCompletion, Request, SamplingParams, WeightsFile
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.torch_host import TorchHost
from ports import free_port
from served import EOS, PATIENCE, Servers, client, dial, policy

OURS = "Gnomon-Rollouts: 3"
LINES = "Content-Type: application/jsonlines"
JOB = Job("0" * 64, [Request("a", [5, 9], n=2)], SamplingParams(4), EOS)


def read_request(connection: socket.socket) -> None:
    """Read a request to its end: what is left unread would reset the connection when it closes."""
    heard = more = connection.recv(1 << 16)
    while more and heard[:4] in (b"GET ", b"POST", b"PUT ") and b"\r\n\r\n" not in heard:
        more = connection.recv(1 << 16)
        heard += more
    head, _, body = heard.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0 and (more := connection.recv(1 << 16)):
        missing -= len(more)


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives these answers, one a connection and the last again and again, whatever
    it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            left = list(answers)
            while True:
                connection, _ = listener.accept()
                with connection:
                    if stop.is_set():
                        return
                    read_request(connection)
                    with suppress(OSError):  # it may have heard enough
                        connection.sendall(left.pop(0) if len(left) > 1 else left[0])

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield url
        finally:
            stop.set()
            dial(url).close()
            thread.join(PATIENCE)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def line(value: Any) -> bytes:
    return http(json.dumps(value).encode() + b"\n", OURS, LINES)


def sample(url: str, **more: Any) -> Any:
    with closing(RemoteHost(url, **({"retries": 1, "sleep": lambda s: None} | more))) as host:
        return host.sample(JOB, None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"<html>", "Content-Type: text/html"), r"not a rollout server of gnomon \(HTTP 200"),
        (http(b"", "Location: http://x/", status="301 Moved"), r"\(HTTP 301"),
        (http(b"", status="404 Not Found"), r"\(HTTP 404 Not Found"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not a rollout server of gnomon"),
        (http(b'{"alive": true}\n', LINES), "version 1 of the exchange and this gnomon 3"),
        (http(b"{}\n", "Gnomon-Rollouts: 4"), "version 4 of the exchange and this gnomon 3"),
        (http(b"[" * 100_000 + b"\n", OURS), "not a rollout server"),
        (http(b"no json\n", OURS), "not a rollout server"),
        (http(b"[1]\n", OURS), "not a rollout server"),
        (http(b"x" * (70 << 20), OURS), "which no answer to this needs"),
        (line({"result": [[7]]}), "is not understood"),
        (line({"result": [[[[1], [0.0], "why", "v"]]]}), "is not understood"),
        (line({"result": None}), "is not understood"),
        (line({"error": "no room", "kind": "run"}), "on the rollout server: no room"),
        (http(b'{"progress": 7}\n', OURS), "not a rollout server"),
        (line({"error": "odd", "kind": "new kind"}), "on the rollout server: odd"),
    ],
    ids=range(16),
)
def test_odd_answers_are_named_at_once(answer: bytes, said: str) -> None:
    pauses: list[float] = []
    with answering(answer) as url, pytest.raises(RunError, match=said):
        sample(url, sleep=pauses.append)
    assert pauses == []  # another try would not help


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "Server disconnected"),
        (http(b"", OURS, LINES), "broke off"),
        (http(b'{"resu', OURS, LINES), "broke off"),
        (http(b'{"alive": true}\n', OURS, LINES), "broke off"),
        (http(b'{"alive": true}\n', OURS, "Content-Length: 500"), "broke off"),
        (http(b"5\r\n", OURS, "Transfer-Encoding: chunked"), "broke off"),
        (http(b"", status="502 Bad Gateway"), "HTTP 502 Bad Gateway"),
        (http(b"", status="503 Service Unavailable"), "HTTP 503"),
        (http(b'{"error": "full", "kind": "busy"}\n', OURS, status="503 Refused"), "full"),
    ],
    ids=range(9),
)
def test_what_may_pass_is_tried_again(answer: bytes, said: str) -> None:
    """The same answer three times, then one that is whole."""
    rows = [[[[1, 2], [-0.5, -0.25], "length", "0" * 64]] * 2]
    pauses: list[float] = []
    with answering(*[answer] * 3, line({"result": rows})) as url:
        got = sample(url, retries=3, sleep=pauses.append)
    assert [list(s.ids) for s in got[0]] == [[1, 2], [1, 2]]
    assert pauses == [1, 2, 4]
    with answering(answer) as url, pytest.raises(EngineError, match=rf"is gone \(.*{said}"):
        sample(url)


def test_silence_counts_as_a_server_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineError, match=r"no sign of life for 0.2 s; tried 2 times"):
            sample(url, timeout=0.2)
    with pytest.raises(EngineError, match=r"Connection refused; tried 2 times.*--resume"):
        sample(f"http://127.0.0.1:{free_port()}")


def test_tls_that_fails_is_named_at_once() -> None:
    failed = pytest.raises(EngineError, match="TLS with the rollout server failed")
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, failed:
        sample(url.replace("http://", "https://"))


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights for this machine must not go through somebody else's."""
    rows = [[[[1], [-0.5], "length", "0" * 64]] * 2]
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with answering(line({"result": rows})) as url:
        assert len(sample(url)[0]) == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8300",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://host:port",
        "http://host:0",
        "http://[::1",
        "http://user:secret@host",
        "http://host?x=1",
        "http://ho st",
        "http://host\n",
        "http://höst",
    ],
)
def test_addresses_that_are_none_are_named(url: str) -> None:
    with pytest.raises(ConfigError, match=r"write http://HOST:PORT"):
        RemoteHost(url)


@pytest.mark.parametrize(
    "settings", [{"retries": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"timeout": -3.0}]
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="retries and a timeout"):
        RemoteHost("http://localhost", **settings)


def test_a_token_that_no_header_can_carry_is_named() -> None:
    for token in ("two words", "line\n", "Schlüssel", "tab\t"):
        with pytest.raises(ConfigError, match="openssl rand"):
            RemoteHost("http://localhost", token)


# -- what is trained on must not rest on trust ----------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "logprobs", "said"),
    [
        ([5, 9999999], [-1.0, -1.0], "token ids outside 0.."),
        ([5, -1], [-1.0, -1.0], "token ids outside 0.."),
        ([5] * 9, [-1.0] * 9, "9 log-probs for 9 tokens, of at most 8"),
        ([], [], "0 log-probs for 0 tokens"),
        ([5, 6], [-1.0], "1 log-probs for 2 tokens"),
        ([5], [float("nan")], "not a finite number"),
        ([5], [float("-inf")], "not a finite number"),
    ],
)
def test_samples_that_cannot_be_are_refused(
    tmp_path: Path, tiny_folder: Path, ids: list[int], logprobs: list[float], said: str
) -> None:
    class Odd(TorchHost):
        def sample(self, job: Job, progress: Any) -> Any:
            return [
                [RawCompletion(ids, logprobs, "length", job.version)] * r.n for r in job.requests
            ]

    replica = HostReplica(policy(), Odd(tiny_folder), tw.tokenizer(), EOS, tmp_path / "w")
    with pytest.raises(EngineError, match=said):
        ReplicaEngine(replica).generate([Request("a", [5, 9])], SamplingParams(8))


# -- Ctrl-C ---------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def given_up(work: Callable[[Callable[[], None]], Any]) -> bool:
    """Whether ``work``, which would wait far longer in another thread, hears of a stop."""
    stop, waiting, heard = threading.Event(), threading.Event(), threading.Event()

    def check() -> None:
        waiting.set()
        if stop.is_set():
            raise StoppedError

    def run() -> None:
        try:
            work(check)
        except StoppedError:
            heard.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert waiting.wait(PATIENCE)
    stop.set()
    thread.join(PATIENCE)
    return heard.is_set()


@pytest.fixture
def weights(tmp_path: Path) -> WeightsFile:
    file = tmp_path / "w.safetensors"
    file.write_bytes(bytes(32 << 20))  # more than the sockets hold between them
    return WeightsFile(file, "0" * 64)


def test_a_stop_is_heard_while_weights_go_to_a_server_that_reads_nothing(
    weights: WeightsFile,
) -> None:
    """It took up to two minutes: the time of a socket, times the tries."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(RemoteHost(url, timeout=10 * PATIENCE)) as host:
            assert given_up(lambda check: host.load(weights, [1, 2], check))


def test_a_stop_is_heard_between_two_tries(
    weights: WeightsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a pause, by a clock on which the first one never ends."""
    monkeypatch.setattr(remote_client, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=_wait))
    with closing(RemoteHost(f"http://127.0.0.1:{free_port()}")) as host:
        assert given_up(lambda check: host.load(weights, [1, 2], check))


def _wait(seconds: float) -> None:
    assert seconds <= 0.1  # until it looks again
    threading.Event().wait(0.01)


def test_a_run_that_samples_ahead_lets_go_of_a_dead_server(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """As Prefetch ends: the engine is pinned, and what it calls now and then raises."""
    servers, role = Servers(), policy()
    engine = client(role, servers.start(TorchHost(tiny_folder)), tmp_path, retries=8, sleep=None)
    snapshot = engine.capture()
    servers.stop()

    def sync(check: Callable[[], None]) -> None:
        with engine.pinned(snapshot, lambda done, total: check()):
            engine.sync_weights()

    assert given_up(sync)
    engine.close()
