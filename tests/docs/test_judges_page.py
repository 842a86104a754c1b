"""docs/judges.md: its table names every option of the AI judge, with its default."""

from __future__ import annotations

import re

from docs_pages import ROOT

from gnomon.judges.ai import AIOptions

PAGE = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    """The default of each option in the table."""
    found: dict[str, str] = {}
    for names, default in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|([^|]*)\|", PAGE, re.MULTILINE):
        keys = re.findall(r"`(\w+)`", names)
        shown = re.findall(r"`([^`]*)`", default) or [default.strip()]
        found |= dict(zip(keys, shown * (len(keys) if len(shown) == 1 else 1), strict=True))
    return found


def test_every_option_is_there_with_its_default() -> None:
    table = rows()
    for name, field in AIOptions.model_fields.items():
        assert name in table, name
        default = field.get_default(call_default_factory=True)
        if isinstance(default, bool):
            assert table[name] == str(default).lower()
        elif isinstance(default, int | float):
            assert float(table[name]) == default
        elif default and isinstance(default, str):
            assert table[name] == default
