"""A file's text, strictly: UTF-8 or an error that names the likely encoding, and never more of it
than was allowed.

>>> with open_text(Path("pairs.jsonl.gz"), Caps.of(max_gb=1.0)) as text:
...     first = text.readline()
"""

from __future__ import annotations

import codecs
import gzip
import io
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from gnomon.errors import DataError

MAX_GB = 1.0
_SAMPLE = 1 << 16
_MAGIC = {
    b"\x1f\x8b": "gzip; add .gz to its name",
    b"PAR1": "parquet; name it .parquet",
    b"ARROW1": "Arrow; name it .arrow",
    b"PK\x03\x04": "a zip archive (an .xlsx is one, too); unpack it, or save the sheet as CSV",
    b"BZh": "bzip2; unpack it",
    b"\xfd7zXZ": "xz; unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard; unpack it",
    b"version https://git-lfs": "a Git LFS pointer, not the data; fetch it with git lfs pull",
    b"<!DOCTYPE": "a web page, not the data; fetch the raw file",
    b"<!doctype": "a web page, not the data; fetch the raw file",
    b"<html": "a web page, not the data; fetch the raw file",
}
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins with UTF-16's mark, so it stands first
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# Encodings that people's files have, the most common first: Python's name -> (said, iconv's name).
_ENCODINGS = {
    "gb18030": ("GBK (GB18030)", "GB18030"),
    "big5": ("Big5", "BIG5"),
    "cp932": ("Shift-JIS", "CP932"),
    "euc_jp": ("EUC-JP", "EUC-JP"),
    "cp949": ("EUC-KR", "CP949"),
    "cp1252": ("Latin-1 (Windows-1252)", "WINDOWS-1252"),
    "cp1251": ("Windows-1251", "WINDOWS-1251"),
    "koi8_r": ("KOI8-R", "KOI8-R"),
    "cp1250": ("Windows-1250", "WINDOWS-1250"),
}


