"""Giving up rights, from inside: limits, landlock, seccomp, another user. There is no way back."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

from . import seccomp

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
_CAP_DAC_READ_SEARCH = 2
_SIGKILL = 9

# access rights of landlock, linux/landlock.h
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL_DEV
_NEEDED_ABI = 3
"""Before ABI 3 files could still be truncated."""
_SIGNAL_ABI = 6
"""From ABI 6 signals can be kept among the confined."""


class ConfineError(Exception):
    """A right that could not be given up: nothing may run."""


def landlock_abi() -> int:
    """The kernel's landlock version, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, 1)))


def confine_all(config: dict[str, Any]) -> None:
    """What holds for everything in the sandbox: resource limits, landlock, the base filter.

    Raises:
        ConfineError: the kernel refused one of them.
    """
    os.umask(0o077)
    os.chdir(config["scratch"])
    _limit(config["limits"])
    if config["backend"] == "none":
        return
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _die_with_parent()
    landlocked = config["backend"] == "landlock"
    if landlocked:
        _landlock(config["read_paths"], config["scratch"])
    _install(seccomp.base_filter(os.uname().machine, guard_metadata=landlocked))


def confine_program(config: dict[str, Any]) -> None:
    """What the program under test loses on top: its user, its right to fork and to signal."""
    limits = config["limits"]
    if config["backend"] == "none":
        return
    if config["uid"]:
        _become(config["uid"], keep_search=config["keep_search"])
    _die_with_parent()
    if limits["tasks"]:
        _set_limit(resource.RLIMIT_NPROC, limits["tasks"])
    one_process = limits["processes"] <= 1
    scoped = config["backend"] == "bubblewrap" or landlock_abi() >= _SIGNAL_ABI
    _install(
        seccomp.program_filter(
            os.uname().machine,
            os.getpid(),
            one_process=one_process,
            signals=not one_process and scoped,
        )
    )


def confine_tests(config: dict[str, Any]) -> None:
    """What the process that runs trusted tests loses, once the program has been started."""
    if config["backend"] == "none":
        return
    if config["uid"]:
        _become(config["uid"] + 1, keep_search=config["keep_search"])
    _die_with_parent()
    _install(
        seccomp.program_filter(os.uname().machine, os.getpid(), one_process=True, signals=False)
    )


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> int:
    if result < 0:
        raise ConfineError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, value: int) -> None:
    unused = ctypes.c_ulong(0)
    result = _libc().prctl(option, ctypes.c_ulong(value), unused, unused, unused)
    _call(f"prctl {option}", result)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def _set_limit(which: int, value: int) -> None:
    """Lower a limit, hard and soft; a hard limit already below stays."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _limit(limits: dict[str, int]) -> None:
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_CPU, limits["cpu_s"])
    _set_limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _set_limit(resource.RLIMIT_NOFILE, limits["open_files"])
    if sys.platform.startswith("linux"):  # elsewhere it is not kept
        _set_limit(resource.RLIMIT_AS, limits["memory_bytes"])


def _install(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    argument = Program(len(program) // 8, program)
    number = _SECCOMP[os.uname().machine]
    _call("seccomp", _libc().syscall(number, 1, 0, ctypes.byref(argument)))


def _landlock(read_paths: Sequence[str], scratch: str) -> None:
    abi = landlock_abi()
    if abi < _NEEDED_ABI:
        raise ConfineError(f"landlock ABI {abi}, need {_NEEDED_ABI}")
    files = (1 << 16) - 1 if abi >= 5 else (1 << 15) - 1
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= _SIGNAL_ABI else 0
    attributes = struct.pack("=QQQ", files, network, scoped)
    size = 24 if abi >= _SIGNAL_ABI else 16 if abi >= 4 else 8
    libc = _libc()
    ruleset = _call("landlock", libc.syscall(_CREATE_RULESET, attributes[:size], size, 0))
    for path in read_paths:
        _allow(libc, ruleset, path, _READ | _READ_DIR | _EXECUTE, files)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        _allow(libc, ruleset, device, _READ | (_WRITE if device == "/dev/null" else 0), files)
    _allow(libc, ruleset, scratch, files & ~_IOCTL_DEV & ~_EXECUTE, files)
    _call("landlock", libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(libc: Any, ruleset: int, path: str, rights: int, handled: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _FILE_RIGHTS
    rule = struct.pack("=Qi", rights & handled, fd)
    _call(f"landlock {path}", libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
    os.close(fd)


def _become(uid: int, *, keep_search: bool) -> None:
    """Become an unused user, so that root's rights are gone and its processes can be counted.

    ``keep_search`` keeps the one capability that finds Python below a closed folder such as /root
    (what may be read there is landlock's say).
    """
    if keep_search:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kept = 1 << _CAP_DAC_READ_SEARCH if keep_search else 0
    header = struct.pack("=Ii", 0x20080522, 0)
    data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    _call("capset", _libc().syscall(_CAPSET[os.uname().machine], header, data))
    if os.getuid() != uid or os.geteuid() != uid:
        raise ConfineError("the user could not be changed")
