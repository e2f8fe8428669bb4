"""What the tests of tasks share: stores, and apps on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest
from stores import kinds, new_store

from eventq import App

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.testing import FakeClock


class OpenApp(Protocol):
    def __call__(self, **config: Any) -> App: ...


@pytest.fixture(params=kinds("file"))
def storage_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_app(storage_kind: str, tmp_path: Path) -> Iterator[OpenApp]:
    """Opens apps on one store, each a worker of its own; closes them all."""
    apps: list[App] = []
    config: dict[str, Any] = {"sync": False} if storage_kind == "file" else {}
    with new_store(storage_kind, tmp_path) as url:

        def open_one(**further: Any) -> App:
            apps.append(App(url, **config, **further))
            return apps[-1]

        yield open_one
        for app in apps:
            app.close()


@pytest.fixture
def app(open_app: OpenApp) -> App:
    """On the machine's own clock."""
    return open_app()


@pytest.fixture
def frozen(open_app: OpenApp, clock: FakeClock) -> App:
    """On a clock that the test moves."""
    return open_app(clock=clock)
