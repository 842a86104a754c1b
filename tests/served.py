"""Rollout servers for tests: in threads and in processes of their own, and a client by hand."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tiny_world as tw
from forked import settle
from gnomon.models.roles import Role
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.door import ServerLimits
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.serve import RolloutServer
from gnomon.rollout.serve import serve as serve_model
from gnomon.rollout.torch_engine import TorchEngine

EOS = (tw.EOS, *range(8, 40))
Serve = Callable[..., str]
PATIENCE = 60.0
"""Seconds for what comes at once where the machine is not busy."""


class Servers:
    """Starts servers in threads of this process; gives their addresses."""

    def __init__(self) -> None:
        self._running: list[tuple[RolloutServer, threading.Thread]] = []

    def start(
        self,
        host: Any,
        token: str | None = None,
        names: tuple[str, ...] = (),
        log: Callable[[str], None] | None = None,
        **limits: Any,
    ) -> str:
        server = RolloutServer(
            host, port=0, token=token, names=names, limits=ServerLimits(**limits), log=log
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        self._running.append((server, thread))
        return server.url

    def stop(self) -> None:
        for server, _ in self._running:
            server.stop()
        for _, thread in self._running:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._running.clear()


class Process:
    """A server around the torch engine in a process of its own, forked from one that has imported
    everything and computed nothing."""

    def __init__(self, model: Path, port: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gnomon.stages.run", "gnomon.rollout.torch_host"])
        said, say = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(str(model), port, say))
        self.process.start()
        say.close()
        self.url = said.recv().split()[-1]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int | None:
        os.kill(self.process.pid or 0, how)
        self.process.join(PATIENCE)
        return self.process.exitcode


def _serve(model: str, port: int, say: Any) -> None:
    settle()
    serve_model(model, "torch", "127.0.0.1", port, {}, announce=say.send)


def policy() -> Role:
    return Role("policy", tw.trunk(0), trainable=True)


def client(role: Role, url: str, folder: Path, **more: Any) -> ReplicaEngine:
    more = {"retries": 2, "sleep": lambda seconds: None} | more
    host = RemoteHost(url, **more)
    return ReplicaEngine(HostReplica(role, host, tw.tokenizer(), EOS, folder / "weights"))


def own(role: Role) -> TorchEngine:
    return TorchEngine(role.trunk.model, tw.tokenizer(), eos_token_ids=EOS)


def ask(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> tuple[int, dict[str, Any]]:
    """Status and last line of an answer."""
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {}, **more)
        response = connection.getresponse()
        return response.status, dict(json.loads(response.read().splitlines()[-1]))
    finally:
        connection.close()


def dial(url: str) -> socket.socket:
    """A bare connection."""
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=PATIENCE)


def hear(connection: socket.socket) -> bytes:
    """All that comes until the other side closes; b"reset" when it does so rudely."""
    said = bytearray()
    try:
        while piece := connection.recv(1 << 16):
            said += piece
    except ConnectionResetError:
        said += b"reset"
    return bytes(said)
