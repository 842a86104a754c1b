"""The program under test: it is loaded here, and answers calls; nothing it says is trusted."""

from __future__ import annotations

import os
import sys
import types

from . import wire

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 300
"""Characters of an error's text that are passed on."""


def serve(source: str, requests: int, answers: int) -> None:
    """Load ``source`` and answer calls until the pipe closes. Never returns.

    Frames in: first {"go": true}; then {"f": function, "a": positional, "k": keyword arguments}
    with encoded values.
    Frames out: first {"ok": null} or {"error": [type, text]} for the loading; then, per call,
    {"ok": encoded value} or {"error": ...}.
    """
    module = types.ModuleType("program")
    sys.modules["program"] = module
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
    """Run ``source`` as a script on the process's own stdin and stdout. Never returns."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    status = 0
    try:
        exec(compile(source, "<program>", "exec"), module.__dict__)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc(limit=-3)
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        status = 1
    os._exit(status & 0xFF)
