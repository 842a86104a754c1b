"""The house: a room imports only from rooms above it, nothing in a circle, torch only where needed.

Imports inside functions and under ``TYPE_CHECKING`` count too: whoever needs a name knows its room.
What lies below is reached by a string (``module:attr``) that ``gnomon.plugins`` resolves.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import gnomon

ROOMS = (
    *("records", "errors", "files", "usercode", "plugins", "console", "web"),
    *("stats", "recipe", "workers", "losses", "data", "models", "rollout", "sandbox", "judges"),
    *("agents", "tasks", "runs", "evals", "audit", "report", "export", "view", "feedback"),
    *("algorithms", "plan", "training", "stages", "control", "api"),
    *("cli", "__main__", "rewards"),
)
"""From the top of the house down; ``rewards`` holds old names of what is in ``judges``, and
``__main__`` is the door that torchrun takes."""
STANDARD_ONLY = ("sandbox",)
"""Rooms that import the standard library and themselves, nothing else."""
TORCH_FREE = (
    *("records", "errors", "files", "usercode", "plugins", "console", "web"),
    *("workers", "recipe", "stats"),
    *("sandbox", "judges.protocol", "judges.build", "judges.verifiers"),
    *("evals.table", "evals.evaluate", "audit", "report", "view", "feedback"),
    *("algorithms.registry", "cli"),
)
"""Rooms and modules that are imported without any of ``HEAVY``."""
HEAVY = ("torch", "transformers")

KNOWN_CIRCLES: set[frozenset[str]] = set()
"""Exceptions, each to be cured."""

Tree = Mapping[str, ast.Module]
"""Syntax trees by the module's full name."""
Imports = dict[str, set[str]]


def read(root: Path) -> Tree:
    """Every module of the package in ``root``."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(
            path.read_text(encoding="utf-8"), str(path)
        )
    return found


def statements(node: ast.AST, *, late: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements; those that do not run with the module itself only when ``late``."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Import | ast.ImportFrom):
            yield inner
        elif late or not (
            isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(inner, ast.If) and ast.unparse(inner.test) == "TYPE_CHECKING")
        ):
            yield from statements(inner, late=late)


def imports(tree: Tree, *, late: bool = True) -> Imports:
    """What each module imports, by full names."""
    packages = {name.rpartition(".")[0] for name in tree}
    found: Imports = {}
    for name, module in tree.items():
        here = name if name in packages else name.rpartition(".")[0]
        found[name] = set()
        for node in statements(module, late=late):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
                continue
            base = node.module or ""
            if node.level:
                above = here.split(".")[: len(here.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found[name] |= {name if name in tree else base for name in inner}
        found[name].discard(name)
    return found


def room(name: str) -> str:
    return [*name.split("."), ""][1]


def from_below(found: Imports, rooms: tuple[str, ...] = ROOMS) -> set[tuple[str, str]]:
    """(module, what it imports from a room below its own)."""
    package = next(iter(found)).split(".")[0]
    place = {name: i for i, name in enumerate(rooms)}
    return {
        (name, other)
        for name, others in found.items()
        for other in others
        if name != package and other.split(".")[0] == package and other != package
        if place[room(other)] > place[room(name)]
    }


def circles(found: Imports) -> set[frozenset[str]]:
    """Sets of modules that import each other, directly or round about."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for other in found.get(stack.pop(), ()):
                if other not in seen and other in found:
                    seen.add(other)
                    stack.append(other)
        return seen

    every = {name: reached(name) for name in found}
    return {
        frozenset(other for other in every[name] if name in every[other])
        for name in found
        if name in every[name]
    }


def loaded(found: Imports, start: str) -> set[str]:
    """All that importing ``start`` imports, with the packages above each module."""
    seen: set[str] = set()
    stack = [start]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack += [name.rpartition(".")[0]] if "." in name else []
            stack += found.get(name, ())
    return seen


def heavy(found: Imports, free: tuple[str, ...] = TORCH_FREE) -> set[tuple[str, str]]:
    """(module that must be light, what heavy it imports)."""
    package = next(iter(found)).split(".")[0]
    light = [n for n in found if any(f"{n}.".startswith(f"{package}.{f}.") for f in free)]
    light.append(package)
    return {(n, h) for n in light for h in HEAVY if h in loaded(found, n)}


def foreign(found: Imports, rooms: tuple[str, ...] = STANDARD_ONLY) -> set[tuple[str, str]]:
    """(module of a room that stands alone, what it imports from outside)."""
    package = next(iter(found)).split(".")[0]
    return {
        (name, other)
        for name, others in found.items()
        for other in others
        if room(name) in rooms
        and other.split(".")[0] not in sys.stdlib_module_names
        and not other.startswith(f"{package}.{room(name)}")
    }


# -- the house as it stands ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Tree:
    return read(Path(gnomon.__file__).parent)


def test_every_module_is_in_a_room(tree: Tree) -> None:
    assert {room(name) for name in tree} - {""} == set(ROOMS)


def test_no_room_imports_from_one_below(tree: Tree) -> None:
    assert from_below(imports(tree)) == set()


def test_no_modules_import_each_other(tree: Tree) -> None:
    found = imports(tree)
    found["gnomon"] = imports(tree, late=False)["gnomon"]  # public names are imported when used
    assert circles(found) == KNOWN_CIRCLES


def test_torch_is_imported_where_it_is_needed_only(tree: Tree) -> None:
    assert heavy(imports(tree, late=False)) == set()
    for name in TORCH_FREE:
        assert any(f"{other}.".startswith(f"gnomon.{name}.") for other in tree), name


def test_the_sandbox_knows_the_standard_library_alone(tree: Tree) -> None:
    assert foreign(imports(tree)) == set()


# -- and a house that is broken --------------------------------------------------------------------

BROKEN = {
    "__init__.py": "",
    "records.py": "import torch\n",
    "errors.py": "def late():\n    import torch\n    from pack.stages.run import go\n",
    "sandbox/__init__.py": "from . import inside\nfrom .. import errors\n",
    "sandbox/inside.py": "import json, numpy\n",
    "stages/__init__.py": "",
    "stages/run.py": "import pack.errors\nfrom pack.stages import other\n",
    "stages/other.py": "def late():\n    from .run import go\n",
    "stages/typed.py": "if TYPE_CHECKING:\n    from pack.cli import app\n",
    "cli.py": "import pack\n",
}


@pytest.fixture
def broken(tmp_path: Path) -> Tree:
    for name, text in BROKEN.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read(tmp_path / "pack")


def test_a_broken_house_is_seen(broken: Tree) -> None:
    found = imports(broken)
    assert from_below(found) == {
        ("pack.errors", "pack.stages.run"),
        ("pack.stages.typed", "pack.cli"),
    }
    assert circles(found) == {frozenset({"pack.errors", "pack.stages.run", "pack.stages.other"})}
    assert foreign(found) == {("pack.sandbox", "pack.errors"), ("pack.sandbox.inside", "numpy")}
    light = imports(broken, late=False)
    assert heavy(light) == {("pack.records", "torch")}
