"""What the tests of jobs share: apps on one store and one clock, tasks that note what they are called with, workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opened import OpenApp, open_app  # noqa: F401 - a fixture, and its type
from stores import kinds, new_store
from tasks.running import burst

from eventq import App, Context
from eventq.job.record import JOBS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq import JobReport, Run
    from eventq.testing import FakeClock


@pytest.fixture(params=kinds("memory"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new store: of memory in the quick tests, since a job asks no more of a store than workflows and
    entries do, whose tests are quick over files, too."""
    with new_store(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def app(open_app: OpenApp) -> App:  # noqa: F811 - it
    return open_app()


class Tasks:
    """Tasks of an app, that note what they are called with."""

    def __init__(self, app: App) -> None:
        self.ran: list[tuple[Any, ...]] = []
        self.broken: list[Any] = []
        """Arguments for which `fragile` fails, once for each time that one stands here."""
        self.contexts: list[Context] = []

        @app.task(name="j.echo", max_attempts=1)
        def echo(*values: Any) -> Any:
            self.ran.append(("echo", *values))
            return values[0] if len(values) == 1 else list(values)

        @app.task(name="j.fragile", max_attempts=1)
        def fragile(value: Any) -> Any:
            self.ran.append(("fragile", value))
            if value in self.broken:
                self.broken.remove(value)
                raise ValueError(f"{value} is broken")
            return value

        @app.task(name="j.look", bind=True)
        def look(context: Context, value: Any = None) -> Any:
            self.contexts.append(context)
            return value

        @app.task(name="j.typed")
        def typed(number: int, text: str = "") -> int:
            self.ran.append(("typed", number, text))
            return number

        self.echo, self.fragile, self.look, self.typed = echo, fragile, look, typed

    def values(self, name: str) -> list[Any]:
        """What one of them was called with, each time."""
        return [each[1] for each in self.ran if each[0] == name]


@pytest.fixture
def tasks(app: App) -> Tasks:
    return Tasks(app)


def work(app: App) -> None:
    """A worker that ends when there is nothing to do."""
    assert burst(app, ["default"], concurrency=1) == 0


def worked(app: App, clock: FakeClock, run: Run, step: float = 2.0) -> Run:
    """Let workers work, and time pass, until a run has ended; the run."""
    for _ in range(60):
        work(app)
        if run.ready():
            return run
        clock.advance(step)
    raise AssertionError(f"run {run.id} goes on: {run.states()}")


def report_of(app: App, name: str = "x") -> JobReport:
    report = app.jobs.job(name).report()
    assert report is not None
    return report


def attempts_of(app: App, name: str = "x") -> list[int]:
    """How often each stage was started."""
    return [each.attempts for each in report_of(app, name).stages]


def entries(app: App) -> list[str]:
    """The names under which the entries of jobs are kept."""
    return [each.name for each in app.store.storage.names(JOBS.prefix)]
