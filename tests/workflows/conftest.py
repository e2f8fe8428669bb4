"""What the tests of workflows share: apps on one store and one clock, their tasks, and workers that end when idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opened import OpenApp, open_app  # noqa: F401 - a fixture, and its type
from stores import kinds, new_store

from eventq import App
from eventq.model import OPEN_STATES
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.workflow import Run


@pytest.fixture(params=kinds("memory", "file"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def app(open_app: OpenApp) -> App:  # noqa: F811 - it
    return open_app()


class Tasks:
    """Tasks of an app that note what they were called with."""

    def __init__(self, app: App) -> None:
        self.ran: list[tuple[Any, ...]] = []
        self.broken: set[Any] = set()
        """Arguments for which `fragile` fails."""

        @app.task(name="t.one")
        def one(value: Any = 1) -> Any:
            self.ran.append(("one", value))
            return value

        @app.task(name="t.add")
        def add(value: Any, more: int = 1) -> int:
            self.ran.append(("add", value, more))
            return int(value) + more

        @app.task(name="t.total")
        def total(values: list[Any], plus: int = 0) -> int:
            self.ran.append(("total", values, plus))
            return sum(each for each in values if each is not None) + plus

        @app.task(name="t.fragile", max_attempts=1)
        def fragile(value: Any = 0) -> Any:
            self.ran.append(("fragile", value))
            if value in self.broken:
                raise ValueError(f"{value} is broken")
            return value

        @app.task(name="t.note", result=False)
        def note(*values: Any, **named: Any) -> None:
            self.ran.append(("note", *values, *named.items()))

        self.one, self.add, self.total, self.fragile, self.note = one, add, total, fragile, note


@pytest.fixture
def tasks(app: App) -> Tasks:
    return Tasks(app)


def work(app: App) -> None:
    """A worker that ends when there is nothing to do."""
    assert app.worker(["default"], concurrency=1).run(burst=True) == 0


def looked_after(app: App, clock: FakeClock, run: Run, times: int = 30) -> None:
    """Let time pass, and workers work, until a run has ended."""
    for _ in range(times):
        if run.ready():
            return
        clock.advance(11)
        work(app)
    assert run.ready(), run.states()


def left(app: App) -> dict[str, int]:
    """How many events are open, by queue."""
    storage = app.store.storage
    stats = {queue: storage.stats(queue) for queue in storage.queues()}
    counts = {queue: sum(getattr(each, state) for state in OPEN_STATES) for queue, each in stats.items()}
    return {queue: count for queue, count in counts.items() if count}
