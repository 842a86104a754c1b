"""Give up rights, from inside: limits, landlock, seccomp, another user. There is no way back.

Two seccomp filters, built by hand and stacked, say which system calls fail. The base filter holds
for everything inside: no sockets, no namespaces or mounts, no looking into other processes, no
kernel interfaces. The program's own filter adds: no new processes, no signals to others. Calls
newer than the table fail with ENOSYS.
Source: Linux, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LAST_KNOWN = 450
"""The last call number of the tables below; the two architectures share numbers from 424 on."""

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQ, _JUMP_GT, _JUMP_SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_ARGS = 0, 4, 16

CLONE_THREAD = 0x00010000
CLONE_NEW = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}."""
_TIOCSTI, _TIOCLINUX, _PR_SET_PDEATHSIG = 0x5412, 0x541C, 1

# name: (x86_64, aarch64); 0 where the architecture does not have the call
_BASE = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semctl": (66, 191), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "personality": (135, 92), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "setsid": (112, 157), "setpgid": (109, 154), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, 0), "ioperm": (173, 0), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "vhangup": (153, 58),
    "sched_setparam": (142, 118), "sched_setaffinity": (203, 122), "process_mrelease": (448, 448),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "mknod": (133, 0), "mknodat": (259, 33),
}  # fmt: skip

# Metadata of files: landlock does not guard it, so without a mount namespace it is shut here.
_METADATA = {
    "chmod": (90, 0), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, 0),
    "fchown": (93, 55), "lchown": (94, 0), "fchownat": (260, 54), "utime": (132, 0),
    "utimes": (235, 0), "futimesat": (261, 0), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip

_SIGNALS = {"tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
_PROCESSES = {"fork": (57, 0), "vfork": (58, 0), "execve": (59, 221), "execveat": (322, 281)}
_CLONE, _CLONE3, _KILL_CALL, _TGKILL = (56, 220), (435, 435), (62, 129), (234, 131)
_IOCTL, _PRLIMIT, _PRCTL = (16, 29), (302, 261), (157, 167)
_FCNTL = (72, 25)
_OWNER_FCNTL = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals by way of a file
_OWNER_IOCTL = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP

Instruction = tuple[int, int, int, int]


def base_filter(machine: str, *, guard_metadata: bool) -> bytes:
    """The filter for everything inside, as a packed BPF program.

    Args:
        machine: x86_64 or aarch64.
        guard_metadata: also refuse chmod, chown, utime and extended attributes.
    """
    column = _column(machine)
    calls = {**_BASE, **(_METADATA if guard_metadata else {})}
    body = _refuse([pair[column] for pair in calls.values()], errno.EPERM)
    body += _refuse([_CLONE3[column]], errno.ENOSYS)  # glibc falls back to clone, which we can read
    body += _when(_CLONE[column], 0, (_JUMP_SET, 0, 1, CLONE_NEW))
    body += _when(_IOCTL[column], 1, (_JUMP_EQ, 0, 1, _TIOCSTI))
    body += _when(_IOCTL[column], 1, (_JUMP_EQ, 0, 1, _TIOCLINUX))
    return _program(machine, body)


def program_filter(machine: str, own_pid: int, *, one_process: bool, signals: bool) -> bytes:
    """The further filter of the program under test.

    Args:
        own_pid: the only process it may signal (itself, by abort() say), unless ``signals``.
        one_process: no fork and no exec; threads are allowed.
        signals: other processes may be signalled (something else keeps it among its own).
    """
    column = _column(machine)
    body = _when(_PRLIMIT[column], 0, (_JUMP_EQ, 1, 0, 0))
    body += _when(_PRCTL[column], 0, (_JUMP_EQ, 0, 1, _PR_SET_PDEATHSIG))
    if one_process:
        body += _refuse([pair[column] for pair in _PROCESSES.values()], errno.EPERM)
        body += _when(_CLONE[column], 0, (_JUMP_SET, 1, 0, CLONE_THREAD))
    if not signals:
        body += _refuse([pair[column] for pair in _SIGNALS.values()], errno.EPERM)
        body += _when(_KILL_CALL[column], 0, (_JUMP_EQ, 1, 0, own_pid))
        body += _when(_TGKILL[column], 0, (_JUMP_EQ, 1, 0, own_pid))
        for command in _OWNER_FCNTL:
            body += _when(_FCNTL[column], 1, (_JUMP_EQ, 0, 1, command))
        for command in _OWNER_IOCTL:
            body += _when(_IOCTL[column], 1, (_JUMP_EQ, 0, 1, command))
    return _program(machine, body)


def _column(machine: str) -> int:
    return list(AUDIT_ARCH).index(machine)


def _refuse(numbers: Sequence[int], code: int) -> list[Instruction]:
    out: list[Instruction] = []
    for number in numbers:
        if number:
            out += [(_JUMP_EQ, 0, 1, number), (_RETURN, 0, 0, _ERRNO | code)]
    return out


def _when(number: int, argument: int, refuse_if: Instruction) -> list[Instruction]:
    """Refuse call ``number`` when the low half of its argument passes the test (0: refuse, 1: let).

    The jump offsets of ``refuse_if`` count from the RETURN that follows it.
    """
    return [
        (_JUMP_EQ, 0, 4, number),
        (_LOAD, 0, 0, _AT_ARGS + 8 * argument),
        refuse_if,
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]


def _program(machine: str, body: Sequence[Instruction]) -> bytes:
    head: list[Instruction] = [
        (_LOAD, 0, 0, _AT_ARCH),
        (_JUMP_EQ, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_JUMP_GT, 0, 1, LAST_KNOWN),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    tail: list[Instruction] = [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *each) for each in [*head, *body, *tail])


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
    """The kernel's landlock version, 0 without landlock."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, 1)))


def confine_all(config: dict[str, Any]) -> None:
    """Set what holds for everything in the sandbox: resource limits, landlock, the base filter.

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
    _install(base_filter(os.uname().machine, guard_metadata=landlocked))


def confine_program(config: dict[str, Any]) -> None:
    """Take from the program under test also its user and its right to fork and to signal."""
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
        program_filter(
            os.uname().machine,
            os.getpid(),
            one_process=one_process,
            signals=not one_process and scoped,
        )
    )


def confine_tests(config: dict[str, Any]) -> None:
    """Confine the process that runs trusted tests, once the program has been started."""
    if config["backend"] == "none":
        return
    if config["uid"]:
        _become(config["uid"] + 1, keep_search=config["keep_search"])
    _die_with_parent()
    _install(program_filter(os.uname().machine, os.getpid(), one_process=True, signals=False))


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
    (landlock decides what may be read there).
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
