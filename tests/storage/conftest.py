"""What the tests of the storages share."""

from __future__ import annotations

import pytest
from faults.world import still_maintenance


@pytest.fixture(autouse=True)
def no_look_at_random(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is moved by hand, a look by the maintenance thread just then would do what the test does next.

    Not for the conformance suite: that must hold with it.
    """
    if "clock" in request.fixturenames and request.module.__name__.rpartition(".")[2] != "test_conformance":
        still_maintenance(monkeypatch)
