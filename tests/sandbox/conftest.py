"""What the tests of the sandbox share."""

from __future__ import annotations

import pytest

from gnomon.sandbox.backends import probe


@pytest.fixture(params=["bubblewrap", "landlock"])
def name(request: pytest.FixtureRequest) -> str:
    """Each sandbox that works here."""
    backend, reason = probe(request.param)
    if backend is None:
        pytest.skip(f"{request.param} does not work here: {reason}")
    return str(request.param)
