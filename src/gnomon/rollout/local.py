"""Rollout servers on this machine, in processes of their own that end with this one.

python -m gnomon.rollout.local MODEL ENGINE OPTIONS    (options: JSON)
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

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

_LAST = 2000  # characters of what a server said before it ended


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
        command = [sys.executable, "-m", "gnomon.rollout.local", str(model), engine]
        self._said: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by close()
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [*command, json.dumps(dict(options))],
            env={**os.environ, **(environment or {}), TOKEN_VARIABLE: token},
            stdin=subprocess.PIPE,  # it ends when this is closed, however this process ends
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for the trainer, which closes it
        )
        assert self._process.stdout is not None
        url = self._process.stdout.readline().strip()
        if not url:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read()[-_LAST:].strip()
            self._end()
            raise EngineError(f"a rollout server did not start on this machine: {said}")
        self._host = RemoteHost(url, token, retries=1, sleep=lambda seconds: None)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

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
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _end_with_parent() -> None:
    with suppress(OSError):
        sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    from gnomon.rollout.serve import serve

    model, engine, options = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    out, sys.stdout = sys.stdout, sys.stderr  # whatever the engine prints is not the address

    def announce(text: str) -> None:
        print(text.split()[-1], file=out, flush=True)

    try:
        serve(model, engine, "127.0.0.1", 0, json.loads(options), announce)
    except GnomonError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
