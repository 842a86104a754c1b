"""Opening a store where SQLAlchemy may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from gnomon.feedback.store import Store


def open_store(where: str | Path, *, create: bool = False) -> Store:
    """The store in a file or at a ``postgresql://`` URL; see ``Store.open``.

    Raises:
        ConfigError: a package is missing, with the command that installs it.
    """
    try:
        from gnomon.feedback.store import Store
    except ImportError as error:
        raise ConfigError(
            f"a store of labels needs a package that is not installed ({error}): "
            "pip install 'gnomon-rlhf[label]'"
        ) from error
    return Store.open(where, create=create)
