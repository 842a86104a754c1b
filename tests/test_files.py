"""Files and folders that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gnomon import files
from gnomon.errors import RunError


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_appears_whole_and_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with files.write_folder(target) as tmp:
        (tmp / "sub").mkdir()
        (tmp / "sub" / "a").write_text("1")
        assert not target.exists()
        assert tmp.parent == target.parent
    with files.write_folder(target) as tmp:
        (tmp / "b").write_text("2")
        assert contents(target) == {"sub/a": "1"}
    assert contents(target) == {"b": "2"}
    assert os.listdir(tmp_path) == ["model"]


def test_replacing_works_where_folders_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    for text in "12":
        with files.write_folder(tmp_path / "model") as tmp:
            (tmp / "a").write_text(text)
    assert contents(tmp_path) == {"model/a": "2"}
    assert os.listdir(tmp_path) == ["model"]


def test_a_replacement_cut_off_between_its_two_renames_is_undone(tmp_path: Path) -> None:
    backup = tmp_path / ".model.gnomon-old"
    backup.mkdir()
    (backup / "a").write_text("1")
    files.recover_folder(tmp_path / "model")
    assert contents(tmp_path) == {"model/a": "1"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_target_and_no_litter(tmp_path: Path, error: BaseException) -> None:
    def replace_and_fail() -> None:
        with files.write_folder(tmp_path / "model") as tmp:
            (tmp / "a").write_text("new")
            raise error

    with files.write_folder(tmp_path / "model") as tmp:
        (tmp / "a").write_text("old")
    with pytest.raises(type(error)):
        replace_and_fail()
    assert contents(tmp_path) == {"model/a": "old"}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("(os error 28) StorageFull")],
)
def test_a_full_disk_is_an_error_with_a_cure(tmp_path: Path, error: Exception) -> None:
    def fill() -> None:
        with files.write_folder(tmp_path / "model"):
            raise error

    with pytest.raises(RunError) as caught:
        fill()
    message = str(caught.value)
    assert str(tmp_path / "model") in message
    assert "are free" in message
    assert "Free some space" in message
    assert os.listdir(tmp_path) == []


def test_too_little_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"needs 1\.0 PB"),
        files.write_folder(tmp_path / "model", need=10**15),
    ):
        pytest.fail("the body must not run")
    assert os.listdir(tmp_path) == []


def test_single_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"β": [1, 2.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"β": [1, 2.5]}
    files.write_text(path, "x\r\ny")
    assert path.read_bytes() == b"x\r\ny"
    assert os.listdir(path.parent) == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def test_everything_is_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(fd: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def note_rename(a: Path, b: Path) -> None:
        events.append("rename")
        rename(a, b)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    with files.write_folder(tmp_path / "model") as tmp:
        (tmp / "sub").mkdir()
        (tmp / "sub" / "a").write_text("1")
    assert events == ["a", "sub", tmp.name, "rename", tmp_path.name]


def test_only_abandoned_temporaries_are_cleaned(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from gnomon.files import write_folder\n"
        "with write_folder(Path(sys.argv[1])) as tmp:\n"
        "    (tmp / 'a').write_text('half'); print('ready', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert files.clean_temporaries(tmp_path) == []  # it is still being written
    child.kill()
    child.communicate()
    assert len(os.listdir(tmp_path)) == 1
    assert len(files.clean_temporaries(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_all_files_of_a_folder_have_the_modes_that_the_umask_gives(
    tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        with files.write_folder(tmp_path / "model") as tmp:
            (tmp / "sub").mkdir()
            for file in (tmp / "model.safetensors", tmp / "sub" / "a"):
                save_file({"x": torch.zeros(2)}, file)
                file.chmod(0o600)  # as safetensors leaves it
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "model").rglob("*")}
    expected = {"model.safetensors": 0o666 & ~mask, "a": 0o666 & ~mask, "sub": 0o777 & ~mask}
    assert modes == expected


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full"),
        (SafetensorError("I/O error: Disk quota exceeded (os error 122)"), "disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (SafetensorError("I/O error: Input/output error (os error 5)"), "cannot be written"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "cannot be written"),
        (OSError("[Errno 5] Error writing bytes to file. Detail: [errno 5]"), "cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), "Move it away"),
    ],
)
@pytest.mark.parametrize("write", [files.write_folder, files.write_file])
def test_what_a_library_says_of_a_broken_disk_becomes_an_error_with_a_cure(
    tmp_path: Path, write: Any, error: Exception, said: str
) -> None:
    (tmp_path / "kept").write_text("before")

    def fail() -> None:
        with write(tmp_path / "target"):
            raise error

    with pytest.raises(RunError, match=said) as caught:
        fail()
    assert str(tmp_path / "target") in str(caught.value)
    assert "--resume" in str(caught.value)
    assert os.listdir(tmp_path) == ["kept"]


def test_an_error_that_is_not_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    def fail() -> None:
        with files.write_folder(tmp_path / "target"):
            raise SafetensorError("tensors share memory")

    with pytest.raises(SafetensorError):
        fail()
