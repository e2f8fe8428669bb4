"""Apps on one store and one clock that the test moves: for a conftest that has a `url` of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from eventq import App

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.testing import FakeClock


class OpenApp(Protocol):
    def __call__(self) -> App: ...


@pytest.fixture
def open_app(url: str, clock: FakeClock) -> Iterator[OpenApp]:
    """Opens apps on one store, each a worker of its own, on a clock that the test moves; closes them all."""
    apps: list[App] = []
    config: dict[str, Any] = {} if "://" in url else {"sync": False}

    def open_one() -> App:
        apps.append(App(url, clock=clock, **config))
        return apps[-1]

    yield open_one
    for app in apps:
        app.close()