@dataclass(frozen=True, slots=True)
class Caps:
    """How much is read of one file: ``total`` bytes once unpacked, ``row`` bytes of one row."""

    total: int
    row: int

    @classmethod
    def of(cls, max_gb: float) -> Caps:
        """Caps of ``max_gb`` GiB for a file and 1/32 of that for a row."""
        total = int(max_gb * 2**30)
        return cls(total, total // 32)

    def refuse(self, path: Path | str) -> DataError:
        """The error for a file that holds more than ``total``."""
        return DataError(
            f"{path}: holds more than {self.total / 2**30:g} GB once unpacked, which may be a "
            "mistake and would fill the memory. Read fewer rows (limit), split the file, or raise "
            "max_gb."
        )

    def long_row(self) -> tuple[str, str]:
        """Reason and cure for a row that is longer than ``row``."""
        return (
            f"the row is longer than {self.row / 2**20:g} MB",
            "check for a missing line break, or raise max_gb (a row may take 1/32 of it)",
        )


class _Counted(io.RawIOBase):
    """Bytes of an open file up to a cap."""

    def __init__(self, inner: IO[bytes], path: Path, caps: Caps) -> None:
        self._inner = inner
        self._path = path
        self._caps = caps
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._count += len(data)
        if self._count > self._caps.total:
            raise self._caps.refuse(self._path)
        buffer[: len(data)] = data
        return len(data)


def is_gzip(path: Path) -> bool:
    """Whether the name says that the file is gzipped."""
    return path.name.lower().endswith(".gz")


def _open_bytes(path: Path) -> IO[bytes]:
    if is_gzip(path):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return open(path, "rb")


@contextmanager
def open_text(path: Path, caps: Caps) -> Iterator[io.TextIOWrapper]:
    """Open a (gzipped) text file; line ends are kept as they stand, a BOM is dropped.

    Raises:
        DataError: while opening or reading: not UTF-8 (with the likely encoding), not text, a
            broken gzip, longer than ``caps.total``, or the system cannot read it.
    """
    try:
        with _open_bytes(path) as inner:
            _refuse_other_kinds(path, inner.read(4096))
            inner.seek(0)
            counted = io.BufferedReader(_Counted(inner, path, caps), 1 << 16)
            with io.TextIOWrapper(counted, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise DataError(_wrong_encoding(path)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        cure = "Fetch or compress the file again."
        if str(error).startswith("Not a gzipped"):
            cure = "If it is not compressed, take .gz from its name."
        raise DataError(f"{path}: broken gzip ({error}). {cure}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}.")
    if any(head.startswith(mark) for mark in _MARKS) or b"\0" in head:
        raise DataError(_wrong_encoding(path))


def _wrong_encoding(path: Path) -> str:
    """Where the text stops being UTF-8, what it probably is, and how to convert it."""
    number, position, sample, utf8_before = _first_other_line(path)
    place = f"{path}, line {number}: not UTF-8 text (byte {position} of the line)"
    if utf8_before:
        return f"{place}, though lines before it are. Correct or remove that line."
    names = likely_encodings(sample)
    if not names:
        return f"{place}. Save the file as UTF-8."
    said = " or ".join(name for name, _ in names)
    convert = f"iconv -f {names[0][1]} -t UTF-8"
    file = shlex.quote(path.name)
    command = f"zcat {file} | {convert} | gzip" if is_gzip(path) else f"{convert} {file}"
    return f"{place}; it looks like {said}. Save it as UTF-8: {command} > utf8-{file}"


def _first_other_line(path: Path) -> tuple[int, int, bytes, bool]:
    """The first line that is not UTF-8 text: its number, the byte in it, the bytes from it on, and
    whether a line before it had UTF-8's longer characters."""
    utf8_before = False
    with _open_bytes(path) as file:
        number = 0
        while line := file.readline(_SAMPLE):
            number += 1
            try:
                utf8_before |= not line.isascii() and bool(line.decode("utf-8"))
                position = line.find(b"\0")
            except UnicodeDecodeError as error:
                position = error.start
                if len(line) == _SAMPLE and error.end >= len(line) - 3:
                    continue  # the sample's end cut a character in two
            if position >= 0:
                return number, position + 1, line + file.read(_SAMPLE - len(line)), utf8_before
    return number, 1, b"", False


def likely_encodings(sample: bytes) -> list[tuple[str, str]]:
    """What bytes that are not UTF-8 may be, the likeliest first: (name, iconv's name)."""
    from charset_normalizer import from_bytes

    for mark, name in _MARKS.items():
        if sample.startswith(mark):
            return [(name, name)]
    if b"\0" in sample:
        even, odd = sample[0::2].count(0), sample[1::2].count(0)
        if max(even, odd) < len(sample) // 8:
            return []  # a few NULs: damaged, or no text at all
        name = "UTF-16LE" if odd > even else "UTF-16BE"
        return [(f"{name} without a byte order mark", name)]
    end = sample.rfind(b"\n") + 1 or len(sample)  # no character cut in two
    matches = from_bytes(sample[:end], cp_isolation=list(_ENCODINGS), enable_fallback=False)
    order = list(_ENCODINGS)
    known = [m for m in matches if m.encoding in _ENCODINGS]
    known.sort(key=lambda m: (round(m.chaos, 2), -m.coherence, order.index(m.encoding)))
    return [_ENCODINGS[m.encoding] for m in known[:2]] or _western(sample[:end])


def _western(sample: bytes) -> list[tuple[str, str]]:
    """Windows-1252 (which holds Latin-1's letters) where the bytes beyond ASCII are letters in it:
    too few of them for statistics, say."""
    high = bytes(byte for byte in sample if byte > 127).decode("cp1252", "replace")
    letters = sum(char.isalpha() for char in high)
    return [_ENCODINGS["cp1252"]] if letters > 0.8 * len(high) else []
