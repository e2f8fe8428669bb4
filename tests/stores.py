"""A new store of each kind, for tests that hold over all of them.

Those that need a server are marked `server`: bare pytest leaves them out, `pytest -m server` runs them, and skips what
finds no server (with TEST_SERVERS=required in the environment, it fails).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from eventq.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

KINDS = ("memory", "file", "sqlite", "redis", "postgresql")
SERVERS = ("redis", "postgresql")


def kinds(*quick: str) -> list[object]:
    """Every kind of store, as parameters of a fixture: those named are for the quick tests."""
    return [pytest.param(kind, marks=_marks(kind, quick)) for kind in KINDS]


def _marks(kind: str, quick: Sequence[str]) -> list[pytest.MarkDecorator]:
    if kind in SERVERS:
        return [pytest.mark.server]
    return [] if kind in quick else [pytest.mark.exhaustive]


@contextmanager
def new_store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new, empty store, which goes afterwards."""
    if kind == "memory":
        yield f"memory://{folder}"
        MemoryStorage.forget(str(folder))
    elif kind == "file":
        yield str(folder / "store")
    elif kind == "sqlite":
        yield f"sqlite:///{folder / 'store.db'}?synchronous=normal"
    elif kind == "redis":
        from storage.redis_server import redis_store

        with redis_store() as url:
            yield url
    else:
        from storage.postgresql_server import postgresql_store

        with postgresql_store() as url:
            yield url
