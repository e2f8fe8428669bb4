"""What is asked of workers themselves: pings, stops, statistics."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq import App, UnknownWorker, WorkerStats
from eventq.arguments import Call
from eventq.errors import StorageError
from eventq.inbox import control_of, holds_anything
from eventq.model import PutOptions, State
from eventq.worker.control import PING, STOP
from tasks.conftest import OpenApp
from tasks.programs import ended, started, wait_for_file, write
from tasks.running import PATIENCE, until, working

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = "0123456789abcdef"


def id_of(app: App) -> str:
    return app.store.storage.worker


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks four times a second does so fifty times."""
    for module in ("storage.file.storage", "storage.memory.storage", "worker", "worker.control"):
        monkeypatch.setattr(f"eventq.{module}.LOOK_INTERVAL", 0.02)


class Blocked:
    """A task whose runs block until they are let go."""

    def __init__(self, app: App) -> None:
        self.running = threading.Semaphore(0)
        self.go = threading.Event()
        self.task: Any = app.task(name="blocked")(self.blocked)

    def blocked(self) -> None:
        self.running.release()
        assert self.go.wait(PATIENCE)

    def enqueue(self, number: int) -> list[str]:
        """So many runs that go on now."""
        handles = [self.task.enqueue() for _ in range(number)]
        assert all(self.running.acquire(timeout=PATIENCE) for _ in handles)
        return [handle.id for handle in handles]


@pytest.fixture
def blocked(app: App) -> Iterator[Blocked]:
    blocked = Blocked(app)
    yield blocked
    blocked.go.set()


def pong(app: App, worker: str | None = None) -> list[WorkerStats]:
    return app.ping(worker, timeout=PATIENCE)


# ---------------------------------------------------------------- ping


def test_all_that_live_answer(open_app: OpenApp) -> None:
    apps = [open_app(), open_app()]
    asking = open_app()
    assert asking.ping() == []
    for app in apps:
        app.task(name="t")(print)
    with working(apps[0], ["a", "b"], concurrency=3), working(apps[1], ["b"]):
        found = {stats.id: stats for stats in pong(asking)}
        assert found.keys() == {id_of(app) for app in apps}
        first = found[id_of(apps[0])]
        assert (first.pid, first.queues, first.concurrency) == (os.getpid(), ("a", "b"), 3)
        assert [stats.id for stats in pong(asking, id_of(apps[1]))] == [id_of(apps[1])]
        assert asking.ping(NOBODY) == []


def test_while_all_threads_are_blocked(open_app: OpenApp, app: App, blocked: Blocked) -> None:
    with working(app, concurrency=2):
        ids = blocked.enqueue(2)
        waiting = blocked.task.enqueue()
        (stats,) = pong(open_app())
        assert sorted(run.id for run in stats.runs) == sorted(ids)
        assert {run.task for run in stats.runs} == {"blocked"}
        assert stats.runs[0].seconds >= stats.runs[1].seconds >= 0
        assert (stats.begun, stats.ran, stats.threads) == (2, 0, 2)
        assert waiting.status() is State.READY
        blocked.go.set()


def test_while_it_stops(open_app: OpenApp, app: App, blocked: Blocked) -> None:
    with working(app) as serving:
        blocked.enqueue(1)
        serving.worker.stop()
        until(lambda: serving.worker.stats().stopping)
        (stats,) = pong(open_app())
        assert stats.stopping
        blocked.go.set()


def test_it_counts(app: App) -> None:
    @app.task(name="t", max_attempts=2, retry_delay=0)
    def fails(times: int, bad: list[int] = []) -> None:  # noqa: B006 - that is how it remembers
        bad.append(1)
        if len(bad) <= times:
            raise ValueError("no")

    with working(app) as serving:
        assert fails.enqueue(1).wait(PATIENCE)
        until(lambda: serving.worker.stats().ran == 2)
        (stats,) = pong(app)
        assert (stats.begun, stats.ran, stats.failed) == (2, 2, 1)
        here = serving.worker.stats()
        assert stats.memory_bytes > 1 << 20
        assert msgspec.structs.replace(here, memory_bytes=0) == msgspec.structs.replace(stats, memory_bytes=0)
    after = serving.worker.stats()
    assert (after.since, after.begun, after.runs, after.threads) == (0.0, 0, (), 0)
    assert stats.since > 0


def test_one_that_does_not_answer_is_left_out(app: App) -> None:
    """It lives and has said what it serves, but does not look."""
    app.store.storage.introduce(["default"], [])
    assert app.ping(timeout=0.01) == []
    assert not holds_anything(app.store.storage.stats(control_of(id_of(app))))


