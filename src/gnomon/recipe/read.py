"""YAML as people mean it, into plain data that is bounded in size and knows its lines.

PyYAML parses; what the nodes mean is decided here, because its own constructors turn ``2024-13-45``
into an exception, ``12:30`` into 750, and a page of aliases into gigabytes:

- Keys are text as written: ``{1: a, no: b}`` has the keys "1" and "no".
- Plain values are true/false (or yes/no, on/off), null, numbers (``1e-5`` is one, ``010`` is not)
  and else text; dates are text.
- An alias is a copy of its anchor, so changing one changes nothing else.
- Tags other than ``!!str`` are refused, as are text that cannot be a file's name or be written as
  UTF-8, keys written twice, and documents too deep or too large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_VALUES = 100_000
_MAX_DIGITS = 300
_TAG = "tag:yaml.org,2002:"
_BOOL = {
    word: value
    for value, words in {True: ("yes", "true", "on"), False: ("no", "false", "off")}.items()
    for word in words
}
_PLAIN = {
    "bool": (r"(?i:yes|no|true|false|on|off)\Z", "yYnNtTfFoO"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"
        r"|[-+]?\.(?i:inf)\Z|\.(?i:nan)\Z",
        "-+.0123456789",
    ),
    "null": (r"(?:~|null|Null|NULL|)\Z", ("~", "n", "N", "")),
    "merge": (r"<<\Z", "<"),
}
Where = tuple[str | int, ...]
"""The place of a value: the keys and numbers that lead to it."""


@dataclass(frozen=True)
class Document:
    """Plain data, and the line (from 1) of each value."""

    data: Any
    lines: dict[Where, int] = field(default_factory=dict)


def read_yaml(text: str) -> Any:
    """Plain data from YAML.

    Raises:
        yaml.YAMLError: see :func:`read_document`.
    """
    return read_document(text).data


def read_document(text: str) -> Document:
    """Plain data from YAML, with lines.

    Raises:
        yaml.YAMLError: it is not YAML, or more than one document, too deep (40 levels), too large
            (100,000 values with aliases written out), a key twice, a tag, or text that cannot be
            used. :func:`explain_yaml` puts it in one line.
    """
    loader = _Composer(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    if node is None:
        return Document(None)
    builder = _Builder()
    return Document(builder.build(node, (), 1), builder.lines)


def explain_yaml(error: yaml.YAMLError, with_line: bool = True) -> str:
    """What is wrong and where, in one line."""
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    if isinstance(error, yaml.reader.ReaderError):
        problem = f"the character U+{int(error.character):04X} is not allowed in a text file"
        return problem if not with_line else f"{problem} (at character {error.position + 1})"
    if "\\t" in problem or "'\t'" in problem:
        problem += "; YAML is indented with spaces, not tabs"
    if "expected a single document" in str(error):
        problem = "there is a second document (after ---); a recipe is one"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None or not with_line:
        return problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


class _Composer(yaml.SafeLoader):
    """PyYAML's composer with gnomon's plain values and a limit on its recursion."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _error(f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Composer.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PLAIN.items():
    _Composer.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))


class _Builder:
    """Turns YAML nodes into plain data."""

    def __init__(self) -> None:
        self.lines: dict[Where, int] = {}
        self.values = 0

    def build(self, node: yaml.Node, where: Where, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise _error(f"more than {MAX_VALUES:,} values, aliases written out", node.start_mark)
        if depth > MAX_DEPTH:
            raise _error(
                f"nested more than {MAX_DEPTH} levels deep, or an alias within its own anchor",
                node.start_mark,
            )
        self.lines[where] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if node.tag != _TAG + ("map" if isinstance(node, yaml.MappingNode) else "seq"):
            raise _tagged(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where, depth)
        return [self.build(n, (*where, i), depth + 1) for i, n in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, where: Where, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: list[tuple[str, yaml.Node]] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error("a key is a word, not a list or a mapping", key_node.start_mark)
            if key_node.tag == _TAG + "merge":
                for source in self._sources(value_node):
                    merged = {**self.build(source, where, depth + 1), **merged}
                continue
            key = _text(key_node)
            if any(key == other for other, _ in own):
                raise _error(f"the key {key!r} appears twice", key_node.start_mark)
            own.append((key, value_node))
        written = {key: self.build(value, (*where, key), depth + 1) for key, value in own}
        self.lines[where] = node.start_mark.line + 1  # not that of what was merged
        return {**merged, **written}

    def _sources(self, node: yaml.Node) -> Iterator[yaml.MappingNode]:
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                raise _error("<<: takes a mapping, or a list of them", source.start_mark)
            yield source


def _scalar(node: yaml.ScalarNode) -> Any:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "str":
        return _text(node)
    if kind not in _PLAIN or not re.match(_PLAIN[kind][0], text):
        raise _tagged(node)
    if kind == "bool":
        return _BOOL[text.lower()]
    if kind == "int":
        digits = text.replace("_", "")
        if len(digits) > _MAX_DIGITS:
            raise _error(f"a number of {len(digits):,} digits", node.start_mark)
        return int(digits, 16 if "x" in digits else 10)
    if kind == "float":
        return float(re.sub(r"\.(?=[a-z])", "", text.lower()))  # .inf and .nan
    return None if kind == "null" else text


def _text(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise _error(
            "text with a NUL character or half a surrogate pair, which no file can hold",
            node.start_mark,
        )
    return text


def _tagged(node: yaml.Node) -> yaml.YAMLError:
    tag = node.tag.replace(_TAG, "!!")
    return _error(
        f"the tag {tag} does not go here: write the value alone, in quotes if it is text",
        node.start_mark,
    )


def _error(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
