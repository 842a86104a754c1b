"""``gnomon serve-rollouts``: a model in a process (and a Python) of its own, for a trainer.

python -m gnomon.rollout.serve MODEL [--engine vllm] [--host 127.0.0.1] [--port 8300]
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gnomon.errors import ConfigError, GnomonError
from gnomon.models.load import fetch
from gnomon.rollout.host import Host
from gnomon.rollout.wire import TOKEN_VARIABLE


def make_host(engine: str, folder: Path, options: Mapping[str, Any]) -> Host:
    """The host by the engine's name.

    Raises:
        ConfigError: an unknown engine, or options that it does not know.
    """
    if engine == "vllm":
        from gnomon.rollout.vllm_host import VLLMHost

        return VLLMHost(folder, options)
    if engine != "torch":
        raise ConfigError(f"no engine {engine!r}: there are vllm and torch")
    from gnomon.rollout.torch_host import TorchHost

    known = set(inspect.signature(TorchHost).parameters) - {"folder"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"options of the torch engine: {', '.join(unknown)} is none; there are "
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
            raise ConfigError(f"option {pair!r}: the value is no YAML") from error
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
    """Load the model, say where it is served (the last word is the URL), and serve it until
    interrupted or terminated.

    What is done and refused is written to stderr, a line each.

    Args:
        model: a folder or a name.
        engine: vllm or torch.
        address, port: where to listen.
        options: of the engine.
        announce: hears where it is served; printed by default.
        names: what else the server is called by its clients; see RolloutServer.

    Raises:
        ConfigError, ModelError: what cannot be served, or not there.
    """
    from gnomon.rollout.server import RolloutServer, listen

    token = os.environ.get(TOKEN_VARIABLE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        listen(address, port, token).close()  # what cannot be is said before minutes of loading
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
    """A line on stderr; what clients sent may stand in it, so it stays one line, and short."""
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
