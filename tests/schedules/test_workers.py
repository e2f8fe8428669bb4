"""Workers keep the schedules beside their tasks: idle, busy, in a burst, and while they are killed."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections import Counter, defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from stores import kinds, new_store
from tasks.programs import started, write
from tasks.running import PATIENCE, burst, until, working

from eventq import App, Context, StorageError
from eventq.clock import SYSTEM
from eventq.schedule.ticks import Firing
from eventq.worker import control
from schedules.conftest import OpenApp, made, records, runs, ticks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.testing import FakeClock


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks four times a second does so fifty times."""
    for module in ("storage.file.storage", "storage.memory.storage", "worker", "worker.control"):
        monkeypatch.setattr(f"eventq.{module}.LOOK_INTERVAL", 0.02)


class Noting:
    """A task that notes for which times it ran."""

    def __init__(self) -> None:
        self.times: list[str] = []

    def of(self, app: App, **options: Any) -> Any:
        @app.task(name="note", bind=True, **options)
        def note(context: Context) -> None:
            self.times.append(context.headers["eventq.schedule"]["at"])

        return note


def test_three_workers_run_it_once(open_app: OpenApp, clock: FakeClock) -> None:
    noting, apps = Noting(), [open_app() for _ in range(3)]
    for app in apps:
        app.schedule("x", noting.of(app), every=10)
    with working(apps[0]), working(apps[1]), working(apps[2]):
        until(lambda: apps[0].schedules.get("x"))
        for number in range(1, 6):
            clock.advance(10)
            until(lambda number=number: len(noting.times) == number)  # type: ignore[misc]
    assert len(set(noting.times)) == 5
    assert len(ticks(apps[0])) == 1
    assert {tuple(call.kwargs) for call in ticks(apps[0])} == {("name", "chain", "at", "last")}


def test_short_intervals_by_the_machines_clock(url: str) -> None:
    noting = Noting()
    with App(url) as app:
        app.schedule("x", noting.of(app), every=0.05)
        with working(app, concurrency=2):
            until(lambda: len(noting.times) >= 10)
    assert steps_of(noting.times) == {0.05}


def test_who_has_no_room_for_runs_puts_them_all_the_same(open_app: OpenApp, clock: FakeClock) -> None:
    app = open_app()
    running, go_on = threading.Event(), threading.Event()

    @app.task(name="long")
    def long() -> None:
        running.set()
        assert go_on.wait(PATIENCE)

    long.enqueue()
    app.schedule("x", made(app, "never", queue="elsewhere"), every=10)
    with working(app, ["default"], concurrency=1):
        assert running.wait(PATIENCE)
        until(lambda: app.schedules.get("x"))
        clock.advance(10)
        until(lambda: records(app, "elsewhere"))
        go_on.set()


def test_what_is_added_while_a_worker_idles_is_noticed(open_app: OpenApp, clock: FakeClock) -> None:
    noting, app, admin = Noting(), open_app(), open_app()
    noting.of(app)
    with working(app):
        until(app.workers)
        admin.schedules.add("x", admin.task_named("note"), every=10)
        clock.advance(10)
        until(lambda: noting.times)


def test_a_burst_runs_what_is_due_and_waits_for_nothing(app: App, clock: FakeClock) -> None:
    noting = Noting()
    app.schedule("x", noting.of(app), every=10)
    assert burst(app) == 0
    assert noting.times == []
    clock.advance(25)
    assert burst(app) == 0
    assert len(noting.times) == 1
    assert len(ticks(app)) == 1


