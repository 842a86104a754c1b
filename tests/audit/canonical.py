"""Evidence as text, every field of it, so that two can be compared byte by byte."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from pydantic import BaseModel

from gnomon.audit.evidence import Evidence


def canonical(evidence: Evidence) -> str:
    fields = {f.name: getattr(evidence, f.name) for f in dataclasses.fields(evidence)}
    return json.dumps(fields, default=_plain, sort_keys=True, indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, BaseModel):
        return _timeless(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(type(value))


def _timeless(value: Any) -> Any:
    """A record without when it was made, and how long that took."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "made")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
