"""Which files a path means: one, a glob, or a folder of shards."""

from __future__ import annotations

import difflib
import glob
import re
from pathlib import Path

from gnomon.data.rows import SUFFIXES, stem
from gnomon.errors import DataError

_SHARD = re.compile(r"[-_.]?(?:shard|part)?[-_.]?(\d+)(?:[-_]of[-_](\d+))?(?:[-_][0-9a-f]{8,})?$")
_REST = re.compile(r"(\d+)")


def is_glob(path: str | Path) -> bool:
    """Whether a path names files by a pattern rather than one file that exists."""
    return glob.has_magic(str(path)) and not Path(path).exists()


def find_files(path: Path, split: str | None) -> list[Path] | None:
    """The files that a path means, shards in order; None if `datasets` saved the folder, or if the
    path can only be a hub id.

    Raises:
        DataError: no such file, an unknown ending, a missing shard, or files of several kinds or
            splits and no ``split`` to choose one.
    """
    if path.is_dir():
        saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
        return None if saved else _in_folder(path, split)
    if is_glob(path):
        files = sorted((Path(p) for p in glob.glob(str(path))), key=_natural)
        if not files:
            raise DataError(f"{path}: no file fits this pattern.")
        _refuse_split(path, split)
        return _checked(path, [f for f in files if f.is_file()])
    if path.exists():
        _refuse_split(path, split)
        return _checked(path, [path])
    if looks_like_hub_id(str(path)):
        return None
    raise DataError(f"{path}: no such file or folder.{_nearby(path)}")


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is not a path here could be a hub id."""
    known_ending = name.lower().endswith(SUFFIXES)
    return not known_ending and name.count("/") <= 1 and not name.startswith((".", "/", "~"))


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder {path.parent} does not exist either."
    names = [p.name for p in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f" Did you mean {path.parent / close[0]}?" if close else ""


def _refuse_split(path: Path, split: str | None) -> None:
    if split is not None:
        raise DataError(
            f"{path}: `split` is for folders and hub ids, but this names its files. "
            "Leave `split` out, or name the file of that split."
        )


def _checked(path: Path, files: list[Path]) -> list[Path]:
    wrong = next((f for f in files if not f.name.lower().endswith(SUFFIXES)), None)
    if wrong is not None:
        raise DataError(f"{wrong}: unknown ending. gnomon reads {', '.join(SUFFIXES)}.")
    _refuse_gaps(path, files)
    return files


def _in_folder(folder: Path, split: str | None) -> list[Path]:
    """A folder's shards: all its data files, or those of one split."""
    files = sorted((p for p in folder.iterdir() if _is_data(p)), key=_natural)
    if not files:
        inside = sorted({p.parent for p in folder.glob("*/*") if _is_data(p)})
        hint = (
            f"Its data is in {', '.join(map(str, inside[:4]))}." if inside else "It holds no data."
        )
        raise DataError(f"{folder}: a folder without data files, not saved by `datasets`. {hint}")
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file), []).append(file)
    if split is not None and split not in splits:
        raise DataError(f"{folder}: no files of a split {split!r}; it has {_counts(splits)}.")
    if split is None and len(splits) > 1:
        names = ", ".join(p.name for p in files[:8])
        raise DataError(
            f"{folder}: holds files that do not belong together ({_counts(splits)}). Say which "
            f"with split, or by a pattern such as {folder / '*.jsonl'}. Name one of its files: "
            f"{names}."
        )
    chosen = splits[split] if split is not None else files
    if len({p.name[len(stem(p)) :].lower() for p in chosen}) > 1:
        names = ", ".join(p.name for p in chosen[:8])
        raise DataError(f"{folder}: its files end differently. Name one of its files: {names}.")
    return _checked(folder, chosen)


def _is_data(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return path.is_file() and not hidden and path.name.lower().endswith(SUFFIXES)


def _counts(splits: dict[str, list[Path]]) -> str:
    named = sorted(splits.items())
    return ", ".join(f"{name or 'unnamed'}: {len(files)} files" for name, files in named)


def _split_of(path: Path) -> str:
    """What shards of one set share: their name without its number."""
    return _SHARD.sub("", stem(path))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts part-2 before part-10."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in _REST.split(str(path))]


def _refuse_gaps(path: Path, files: list[Path]) -> None:
    """Refuse a set of ``-00000-of-00003`` shards of which one is missing."""
    sets: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = _SHARD.search(stem(file))
        if match is not None and match[2] is not None:
            sets.setdefault((_split_of(file), int(match[2])), set()).add(int(match[1]))
    for (name, total), numbers in sets.items():
        first = 0 if 0 in numbers else 1
        absent = sorted(set(range(first, first + total)) - numbers)
        if absent and not (len(files) == 1 and path == files[0]):
            raise DataError(
                f"{path}: shard {absent[0]} of {total} of {name or 'its set'} is missing. Fetch "
                "it, or name the files you want by a pattern or one by one."
            )
