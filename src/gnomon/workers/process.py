"""Processes of this machine that end with this one, and an object in one that is called from here.

    python -m gnomon.workers.process DESCRIPTOR    (of a connection to the process that started it)

What passes is pickled: only gnomon's own objects, between two of its own processes, over a
connection that nobody else has. Nothing that a user downloaded is unpickled.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Protocol

from gnomon import errors
from gnomon.errors import EngineError, GnomonError
from gnomon.plugins import load_builtin

_LAST = 2000  # characters of what a process said before it ended
_POLL_SECONDS = 0.1
_TORCHRUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
)
"""Variables of torchrun's own processes: libraries that find them wait for the others."""
Wanted = Callable[[], None]


class Worker(Protocol):
    """An object in another process, here or elsewhere. It never comes back by itself: whoever needs
    it makes another.

    Attributes:
        pid: of its process, on whatever machine that is.
    """

    pid: int

    @abstractmethod
    def call(self, method: str, *args: Any, wanted: Wanted | None = None) -> Any:
        """What a method of it gives; ``wanted`` is called meanwhile, and by raising gives up.

        Raises:
            EngineError: the worker is gone, or failed in a way that only it knows.
            GnomonError: as the method raised it.
        """

    @abstractmethod
    def close(self) -> None:
        """End it."""


def threads(workers: int) -> dict[str, str]:
    """Variables for each of so many processes that share this machine's cores with this one."""
    own = str(max(1, (os.cpu_count() or 1) // (workers + 1)))
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", own)}


class Child:
    """A Python process that ends when this one does, however that ends.

    Its module calls :func:`end_with_parent`, and prints a line when it is ready.

    Args:
        module, arguments: what it runs.
        environment: variables that it gets besides this process's own, of which it is not given
            torchrun's.
        handed: descriptors that it inherits.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        handed: Sequence[int] = (),
    ) -> None:
        self._said: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by end()
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            # -P: no file beside the recipe takes the place of a module
            [sys.executable, "-P", "-m", module, *arguments],
            env={**_own_variables(), **(environment or {})},
            stdin=subprocess.PIPE,  # it ends when this is closed
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for the trainer, which closes it
            pass_fds=handed,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> str:
        """The line it prints; empty where it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.wait()
        return line

    def said(self) -> str:
        """The last that it wrote to its standard error."""
        self._said.seek(0)
        return self._said.read()[-_LAST:].strip()

    def ended(self) -> str:
        """How it ended, or its last words."""
        code = self._process.wait()
        said = self.said().splitlines()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return said[-1] if said else f"exit status {code}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _own_variables() -> dict[str, str]:
    names = (n for n in os.environ if n not in _TORCHRUN and not n.startswith("TORCHELASTIC_"))
    return {name: os.environ[name] for name in names}


def end_with_parent() -> None:
    """End this process, whatever it does, when the one that started it is gone."""

    def wait() -> None:
        with suppress(OSError):
            sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


class ProcessWorker(Worker):
    """An object in a process of this machine.

    Args:
        make: ``module:factory``; the factory makes the object there.
        folders: given to it, by name.
        options: its keyword arguments.
        environment: variables that the process gets besides this one's own.

    Raises:
        GnomonError: what making it raised.
        EngineError: the process ended.
    """

    def __init__(
        self,
        make: str,
        folders: Mapping[str, Path],
        options: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        here, there = socket.socketpair()
        with there:
            self._child = Child(__name__, [str(there.fileno())], environment, [there.fileno()])
        self._line = Connection(here.detach())
        self._calls = 0
        self.pid = self._child.pid
        try:
            self.call("", make, dict(folders), dict(options))
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *args: Any, wanted: Wanted | None = None) -> Any:
        self._calls += 1
        try:
            self._line.send_bytes(pickle.dumps((self._calls, method, args)))
            number = 0
            while number != self._calls:  # of a call that was given up, say
                while not self._line.poll(_POLL_SECONDS):
                    if wanted is not None:
                        wanted()
                number, problem, found = pickle.loads(self._line.recv_bytes())
        except (EOFError, OSError) as error:
            raise EngineError(f"a worker's process ended: {self._child.ended()}.") from error
        if problem is not None:
            raise getattr(errors, problem)(found)
        return found

    def close(self) -> None:
        self._line.close()
        self._child.end()


def main(arguments: Sequence[str]) -> None:
    """Make an object, and call it as long as there is somebody who asks."""
    end_with_parent()
    line = Connection(int(arguments[0]))
    os.dup2(2, 1)  # what is printed there is nobody's
    made: Any = None
    while True:
        try:
            number, method, args = pickle.loads(line.recv_bytes())
        except EOFError:
            return
        problem = None
        try:
            if method:
                found = getattr(made, method)(*args)
            else:
                make, folders, options = args
                found, made = None, load_builtin(make)(folders, **options)
            answer = pickle.dumps((number, None, found))
        except Exception as error:
            problem, text = _told(error)
            answer = pickle.dumps((number, problem, text))
        line.send_bytes(answer)


def _told(error: Exception) -> tuple[str, str]:
    """An error as the other side raises it: the kinds that are made of a message alone."""
    if isinstance(error, GnomonError):
        kinds = ("ConfigError", "DataError", "ModelError", "EngineError", "RunError")
        kind = next((k for k in kinds if isinstance(error, getattr(errors, k))), "RunError")
        return kind, str(error)
    return "EngineError", f"a worker failed: {type(error).__name__}: {error}"


if __name__ == "__main__":
    main(sys.argv[1:])
