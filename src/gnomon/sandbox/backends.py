"""Which walls this machine offers, and the command that starts a runner behind them."""

from __future__ import annotations

import math
import os
import platform
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from gnomon.sandbox.inside import confine

BackendName = Literal["bubblewrap", "landlock", "none"]

INSIDE = Path(__file__).resolve().parent / "inside"
SCRATCH = "/scratch"
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_BOOT = "import sys; sys.path.insert(0, {folder!r}); from inside.runner import main; main()"
_UIDS = range(0x70000000, 0x7F000000, 2)
"""User numbers that nobody has; a program and its tests get a fresh pair of them."""
_PROBE_S = 20


class SandboxError(Exception):
    """No sandbox works here, or it failed to start; a program never causes this."""


@dataclass(frozen=True)
class Limits:
    """Limits of one program; each holds for every backend that says so in docs/rewards.md.

    Attributes:
        wall_s: seconds until the whole tree is killed (per test where a program is run per input).
        cpu_s: processor seconds of one process; None follows ``wall_s``.
        memory_mb: address space of one process.
        processes: how many processes at once; 1 also forbids exec.
        threads: threads on top of that, counted over the whole program.
        file_mb, scratch_mb: size of one file, and of all that lies in the scratch folder.
        open_files: descriptors at once.
        output_kb: stdout and stderr of one test together.
    """

    wall_s: float = 10.0
    cpu_s: float | None = None
    memory_mb: int = 512
    processes: int = 1
    threads: int = 16
    file_mb: int = 16
    scratch_mb: int = 64
    open_files: int = 64
    output_kb: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "threads" else 64 if field.name == "open_files" else 1e-3
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"sandbox limit {field.name}: {value} is not at least {least:g}")

    def to_job(self) -> dict[str, Any]:
        """The limits in the units the runner sets them in."""
        return {
            "wall_s": self.wall_s,
            "cpu_s": math.ceil(self.cpu_s if self.cpu_s is not None else self.wall_s),
            "memory_bytes": self.memory_mb * 2**20,
            "processes": self.processes,
            "threads": self.threads,
            "file_bytes": self.file_mb * 2**20,
            "open_files": self.open_files,
            "output_bytes": self.output_kb * 2**10,
        }


@dataclass(frozen=True)
class Backend:
    """How programs are confined on this machine.

    Attributes:
        name: bubblewrap (namespaces, own root folder), landlock (the host's folders, guarded by
            landlock), or none (resource limits only); the first two add seccomp.
        user_namespace: bubblewrap makes one (needed unless we are root).
        as_root: we are root, so that every program can get a user number of its own.
    """

    name: BackendName
    user_namespace: bool = False
    as_root: bool = False

    def command(self, limits: Limits, read_paths: Sequence[str]) -> list[str]:
        """The argument vector that starts a runner."""
        boot = _BOOT.format(folder=str(INSIDE.parent))
        run = [python(), "-I", "-S", "-X", "utf8", "-c", boot]
        return [*self._bubblewrap(limits, read_paths), *run] if self.name == "bubblewrap" else run

    def _bubblewrap(self, limits: Limits, read_paths: Sequence[str]) -> list[str]:
        command = ["bwrap", "--die-with-parent", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
        command += ["--unshare-uts", "--hostname", "sandbox"]
        if self.user_namespace:
            command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
        capabilities = ("SETUID", "SETGID", "KILL", "DAC_READ_SEARCH")
        for capability in capabilities if self.as_root else ():
            command += ["--cap-add", f"CAP_{capability}"]
        for folder in _parents([*read_paths, "/dev/null"]):  # open to all: the user changes inside
            command += ["--perms", "0755", "--dir", folder]
        for path in read_paths:
            command += ["--ro-bind", path, path]
        for device in ("null", "zero", "urandom", "random"):
            command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        size = str(limits.scratch_mb * 2**20)
        command += ["--perms", "1777", "--size", size, "--tmpfs", SCRATCH]
        if not any(path.startswith("/tmp/") for path in read_paths):
            command += ["--symlink", SCRATCH, "/tmp"]
        return [*command, "--remount-ro", "/", "--chdir", SCRATCH]

    def uid(self) -> int:
        """A user number for one program (the next one up is for its tests), or 0 to stay."""
        return random.SystemRandom().choice(_UIDS) if self.as_root else 0

    def tasks(self, limits: Limits) -> int:
        """RLIMIT_NPROC for the program: tasks of its user; 0 where it cannot be counted alone."""
        wanted = limits.processes + limits.threads
        if self.as_root:
            return wanted
        if self.user_namespace and _kernel() >= (5, 14):  # counted per user namespace since then
            return wanted + 2  # the init and the runner
        return wanted + _tasks_of_user()

    def keep_search(self, paths: Sequence[str]) -> bool:
        """True if another user could not reach ``paths`` by itself (Python below /root, say).

        Its program then keeps the capability to look into closed folders; the walls decide which
        folders those are.
        """
        folders = {Path(path) for path in paths}
        if self.name == "landlock":  # bubblewrap creates the folders above itself
            folders |= {parent for path in paths for parent in Path(path).parents}
        return self.as_root and any(not folder.stat().st_mode & 0o001 for folder in folders)


def _parents(paths: Sequence[str]) -> list[str]:
    """The folders above ``paths``, outermost first, without those that are mounted themselves."""
    above = {str(p) for path in paths for p in Path(path).parents if str(p) != "/"}
    inside = {p for p in above if any(Path(p).is_relative_to(path) for path in paths)}
    return sorted(above - inside, key=lambda p: p.count("/"))


def python() -> str:
    """The interpreter programs run on: the one behind this environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def read_paths(python_path: Sequence[str]) -> list[str]:
    """All that may be read inside: Python, the system's libraries, the runner, ``python_path``."""
    prefix = os.path.realpath(sys.base_prefix)
    if prefix == "/":
        raise SandboxError("Python is installed in /: everything would be readable in the sandbox")
    wanted = [*_LIBRARIES, prefix, python(), str(INSIDE), *python_path]
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]


