"""Files and folders that are either whole or not there, whatever kills the process.

Everything is first written next to its target under a hidden temporary name, forced to disk, and
then renamed onto the target in one step. A disk that is full, broken or read-only leaves the target
as it was and raises a :class:`~gnomon.errors.RunError` that says what to do. Files get the modes of
the user's umask, whatever library wrote them.

Sizes and SHA-256 (:func:`fingerprints`) are noted when files are written and compared before they
are used (:func:`damage`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from gnomon.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: temporaries that a killed process leaves stay there
    fcntl = None  # type: ignore[assignment]

_TMP = ".tmp-"
_OLD = ".gnomon-old"  # and nobody else's: what has this name is removed or put back
_OURS = re.compile(rf"{re.escape(_TMP)}\d+-\d+-[0-9a-f]{{6}}$")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}
# safetensors and arrow wrap the system's error and keep only its number, as text
_WRAPPED = re.compile(r"(?:os error|\[?errno) (\d+)", re.IGNORECASE)
_DISK_FULL_WORDS = ("No space left on device", "StorageFull", "quota exceeded", "QuotaExceeded")
_counter = itertools.count()


@contextmanager
def write_folder(target: Path, need: int | None = None) -> Iterator[Path]:
    """Fill a temporary sibling of ``target``, then put it in ``target``'s place at once.

    Args:
        target: the folder to appear; one that exists is replaced as a whole.
        need: bytes that will be written, if known: too little space is then refused up front.

    Yields:
        The temporary folder to write into.

    Raises:
        RunError: the disk is full (or would be), or cannot be written; ``target`` is as it was
            before.
    """
    target = Path(target)
    with _temporary(target, need) as tmp:
        recover_folder(target)
        tmp.mkdir()
        with _locked(tmp):
            yield tmp
            _finish_tree(tmp)
            _swap(tmp, target)
            _sync(target.parent)


@contextmanager
def write_file(path: Path, need: int | None = None) -> Iterator[Path]:
    """Like :func:`write_folder` for one file: yields the temporary path to write to."""
    path = Path(path)
    with _temporary(path, need) as tmp:
        tmp.touch(exist_ok=False)
        with _locked(tmp):
            yield tmp
            _sync(tmp)
            os.replace(tmp, path)
            _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        RunError: it cannot be made.
    """
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def plain_errors(target: Path, need: int | None = None) -> Iterator[None]:
    """Turn the system's errors while ``target`` is written into a RunError with a cure.

    Args:
        target: what is written, for the message.
        need: bytes that it needs, if known.

    Raises:
        RunError: the disk is full, broken or read-only, or something else is in the way.
    """
    try:
        yield
    except BaseException as error:
        number = _system_error(error)
        if number is None:
            raise
        if number in _DISK_FULL:
            raise _disk_full(target, need) from error
        if number in _IN_THE_WAY:
            raise RunError(
                f"{target} cannot be written: something that is not part of the run is there "
                f"({error}). Move it away and resume with --resume."
            ) from error
        raise RunError(
            f"{target} cannot be written: {error}. Nothing saved before is lost. Make the folder "
            "writable, or move the run to another (and give output=FOLDER), then resume with "
            "--resume."
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step."""
    with write_file(path) as tmp:
        tmp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8, newlines unchanged) in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace ``path`` by ``value`` as JSON in one step."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def append_line(path: Path, line: bytes) -> None:
    """Add a line (without its end) to a file that only grows, in one write; after half a line that
    a killed process left it starts a new one."""
    make_folder(path.parent)
    with plain_errors(path), path.open("ab", buffering=0) as stream:
        whole = not stream.tell() or _last_byte(path) == b"\n"
        os.write(stream.fileno(), (b"" if whole else b"\n") + line + b"\n")


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1)


def recover_folder(target: Path) -> None:
    """Finish a replacement of ``target`` that was cut off between its two renames.

    Only file systems that cannot exchange two folders in one step need this; call it before
    reading a folder that may have been replaced.
    """
    backup = _backup_name(target)
    if not backup.exists():
        return
    if target.exists():
        shutil.rmtree(backup, ignore_errors=True)
    else:
        os.rename(backup, target)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half-removed one is ever seen under its name."""
    with _temporary(folder, None) as tmp:
        os.rename(folder, tmp)
    _remove(tmp)


def clean_tree(folder: Path) -> list[str]:
    """:func:`clean_temporaries` in a folder and in all below it."""
    removed = []
    for root, folders, _ in os.walk(folder):
        removed += clean_temporaries(Path(root))
        folders[:] = sorted(name for name in folders if Path(root, name).is_dir())
    return removed


def clean_temporaries(folder: Path, of: str | None = None) -> list[str]:
    """Remove what killed processes left half-written in ``folder``; return the names removed.

    A temporary that a living process still writes is locked and stays. Replacements cut off
    half-way are finished (see :func:`recover_folder`).

    Args:
        of: what was being written, by its name; None: anything, for folders that hold nothing of
            other programs.
    """
    name = "*" if of is None else glob.escape(of)
    removed = []
    for tmp in sorted(folder.glob(f".{name}{_TMP}*")):
        if _OURS.search(tmp.name) and _is_abandoned(tmp):
            _remove(tmp)
            removed.append(tmp.name)
    for backup in folder.glob(f".{name}{_OLD}"):
        recover_folder(backup.with_name(backup.name[1 : -len(_OLD)]))
    return removed


def _backup_name(target: Path) -> Path:
    return target.with_name(f".{target.name}{_OLD}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(tmp: Path) -> Iterator[None]:
    """Hold a lock that dies with the process, so that others can tell whether it still writes."""
    if fcntl is None:
        yield
        return
    fd = os.open(tmp, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such locks
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _is_abandoned(tmp: Path) -> bool:
    if fcntl is None:
        return False
    try:
        fd = os.open(tmp, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle to a folder that could be flushed
    fd = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _finish_tree(folder: Path) -> None:
    """Force all files to disk, as open as the folder that the umask made: some libraries write them
    for the owner alone."""
    mode = folder.stat().st_mode & 0o777
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.chmod(Path(root, name), mode & 0o666)
            _sync(Path(root, name))
        os.chmod(root, mode)
        _sync(Path(root))


def _swap(tmp: Path, target: Path) -> None:
    """Put ``tmp`` in ``target``'s place and remove what was there."""
    if not target.exists():
        os.rename(tmp, target)
        return
    if _exchange(tmp, target):
        _sync(target.parent)
        _remove(tmp)
        return
    backup = _backup_name(target)
    os.rename(target, backup)
    try:
        os.rename(tmp, target)
    except BaseException:
        os.rename(backup, target)
        raise
    _sync(target.parent)
    _remove(backup)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step (Linux ``renameat2``); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


@contextmanager
def _temporary(target: Path, need: int | None) -> Iterator[Path]:
    """A name next to ``target`` to write to, removed again if anything goes wrong."""
    make_folder(target.parent)
    name = f".{target.name}{_TMP}{os.getpid()}-{next(_counter)}-{os.urandom(3).hex()}"
    tmp = target.with_name(name)
    with plain_errors(target, need):
        if need and shutil.disk_usage(target.parent).free < need:
            raise _disk_full(target, need)
        try:
            yield tmp
        except BaseException:
            _remove(tmp)
            raise


def _disk_full(target: Path, need: int | None) -> RunError:
    """The error to raise once the temporary is gone, so that what it held counts as free."""
    place = next((p for p in target.absolute().parents if p.is_dir()), Path("/"))
    free = shutil.disk_usage(place).free
    needed = decimal(need) if need else f"more than {decimal(free)}"
    return RunError(
        f"The disk is full (or your quota of it): writing {target} failed. It needs {needed}, and "
        f"{decimal(free)} are free in {place}. Nothing saved before is lost. Free some space (old "
        "runs and their checkpoints are the largest) and resume with --resume; or move the run's "
        "folder to another disk and resume there with --resume output=FOLDER."
    )


def _system_error(error: BaseException) -> int | None:
    """The system's error number, where that is what went wrong."""
    if isinstance(error, RunError):
        return None
    if isinstance(error, OSError):
        if error.errno is not None:
            return error.errno
    elif not isinstance(error, Exception):
        return None
    text = str(error)
    if any(words.lower() in text.lower() for words in _DISK_FULL_WORDS):
        return errno.ENOSPC
    found = _WRAPPED.search(text)
    return int(found.group(1)) if found else None


Fingerprints = Mapping[str, Mapping[str, Any]]
"""``{file: {"size": bytes, "sha256": hexadecimal}}``, paths relative to a folder."""


def fingerprint(file: Path) -> dict[str, Any]:
    """``{"size", "sha256"}`` of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"size": file.stat().st_size, "sha256": digest}


def fingerprints(folder: Path, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Fingerprints of all files in ``parts`` (files or folders in ``folder``) that exist."""
    files: list[Path] = []
    for part in parts:
        path = folder / part
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {p.relative_to(folder).as_posix(): fingerprint(p) for p in files if p.is_file()}


def damage(folder: Path, expected: Fingerprints) -> str | None:
    """The first thing wrong with the files in ``folder``, or None if all are as expected."""
    for name, wanted in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        size = file.stat().st_size
        if size != wanted.get("size"):
            return f"{name} has {size} bytes instead of {wanted.get('size')}"
        try:
            found = fingerprint(file)
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if found["sha256"] != wanted.get("sha256"):
            return f"{name} is not what was written (its SHA-256 differs)"
    return None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: it cannot be read, is not JSON, or holds something else; the message begins
            with the file and says which.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({first_line(error)})") from error
    if not isinstance(value, dict):
        names = {list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
        kind = names.get(type(value), "a number")
        raise ValueError(f"{file} holds {kind} instead of a JSON object")
    return value


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
