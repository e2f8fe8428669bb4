"""Changing schedules at run time: what each change does, and that of those at the same time one counts."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, EventqError, QueueFull, Schedule, StorageError, UnknownSchedule
from eventq.model import State
from eventq.schedule.record import SCHEDULES
from eventq.schedule.ticks import BEGIN_AFTER
from schedules.conftest import OpenApp, fire, made, records, runs, ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.testing import FakeClock


def found(app: App, name: str = "x") -> Schedule:
    schedule = app.schedules.get(name)
    assert schedule is not None
    assert schedule in app.schedules.all()
    return schedule


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


def go_on(app: App, clock: FakeClock, seconds: float) -> None:
    clock.advance(seconds)
    fire(app)


def test_next_and_last_run(app: App, clock: FakeClock) -> None:
    start = clock.now()
    added = app.schedules.add("x", made(app), 1, every=10, missed="all", missed_limit=7, grace=3, overlap=False)
    assert added == found(app)
    assert (added.next, added.last, added.last_id, added.last_state) == (at(start + 10), None, None, None)
    assert (added.missed, added.missed_limit, added.grace, added.overlap) == ("all", 7, 3.0, False)
    assert (added.task, added.queue, added.declared, added.paused) == ("report", "default", False, False)
    go_on(app, clock, 10)
    (run,) = records(app)
    seen = found(app)
    assert (seen.next, seen.last, seen.last_id, seen.last_state) == (at(start + 20), at(start + 10), run.id, "ready")
    app.cancel(run.id)
    assert found(app).last_state is State.CANCELLED
    app.queue("default").remove(run.id)
    assert (found(app).last_id, found(app).last_state) == (run.id, None)


def test_unknown_schedules(app: App) -> None:
    assert app.schedules.all() == []
    assert app.schedules.get("x") is None
    assert app.schedules.remove("x") is False
    for act in (app.schedules.pause, app.schedules.resume, app.schedules.run):
        with pytest.raises(UnknownSchedule, match="there is no schedule 'x'"):
            act("x")
    assert isinstance(UnknownSchedule("x"), LookupError)
    assert app.store.storage.names() == []


def test_a_change_takes_the_place(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=10)
    go_on(app, clock, 10)
    before = found(app)
    app.schedules.add("x", app.task_named("other"), every=4)
    after = found(app)
    assert (after.task, after.every, after.next) == ("other", 4.0, at(start + 14))
    assert (after.last, after.last_id) == (before.last, before.last_id)
    assert len(ticks(app)) == 1
    for _ in range(5):
        go_on(app, clock, 2)
    assert runs(app, start) == [10, 14, 18]


def test_the_same_times_go_on_as_they_did(app: App, clock: FakeClock) -> None:
    """Other arguments do not make an interval begin anew, nor lose a run that is due this moment."""
    start = clock.now()
    app.schedules.add("x", made(app), 1, every=10)
    clock.advance(9)
    app.schedules.add("x", app.task_named("report"), 2, every=10)
    assert found(app).next == at(start + 10)
    clock.advance(1)
    app.schedules.add("x", app.task_named("report"), 3, every=10)
    fire(app)
    assert runs(app, start) == [10]


def test_pause_and_resume(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=10, missed="all")
    go_on(app, clock, 10)
    for _ in range(2):
        app.schedules.pause("x")
    assert (found(app).paused, found(app).next, found(app).last) == (True, None, at(start + 10))
    assert ticks(app) == []
    go_on(app, clock, 35)
    assert runs(app, start) == [10]
    for _ in range(2):
        app.schedules.resume("x")
    assert (found(app).paused, found(app).next, found(app).last) == (False, at(start + 50), at(start + 10))
    go_on(app, clock, 5)
    assert runs(app, start) == [10, 50]
    assert len(ticks(app)) == 1


def test_what_is_changed_while_it_is_paused_stays_paused(app: App, clock: FakeClock) -> None:
    app.schedules.add("x", made(app), every=10)
    app.schedules.pause("x")
    assert app.schedules.add("x", app.task_named("report"), every=20).paused
    go_on(app, clock, 100)
    assert runs(app) == []


def test_run_now(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app, priority=3), 5, every=10)
    clock.advance(4)
    handle = app.schedules.run("x")
    (run,) = records(app)
    assert (run.id, run.priority, run.headers["eventq.schedule"]["name"]) == (handle.id, 3, "x")
    assert (found(app).last, found(app).last_id, found(app).next) == (at(start + 4), handle.id, at(start + 10))
    go_on(app, clock, 6)
    assert runs(app, start) == [4, 10]
    app.schedules.pause("x")
    app.schedules.run("x")
    assert runs(app, start) == [4, 10, 10]
    assert (found(app).paused, found(app).next) == (True, None)


def test_run_now_loses_no_run_that_was_missed(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=3600)
    clock.advance(3600 + 1800)
    app.schedules.run("x")
    fire(app)
    assert runs(app, start) == [5400, 3600]


def test_run_now_into_a_full_queue(app: App) -> None:
    app.queue("default", maxsize=1).put(1)
    app.schedules.add("x", made(app), every=10)
    with pytest.raises(QueueFull):
        app.schedules.run("x")
    assert found(app).last is None


def test_remove(app: App, clock: FakeClock) -> None:
    app.schedules.add("x", made(app), every=10)
    app.schedules.add("xy", app.task_named("report", queue="other"), every=10)
    assert app.schedules.remove("x") is True
    assert app.schedules.remove("x") is False
    assert [call.kwargs["name"] for call in ticks(app)] == ["xy"]
    go_on(app, clock, 10)
    assert runs(app) == []
    app.schedules.add("x", app.task_named("report"), every=10)
    go_on(app, clock, 10)
    assert runs(app, clock.now()) == [0]


def test_changes_leave_nothing_behind(app: App, clock: FakeClock) -> None:
    task = made(app)
    for _ in range(20):
        app.schedules.add("x", task, every=10)
        app.schedules.pause("x")
        app.schedules.run("x")
        app.schedules.resume("x")
        go_on(app, clock, 10)
    assert len(app.store.storage.names()) == 1
    stats = app.queue(app.schedules.queue).stats()
    assert (stats.delayed, stats.ready, stats.cancelled, stats.completed, stats.dead) == (1, 0, 0, 0, 0)


# ---------------------------------------------------------------- at the same time


def test_of_changes_at_the_same_time_one_counts(open_app: OpenApp, clock: FakeClock) -> None:
    apps = [open_app() for _ in range(4)]
    tasks = [made(app, f"t{index}") for index, app in enumerate(apps)]
    errors: list[EventqError] = []

    def change(index: int) -> None:
        for round in range(10):
            try:
                apps[index].schedules.add("x", tasks[index], round, every=10)
                (apps[index].schedules.pause if round % 2 else apps[index].schedules.resume)("x")
            except EventqError as error:
                errors.append(error)

    threads = [threading.Thread(target=change, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert [each.name for each in apps[0].store.storage.names()] == [f"{SCHEDULES.prefix}x"]
    apps[0].schedules.resume("x")
    for app in apps:
        clock.advance(5)
        fire(app)
    assert len(runs(apps[0])) == 2
    assert len(ticks(apps[0])) == 1  # those of chains that were overtaken have found that they are over


class Interleaved:
    """A storage in which something happens before, or after, the n-th call of one method."""

    def __init__(self, storage: Any, method: str, act: Callable[[], object], *, after: bool, number: int = 1) -> None:
        self._storage, self._method, self._act = storage, method, act
        self._after, self._left = after, number

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._storage, name)
        if name != self._method:
            return there

        def call(*args: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                self._act()
            result = there(*args)
            if self._left == 0 and self._after:
                self._act()
            return result

        return call


def interleave(app: App, method: str, act: Callable[[], object], *, after: bool, number: int = 1) -> None:
    app.store.storage = Interleaved(  # type: ignore[assignment]
        app.store.storage, method, act, after=after, number=number
    )


@pytest.mark.parametrize(
    ("method", "number", "after"),
    [
        ("get_names", 1, False),  # the tick is claimed, and nothing is done yet
        ("get_names", 1, True),  # it was found to be that of the chain
        ("put_key", 1, True),  # its run is put
        ("put_key", 2, True),  # the tick that follows is put
        ("settle", 1, True),
    ],
)
@pytest.mark.parametrize("change", ["change", "arguments", "pause", "run", "remove", "anew"])
def test_a_change_while_a_tick_is_running(
    open_app: OpenApp, clock: FakeClock, method: str, number: int, after: bool, change: str
) -> None:
    """The run that is due is put at most once; of the chain before nothing is left."""
    worker, admin = open_app(), open_app()
    task, start = made(admin), clock.now()
    admin.schedules.add("x", task, every=10)
    clock.advance(10)
    act: Callable[[], object] = {
        "change": lambda: admin.schedules.add("x", task, every=7),
        "arguments": lambda: admin.schedules.add("x", task, 1, every=10),
        "pause": lambda: admin.schedules.pause("x"),
        "run": lambda: admin.schedules.run("x"),
        "remove": lambda: admin.schedules.remove("x"),
        "anew": lambda: admin.schedules.remove("x") and admin.schedules.add("x", task, every=7),
    }[change]
    interleave(worker, method, act, after=after, number=number)
    fire(worker)
    for _ in range(20):
        clock.advance(1)
        fire(worker)
    times = runs(admin, start)
    due = [10] if change in ("arguments", "run") or (method, after) != ("get_names", False) else []
    asked = [10] if change == "run" else []
    later = {"change": [17, 24], "anew": [17, 24], "arguments": [20, 30], "run": [20, 30]}.get(change, [])
    assert sorted(times) == sorted([*due, *asked, *later])
    assert len(ticks(admin)) == (change not in ("pause", "remove"))


@pytest.mark.parametrize("method", ["put", "get_names", "scan", "replace_name", "put_key", "edit"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("other", ["change", "twice", "remove", "pause"])
def test_a_change_within_a_change(open_app: OpenApp, clock: FakeClock, method: str, after: bool, other: str) -> None:
    """One of the two counts, wholly; never both, and never none unless it is removed."""
    one, two = open_app(), open_app()
    task = made(two)
    two.schedules.add("x", task, 0, every=10)
    act: Callable[[], object] = {
        "change": lambda: two.schedules.add("x", task, 2, every=20),
        "twice": lambda: [two.schedules.add("x", task, 2, every=20) for _ in range(2)],
        "remove": lambda: two.schedules.remove("x"),
        "pause": lambda: two.schedules.pause("x"),
    }[other]
    interleave(one, method, act, after=after)
    one.schedules.add("x", one.task_named("report"), 1, every=30)
    stands = two.schedules.get("x")
    start = clock.now()
    for _ in range(12):
        clock.advance(5)
        fire(two)
    if stands is None:
        assert other == "remove"
        assert (runs(two), ticks(two)) == ([], [])
        return
    expected = [] if stands.paused else [every for every in range(5, 61, 5) if every % (stands.every or 1) == 0]
    assert runs(two, start) == expected
    assert len(two.store.storage.names()) == 1
    assert len(ticks(two)) == (not stands.paused)


def test_a_change_that_others_always_overtake_gives_up(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.schedules.add("x", made(app), every=10)
    storage = app.store.storage
    monkeypatch.setattr(storage, "replace_name", lambda held, data: False)
    with pytest.raises(StorageError, match="changed faster than it can be read"):
        app.schedules.pause("x")
    monkeypatch.undo()
    assert found(app).paused is False
    go_on(app, clock, BEGIN_AFTER)  # what was to begin the chain that never came to be finds that
    assert len(ticks(app)) == 1


# ---------------------------------------------------------------- awaited


def test_the_awaitable_twins(app: App, clock: FakeClock) -> None:
    task = made(app)

    async def main() -> None:
        schedules = app.schedules.aio
        added = await schedules.add("x", "0 3 * * *", task, 1, tz="Europe/Berlin")
        assert await schedules.all() == [added]
        await schedules.pause("x")
        paused = await schedules.get("x")
        assert paused is not None
        assert paused.paused
        await schedules.resume("x")
        handle = await schedules.run("x")
        assert await handle.aio.status() is State.READY
        assert await schedules.remove("x") is True
        app.schedule("declared", task, every=5)
        await schedules.reconcile()
        assert [each.name for each in await schedules.all()] == ["declared"]

    asyncio.run(main())
