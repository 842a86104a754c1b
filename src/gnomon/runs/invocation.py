"""How this process was called, and what to type to go on with its run."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def invocation() -> dict[str, str]:
    """``command`` and ``cwd`` of this process, for the manifest; nothing where it is not the
    ``gnomon`` command (a program that calls gnomon knows itself how it is called)."""
    arguments = _arguments()
    return {} if arguments is None else {"command": shlex.join(arguments), "cwd": os.getcwd()}


def resume_command() -> str:
    """What to type, in this folder, to go on with the run."""
    arguments = _arguments()
    if arguments is None:
        return "the same call with resume=True"
    if "--resume" not in arguments:
        arguments = [*arguments, "--resume"]
    return shlex.join(arguments)


def _arguments() -> list[str] | None:
    program = Path(sys.argv[0]).stem if sys.argv else ""
    return ["gnomon", *sys.argv[1:]] if program == "gnomon" and len(sys.argv) > 1 else None
