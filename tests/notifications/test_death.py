"""A process that is killed between the put of a notification and the settle of what it tells of: nothing is lost, and
nothing is told twice."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from stores import kinds, new_store
from tasks.programs import started, write
from tasks.running import PATIENCE, burst

from eventq import App
from eventq.clock import sleep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
    import os, signal, sys
    import eventq

    app = eventq.App()

    @app.task(name="w", notify="ada")
    def w(number: int) -> int:
        return number

    def dying(queue, method):
        '''The process dies when it is about to settle an event of this queue for good, or to put one into it.'''
        def die(where, *rest):
            if getattr(where, "queue", where) == queue and not isinstance(rest[0], eventq.model.Released):
                os.kill(os.getpid(), signal.SIGKILL)
            return method(where, *rest)
        return die

    if __name__ == "__main__":
        storage = app.store.storage
        for name in sys.argv[2:]:
            setattr(storage, name, dying(sys.argv[1], getattr(storage, name)))
        app.worker().run(burst=True)
"""


@pytest.fixture(params=[param for param in kinds("file") if "memory" not in param.values])  # type: ignore[attr-defined]
def app(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with new_store(request.param, tmp_path) as url:
        monkeypatch.setenv("EVENTQ_URL", url)
        with App(url) as app:
            yield app


def dies(folder: Path, queue: str, method: str) -> None:
    path = write(folder, "program.py", PROGRAM)
    with started(folder, str(path), queue, method) as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL, process.communicate()


def add_task(app: App) -> None:
    @app.task(name="w", notify="ada")
    def w(number: int) -> int:
        return number


def test_killed_before_the_settle_of_a_call(app: App, tmp_path: Path) -> None:
    add_task(app)
    handle = app.task_named("w").enqueue(7)
    dies(tmp_path, "default", "settle")
    [before] = app.notifications.list("ada")
    assert handle.status() != "completed"
    work_until_ended(app, handle.id)
    [told] = app.notifications.list("ada")
    assert (told.id, told.event, told.result) == (before.id, handle.id, 7)


@pytest.mark.exhaustive
def test_killed_before_the_notification_of_a_call(app: App, tmp_path: Path) -> None:
    add_task(app)
    handle = app.task_named("w").enqueue(7)
    dies(tmp_path, "notifications-ada", "put_key")
    assert app.notifications.list("ada") == []
    work_until_ended(app, handle.id)
    [told] = app.notifications.list("ada")
    assert (told.event, told.result) == (handle.id, 7)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("queue", "method"), [("workflows", "settle"), ("notifications-bob", "put_key")])
def test_killed_at_the_end_of_a_run(app: App, tmp_path: Path, queue: str, method: str) -> None:
    add_task(app)
    run = app.chain((app.tasks["w"], 7), app.tasks["w"]).start(notify="bob")
    dies(tmp_path, queue, method)
    assert run.status() == "running"
    assert app.notifications.count("bob") == (method == "settle")
    work_until_ended(app, run.id)
    [told] = app.notifications.list("bob")
    assert (told.event, told.result, run.status()) == (run.id, 7, "completed")


def work_until_ended(app: App, id: str) -> None:
    for _ in range(100):
        burst(app)
        if app.handle(id).ready():
            return
        sleep(0.1)
    pytest.fail(f"event {id} did not end")