def test_a_burst_puts_all_that_is_due_however_long_that_takes(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SCHEDULES_BUDGET", 0.0)
    task = made(app, queue="elsewhere")
    for number in range(20):
        app.schedules.add(f"s{number}", task, every=10)
    clock.advance(10)
    burst(app, ["default"])
    assert len(records(app, "elsewhere")) == 20


def test_a_burst_waits_for_what_its_other_thread_puts(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting, entered, asked = Noting(), threading.Event(), threading.Event()
    app.schedules.add("x", noting.of(app), every=10)
    clock.advance(10)
    look, fire_due = control.Control.look, Firing.fire_due

    def looks(self: control.Control, at_once: bool = False) -> bool:
        if at_once:  # the burst asks while the other thread has taken the tick
            assert entered.wait(PATIENCE)
            asked.set()
        return look(self, at_once)

    def fires(self: Firing, budget: float) -> bool:
        if not entered.is_set():
            entered.set()
            assert asked.wait(PATIENCE)
        return fire_due(self, budget)

    monkeypatch.setattr(control.Control, "look", looks)
    monkeypatch.setattr(Firing, "fire_due", fires)
    burst(app)
    assert len(noting.times) == 1


def test_a_worker_for_schedules_alone(app: App, clock: FakeClock) -> None:
    app.schedules.add("x", made(app), every=10)
    with working(app, [app.schedules.queue]):
        clock.advance(10)
        until(lambda: records(app))
    assert runs(app, clock.now()) == [0]


def test_pausing_their_queue_pauses_all(app: App, clock: FakeClock) -> None:
    for name in ("a", "b"):
        app.schedules.add(name, made(app, name), every=10)
    app.queue(app.schedules.queue).pause()
    clock.advance(10)
    burst(app, ["nothing"])
    assert runs(app) == []
    app.queue(app.schedules.queue).resume()
    burst(app, ["nothing"])
    assert runs(app, clock.now()) == [0, 0]


def test_what_cannot_be_stored_at_the_start_is_stored_later(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting, storage = Noting(), app.store.storage
    app.schedule("x", noting.of(app), every=10)
    take, failed = storage.take_name, threading.Event()

    def failing(name: str, data: bytes) -> Any:
        if failed.is_set():
            return take(name, data)
        failed.set()
        raise StorageError("down")

    monkeypatch.setattr(storage, "take_name", failing)
    with working(app):
        until(lambda: app.schedules.get("x"))
        clock.advance(10)
        until(lambda: noting.times)
    assert failed.is_set()


def test_hooks_and_options_of_all_tasks_are_not_for_ticks(url: str, clock: FakeClock) -> None:
    """A program that refuses runs, or says that nothing is tried twice, ends no schedule."""
    noting, told = Noting(), Counter[str]()
    with App(url, clock=clock, tasks={"*": {"max_attempts": 1, "timeout": 0.001}}) as app:
        for hook in ("before_run", "on_success", "before_enqueue", "after_enqueue"):
            app.on(hook, lambda *_, hook=hook: told.update([hook]))
        app.schedule("x", noting.of(app), every=10)
        burst(app)
        clock.advance(10)
        burst(app)
        assert len(noting.times) == 1
        assert told == {"before_run": 1, "on_success": 1}
        assert sorted(app.tasks) == ["note"]


def test_a_busy_worker_without_schedules_claims_as_ever(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is their queue made, nor is it asked."""
    claim, asked = app.store.storage.claim, Counter[str]()

    def counting(queue: str, limit: int = 1) -> Any:
        asked[queue] += 1
        return claim(queue, limit)

    monkeypatch.setattr(app.store.storage, "claim", counting)
    task = made(app)
    for _ in range(20):
        task.enqueue()
    burst(app)
    assert set(asked) == {"default"}
    assert app.queues() == ["default"]


def test_a_busy_worker_with_schedules_claims_as_ever(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their queue is asked with the looks, not with every event."""
    app.schedules.add("x", made(app, "other"), every=10)
    task = made(app)
    for _ in range(300):
        task.enqueue()
    claim, asked = app.store.storage.claim, []

    def counting(queue: str, limit: int = 1) -> Any:
        asked.append(queue)
        return claim(queue, limit)

    monkeypatch.setattr(app.store.storage, "claim", counting)
    monkeypatch.setattr(control, "LOOK_INTERVAL", 0.25)
    monkeypatch.setattr("eventq.worker.LOOK_INTERVAL", 0.25)
    began = SYSTEM.monotonic()
    burst(app)
    looks = 10 + 8 * (SYSTEM.monotonic() - began)
    assert asked.count("default") > 300
    assert asked.count(app.schedules.queue) <= looks


def test_a_worker_that_ends_keeps_no_tick(open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that its storage has fetched ahead, nor one that could not be settled; its app lives on."""
    app, other = open_app(), open_app()
    storage = app.store.storage
    app.schedules.add("x", made(app), every=10)
    clock.advance(10)
    given, tried, settle = [], threading.Event(), storage.settle

    def failing(claimed: Any, outcome: Any) -> None:
        if claimed.queue == app.schedules.queue and not it_works.is_set():
            tried.set()
            raise StorageError("down")
        settle(claimed, outcome)

    it_works = threading.Event()
    give_back = storage.give_back
    monkeypatch.setattr(storage, "settle", failing)
    monkeypatch.setattr(storage, "give_back", lambda queue: (given.append(queue), give_back(queue)))
    with working(app, ["nothing"]):
        assert tried.wait(PATIENCE)
        it_works.set()
    assert app.schedules.queue in given
    clock.advance(10)
    burst(other, ["nothing"])
    assert runs(app, clock.now()) == [-10, 0]
    assert other.queue(app.schedules.queue).stats().claimed == 0


# ---------------------------------------------------------------- kill -9

PROGRAM = """
    import os, sys
    import eventq

    app = eventq.App(os.environ.get("EVENTQ_URL"))

    @app.task(bind=True)
    def note(context):
        with open(f"notes/{os.getpid()}", "a") as file:
            file.write(f"{context.headers['eventq.schedule']['at']} {context.id}\\n")

    app.schedule("fast", note, every=0.05, missed="all", missed_limit=1000)

    if __name__ == "__main__":
        with open(f"ready-{os.getpid()}", "w"):
            pass
        app.worker().run()
"""


@pytest.fixture(params=kinds())
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        pytest.skip("processes do not share memory")
    with new_store(request.param, tmp_path) as url:
        yield url


@pytest.mark.exhaustive
def test_kill_9_of_workers_loses_and_doubles_no_time(
    shared_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time of twenty a second has one event, whoever of three workers is killed, eight times in all."""
    monkeypatch.setenv("EVENTQ_URL", shared_url)
    (tmp_path / "notes").mkdir()
    path, chance = str(write(tmp_path, "program.py", PROGRAM)), random.Random(7)
    ids: dict[str, set[str]] = defaultdict(set)

    def noted() -> int:
        for file in (tmp_path / "notes").iterdir():
            for line in file.read_text().splitlines():
                at, _, id = line.partition(" ")
                if id:
                    ids[at].add(id)
        return len(ids)

    with started(tmp_path, path) as one, started(tmp_path, path) as two, started(tmp_path, path) as three:
        workers = [one, two, three]
        contexts = []
        for _ in range(8):
            enough = noted() + chance.randint(3, 12)
            until(lambda enough=enough: noted() >= enough)  # type: ignore[misc]
            victim = workers.pop(chance.randrange(3))
            victim.send_signal(signal.SIGKILL)
            victim.wait(PATIENCE)
            contexts.append(started(tmp_path, path))
            workers.append(contexts[-1].__enter__())
        enough = noted() + 10
        until(lambda: noted() >= enough)
        with App(shared_url) as app:
            app.schedules.pause("fast")
            until(lambda: not records(app))
        noted()
        for context in contexts:
            context.__exit__(None, None, None)
    assert [at for at, found in ids.items() if len(found) != 1] == []
    assert steps_of(sorted(ids)) == {0.05}


def steps_of(times: list[str]) -> set[float]:
    moments = [datetime.fromisoformat(each).timestamp() for each in times]
    return {round(later - earlier, 3) for earlier, later in itertools.pairwise(moments)}
