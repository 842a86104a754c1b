"""Options that map names onto others."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.errors import ConfigError


def parse_mapping(option: str, given: Sequence[str]) -> dict[str, str]:
    """``["prompt=q,chosen=good", "rejected=bad"]`` as a mapping.

    A comma separates two entries only where each has its own "=", so names may hold commas.

    Raises:
        ConfigError: an entry without "=", or a name given twice.
    """
    entries: list[str] = []
    for text in given:
        parts = text.split(",")
        entries += parts if all("=" in part for part in parts) else [text]
    found: dict[str, str] = {}
    for entry in entries:
        ours, equals, theirs = (part.strip() for part in entry.partition("="))
        if not (ours and equals and theirs):
            raise ConfigError(
                f"{option} {entry!r}: write NAME=VALUE, as in {option} prompt=question"
            )
        if ours in found:
            raise ConfigError(f"{option}: {ours!r} is given twice")
        found[ours] = theirs
    return found
