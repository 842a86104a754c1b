"""What is known of the cures that the audit names: which are shown to help, and which are not.

Measured by ``benchmarks/cures.py`` (docs/cures.md) on three seeds each; a test compares this table
with the measurement's rows.
"""

from __future__ import annotations

from collections.abc import Mapping

UNMEASURED = "not measured"
MEASURED: Mapping[str, str] = {
    "settings.beta": "",
    "ensemble": "not shown to help: it did harm at one of three seeds",
}
"""By the end of an override's key, what is said of it; nothing of one that is shown to help."""


def remark(cure: str) -> str:
    """What is to be said of an override that is named as a cure; empty for one that is shown to
    help."""
    key = cure.partition("=")[0]
    known = (said for end, said in MEASURED.items() if key.endswith(f".{end}"))
    return next(known, UNMEASURED)
