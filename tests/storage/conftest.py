"""What the tests of the storages share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults.world import still_maintenance

from eventq.storage.file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.testing import FakeClock


@pytest.fixture(autouse=True)
def no_look_at_random(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is moved by hand, a look by the maintenance thread just then would do what the test does next.

    Not for the conformance suite: that must hold with it.
    """
    if "clock" in request.fixturenames and request.module.__name__.rpartition(".")[2] != "test_conformance":
        still_maintenance(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def open_worker(root: Path, clock: FakeClock) -> Iterator[Callable[[], FileStorage]]:
    """Opens the store once more: another worker of it, closed with the test."""
    workers: list[FileStorage] = []

    def open() -> FileStorage:
        workers.append(FileStorage(root, sync=False, clock=clock))
        return workers[-1]

    yield open
    for worker in workers:
        worker.close()
