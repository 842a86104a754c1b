"""Find what a recipe names: ``name``, ``package.module:attr``, ``file.py:attr``.

One lookup for algorithms, judges, environments, sources and engines. A known name is looked up in a
table of import paths, so that nothing is imported before it is asked for; what has a colon is the
user's own, from a module or from a file next to the recipe.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gnomon.errors import ConfigError
from gnomon.usercode import is_interrupt, place


def nearest(word: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """ "did you mean 'x'?" with the nearest of the known words; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def did_you_mean(
    word: str, known: Iterable[str], otherwise: str = "there are", cutoff: float = 0.5
) -> str:
    """The nearest of the known words as a question, or else all of them.

    Args:
        otherwise: how the list of all of them begins.
        cutoff: how near, from 0 to 1; short words need more.
    """
    words = list(known)
    return nearest(word, words, cutoff) or f"{otherwise} {', '.join(words) or 'none'}"


def is_own(name: str) -> bool:
    """Whether a name is the user's own code: ``package.module:attr`` or ``file.py:attr``."""
    return ":" in name


def check_known(name: str, known: Iterable[str], what: str, own: bool = True) -> None:
    """Check that ``name`` is known, or is the user's own; nothing is imported.

    Args:
        what: what is looked for, for the error ("algorithm", "environment").
        own: whether it may be the user's own.

    Raises:
        ConfigError: it is not, with the nearest known name.
    """
    known = list(known)
    if name in known or (own and is_own(name)):
        return
    near = nearest(name, known, cutoff=0.5)
    more = ". One of your own is named as file.py:Name or package.module:Name" if own else ""
    raise ConfigError(f"unknown {what} {name!r}; {near or 'known: ' + ', '.join(known) + more}")


def find(name: str, known: Mapping[str, str], base: Path, what: str) -> Any:
    """What ``name`` refers to: an entry of ``known``, or the user's own.

    Args:
        known: import paths (``module:attr``) by name.
        base: the folder that a user's file is looked up in (the recipe's own).
        what: what is looked for, for the errors.

    Raises:
        ConfigError: no such name, module, file or attribute, with the reason.
    """
    check_known(name, known, what)
    return load_own(name, base, what) if is_own(name) else load_builtin(known[name])


def load_builtin(reference: str) -> Any:
    """The object behind ``module:attr``, an import path that gnomon itself wrote down.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{reference!r}: {error}") from error


PASSED = "python"
"""``python:NAME`` is what was passed from Python and is in no file."""
_HANDED: dict[str, Any] = {}


@contextmanager
def handed(objects: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, these references mean these very objects, whatever their files hold."""
    before = dict(_HANDED)
    _HANDED.update(objects)
    try:
        yield
    finally:
        _HANDED.clear()
        _HANDED.update(before)


def handed_over(reference: str) -> Any:
    """What was handed over for a reference; None where nothing was."""
    return _HANDED.get(reference)


def load_own(reference: str, base: Path, what: str) -> Any:
    """The callable that ``package.module:name`` or ``file.py:name`` refers to.

    Args:
        reference: as written in the recipe.
        base: the folder that a relative file is looked up in.
        what: what it is, for the errors ("reward function").

    Raises:
        ConfigError: no such module, file or name, with the reason.
    """
    if reference in _HANDED:
        return _HANDED[reference]
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(f"{what} {reference!r}: write module:name or path/file.py:name")
    if where == PASSED:
        raise ConfigError(
            f"{what} {reference!r}: {name} was passed from Python and is in no file, so it has to "
            f"be passed again: gnomon.Run(FOLDER).resume(passed=[{name}]) in Python. Written into "
            "a file, it is named as file.py:name and found by itself"
        )
    try:
        file = base / where if where.endswith(".py") else None
        with _importable(base if file is None else file.parent):
            module = importlib.import_module(where) if file is None else _load_file(file)
    except BaseException as error:  # a user's module may raise anything at import
        if is_interrupt(error):
            raise
        raise ConfigError(
            f"{what} {reference!r}: cannot import {where}: {import_problem(error)}"
        ) from error
    if file is None:
        _check_place(reference, module, base, what)
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        near = did_you_mean(name, known, "it has")
        raise ConfigError(f"{what} {reference!r}: {where} has no {name!r}; {near}")
    return found


_ADDED: set[Path] = set()
"""Folders of recipes, in which their modules were looked for."""


def _check_place(reference: str, module: ModuleType, base: Path, what: str) -> None:
    """Refuse a module of another recipe's folder, imported before in this process, where this one's
    folder holds one of the same name: Python would give the first for both.

    Raises:
        ConfigError: it is such a one.
    """
    where, _, name = reference.rpartition(":")
    within = base.joinpath(*where.split("."))
    own = next(
        (f for f in (within.with_suffix(".py"), within / "__init__.py") if f.is_file()), None
    )
    if own is None or not module.__file__ or own.samefile(module.__file__):
        return
    if not _ADDED.isdisjoint(Path(module.__file__).resolve().parents):
        raise ConfigError(
            f"{what} {reference!r}: {own} is meant, but this process has imported another {where} "
            f"before, {module.__file__}. Name the file: {own.relative_to(base)}:{name}"
        )


def import_problem(error: BaseException) -> str:
    """What importing or making a user's object raised, and where."""
    text = f"{error}" if isinstance(error, ImportError | SyntaxError | OSError) else repr(error)
    where = place(error)
    return (text or type(error).__name__) + (f" ({where})" if where else "")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Find modules in ``folder`` too, as a script there would, and leave no bytecode in it.

    The folder stays on the path, at its end, for what the module imports later.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _ADDED.add(folder.resolve())
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"gnomon_user_{path.stem}_{place}"  # two folders may each have such a file
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
