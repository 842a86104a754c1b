"""Rollout servers on this machine, in processes of their own that end with this one.

python -m gnomon.rollout.local MODEL ENGINE OPTIONS    (options: JSON)
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import EngineError, GnomonError
from gnomon.rollout.client import RemoteHost
from gnomon.rollout.protocol import (
    About,
    Host,
    Job,
    Progress,
    RawCompletion,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.wire import TOKEN_VARIABLE
from gnomon.workers.process import Child, end_with_parent


class LocalHost(Host):
    """A rollout server that was started for this run alone; nobody else has its token.

    Args:
        model: a folder.
        engine: torch or vllm.
        options: of the engine.
        environment: variables that it gets besides this process's own.

    Raises:
        EngineError: it did not start.
    """

    def __init__(
        self,
        model: Path,
        engine: str,
        options: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        token = secrets.token_hex(16)
        arguments = [str(model), engine, json.dumps(dict(options))]
        given = {**(environment or {}), TOKEN_VARIABLE: token}
        self._child = Child(__name__, arguments, given)
        url = self._child.ready()
        if not url:
            said = self._child.said()
            self._child.end()
            raise EngineError(f"a rollout server did not start on this machine: {said}")
        self._host = RemoteHost(url, token, retries=1, sleep=lambda seconds: None)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._child.pid

    def about(self) -> About:
        return self._host.about()

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> Sequence[float]:
        return self._host.load(weights, probe, wanted)

    def sample(self, job: Job, progress: Progress | None) -> Sequence[Sequence[RawCompletion]]:
        return self._host.sample(job, progress)

    def rest(self) -> None:
        self._host.rest()

    def close(self) -> None:
        self._host.close()
        self._child.end()


def main(arguments: Sequence[str]) -> None:
    from gnomon.rollout.serve import serve

    model, engine, options = arguments
    end_with_parent()
    out, sys.stdout = sys.stdout, sys.stderr  # whatever the engine prints is not the address

    def announce(text: str) -> None:
        print(text.split()[-1], file=out, flush=True)

    try:
        serve(model, engine, "127.0.0.1", 0, json.loads(options), announce)
    except GnomonError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
