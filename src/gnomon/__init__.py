"""gnomon: from raw feedback to a model that is safe to ship.

    import gnomon

    run = gnomon.train("dpo", model="my-model", data="pairs.jsonl")
    run.metrics, run.report()

Names are imported when they are first used, so that ``import gnomon`` loads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon import errors as errors
    from gnomon import losses as losses
    from gnomon.api.loading import load as load
    from gnomon.api.parts import judge as judge
    from gnomon.api.parts import pack as pack
    from gnomon.api.parts import read as read
    from gnomon.api.parts import sample as sample
    from gnomon.api.recipe import Recipe as Recipe
    from gnomon.api.run import Run as Run
    from gnomon.api.run import run as run
    from gnomon.api.sweep import sweep as sweep
    from gnomon.api.train import train as train
    from gnomon.training.callbacks import Callback as Callback

__version__ = "0.1.0"

_WHERE = {
    "train": "gnomon.api.train",
    "run": "gnomon.api.run",
    "Run": "gnomon.api.run",
    "Recipe": "gnomon.api.recipe",
    "sweep": "gnomon.api.sweep",
    "Callback": "gnomon.training.callbacks",
    "read": "gnomon.api.parts",
    "pack": "gnomon.api.parts",
    "load": "gnomon.api.parts",
    "sample": "gnomon.api.parts",
    "judge": "gnomon.api.parts",
    "losses": "gnomon.losses",
    "errors": "gnomon.errors",
}
"""The module of each public name; ``losses`` and ``errors`` are modules themselves."""

__all__ = [
    "Callback",
    "Recipe",
    "Run",
    "__version__",
    "errors",
    "judge",
    "load",
    "losses",
    "pack",
    "read",
    "run",
    "sample",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gnomon' has no attribute {name!r}")
    module = import_module(_WHERE[name])
    found = module if _WHERE[name] == f"gnomon.{name}" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
