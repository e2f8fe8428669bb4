"""Every storage that needs no server passes the suite that ships in `eventq.testing`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import eventq.testing
from eventq.storage.file import FileStorage
from eventq.storage.memory import MemoryStorage
from eventq.testing import FakeClock, StorageConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventq.storage.base import Storage


class TestMemory(StorageConformance):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, clock: FakeClock, tmp_path: Path) -> Iterator[Callable[[], Storage]]:
        name = str(tmp_path)  # unique
        yield lambda: MemoryStorage(name, clock=clock)
        MemoryStorage.forget(name)

    @pytest.fixture
    def kill(self) -> Callable[[MemoryStorage], None]:
        return MemoryStorage.abandon


class TestFile(StorageConformance):
    """With `sync=False`: the same code but for the calls that make it durable, which no test here could see."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, clock: FakeClock, tmp_path: Path) -> Callable[[], Storage]:
        return lambda: FileStorage(tmp_path / "store", sync=False, clock=clock)

    @pytest.fixture
    def kill(self) -> Callable[[FileStorage], None]:
        return FileStorage.abandon


@pytest.mark.exhaustive
class TestDurableFile(TestFile):
    """As most users have it: on a disk, and synced."""

    @pytest.fixture
    def open_worker(self, clock: FakeClock, tmp_path: Path) -> Callable[[], Storage]:
        return lambda: FileStorage(tmp_path / "store", clock=clock)


def test_eventq_testing_needs_neither_pytest_nor_hypothesis() -> None:
    code = "import eventq.testing, sys; print({'pytest', 'hypothesis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_eventq_testing_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="Conformanze"):
        eventq.testing.StorageConformanze  # noqa: B018 - looked up on purpose
