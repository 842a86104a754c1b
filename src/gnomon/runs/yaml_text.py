"""Reading YAML that gnomon wrote: with libyaml's parser, which takes a fifth of the time.

A run's recipe.yaml is read many times while it runs and once by everything that looks at it, and
PyYAML's own parser takes hundredths of a second for it. What people write is read by
:mod:`gnomon.recipe.read`, which says better what is wrong.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import Composer

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml


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
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return yaml.safe_load(text)
