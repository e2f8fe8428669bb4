"""Calls for one worker alone, and for every worker."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, ConfigError, TaskCancelled, UnknownWorker
from eventq.inbox import addressee_of, clear, control_of, inbox_of
from eventq.model import State
from eventq.storage.memory import MemoryStorage
from eventq.worker import control, intake
from tasks.conftest import OpenApp
from tasks.programs import KILL, started, wait_for_file, write
from tasks.running import PATIENCE, burst, until, working

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq import Handle, Task

NOBODY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers and waiters do about those that have gone, they do at once."""
    for module in ("storage.file.storage", "storage.memory.storage", "worker", "worker.control"):
        monkeypatch.setattr(f"eventq.{module}.LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(control, "CLEAR_INTERVAL", 0.0)
    monkeypatch.setattr("eventq.handle.WARN_AFTER", 0.0)


def who(app: App) -> Task[..., str]:
    """A task that says which worker runs it."""

    def runner(*_: int) -> str:
        return app.store.storage.worker

    return app.task(name="who")(runner)


class Held:
    """A task that runs until it is let go."""

    def __init__(self, app: App) -> None:
        self.running = threading.Event()
        self.go = threading.Event()
        self.task: Task[..., str] = app.task(name="held")(self.held)

    def held(self) -> str:
        self.running.set()
        assert self.go.wait(PATIENCE)
        return "held"


@pytest.fixture
def held(app: App) -> Iterator[Held]:
    held = Held(app)
    yield held
    held.go.set()


def id_of(app: App) -> str:
    return app.store.storage.worker


def gone(handle: Handle[Any], worker: str) -> None:
    with pytest.raises(TaskCancelled, match=f"worker {worker} has gone"):
        handle.result(PATIENCE)


# ---------------------------------------------------------------- one worker


def test_runs_on_the_one_it_is_for(open_app: OpenApp) -> None:
    apps = [open_app(), open_app()]
    sender = who(open_app())
    for app in apps:
        who(app)
    with working(apps[0]), working(apps[1]):
        for _ in range(5):
            for app in apps:
                assert sender.using(worker=id_of(app)).enqueue().result(PATIENCE) == id_of(app)


def test_before_what_waits_in_the_queues(app: App, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "INBOX_INTERVAL", 0.0)
    ran: list[str] = []
    note = app.task(name="note")(ran.append)
    with working(app, concurrency=1):
        held.task.using(worker=id_of(app)).enqueue()
        assert held.running.wait(PATIENCE)
        others = [note.using(priority=100).enqueue("other") for _ in range(3)]
        first = note.using(worker=id_of(app)).enqueue("first")
        held.go.set()
        assert all(handle.wait(PATIENCE) for handle in (first, *others))
    assert ran[0] == "first"


def test_all_that_wait_for_it_while_it_is_busy_with_others(app: App) -> None:
    task = who(app)
    with working(app, concurrency=2):
        mine = [task.using(worker=id_of(app)) for _ in range(20)]
        handles = [each.enqueue(number) for each in mine for number in range(5)]
        others = [task.enqueue() for _ in range(50)]
        assert {handle.result(PATIENCE) for handle in (*handles, *others)} == {id_of(app)}


def test_a_burst_runs_it_too(open_app: OpenApp) -> None:
    app, other = open_app(), open_app()
    task, handles = who(app), []
    who(other)

    def before_run(context: Any) -> None:
        if not handles:
            handles.append(task.using(worker=id_of(app)).enqueue())

    app.on("before_run", before_run)
    task.enqueue()
    assert burst(app) == 0
    assert handles[0].result(0) == id_of(app)


def test_delayed(app: App) -> None:
    task = who(app)
    with working(app):
        handle = task.using(worker=id_of(app), delay=0.1).enqueue()
        assert handle.status() is State.DELAYED
        assert handle.result(PATIENCE) == id_of(app)


def test_an_idle_one_is_woken(open_app: OpenApp, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not look, once it has an inbox."""
    task = who(app)
    with working(app) as serving:
        assert task.using(worker=id_of(app)).enqueue().result(PATIENCE) == id_of(app)
        monkeypatch.setattr(app.store.storage, "recover", lambda: 600.0)
        until(lambda: serving.worker._crew is not None and serving.worker._crew.waiting)
        for _ in range(3):
            handle = open_app().task_named(task.name, worker=id_of(app)).enqueue()
            assert handle.result(PATIENCE) == id_of(app)


def test_a_failed_run_is_repeated_there(open_app: OpenApp) -> None:
    apps, ran = [open_app(), open_app()], []

    def define(app: App) -> Any:
        def fails() -> str:
            ran.append(id_of(app))
            if len(ran) < 3:
                raise ValueError("not yet")
            return "done"

        return app.task(name="fails", retry_delay=0)(fails)

    task, _ = map(define, apps)
    with working(apps[0]), working(apps[1]):
        assert task.using(worker=id_of(apps[1])).enqueue().result(PATIENCE) == "done"
    assert ran == [id_of(apps[1])] * 3


def test_a_worker_that_does_not_know_the_task(open_app: OpenApp) -> None:
    app = open_app()
    who(app)
    with working(app):
        handle = open_app().task_named("nobody.knows", worker=id_of(app)).enqueue()
        with pytest.raises(TaskCancelled, match=f"worker {id_of(app)} does not know the task"):
            handle.result(PATIENCE)


# ---------------------------------------------------------------- none of this id


@pytest.mark.parametrize("id", [NOBODY, "x", "../default", "Ünï"])
def test_no_such_worker(app: App, id: str) -> None:
    before = app.store.storage.queues()
    with pytest.raises(UnknownWorker, match="'eventq workers' lists them"):
        who(app).using(worker=id).enqueue()
    assert app.store.storage.queues() == before


def test_who_only_enqueues_is_no_worker(app: App) -> None:
    app.queue("other").claim()
    assert [worker.id for worker in app.workers()] == [id_of(app)]
    with pytest.raises(UnknownWorker):
        who(app).using(worker=id_of(app)).enqueue()


def test_one_that_has_stopped(app: App) -> None:
    task = who(app)
    with working(app):
        assert task.using(worker=id_of(app)).enqueue().result(PATIENCE)
    with pytest.raises(UnknownWorker):
        task.using(worker=id_of(app)).enqueue()
    assert task.broadcast() == []
    with working(app):
        assert task.using(worker=id_of(app)).enqueue().result(PATIENCE) == id_of(app), "the same process, anew"


def test_options_that_do_not_go_together(app: App) -> None:
    task = who(app)
    for wrong in ({"worker": NOBODY, "queue": "q"}, {"worker": ""}):
        with pytest.raises(ConfigError):
            task.using(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="worker= and queue="):
        task.using(queue="q").using(worker=NOBODY)
    with pytest.raises(TypeError):
        task.using(worker=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no option 'worker'"):
        app.task(worker=NOBODY)  # type: ignore[call-overload]
    assert task.using(worker=None).options.queue == "default"
    assert app.task(name="elsewhere", queue="q")(print).using(worker=NOBODY).options.queue == inbox_of(NOBODY)


def test_names_that_are_taken(app: App) -> None:
    for name in ("eventq.ping", "eventq.stop", "eventq.mine"):
        with pytest.raises(ConfigError, match="names of tasks do not begin"):
            app.task(name=name)(print)
    assert app.task(name="eventqueue")(print).name == "eventqueue"


@pytest.mark.parametrize(
    "queue", ["worker-mails", "worker-", "default", "worker-0123456789ABCDEF", "my-worker-" + NOBODY]
)
def test_queues_of_other_people(queue: str) -> None:
    assert addressee_of(queue) is None
    assert addressee_of(inbox_of(NOBODY)) == addressee_of(control_of(NOBODY)) == NOBODY


# ---------------------------------------------------------------- workers that go


def test_a_graceful_stop_cancels_what_waits(open_app: OpenApp, app: App, held: Held) -> None:
    sender = open_app()
    with working(app, concurrency=1) as serving:
        mine = sender.task_named("held", worker=id_of(app))
        running = mine.enqueue()
        assert held.running.wait(PATIENCE)
        waiting, delayed = mine.enqueue(), mine.using(delay=600).enqueue()
        serving.worker.stop()
        until(lambda: serving.worker.stats().stopping)
        held.go.set()
        assert serving.join() == 0
        assert running.result(0) == "held"
        for handle in (waiting, delayed):
            gone(handle, id_of(app))
    assert inbox_of(id_of(app)) in sender.queues(), "a result is in it"


def test_nothing_is_left_of_an_inbox_that_is_empty(app: App) -> None:
    app.task(name="plain", result=False)(print)
    seen: list[str] = []
    with working(app):
        assert app.task_named("plain", worker=id_of(app)).enqueue().wait(PATIENCE)
        seen += app.store.storage.queues()
        assert inbox_of(id_of(app)) not in app.queues()
        assert app.ping()
    assert inbox_of(id_of(app)) in seen
    assert not [queue for queue in app.store.storage.queues() if addressee_of(queue)]


def test_handed_back_by_force_and_then_cancelled(app: App, held: Held) -> None:
    with working(app) as serving:
        handle = held.task.using(worker=id_of(app)).enqueue()
        assert held.running.wait(PATIENCE)
        serving.worker.stop(force=True)
        assert serving.join() == 130
        gone(handle, id_of(app))


def test_another_worker_cancels_for_one_that_has_died(open_app: OpenApp) -> None:
    dead, app = open_app(), open_app()
    who(app)
    worker = id_of(dead)
    dead.store.storage.introduce(["default"], ["who"])
    handles = [app.task_named("who", worker=worker, **more).enqueue() for more in ({}, {"delay": 600.0})]
    dead.close()
    watching = open_app()
    with working(app):
        for handle in handles:
            until(lambda handle=handle: watching.get(handle.id).state is State.CANCELLED)  # type: ignore[misc]
            gone(handle, worker)
        storage = watching.store.storage
        assert inbox_of(worker) in watching.queues()
        for handle in handles:
            watching.queue(inbox_of(worker)).remove(handle.id)
        assert clear(storage, worker) is None
        until(lambda: inbox_of(worker) not in storage.queues())


def test_who_waits_cancels_if_nobody_else_is_there(open_app: OpenApp) -> None:
    dead, app = open_app(), open_app()
    dead.store.storage.introduce(["default"], ["who"])
    worker = id_of(dead)
    handle = app.task_named("who", worker=worker).enqueue()
    assert not handle.wait(0.05), "it lives, and only waits"
    dead.close()
    gone(handle, worker)


def test_one_that_dies_in_memory_while_it_runs_it() -> None:
    with App("memory://dies-while-it-runs") as dying, App("memory://dies-while-it-runs") as other:
        who(other)
        storage, worker = dying.store.storage, id_of(dying)
        assert isinstance(storage, MemoryStorage)
        storage.introduce(["default"], ["who"])
        handle = other.task_named("who", worker=worker).enqueue()
        assert storage.claim(inbox_of(worker))
        storage.abandon()
        with working(other):
            gone(handle, worker)


SHOP = """
import time
import eventq

app = eventq.App("store", sync=False)

@app.task
def held():
    open("running", "w").close()
    time.sleep(600)

if __name__ == "__main__":
    app.worker().run()
"""


@pytest.mark.parametrize("other_worker", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_kill_9_while_it_runs_it(tmp_path: Path, other_worker: bool) -> None:
    write(tmp_path, "shop.py", SHOP)
    with App(str(tmp_path / "store"), sync=False) as app:
        who(app)
        with started(tmp_path, "shop.py") as process:
            (worker,) = until(lambda: [each.id for each in app.workers() if each.serves])
            mine = app.task_named("shop.held", worker=worker)
            handles = [mine.enqueue() for _ in range(20)]
            wait_for_file(tmp_path / "running", process)
            process.send_signal(KILL)
            process.wait(PATIENCE)
        if other_worker:
            with working(app):
                until(lambda: all(handle.status() is State.CANCELLED for handle in handles))
        for handle in handles:
            gone(handle, worker)
        with pytest.raises(UnknownWorker):
            mine.enqueue()


def test_one_that_goes_between_the_look_and_the_put(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inbox is cleared before the event is in it, and then removed, or not yet."""
    app = open_app()
    storage = app.store.storage
    put = storage.put

    def late(dying: App, *, remove: bool) -> Any:
        def do(queue: str, *rest: Any) -> list[str]:
            dying.close()
            ids = put(queue, *rest)
            if remove:
                storage.drop(queue)
            return ids

        return do

    for removed in (False, True):
        dying = open_app()
        worker = id_of(dying)
        dying.store.storage.introduce(["default"], ["who"])
        mine = app.task_named("who", worker=worker)
        monkeypatch.setattr(storage, "put", late(dying, remove=removed))
        if removed:
            with pytest.raises(UnknownWorker):
                mine.enqueue()
            assert inbox_of(worker) not in storage.queues()
        else:
            assert mine.enqueue().status() is State.CANCELLED
        monkeypatch.undo()


def test_a_list_without_oneself_proves_nothing(open_app: OpenApp, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where files cannot be opened any more: then no worker seems to live."""
    busy = open_app()
    who(app)
    busy.store.storage.introduce(["default"], ["who"])
    handle = app.task_named("who", worker=id_of(busy)).enqueue()
    looked = threading.Semaphore(0)

    def nobody() -> list[Any]:
        looked.release()
        return []

    with working(app):
        monkeypatch.setattr(app.store.storage, "workers", nobody)
        assert all(looked.acquire(timeout=PATIENCE) for _ in range(3))
        assert handle.status() is State.READY
        monkeypatch.undo()


def test_two_workers_of_one_app_have_one_inbox(app: App) -> None:
    task = who(app)
    app.task(name="other", queue="other")(print)
    with working(app, ["default"]):
        with working(app, ["other"]):
            (shown,) = app.workers()
            assert set(shown.serves) == {"default", "other"}
            assert task.using(worker=id_of(app)).enqueue().result(PATIENCE) == id_of(app)
        (shown,) = app.workers()
        assert shown.serves == ("default",)
        assert task.using(worker=id_of(app)).enqueue().result(PATIENCE) == id_of(app)


# ---------------------------------------------------------------- every worker


def test_broadcast(open_app: OpenApp) -> None:
    apps = [open_app() for _ in range(3)]
    stranger, sender = open_app(), who(open_app())
    for app in apps:
        who(app)
    stranger.task(name="other")(print)
    assert sender.broadcast() == []
    with working(apps[0]), working(apps[1]), working(apps[2]), working(stranger):
        handles = sender.broadcast(5)
        assert {handle.result(PATIENCE) for handle in handles} == {id_of(app) for app in apps}
        assert len(handles) == 3


def test_broadcast_refuses_what_enqueue_refuses(app: App) -> None:
    @app.task(name="typed")
    def typed(number: int) -> int:
        return number

    with pytest.raises(TypeError):
        typed.broadcast("no number")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        asyncio.run(typed.aio.broadcast("no number"))  # type: ignore[arg-type]
    assert asyncio.run(typed.aio.broadcast(5)) == []
    for wrong in ({"worker": NOBODY}, {"queue": "q"}):
        with pytest.raises(ConfigError, match="leave worker= and queue= out"):
            typed.using(**wrong).broadcast(5)  # type: ignore[arg-type]


def test_broadcast_of_a_generator(app: App) -> None:
    @app.task(name="numbers")
    def numbers(upto: int) -> Any:
        yield from range(upto)

    with working(app):
        (handle,) = numbers.broadcast(3)
        assert list(handle) == [0, 1, 2]


def test_broadcast_tells_the_hooks(app: App, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    app.on("after_enqueue", lambda _, event: told.append(event))
    task = who(app)
    with working(app), caplog.at_level(logging.WARNING, "eventq"):
        assert [handle.id for handle in task.broadcast()] == told
    assert caplog.text == ""