def test_nothing_piles_up(open_app: OpenApp, app: App) -> None:
    app.task(name="t")(print)
    asking = open_app()
    with working(app):
        for _ in range(3):
            assert pong(asking)
        assert not holds_anything(asking.store.storage.stats(control_of(id_of(app))))
        assert control_of(id_of(app)) not in asking.queues()
    assert control_of(id_of(app)) not in asking.store.storage.queues()


def test_awaited(app: App) -> None:
    app.task(name="t")(print)

    async def ask() -> tuple[list[WorkerStats], list[WorkerStats]]:
        return await app.aio.ping(timeout=PATIENCE), await app.aio.ping(NOBODY)

    with working(app):
        (stats,), none = asyncio.run(ask())
    assert (stats.id, none) == (id_of(app), [])


@pytest.mark.parametrize("payload", [b"5", b'{"task":"eventq.nosuch"}', b'{"task":"t"}'], ids=["five", "own", "a task"])
def test_what_it_does_not_know_harms_nothing(app: App, payload: bytes) -> None:
    app.task(name="t")(print)
    with working(app):
        (id,) = app.store.storage.put(control_of(id_of(app)), [payload], PutOptions())
        until(lambda: app.handle(id).status() is State.DEAD)
        assert pong(app)


def test_a_storage_that_fails_for_a_moment(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="t")(print)
    storage, failed = app.store.storage, threading.Semaphore(0)

    def fails() -> list[str]:
        failed.release()
        raise StorageError("no")

    with working(app):
        with monkeypatch.context() as patch:
            patch.setattr(storage, "queues", fails)
            assert all(failed.acquire(timeout=PATIENCE) for _ in range(2))
        assert pong(app)
    assert "failed and is repeated: no" in caplog.text


# ---------------------------------------------------------------- stop


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "aio"])
def test_an_idle_one_stops(open_app: OpenApp, app: App, awaited: bool) -> None:
    app.task(name="t")(print)
    other = open_app()
    other.task(name="t")(print)
    with working(app) as serving, working(other):
        asking = open_app()
        asyncio.run(asking.aio.stop_worker(id_of(app))) if awaited else asking.stop_worker(id_of(app))
        assert serving.join() == 0
        assert [stats.id for stats in pong(other)] == [id_of(other)], "and no other"
        with pytest.raises(UnknownWorker):
            other.stop_worker(id_of(app))


def test_what_runs_may_finish(open_app: OpenApp, app: App, blocked: Blocked) -> None:
    with working(app, concurrency=1) as serving:
        (id,) = blocked.enqueue(1)
        waiting = blocked.task.enqueue()
        open_app().stop_worker(id_of(app))
        until(lambda: serving.worker.stats().stopping)
        blocked.go.set()
        assert serving.join() == 0
    assert app.handle(id).status() is State.COMPLETED
    assert waiting.status() is State.READY


def test_at_once(open_app: OpenApp, app: App, blocked: Blocked) -> None:
    with working(app) as serving:
        (id,) = blocked.enqueue(1)
        asking = open_app()
        asking.stop_worker(id_of(app))
        until(lambda: serving.worker.stats().stopping)
        asking.stop_worker(id_of(app), force=True)
        assert serving.join() == 130
        assert app.handle(id).status() is State.READY


def test_stopping_nobody(app: App) -> None:
    for id in (NOBODY, "x", id_of(app)):
        with pytest.raises(UnknownWorker):
            app.stop_worker(id)
    with pytest.raises(TypeError):
        app.stop_worker(5)  # type: ignore[arg-type]
    assert app.store.storage.queues() == []


@pytest.mark.exhaustive
def test_a_real_process_blocked_in_all_of_its_threads(tmp_path: Path) -> None:
    """Also in child processes, which it tells of."""
    write(
        tmp_path,
        "shop.py",
        """
        import sys, time
        import eventq

        app = eventq.App("store", sync=False)

        @app.task(executor="process")
        def apart():
            open("apart", "w").close()
            time.sleep(600)

        if __name__ == "__main__":
            sys.exit(app.worker(concurrency=1).run())
        """,
    )
    with App(str(tmp_path / "store"), sync=False) as app:
        app.task_named("shop.apart").enqueue()
        with started(tmp_path, "shop.py") as process:
            wait_for_file(tmp_path / "apart", process)
            (stats,) = pong(app)
            assert stats.pid == process.pid
            assert len(stats.children) == 1
            app.stop_worker(stats.id)
            until(lambda: pong(app)[0].stopping)
            app.stop_worker(stats.id, force=True)
            code, _, _ = ended(process)
            assert code == 130


def test_the_words_of_control() -> None:
    """They are in stores: what asks may be of another release than what answers."""
    assert msgspec.json.encode(Call(PING)) == b'{"task":"eventq.ping"}'
    assert msgspec.json.encode(Call(STOP, kwargs={"force": True})) == b'{"task":"eventq.stop","kwargs":{"force":true}}'
