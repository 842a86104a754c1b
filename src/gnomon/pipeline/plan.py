"""``--dry-run``: everything that can be checked before the first step, and the plan."""

from __future__ import annotations
