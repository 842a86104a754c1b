"""What a stranger can do to a rollout server over a socket: be refused, quickly and in words."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from gnomon.rollout import door
from gnomon.rollout.door import Budget, Lease
from gnomon.rollout.protocol import About, Job, RawCompletion, Request, SamplingParams, WeightsFile
from gnomon.rollout.wire import MAX_RESPONSES, PROTOCOL, job_to_json
from served import PATIENCE, Serve, ask, dial, hear

SOON = 25.0
"""Seconds; a deadline that a test sets is far shorter, and the one that it replaces is longer."""
NEVER = 600.0
VERSION = "0" * 64


class Echo:
    """A host without a model: it samples as many tokens as it is asked for."""

    def about(self) -> About:
        return About("torch", "echo", "float32", VERSION, 128, 100, {}, {"w": [1 << 20]})

    def load(
        self, weights: WeightsFile, probe: Sequence[int], wanted: Callable[[], None] | None = None
    ) -> Sequence[float]:
        return [-1.0] * (len(probe) - 1)

    def sample(self, job: Job, progress: Any) -> list[list[RawCompletion]]:
        length = job.params.max_new_tokens
        one = RawCompletion([1] * length, [-0.5] * length, "length", job.version)
        return [[one] * r.n for r in job.requests]

    def close(self) -> None: ...


def job(**changes: Any) -> dict[str, Any]:
    whole = Job(VERSION, [Request("a", [5, 9])], SamplingParams(8), (2,))
    return json.loads(job_to_json(whole)) | changes


def request(**changes: Any) -> dict[str, Any]:
    return job(requests=[{"id": "a", "prompt_ids": [5, 9], "n": 1, "seed": 0} | changes])


def params(**changes: Any) -> dict[str, Any]:
    return job(params=job()["params"] | changes)


def sampled(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    return ask(url, "POST", "/sample", json.dumps(body or job()).encode(), headers)


def works(url: str) -> bool:
    """Asked in one piece, so that no deadline of a body passes in the middle of it."""
    body = json.dumps(job()).encode()
    with dial(url) as connection:
        connection.sendall(head("/sample", f"Content-Length: {len(body)}") + body)
        return hear(connection).startswith(b"HTTP/1.1 200 ")


def until_it_works(url: str) -> None:
    """The server learns of who left by and by."""
    deadline = time.monotonic() + PATIENCE
    while not works(url):
        assert time.monotonic() < deadline


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


# -- who may come in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:80",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "localhost@evil.com",
        "10.9.8.7",
        "[::2]",
        "",
        "localhost:8300:1",
        "localhost/",
    ],
)
def test_a_name_that_is_not_this_servers_is_refused(serve: Serve, host: str) -> None:
    """DNS rebinding: a page whose own name was made to point at this machine."""
    url = serve(Echo())
    status, said = ask(url, "GET", "/about", headers={"Host": host})
    assert (status, said["kind"]) == (421, "config")
    assert "is not called" in said["error"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:99", "[::1]:80", "our.proxy:443"]
)
def test_a_name_of_this_server_is_let_in(serve: Serve, host: str) -> None:
    url = serve(Echo(), names=("Our.Proxy",))
    assert ask(url, "GET", "/about", headers={"Host": host})[1]["program"] == "echo"


def test_two_names_or_none_are_no_request(serve: Serve) -> None:
    url = serve(Echo())
    for names in (b"", b"Host: localhost\r\nHost: evil.com\r\n"):
        with dial(url) as connection:
            connection.sendall(b"GET /about HTTP/1.1\r\n" + names + b"\r\n")
            assert b"HTTP/1.1 400 " in hear(connection)
    with dial(url) as connection:
        connection.sendall(b"GET /about HTTP/1.0\r\n\r\n")
        assert b"HTTP/1.1 421 " in hear(connection)


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_pages_in_browsers_are_refused(serve: Serve, header: dict[str, str]) -> None:
    url = serve(Echo(), token="secret")
    header["Authorization"] = "Bearer secret"
    for method, path in (("GET", "/about"), ("POST", "/sample"), ("OPTIONS", "/sample")):
        status, said = ask(url, method, path, headers=header)
        assert (status, said["error"]) == (403, "this is not for browsers")


@pytest.mark.parametrize(
    "shown", [None, "Bearer", "Bearer secre", "Bearer secrets", "bearer secret", "Basic secret"]
)
def test_without_the_token_nothing_is_answered(serve: Serve, shown: str | None) -> None:
    url = serve(Echo(), token="secret")
    headers = {} if shown is None else {"Authorization": shown}
    for method, path in (("GET", "/about"), ("POST", "/sample"), ("GET", "/no/such")):
        status, said = ask(url, method, path, headers=headers)
        assert status == 401
        assert "token is missing or wrong: set GNOMON_ROLLOUT_TOKEN" in said["error"]
    assert sampled(url, Authorization="Bearer secret")[0] == 200


def test_another_version_of_the_exchange_is_named(serve: Serve) -> None:
    status, said = sampled(serve(Echo()), **{"Gnomon-Rollouts": "1"})
    assert status == 400
    assert f"version 1 of the exchange and this server {PROTOCOL}" in said["error"]


@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("DELETE", 405), ("GET", 405)])
def test_other_methods_are_refused(serve: Serve, method: str, status: int) -> None:
    assert ask(serve(Echo()), method, "/sample")[0] == status


# -- bodies ---------------------------------------------------------------------------------------


def test_a_body_too_large_is_refused_before_it_is_read(serve: Serve) -> None:
    url = serve(Echo(), job_bytes=1000, linger_seconds=0.1)
    for path in ("/sample", f"/weights?version={VERSION}&probe=1,2"):
        with dial(url) as connection:
            connection.sendall(head(path, f"Content-Length: {10**12}"))
            answer = hear(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"this model needs less" in answer


def test_who_writes_on_regardless_still_sees_the_refusal(serve: Serve) -> None:
    """A connection that is closed while it is written to is reset, and its answer lost."""
    url = serve(Echo(), job_bytes=1000, linger_seconds=PATIENCE)
    status, said = ask(url, "POST", "/sample", b"x" * (8 << 20))
    assert (status, said["kind"]) == (413, "data")


def test_a_body_of_unsaid_length_is_bounded_too(serve: Serve) -> None:
    url = serve(Echo(), job_bytes=100_000, linger_seconds=PATIENCE)
    pieces = (b"x" * 10_000 for _ in range(100))
    assert ask(url, "POST", "/sample", pieces, encode_chunked=True)[0] == 413
    whole = json.dumps(job()).encode()
    halves = iter([whole[:20], whole[20:]])
    assert ask(url, "POST", "/sample", halves, encode_chunked=True)[0] == 200


def test_all_bodies_together_are_bounded(serve: Serve) -> None:
    """Without it 60 connections with 60 MB each are gigabytes."""
    url = serve(Echo(), job_bytes=1 << 20, jobs_bytes=2 << 20, idle_seconds=NEVER)
    with ExitStack() as stack:
        held = [stack.enter_context(dial(url)) for _ in range(4)]
        for connection in held:
            connection.sendall(head("/sample", f"Content-Length: {1 << 20}") + b"x" * 900_000)
        for _ in range(2):  # there is room for two, whichever they are
            answered = select.select(held, [], [], PATIENCE)[0]
            assert answered, "they are let in"
            held.remove(answered[0])
            answer = hear(answered[0])
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"too much is on its way" in answer
        held[0].sendall(b"x" * ((1 << 20) - 900_000))
        assert hear(held[0]).startswith(b"HTTP/1.1 422 ")  # the rest of it was read
        assert not select.select(held[1:], [], [], 0)[0]
    until_it_works(url)  # what who left had is given back


def test_a_budget_is_given_back_once() -> None:
    budget = Budget(10)
    first, second = Lease(budget), Lease(budget)
    assert first.grow(6)
    assert not second.grow(5)
    assert second.grow(4)
    first.end()
    first.end()
    assert not second.grow(7)
    assert second.grow(6)


def test_a_body_that_stops_coming_is_given_up(serve: Serve) -> None:
    url = serve(Echo(), idle_seconds=0.2, linger_seconds=0.1)
    for start in (b"", b"x" * 10):
        began = time.monotonic()
        with dial(url) as connection:
            connection.sendall(head("/sample", "Content-Length: 100") + start)
            answer = hear(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the body came too slowly" in answer
        assert time.monotonic() - began < SOON


def test_a_body_that_trickles_is_given_up(serve: Serve) -> None:
    """Every byte comes in time, and there are too many of them."""
    url = serve(Echo(), idle_seconds=NEVER, grace_seconds=0.3, slowest=1e9)
    stop = threading.Event()
    began = time.monotonic()
    with dial(url) as connection:
        connection.sendall(head("/sample", "Content-Length: 100000"))

        def trickle() -> None:
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            status = connection.recv(12)
        finally:
            stop.set()
            thread.join()
    assert status == b"HTTP/1.1 408"
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("start", [b"", b"GET", b"GET /about HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_headers_that_never_end_are_given_up(
    serve: Serve, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, set_ = door._Bounded._due, []

    def noted(self: Any, name: str, seconds: float, *call: Any) -> None:
        set_.append((name, seconds))
        due(self, name, seconds, *call)

    monkeypatch.setattr(door._Bounded, "_due", noted)
    url = serve(Echo(), header_seconds=0.2)
    with dial(url) as connection:
        connection.sendall(start)
        assert b"the headers took too long" in hear(connection)
    assert set_[0] == ("headers", 0.2)


@pytest.mark.parametrize(
    "sent",
    [
        head("/sample", "X: " + "x" * 40_000),
        head("/sample", *(f"X-{i}: y" for i in range(4000))),
        head("/sample", "Content-Length: -1"),
        head("/sample", "Content-Length: many"),
        head("/sample", "Content-Length: 1", "Content-Length: 2"),
        head("/sample", "Transfer-Encoding: chunked") + b"what?\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(serve: Serve, sent: bytes) -> None:
    url = serve(Echo())
    with dial(url) as connection:
        connection.sendall(sent)
        answer = hear(connection)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")
    assert b"not understood" in answer
    assert works(url)


def test_what_comes_after_a_body_is_no_part_of_it(serve: Serve) -> None:
    url = serve(Echo())
    whole = json.dumps(job()).encode()
    with dial(url) as connection:
        connection.sendall(head("/sample", f"Content-Length: {len(whole)}"))
        connection.sendall(whole[:10])
        connection.sendall(whole[10:] + b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = hear(connection)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"result"' in answer


# -- connections and answers ----------------------------------------------------------------------


def test_connections_are_bounded(serve: Serve) -> None:
    url = serve(Echo(), connections=3, header_seconds=NEVER)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(dial(url))
        with dial(url) as fourth:
            answer = hear(fourth)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"too many connections" in answer
    until_it_works(url)


def test_an_answer_that_is_not_read_is_dropped(serve: Serve) -> None:
    said: list[str] = []
    heard = threading.Event()

    def log(text: str) -> None:
        said.append(text)
        if "does not read its answer" in text:
            heard.set()

    url = serve(Echo(), idle_seconds=0.3, log=log)
    body = json.dumps(params(max_new_tokens=100) | {"requests": request(n=20_000)["requests"]})
    with dial(url) as connection:
        connection.setsockopt(1, 8, 4096)  # SOL_SOCKET, SO_RCVBUF
        connection.sendall(head("/sample", f"Content-Length: {len(body)}") + body.encode())
        assert heard.wait(PATIENCE), said
    assert works(url)


def test_tasks_that_wait_are_bounded(serve: Serve) -> None:
    began, go, refused = (threading.Event() for _ in range(3))

    class Slow(Echo):
        def sample(self, job: Job, progress: Any) -> list[list[RawCompletion]]:
            began.set()
            assert go.wait(PATIENCE)
            return super().sample(job, progress)

    url = serve(Slow(), tasks=1)
    answers: list[int] = []

    def ask_once() -> None:
        answers.append(sampled(url)[0])
        if answers[-1] == 503:
            refused.set()

    threads = [threading.Thread(target=ask_once) for _ in range(3)]
    threads[0].start()
    assert began.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    assert refused.wait(PATIENCE)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(answers) == [200, 200, 503]


# -- jobs -----------------------------------------------------------------------------------------


def deep(depth: int) -> Iterator[bytes]:
    yield b"[" * depth
    yield b"[" * depth + b"]" * depth
    yield b'{"version": ' + b'{"a": ' * depth
    yield b'{"requests": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize("body", [*deep(300), *deep(100_000)], ids=lambda b: f"{len(b)}")
def test_deep_json_is_answered(serve: Serve, body: bytes) -> None:
    """json.loads raises RecursionError at it, which used to drop the connection."""
    status, said = ask(serve(Echo()), "POST", "/sample", body)
    assert (status, said["kind"]) == (422, "data")
    assert "not a job that this server understands" in said["error"]


def test_a_number_of_5000_digits_is_answered(serve: Serve) -> None:
    body = json.dumps(request(seed=123456789)).replace("123456789", "9" * 5000)
    assert ask(serve(Echo()), "POST", "/sample", body.encode())[0] == 422


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (request(n=0), "requests.0.n"),
        (request(n=-1), "requests.0.n"),
        (request(n=10**9), "requests.0.n"),
        (request(n=True), "requests.0.n"),
        (request(n=1.5), "requests.0.n"),
        (request(n="3"), "requests.0.n"),
        (request(seed=-1), "requests.0.seed"),
        (request(seed=2**64), "requests.0.seed"),
        (request(prompt_ids=[]), "requests.0.prompt_ids"),
        (request(prompt_ids="5"), "requests.0.prompt_ids"),
        (request(prompt_ids=[5.0]), "requests.0.prompt_ids.0"),
        (request(prompt_ids=[-1]), "requests.0.prompt_ids.0"),
        (request(prompt_ids=[100]), "must be in 0..99"),
        (request(prompt_ids=[5] * 121), "window of 128"),
        (request(id=7), "requests.0.id"),
        (request(extra=1), "requests.0.extra"),
        (job(requests=[job()["requests"][0] | {"n": MAX_RESPONSES}] * 2), "in one job"),
        (job(requests={}), "requests"),
        (job(version=""), "version"),
        (job(version="x" * 101), "version"),
        (job(eos=[100]), "eos ids must be in 0..99"),
        (job(eos=[-1]), "eos.0"),
        (job(eos=[2] * 5000), "eos"),
        (job(more=1), "more"),
        (params(max_new_tokens=0), "max_new_tokens is 0"),
        (params(max_new_tokens=2**40), "max_new_tokens"),
        (params(max_new_tokens=127), "window of 128"),
        (params(temperature=float("nan")), "temperature"),
        (params(temperature=float("inf")), "temperature"),
        (params(temperature=-1.0), "temperature is -1"),
        (params(temperature=1e-30), "temperature is 1e-30"),
        (params(temperature="1"), "temperature"),
        (params(top_p=0.0), "top_p is 0"),
        (params(top_p=float("nan")), "top_p"),
        (params(top_k=-1), "top_k is -1"),
        (params(min_p=2.0), "min_p is 2"),
        (params(stop=[""]), "empty string"),
        (params(stop=["\ud800"]), "not a job"),
        (params(stop=["x"] * 300), "params.stop"),
        (params(stop=["x" * 20_000]), "params.stop.0"),
        ([job()], "not a job"),
        ("job", "not a job"),
    ],
)
def test_a_job_out_of_bounds_is_refused_with_its_place(serve: Serve, body: Any, said: str) -> None:
    status, answer = sampled(serve(Echo()), body)
    assert status == 422
    assert said in answer["error"]
    assert len(answer["error"]) < 500
