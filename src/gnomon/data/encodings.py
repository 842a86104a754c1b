"""What a text that is not UTF-8 probably is, and how to convert it."""

from __future__ import annotations

import shlex
from pathlib import Path

from gnomon.data.rows import MARKS, is_gzip, open_bytes

_SAMPLE = 1 << 16
# Encodings of people's files, the most common first: Python's name -> (name, iconv's name).
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


def explain_encoding(path: Path) -> str:
    """Where the text stops being UTF-8, what it probably is, and how to convert it."""
    number, position, sample, utf8_before = _first_other_line(path)
    place = f"{path}, line {number}: not UTF-8 text (byte {position} of the line)"
    if utf8_before:
        return f"{place}, though lines before it are. Correct or remove that line."
    names = likely_encodings(sample)
    if not names:
        return f"{place}. Save the file as UTF-8."
    likely = " or ".join(name for name, _ in names)
    convert = f"iconv -f {names[0][1]} -t UTF-8"
    file = shlex.quote(path.name)
    command = f"zcat {file} | {convert} | gzip" if is_gzip(path) else f"{convert} {file}"
    return f"{place}; it looks like {likely}. Save it as UTF-8: {command} > utf8-{file}"


def _first_other_line(path: Path) -> tuple[int, int, bytes, bool]:
    """The first line that is not UTF-8 text: its number, the byte in it, the bytes from it on, and
    whether a line before it had UTF-8's longer characters."""
    utf8_before = False
    with open_bytes(path) as file:
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

    for mark, name in MARKS.items():
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
    for text with too few of them for statistics."""
    high = bytes(byte for byte in sample if byte > 127).decode("cp1252", "replace")
    letters = sum(char.isalpha() for char in high)
    return [_ENCODINGS["cp1252"]] if letters > 0.8 * len(high) else []
