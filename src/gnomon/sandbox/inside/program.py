"""The program under test: it is loaded here, and answers calls; nothing it says is trusted."""

from __future__ import annotations

import _sitebuiltins
import builtins
import os
import sys
import types

from . import semaphores, wire

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 300
"""Characters of an error's text that are passed on."""
_POOL_THREADS = 4
"""Threads that a pool has beyond one for each core, so that a default one fits the limit."""
_Exit = SystemExit
"""Whatever the program does to the builtins."""


_PLAIN = (bool, int, float, str, list, tuple, set, frozenset, dict, bytes, bytearray, complex)


def settle(job: dict[str, Any]) -> None:
    """Make Python show the program what it has here: one process, and so many threads."""
    if job["backend"] == "none":
        return
    if job["limits"]["processes"] <= 1:
        semaphores.stand_in()
    room = max(1, job["limits"]["threads"] - _POOL_THREADS)
    cores = min(os.cpu_count() or 1, room)
    for name in ("cpu_count", "process_cpu_count"):
        if hasattr(os, name):
            setattr(os, name, lambda: cores)


def serve(source: str, requests: int, answers: int, *, hold: bool = False) -> None:
    """Load ``source`` and answer calls until the pipe closes. Never returns.

    With ``hold``, what is not plain data is kept here and answered by a number.

    Frames in: first {"go": true}; then {"f": function, "a": positional, "k": keyword arguments}
    with encoded values, and {"m": true} where the value is only handed back (a Pair, even one that
    is a tuple).
    Frames out: first {"ok": null} or {"error": [type, text]} for the loading; then, per call,
    {"ok": encoded value} or {"error": ...}.
    """
    module = types.ModuleType("program")
    sys.modules["program"] = module
    _add_site_names()
    try:
        wire.receive(requests)
        exec(compile(source, "<program>", "exec"), module.__dict__)
        wire.send(answers, {"ok": None})
    except BaseException as error:
        wire.send(answers, {"error": _error_text(error)})
        os._exit(1)
    objects = wire.Objects() if hold else None
    try:
        while True:
            wire.send(answers, _answer(module.__dict__, wire.receive(requests), objects))
    except wire.ClosedError:
        os._exit(0)


def _answer(
    namespace: dict[str, Any], call: dict[str, Any], objects: wire.Objects | None
) -> dict[str, Any]:
    hold, take = (objects.hold, objects.take) if objects else (None, None)
    try:
        function = namespace[call["f"]]
        arguments = wire.decode(call["a"], wire.ARGUMENTS, take)
        value = function(*arguments, **wire.decode(call["k"], wire.ARGUMENTS, take))
        if objects and call.get("m") and value is not None and type(value) not in _PLAIN:
            return {"ok": {"o": objects.hold(value)}}
        return {"ok": wire.encode(value, hold=hold)}
    except BaseException as error:
        return {"error": _error_text(error)}


def _error_text(error: BaseException) -> list[str]:
    try:
        return [type(error).__name__, str(error)[:MAX_MESSAGE]]
    except BaseException:
        return ["Exception", "an error that cannot be printed"]


def run_main(source: str) -> None:
    """Run ``source`` as a script on the process's own stdin and stdout. Never returns.

    It ends by SystemExit, which nothing above catches, so that Python itself ends the process as it
    ends any script: it waits for threads, runs what atexit holds, and writes out what is buffered.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    _add_site_names()
    try:
        exec(compile(source, "<program>", "exec"), module.__dict__)
    except _Exit:
        raise
    except BaseException:
        import traceback

        traceback.print_exc(limit=-3)
        raise _Exit(1) from None
    raise _Exit(0)


def _add_site_names() -> None:
    """The builtins that the module site adds, which is not run here: scripts end by ``exit()``."""
    vars(builtins).update(
        exit=_sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)"),
        quit=_sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)"),
        help=_sitebuiltins._Helper(),
    )
