"""What is finished of samples that are under way, so that a checkpoint can hold it.

What is kept is what was sampled together, and is whole: all requests of a call, or, where several
servers share them, each share. Its bytes depend on nothing else, so the rest can be sampled later,
by whomever, and all is as if nothing had been interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict

from gnomon.rollout.protocol import Completion, Request, SamplingParams

Rows = Sequence[Sequence[Completion]]
"""Completions of each request."""
_SHARE = "share "
"""Before the key of a share, whose completions have no text yet: it may ask for all of its call."""


class Finished:
    """What one set of weights has written so far.

    Args:
        parts: of an earlier process, by their keys.
    """

    def __init__(self, parts: Mapping[str, Rows] | None = None) -> None:
        self._parts = dict(parts or {})

    def parts(self) -> dict[str, Rows]:
        """All of it, by keys that follow from what was asked for."""
        return dict(self._parts)

    def share(self, requests: Sequence[Request], params: SamplingParams) -> Rows | None:
        """What was sampled for a share of a call; None where that is not finished."""
        return self._parts.get(_SHARE + _key(requests, params))

    def add_share(self, requests: Sequence[Request], params: SamplingParams, rows: Rows) -> None:
        """A share of a call is finished."""
        self._parts[_SHARE + _key(requests, params)] = rows

    def call(self, requests: Sequence[Request], params: SamplingParams) -> Rows | None:
        """What was sampled in a call; None where that is not finished."""
        return self._parts.get(_key(requests, params))

    def add_call(self, requests: Sequence[Request], params: SamplingParams, rows: Rows) -> None:
        """A whole call is finished, and so its shares are of no more use."""
        calls = {key: rows for key, rows in self._parts.items() if not key.startswith(_SHARE)}
        self._parts = calls | {_key(requests, params): rows}


_NOW: ContextVar[Finished | None] = ContextVar("finished", default=None)


def now() -> Finished | None:
    """Where what this thread samples is kept, if it is."""
    return _NOW.get()


@contextmanager
def finishing(finished: Finished) -> Iterator[None]:
    """Within the block, what this thread has sampled is kept in ``finished``, and what is there
    already is not sampled again."""
    token = _NOW.set(finished)
    try:
        yield
    finally:
        _NOW.reset(token)


def _key(requests: Sequence[Request], params: SamplingParams) -> str:
    """Of all that decides the samples, the weights apart."""
    said = json.dumps([[asdict(request) for request in requests], asdict(params)], default=int)
    return hashlib.sha256(said.encode()).hexdigest()
