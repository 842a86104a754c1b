"""What there is to try a method on: a tunnel world, rooms, a calculator, instructions and more."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "heldout"]
HELDOUT_SHARE = 0.2


def split_of(key: str) -> Split:
    """The split a problem belongs to, fixed for all time by a hash of what identifies it."""
    digest = hashlib.sha256(key.encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "heldout" if share < HELDOUT_SHARE else "train"
