"""``gnomon serve-rollouts``: one host behind HTTP, in a process (and a Python) of its own.

python -m gnomon.rollout.serve MODEL [--engine vllm] [--host 127.0.0.1] [--port 8300]

The host works in the main thread, one task after the other; an event loop in another thread reads
and answers. Only JSON and safetensors are accepted, nothing outside its scratch folder is written,
and whatever a client can make the server hold is bounded (:mod:`gnomon.rollout.door`). There is
no encryption: beyond one machine, use a private network or a tunnel.
"""

from __future__ import annotations

import argparse
import inspect
import ipaddress
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from gnomon.errors import ConfigError, GnomonError
from gnomon.models.load import fetch
from gnomon.rollout.app import make_app
from gnomon.rollout.door import Door, ServerLimits, protocol_with
from gnomon.rollout.protocol import Host
from gnomon.rollout.tasks import Tasks
from gnomon.rollout.wire import PROTOCOL, TOKEN_VARIABLE, VERSION_HEADER, check_token

_QUIET_SECONDS = 10.0


class RolloutServer:
    """Serves a host until :meth:`stop`.

    Args:
        host: what samples.
        address, port: where to listen; port 0 takes a free one.
        token: clients must show it, when it is given.
        names: what else the server is called in a ``Host`` header, besides ``localhost`` and its
            addresses: the name of a proxy in front of it, say.
        limits: what clients may make it hold.
        log: called with what was done and refused, in words; nothing by default.

    Raises:
        ConfigError: an address that others can reach without a token, or that is not available; a
            token or a name that cannot be sent in a header.
    """

    def __init__(
        self,
        host: Host,
        address: str = "127.0.0.1",
        port: int = 8300,
        token: str | None = None,
        *,
        names: Sequence[str] = (),
        limits: ServerLimits | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        limits = limits or ServerLimits()
        say = log or (lambda text: None)
        note = _RateLimited(say)
        self._socket = listen(address, port, token, limits.backlog)
        self._scratch = tempfile.TemporaryDirectory(prefix="gnomon-rollouts-")
        self._tasks = Tasks(limits.tasks)
        app = make_app(host, self._tasks, Path(self._scratch.name), limits, say, note)
        bound = str(self._socket.getsockname()[0])
        try:
            door = Door(app, bound, names, check_token(token), limits, note)
        except ConfigError:
            self._socket.close()
            raise
        self._http = uvicorn.Server(
            uvicorn.Config(
                door,
                loop="asyncio",
                http=protocol_with(limits, note),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("Connection", "close"), (VERSION_HEADER, str(PROTOCOL))],
                backlog=limits.backlog,
                timeout_graceful_shutdown=limits.stop_seconds,
                h11_max_incomplete_event_size=limits.header_bytes,
            )
        )

    @property
    def url(self) -> str:
        """Where it is reached."""
        address, port = self._socket.getsockname()[:2]
        return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

    def run(self) -> None:
        """Work until :meth:`stop`, in the calling thread; what still waits is refused."""
        thread = threading.Thread(target=self._http.run, args=([self._socket],), daemon=True)
        thread.start()
        try:
            self._tasks.work()
        finally:
            self._tasks.end()
            self._http.should_exit = True
            thread.join()
            self._socket.close()
            self._scratch.cleanup()

    def stop(self) -> None:
        """Have :meth:`run` return after the task at hand."""
        self._tasks.stop()


def listen(
    address: str, port: int, token: str | None, backlog: int = ServerLimits.backlog
) -> socket.socket:
    """A listening socket; only where nobody else reaches it, unless there is a token.

    Raises:
        ConfigError: others could reach it, or it is not available.
    """
    secret = check_token(token)
    try:
        if not 0 <= port <= 65535:
            raise OSError("a port is a number from 0 to 65535")
        found = socket.getaddrinfo(
            address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found.sort(key=lambda info: info[0] != socket.AF_INET)  # "localhost" may be both
        family, _, _, _, where = found[0]
        if not (secret or ipaddress.ip_address(where[0]).is_loopback):
            raise ConfigError(
                f"{address or 'every address'} can be reached by others, and anyone who reaches it "
                f"can replace the model's weights: set {TOKEN_VARIABLE} to a secret, here and for "
                "the trainer"
            )
        return socket.create_server((str(where[0]), port), family=family, backlog=backlog)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {address}:{port} ({error}): choose another with --port, or 0 for any"
        ) from error


class _RateLimited:
    """Passes on a refusal now and then: a flood of them must not fill a disk."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = float("-inf")
        self._left_out = 0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < _QUIET_SECONDS:
            self._left_out += 1
            return
        more = f" ({self._left_out} more were refused since)" if self._left_out else ""
        self._last, self._left_out = now, 0
        self._say(f"refused {text}{more}")


def make_host(engine: str, folder: Path, options: Mapping[str, Any]) -> Host:
    """The host by the engine's name.

    Raises:
        ConfigError: an unknown engine, or options that it does not know.
    """
    if engine == "vllm":
        from gnomon.rollout.vllm_host import VLLMHost

        return VLLMHost(folder, options)
    if engine != "torch":
        raise ConfigError(f"no engine {engine!r}: use vllm or torch")
    from gnomon.rollout.torch_host import TorchHost

    known = set(inspect.signature(TorchHost).parameters) - {"folder"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"options of the torch engine: {', '.join(unknown)} is unknown; use "
            f"{', '.join(sorted(known))}"
        )
    return TorchHost(folder, **options)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` pairs, the values as YAML."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found:
            raise ConfigError(f"option {pair!r}: write KEY=VALUE")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"option {pair!r}: the value is not YAML") from error
    return options


def serve(
    model: str,
    engine: str,
    address: str,
    port: int,
    options: Mapping[str, Any],
    announce: Callable[[str], None] | None = None,
    names: Sequence[str] = (),
) -> None:
    """Load the model, print where it is served (the last word is the URL), and serve it until
    interrupted or terminated.

    What is done and refused is written to stderr, a line each.

    Args:
        model: a folder or a name.
        engine: vllm or torch.
        address, port: where to listen.
        options: of the engine.
        announce: called with where it is served; printed by default.
        names: what else the server is called by its clients; see RolloutServer.

    Raises:
        ConfigError, ModelError: what cannot be served, or not there.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        listen(address, port, token).close()  # fail before minutes of loading
        host = make_host(engine, fetch(model), options)
        try:
            server = RolloutServer(host, address, port, token, names=names, log=_log)
            say = announce or partial(print, flush=True)
            say(f"serving {model} with {host.about().program} at {server.url}")
            server.run()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second one ends it at once
                signal.signal(number, signal.SIG_DFL)
            host.close()
    except KeyboardInterrupt:
        _log("stopped")


def _log(text: str) -> None:
    """Log to stderr; clients' text may be in it, so it is kept to one short line."""
    text = "".join(c if c.isprintable() else "?" for c in text[:1000])
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m gnomon.rollout.serve", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "torch"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8300)
    parser.add_argument("--option", action="append", default=[], help="KEY=VALUE of the engine")
    parser.add_argument(
        "--allow-host", action="append", default=[], help="another name that it is reached by"
    )
    args = parser.parse_args(arguments)
    try:
        options = parse_options(args.option)
        names = args.allow_host
        serve(args.model, args.engine, args.host, args.port, options, names=names)
    except GnomonError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