def choose(wanted: str = "auto", *, allow_unsafe: bool = False) -> Backend:
    """The best backend that works here, tried with a real program; the answer is remembered.

    Args:
        wanted: auto, bubblewrap, landlock or none.
        allow_unsafe: run without walls rather than not at all.

    Raises:
        SandboxError: nothing works, or the one asked for does not; with each one's reason.
    """
    if wanted not in ("auto", "bubblewrap", "landlock", "none"):
        raise SandboxError(f"sandbox {wanted!r}: choose auto, bubblewrap, landlock or none")
    if wanted == "none" and not allow_unsafe:
        raise SandboxError(
            "sandbox 'none' runs model-written code with your rights; set allow_unsafe: true if "
            "this machine holds nothing worth protecting"
        )
    reasons: list[str] = []
    for name in ("bubblewrap", "landlock"):
        if wanted in ("auto", name):
            backend, reason = probe(name)
            if backend is not None:
                return backend
            reasons.append(f"{name}: {reason}")
    if allow_unsafe and wanted in ("auto", "none"):
        return Backend("none")
    raise SandboxError(
        "no sandbox for model-written code works here. " + "; ".join(reasons) + ". Install "
        "bubblewrap, or set allow_unsafe: true to run programs with your own rights."
    )


_probing = threading.Lock()


def probe(name: str) -> tuple[Backend | None, str]:
    """Whether backend ``name`` works here: (backend, "") or (None, why not)."""
    with _probing:
        return _probe(name)


@lru_cache(maxsize=4)
def _probe(name: str) -> tuple[Backend | None, str]:
    if not sys.platform.startswith("linux") or platform.machine() not in confine.AUDIT_ARCH:
        return None, f"needs Linux on x86_64 or aarch64, this is {sys.platform}"
    root = os.geteuid() == 0
    if name == "landlock":
        abi = confine.landlock_abi()
        if abi < 3:
            return None, f"the kernel's landlock is at version {abi}, 3 is needed"
        variants = [Backend("landlock", as_root=root)]
    elif shutil.which("bwrap") is None:
        return None, "bwrap is not installed"
    else:
        variants = [Backend("bubblewrap", user_namespace=True)]
        if root:
            variants.insert(0, Backend("bubblewrap", as_root=True))
    reason = ""
    for backend in variants:
        reason = _try(backend)
        if not reason:
            return backend, ""
    return None, reason


def _try(backend: Backend) -> str:
    """Start the walls around nothing; why it failed, or an empty string."""
    if backend.name == "landlock":
        return ""
    command = backend.command(Limits(), read_paths(()))
    try:
        done = subprocess.run(
            [*command[:-1], "print('ok')"],
            capture_output=True,
            timeout=_PROBE_S,
            env={},
            text=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.stdout == "ok\n" else done.stderr.strip()[-300:] or "it gave no answer"


@lru_cache(maxsize=1)
def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def _tasks_of_user() -> int:
    """Threads of all processes whose real user we are."""
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended
            continue
        if int(lines["Uid"].split()[0]) == os.getuid():
            count += int(lines["Threads"])
    return count
