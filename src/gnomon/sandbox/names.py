"""What test code does with the names that it uses, read off its syntax trees."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence


def called(trees: Iterable[ast.AST]) -> set[str]:
    """The names that are called."""
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def makers(parts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the program's ``names`` of which values are only handed back to the program.

    ``Pair`` in ``chain([Pair(5, 24), Pair(15, 25)], 2) == 1``: every use is a call among the
    arguments of another call of the program. None in code that does not parse.
    """
    try:
        trees = [ast.parse(part) for part in parts]
    except (SyntaxError, ValueError):
        return []
    uses: Counter[str] = Counter()
    handed: Counter[str] = Counter()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name) and node.id in names:
            uses[node.id] += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            handed.update(_handed([*node.args, *(k.value for k in node.keywords)]))
    return [name for name in names if uses[name] and uses[name] == handed[name]]


def _handed(arguments: Iterable[ast.expr | None]) -> Iterator[str]:
    """The names called in arguments, or in lists and the like that are arguments."""
    for argument in arguments:
        if isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name):
            yield argument.func.id
        elif isinstance(argument, ast.List | ast.Tuple | ast.Set):
            yield from _handed(argument.elts)
        elif isinstance(argument, ast.Dict):
            yield from _handed([*argument.keys, *argument.values])
