"""What the tests of schedules share: apps on one store and one clock, and a worker's way with what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opened import OpenApp, open_app  # noqa: F401 - a fixture, and its type

from eventq import App, Task
from eventq.arguments import Call
from eventq.model import Filter, State

if TYPE_CHECKING:
    from eventq.model import Record

BUDGET = 60.0


@pytest.fixture
def app(open_app: OpenApp) -> App:  # noqa: F811 - it
    return open_app()


def made(app: App, name: str = "report", **options: Any) -> Task[..., Any]:
    """A task that tests schedule, and never run."""

    @app.task(name=name, **options)
    def task(*args: int, **kwargs: int) -> None: ...

    return task


def fire(app: App) -> None:
    """What a worker does about schedules, whenever it looks."""
    app.store.storage.recover()
    app.schedules.firing().fire_due(BUDGET)


def records(app: App, queue: str = "default") -> list[Record]:
    """What waits in a queue, in order."""
    storage = app.store.storage
    found = [storage.scan(queue, state, Filter(), None, 10_000).records for state in (State.READY, State.DELAYED)]
    return sorted((each for page in found for each in page), key=lambda each: each.id)


def runs(app: App, since: float = 0.0) -> list[float]:
    """The times of the runs that wait, in seconds since an instant, as they were put."""
    from datetime import datetime

    times = [datetime.fromisoformat(each.headers["eventq.schedule"]["at"]) for each in records(app)]
    return [round(each.timestamp() - since, 3) for each in times]


def ticks(app: App) -> list[Call]:
    """The ticks that are open, by their schedules."""
    calls = [app.store.load(each.payload, each.codec, Call) for each in records(app, app.schedules.queue)]
    return sorted(calls, key=lambda call: str(call.kwargs["name"]))
