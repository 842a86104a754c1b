"""The rollout server and its client, around the torch engine: samples, sync, tokens, death."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_world as tw
from gnomon.errors import ConfigError, DataError, EngineError, ModelError
from gnomon.rollout import exchange
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.protocol import Job, RawCompletion, Request, SamplingParams
from gnomon.rollout.serve import RolloutServer, make_host, parse_options
from gnomon.rollout.torch_host import TorchHost
from ports import free_port
from served import EOS, PATIENCE, Process, Serve, ask, client, own, policy

PARAMS = SamplingParams(max_new_tokens=8, temperature=0.9, top_p=0.8, stop=("e",))
REQUESTS = [Request("a", [5, 9, 60], n=9, seed=3), Request("b", [7, 80], n=3, seed=4)]


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
    """A job that takes longer than the client's timeout is no dead server: by a clock that moves
    at the signs alone, so that it is no matter how fast this machine is."""
    go, signs = threading.Event(), []
    parsed, started = exchange._parsed, exchange.Waiter._started

    def noted(line: bytes) -> dict[str, Any]:
        found = parsed(line)
        signs.extend([0.3] if found.get("alive") else [])
        if sum(signs) > 4 * 0.4:
            go.set()
        return found

    def clocked(self: exchange.Waiter) -> asyncio.AbstractEventLoop:
        loop = started(self)
        loop.time = lambda: sum(signs)  # type: ignore[method-assign]
        return loop

    monkeypatch.setattr(exchange, "_parsed", noted)
    monkeypatch.setattr(exchange.Waiter, "_started", clocked)

    class Slow(TorchHost):
        def sample(self, job: Job, progress: Any) -> Sequence[Sequence[RawCompletion]]:
            assert go.wait(PATIENCE)
            return super().sample(job, progress)

    engine = client(
        policy(), serve(Slow(tiny_folder), alive_seconds=0.02), tmp_path, timeout=0.4, retries=0
    )
    engine.sync_weights()
    assert len(engine.generate(REQUESTS, PARAMS)[1]) == 3


def test_a_client_that_is_told_to_stop_does_so_while_the_server_is_silent(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    """So that a run that is stopped need not wait for a response that takes minutes."""
    go, calls = threading.Event(), []

    class Silent(TorchHost):
        def sample(self, job: Job, progress: Any) -> Sequence[Sequence[RawCompletion]]:
            assert go.wait(PATIENCE)
            return super().sample(job, progress)

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise StopError

    engine = client(policy(), serve(Silent(tiny_folder), alive_seconds=0.02), tmp_path)
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
    for address in ("0.0.0.0", "", "::"):
        with pytest.raises(ConfigError, match="GNOMON_ROLLOUT_TOKEN"):
            RolloutServer(TorchHost(tiny_folder), address, 0)


@pytest.mark.parametrize(
    ("address", "port", "token", "said"),
    [
        ("127.0.0.1", 70_000, None, "from 0 to 65535"),
        ("no such host", 0, None, "cannot listen"),
        ("127.0.0.1", 0, "two words", "GNOMON_ROLLOUT_TOKEN must be"),
        ("127.0.0.1", 0, "line\n", "GNOMON_ROLLOUT_TOKEN must be"),
        ("127.0.0.1", 0, "Schlüssel", "GNOMON_ROLLOUT_TOKEN must be"),
    ],
)
def test_what_cannot_be_listened_on_is_named(
    tiny_folder: Path, address: str, port: int, token: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        RolloutServer(TorchHost(tiny_folder), address, port, token)


def test_a_port_that_is_taken_is_named(serve: Serve, tiny_folder: Path) -> None:
    host = TorchHost(tiny_folder)
    port = int(serve(host).rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        RolloutServer(host, port=port)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_rows": 0}, "max_rows is 0"),
        ({"max_rows": "many"}, "max_rows is 'many'"),
        ({"device": "no such"}, "device 'no such'"),
        ({"dtype": "float3"}, "unknown dtype"),
        ({"colour": 1}, "colour is unknown; use device, dtype, max_lora_rank, max_rows"),
    ],
)
def test_options_of_the_torch_engine_that_are_none(
    tiny_folder: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ConfigError, ModelError), match=said):
        make_host("torch", tiny_folder, options)


def test_options_that_are_no_yaml() -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        parse_options(["dtype=[float32"])


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/sample", b"no json", "Invalid JSON"),
        ("/sample", b"[1]", "not a job"),
        ("/sample", json.dumps({"params": {"temperature": float("nan")}}).encode(), "not a job"),
        (f"/weights?version={'0' * 64}&probe=1,2", b"\x80\x04pickled", "cannot be loaded"),
        ("/weights?version=x&probe=a", b"", "not understood"),
        ("/weights?probe=1", b"", "not understood"),
        ("/etc/passwd", b"", "nothing at"),
    ],
)
def test_what_is_not_understood_is_refused_and_the_server_goes_on(
    serve: Serve, tiny_folder: Path, tmp_path: Path, path: str, body: bytes, said: str
) -> None:
    url = serve(TorchHost(tiny_folder))
    assert said in ask(url, "POST", path, body)[1]["error"]
    assert client(policy(), url, tmp_path).generate(REQUESTS, PARAMS)


# -- death ----------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named_after_a_bounded_number_of_tries(
    tmp_path: Path,
) -> None:
    pauses: list[float] = []
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=r"is gone .*tried 9 times.*--resume"):
        client(policy(), url, tmp_path, retries=8, sleep=pauses.append)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_killed_in_the_middle_of_a_rollout_and_started_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The new server has its start weights; the engine sends the policy's before it samples."""
    role = policy()
    port = free_port()
    first = Process(tiny_folder, port)
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


def test_what_was_done_is_said_in_plain_words(
    serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    url = serve(TorchHost(tiny_folder), log=said.append)
    client(policy(), url, tmp_path).generate(REQUESTS, PARAMS)
    ask(url, "POST", "/sample", b"[1]")
    assert said[0].startswith("took over weights ")
    assert said[1].startswith("sampled 12 responses to 2 prompts: ")
    assert said[2].startswith("refused /sample: not a job")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_says_so_to_who_waits(
    tiny_folder: Path, how: signal.Signals
) -> None:
    """In the middle of a task: the exit is clean, and the client need not find out by itself."""
    process = Process(tiny_folder, 0)
    ended: list[int | None] = []
    killers: list[threading.Thread] = []

    def stop(done: int, total: int) -> None:
        if done and not killers:
            killers.append(threading.Thread(target=lambda: ended.append(process.kill(how))))
            killers[0].start()

    many = [Request(f"r{i}", [5, 9, 60 + i], n=200, seed=i) for i in range(20)]
    job = Job("the start weights", many, SamplingParams(max_new_tokens=200), EOS)
    host = RemoteHost(process.url, retries=0)
    try:
        with pytest.raises(EngineError, match=r"is gone \(it is being stopped; tried 1 times"):
            host.sample(job, stop)
        killers[0].join(PATIENCE)
        assert ended == [0]
    finally:
        host.close()
        if process.process.is_alive():
            process.kill()
