"""Workers for tests: in a thread, watched, and never left behind."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from eventq.clock import sleep
from eventq.retry import pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq import App, Worker

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds after which a fact that does not come true is a failure."""


def until(fact: Callable[[], T], what: str = "it") -> T:
    """Wait for a fact; what it returned when it was true."""
    for pause in pauses(PATIENCE):
        if found := fact():
            return found
        sleep(pause)
    pytest.fail(f"{what} did not come true within {PATIENCE} s")


class Serving:
    """A worker that runs in a thread."""

    def __init__(self, worker: Worker, burst: bool) -> None:
        self.worker = worker
        self.code: int | None = None
        """What `run` returned."""
        self.error: BaseException | None = None
        self._burst = burst
        self._thread = threading.Thread(target=self._run, daemon=True, name="test-worker")
        self._started = threading.Event()

    def start(self) -> None:
        worker = self.worker
        worker.app.on("worker_started", lambda told: self._started.set() if told is worker else None)
        self._thread.start()
        assert self._started.wait(PATIENCE), "the worker did not start"

    def join(self) -> int:
        """Wait for the end of `run`, and give what it returned."""
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self.worker.stop(force=True)
            self._thread.join(PATIENCE)
            pytest.fail(f"the worker did not end within {PATIENCE} s; what runs: {runs_of(self.worker)}")
        if self.error is not None:
            raise self.error
        assert self.code is not None
        return self.code

    def stop(self) -> int:
        """Stop it gracefully, and give what `run` returned."""
        self.worker.stop()
        return self.join()

    def _run(self) -> None:
        try:
            self.code = self.worker.run(burst=self._burst)
        except BaseException as error:
            self.error = error
        finally:
            self._started.set()


def runs_of(worker: Worker) -> list[Any]:
    """What a worker runs now."""
    return [] if worker._crew is None else list(worker._crew.runs)


@contextmanager
def working(app: App, queues: Any = None, **options: Any) -> Iterator[Serving]:
    """Have a worker of the app serve meanwhile."""
    serving = Serving(app.worker(queues, **options), burst=False)
    serving.start()
    try:
        yield serving
    except BaseException:
        serving.worker.stop(force=True)  # the test has failed: what runs may never end
        serving._thread.join(PATIENCE)
        raise
    else:
        serving.stop()


def burst(app: App, queues: Any = None, **options: Any) -> int:
    """Have a worker of the app run whatever there is, and end."""
    serving = Serving(app.worker(queues, **options), burst=True)
    serving.start()
    return serving.join()
