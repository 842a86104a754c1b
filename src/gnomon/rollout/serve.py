"""``gnomon serve-rollouts``: a model in a process (and a Python) of its own, for a trainer.

python -m gnomon.rollout.serve MODEL [--engine vllm] [--host 127.0.0.1] [--port 8300]
"""

from __future__ import annotations

import argparse
import os
import signal
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

    try:
        return TorchHost(folder, **options)
    except TypeError as error:
        raise ConfigError(f"options of the torch engine: {error}") from error


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` pairs, the values as YAML."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found:
            raise ConfigError(f"option {pair!r}: write KEY=VALUE")
        options[key] = yaml.safe_load(value)
    return options


def serve(
    model: str,
    engine: str,
    address: str,
    port: int,
    options: Mapping[str, Any],
    announce: Callable[[str], None] | None = None,
) -> None:
    """Load the model, say where it is served (the last word is the URL), and serve it until
    interrupted or terminated."""
    from gnomon.rollout.server import RolloutServer

    host = make_host(engine, fetch(model), options)
    server = RolloutServer(host, address, port, os.environ.get(TOKEN_VARIABLE))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say = announce or partial(print, flush=True)
    say(f"serving {model} with {host.about().program} at {server.url}")
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        host.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m gnomon.rollout.serve", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "torch"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8300)
    parser.add_argument("--option", action="append", default=[], help="KEY=VALUE of the engine")
    args = parser.parse_args(arguments)
    try:
        serve(args.model, args.engine, args.host, args.port, parse_options(args.option))
    except GnomonError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
