"""A worker's memory does not grow with the number of tasks that it has run."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from eventq import App, Context
from tasks.running import until, working

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM, MORE = 2_000, 5_000
STEP = 500
"""Events that wait at most: a backlog of memory storage is memory, too."""
OBJECTS, BYTES = 2_000, 256 << 10
"""What may come on top of it by MORE tasks: two objects for five of them, 52 bytes for each: less than an id."""

pytestmark = pytest.mark.exhaustive


@pytest.fixture
def traced(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Memory is traced, and nothing logged: pytest keeps all that is."""
    caplog.set_level(logging.CRITICAL, "eventq")
    tracemalloc.start()
    yield
    tracemalloc.stop()


def taken() -> tuple[Counter[str], int]:
    """How many objects there are of each type, and how many bytes in all."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects()), tracemalloc.get_traced_memory()[0]


def test_nothing_is_kept_of_what_has_run(app: App, traced: None) -> None:
    """Not by threads, not by the event loop, and by neither if a task fails, prints, or enqueues another."""
    app.queue("default", keep=0, keep_count=0)
    done = 0

    @app.task(name="plain")
    def plain(number: int) -> int:
        return number

    @app.task(name="loop")
    async def on_loop(number: int) -> int:
        return number

    @app.task(name="printing", bind=True)
    def printing(context: Context, number: int) -> None:
        print(number)
        context.progress(number)

    @app.task(name="failing", max_attempts=2, retry_delay=0)
    def failing(number: int) -> None:
        raise ValueError(number)

    @app.task(name="leading")
    def leading(number: int) -> None:
        plain.enqueue(number)

    tasks = (*[plain] * 12, *[on_loop] * 5, printing, failing, leading)
    runs_of_all = len(tasks) + 2  # one fails twice, one is enqueued by another

    def run(count: int) -> None:
        nonlocal done
        for _ in range(0, count, STEP):
            for number in range(STEP // len(tasks)):
                for task in tasks:
                    task.enqueue(number)
            done += STEP // len(tasks) * runs_of_all
            until(lambda: crew.count >= done, f"run {done}")  # noqa: B023 - it is over before the next turn

    with working(app) as serving:
        crew = serving.worker._crew
        assert crew is not None
        run(WARM)
        app.queue("default").prune()
        app.queue("default").purge("dead")
        objects, size = taken()
        run(MORE)
        app.queue("default").prune()
        app.queue("default").purge("dead")
        more, size_after = taken()
    grown = more - objects
    assert sum(grown.values()) < OBJECTS, grown.most_common(10)
    assert size_after - size < BYTES, f"{(size_after - size) >> 10} KiB more after {MORE} tasks more"
