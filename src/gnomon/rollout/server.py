"""A rollout server: one host behind HTTP, for one trainer.

The host works in the main thread, one task after the other; connections are read in others. Only
JSON and safetensors are accepted, and nothing outside its scratch folder is written. There is no
encryption: beyond one machine, use a private network or a tunnel.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gnomon.atomic import write_file
from gnomon.errors import ConfigError, DataError, EngineError, GnomonError
from gnomon.rollout.host import Host
from gnomon.rollout.weights import WeightsFile
from gnomon.rollout.wire import (
    ALIVE_SECONDS,
    MAX_JOB_BYTES,
    TOKEN_VARIABLE,
    error_line,
    job_from_json,
    rows_to_json,
)

Progress = Callable[[int, int], None]
_CHUNK = 1 << 22
_READ_SECONDS = 300.0


class GoneError(Exception):
    """The client went away in the middle of a task."""


class _Task:
    """Something for the host to do, and the lines that it answers."""

    def __init__(self, work: Callable[[Progress], Any]) -> None:
        self.work = work
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.gone = threading.Event()

    def run(self) -> None:
        """Do it, unless nobody waits for it any more; the last line says how it went."""
        try:
            self._check()
            line = {"result": self.work(self._progress)}
        except Exception as error:
            line = error_line(error)
        self.lines.put(line)

    def _check(self) -> None:
        if self.gone.is_set():
            raise GoneError("the client went away")

    def _progress(self, done: int, total: int) -> None:
        self._check()
        self.lines.put({"progress": [done, total]})


class RolloutServer:
    """Serves a host until :meth:`stop`.

    Args:
        host: what samples.
        address, port: where to listen; port 0 takes a free one.
        token: clients must show it, when it is given.

    Raises:
        ConfigError: an address that others can reach without a token, or that cannot be had.
    """

    def __init__(
        self, host: Host, address: str = "127.0.0.1", port: int = 8300, token: str | None = None
    ) -> None:
        if not token and not _is_loopback(address):
            raise ConfigError(
                f"{address} can be reached by others, and whoever reaches it can replace the "
                f"model's weights: set {TOKEN_VARIABLE} to a secret, here and for the trainer"
            )
        self._host = host
        self._token = token or ""
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._scratch = tempfile.TemporaryDirectory(prefix="gnomon-rollouts-")
        weights = sum(_size(shape) for shape in host.about().shapes.values())
        self._most = 8 * weights + (1 << 24)  # bytes of a weights file, in any dtype
        try:
            self._http = ThreadingHTTPServer((address, port), partial(_Handler, self))
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}:{port}: {error}") from error
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        """Where it is reached."""
        address, port = self._http.server_address[:2]
        return f"http://{address!s}:{port}"

    def run(self) -> None:
        """Work until :meth:`stop`, in the calling thread."""
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        try:
            while (task := self._tasks.get()) is not None:
                task.run()
        finally:
            self._http.shutdown()
            self._http.server_close()
            self._scratch.cleanup()

    def stop(self) -> None:
        """Have :meth:`run` return after the task at hand."""
        self._tasks.put(None)

    # -- what the handlers use --------------------------------------------------------------------

    def admits(self, header: str | None) -> bool:
        """Whether this Authorization header may come in."""
        return not self._token or hmac.compare_digest(
            (header or "").encode(), f"Bearer {self._token}".encode()
        )

    def about(self) -> dict[str, Any]:
        return asdict(self._host.about())

    def sampling(self, body: bytes) -> Callable[[Progress], Any]:
        """The task that a job asks for."""
        job = job_from_json(_json(body))
        return lambda progress: rows_to_json(self._host.sample(job, progress))

    @contextmanager
    def loading(
        self, stream: Any, length: int, version: str, probe: list[int]
    ) -> Iterator[Callable[[Progress], Any]]:
        """The task that takes weights over; they are on disk within the block."""
        if length > self._most:
            raise DataError(f"{length} bytes are too many for this model's weights")
        file = Path(self._scratch.name) / f"{threading.get_ident()}.safetensors"
        try:
            with write_file(file, need=length) as tmp, tmp.open("wb") as out:
                left = length
                while left:
                    chunk = stream.read(min(left, _CHUNK))
                    if not chunk:
                        raise DataError("the weights broke off on the way")
                    out.write(chunk)
                    left -= len(chunk)
            yield lambda progress: list(self._host.load(WeightsFile(file, version), probe))
        finally:
            file.unlink(missing_ok=True)

    def submit(self, work: Callable[[Progress], Any]) -> _Task:
        task = _Task(work)
        self._tasks.put(task)
        return task


class _Handler(BaseHTTPRequestHandler):
    timeout = _READ_SECONDS

    def __init__(self, server: RolloutServer, *args: Any) -> None:
        self._rollouts = server
        super().__init__(*args)

    def do_GET(self) -> None:
        if self._admitted() and self._path("/about"):
            self._start(200)
            self._line(self._rollouts.about())

    def do_POST(self) -> None:
        if not self._admitted():
            return
        url = urlsplit(self.path)
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if length < 0:
                raise ValueError(f"a body of {length} bytes")
            if url.path == "/sample":
                if length > MAX_JOB_BYTES:
                    raise DataError(f"a job of {length} bytes is too large")
                self._answer(self._rollouts.sampling(self.rfile.read(length)))
            elif url.path == "/weights":
                query = parse_qs(url.query)
                probe = [int(i) for i in query["probe"][0].split(",")]
                version = query["version"][0]
                with self._rollouts.loading(self.rfile, length, version, probe) as work:
                    self._answer(work)
            else:
                self._path("")
        except (KeyError, ValueError) as error:
            self._start(200)
            self._line(error_line(DataError(f"not understood: {error!r}")))
        except GnomonError as error:
            self._start(200)
            self._line(error_line(error))
        except OSError as error:  # the connection, or the disk
            with suppress(OSError):
                self._start(200)
                self._line(error_line(EngineError(f"the server could not go on: {error}")))

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the trainer says what happens."""

    def _answer(self, work: Callable[[Progress], Any]) -> None:
        """Stream a task's lines until its last one."""
        self._start(200)
        task = self._rollouts.submit(work)
        while True:
            try:
                line = task.lines.get(timeout=ALIVE_SECONDS)
            except queue.Empty:
                line = {"alive": True}
            try:
                self._line(line)
            except OSError:
                task.gone.set()
                if "/weights" in self.path:  # the file must stay until it is done with
                    while not {"result", "error"} & task.lines.get().keys():
                        pass
                return
            if "result" in line or "error" in line:
                return

    def _admitted(self) -> bool:
        if self.headers.get("Origin"):  # a web page, by way of somebody's browser
            self._start(403)
            self._line({"error": "this is not for browsers", "kind": "config"})
            return False
        if self._rollouts.admits(self.headers.get("Authorization")):
            return True
        self._start(401)
        self._line({"error": "the token is missing or wrong", "kind": "config"})
        return False

    def _path(self, wanted: str) -> bool:
        if urlsplit(self.path).path == wanted:
            return True
        self._start(404)
        self._line({"error": f"nothing at {self.path}", "kind": "engine"})
        return False

    def _start(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/jsonlines")
        self.end_headers()

    def _line(self, value: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error


def _size(shape: Any) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
