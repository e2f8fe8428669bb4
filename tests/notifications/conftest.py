"""What the tests of notifications share: apps on one store, on a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from eventq import App

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.testing import FakeClock


class OpenApp(Protocol):
    def __call__(self, **config: Any) -> App: ...


@pytest.fixture
def open_app(url: str, clock: FakeClock) -> Iterator[OpenApp]:
    """Opens apps on one store, each a worker of its own; closes them all."""
    apps: list[App] = []
    config: dict[str, Any] = {} if "://" in url else {"sync": False}

    def open_one(**further: Any) -> App:
        apps.append(App(url, clock=clock, **config, **further))
        return apps[-1]

    yield open_one
    for app in apps:
        app.close()


@pytest.fixture
def app(open_app: OpenApp) -> App:
    return open_app()


def work(app: App, *queues: str) -> None:
    """A worker that ends when there is nothing to do."""
    assert app.worker(queues or ["default"], concurrency=1).run(burst=True) == 0


def messages(app: App, user: str, **which: Any) -> list[str]:
    return [each.message for each in app.notifications.list(user, **which)]
