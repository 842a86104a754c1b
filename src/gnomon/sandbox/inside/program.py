"""The program under test: it is loaded here, and answers calls; nothing it says is trusted."""

from __future__ import annotations

import _sitebuiltins
import builtins
import os
import sys
import types

from . import wire

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 300
"""Characters of an error's text that are passed on."""
_Exit = SystemExit
"""Whatever the program does to the builtins."""


def serve(source: str, requests: int, answers: int) -> None:
    """Load ``source`` and answer calls until the pipe closes. Never returns.

    Frames in: first {"go": true}; then {"f": function, "a": positional, "k": keyword arguments}
    with encoded values.
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
    try:
        while True:
            wire.send(answers, _answer(module.__dict__, wire.receive(requests)))
    except wire.ClosedError:
        os._exit(0)


def _answer(namespace: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
    try:
        function = namespace[call["f"]]
        arguments = wire.decode(call["a"], wire.ARGUMENTS)
        value = function(*arguments, **wire.decode(call["k"], wire.ARGUMENTS))
        return {"ok": wire.encode(value)}
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
