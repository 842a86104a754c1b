"""YAML that gnomon writes and reads: with libyaml, which takes a fifth of the time.

A run's recipe.yaml is read eight times while it runs and once by everything that looks at it, and
PyYAML's own parser takes hundredths of a second for it. What people write is read by
:mod:`gnomon.recipe.read`, which says better what is wrong.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any

import yaml
from yaml.composer import Composer

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ANY_WIDTH = 2**31 - 1


class _Loader(Composer, _Parser):  # type: ignore[misc]
    """libyaml's events, put together in Python: its own way of doing so ends the process where a
    damaged file nests too deep."""

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)


def read_yaml_text(text: str) -> Any:
    """Plain data from YAML, as :func:`yaml.safe_load` reads it.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it cannot be read; in PyYAML's own words.
    """
    return deepcopy(_read(text))


@lru_cache(maxsize=4)
def _read(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return yaml.safe_load(text)


def write_yaml_text(plain: Any) -> str:
    """YAML of plain data, in its order, a value to a line and letters as they are."""
    written = yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ANY_WIDTH
    )
    if "\\U" in written:  # libyaml writes so what needs more than 16 bits, such as an emoji
        written = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=_ANY_WIDTH)
    return str(written)
