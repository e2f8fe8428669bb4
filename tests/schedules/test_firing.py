"""What is done when a schedule is due: one run whoever comes first, and whoever is killed; what was missed; overlap."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, MissingExtra, StorageError
from eventq.model import Completed, State
from eventq.schedule import ticks as module
from schedules.conftest import BUDGET, OpenApp, fire, made, records, runs, ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.testing import FakeClock


def settle_one(app: App) -> None:
    """Run what is first in the queue, in no time."""
    (claimed,) = app.store.storage.claim("default", 1)
    app.store.storage.settle(claimed, Completed(b"1"))


def test_three_workers_fire_once(open_app: OpenApp, clock: FakeClock) -> None:
    apps = [open_app() for _ in range(3)]
    for number in range(20):
        apps[0].schedules.add(f"s{number}", made(apps[0], f"t{number}"), every=10)
    start = clock.now()
    for _ in range(3):
        clock.advance(10)
        barrier = threading.Barrier(3)

        def work(app: App, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(20)
            fire(app)

        threads = [threading.Thread(target=work, args=(app,)) for app in apps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(runs(apps[0], start)) == sorted([10.0, 20.0, 30.0] * 20)
    assert len(ticks(apps[0])) == 20


def test_it_does_not_drift(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=0.5)
    for late in (0.5, 0.7, 0.45, 0.3, 0.55):
        clock.advance(late)
        fire(app)
    assert runs(app, start) == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_nothing_is_put_before_its_time(app: App, clock: FakeClock) -> None:
    app.schedules.add("x", "30 22 * * *", made(app))
    clock.advance(datetime(2023, 11, 14, 22, 29, 59, tzinfo=UTC).timestamp() - clock.now())
    fire(app)
    assert runs(app) == []
    clock.advance(1)
    fire(app)
    assert runs(app, clock.now()) == [0]


def test_a_single_time_is_over_then(app: App, clock: FakeClock) -> None:
    at = datetime.fromtimestamp(clock.now() + 60, UTC)
    app.schedules.add("once", made(app), at=at)
    app.schedule("declared", app.task_named("report"), at=at)
    app.schedules.reconcile()
    clock.advance(60)
    fire(app)
    assert runs(app, clock.now()) == [0, 0]
    (left,) = app.schedules.all()
    assert (left.name, left.next, left.last, left.last_state) == ("declared", None, at, State.READY)
    assert ticks(app) == []
    app.schedules.reconcile()
    clock.advance(3600 * 24)
    fire(app)
    assert len(runs(app)) == 2


# ---------------------------------------------------------------- killed in between


class Killed(BaseException):
    """Ends a worker where it stands, as `kill -9` does: nothing that follows is done."""


class Mortal:
    """A storage whose worker is killed at the n-th of its calls that change something: before it, or after."""

    CHANGING = ("put", "put_key", "take_name", "replace_name", "release_name", "settle", "edit")

    def __init__(self, storage: Any, calls: int, after: bool) -> None:
        self._storage = storage
        self._left = calls
        self._after = after
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if name not in self.CHANGING:
            return found

        def call(*args: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = found(*args)
            self.done.append(name)
            if self._left == 0:
                raise Killed
            return result

        return call


def killed_at(app: App, number: int, after: bool, act: Callable[[], object]) -> list[str] | None:
    """What was done before the kill; None if it was over before. What a killed worker held goes back."""
    mortal = Mortal(app.store.storage, number, after)
    app.store.storage = mortal  # type: ignore[assignment]
    try:
        act()
    except Killed:
        return mortal.done
    else:
        return None
    finally:
        app.store.storage = mortal._storage
        app.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_worker_killed_between_any_two_steps_repeats_nothing(
    open_app: OpenApp, clock: FakeClock, after: bool
) -> None:
    heir = open_app()
    seen: set[str] = set()
    for number in range(1, 20):
        name, start = f"s{number}", clock.now()
        heir.schedules.add(name, made(heir, f"t{number}", queue=name), every=10)
        clock.advance(10)
        victim = open_app()
        done = killed_at(victim, number, after, lambda victim=victim: fire(victim))  # type: ignore[misc]
        fire(heir)
        found = [each.headers["eventq.schedule"]["name"] for each in records(heir, name)]
        assert found == [name], (number, done)
        assert [call.kwargs["at"] for call in ticks(heir)] == [start + 20], (number, done)
        clock.advance(10)
        fire(heir)
        assert len(records(heir, name)) == 2
        heir.schedules.remove(name)
        if done is None:
            break
        seen.add(",".join(done))
    assert "put_key" in seen  # between the run and the next tick
    assert "put_key,put_key" in seen  # between that and the end


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", ["add", "change", "pause", "resume", "run", "remove"])
def test_who_is_killed_while_changing_leaves_the_old_or_the_new(
    open_app: OpenApp, clock: FakeClock, change: str, after: bool
) -> None:
    """And never both, once `BEGIN_AFTER` is over: the workers see to it."""
    heir = open_app()
    for number in range(1, 20):
        name, start = f"s{number}", clock.now()
        victim = open_app()
        task = made(victim, "t", queue=name)
        if change != "add":
            victim.schedules.add(name, task, every=30)
        if change == "resume":
            victim.schedules.pause(name)
        act = {
            "add": lambda n=name, v=victim, t=task: v.schedules.add(n, t, every=30),
            "change": lambda n=name, v=victim, t=task: v.schedules.add(n, t, every=20),
            "pause": lambda n=name, v=victim: v.schedules.pause(n),
            "resume": lambda n=name, v=victim: v.schedules.resume(n),
            "run": lambda n=name, v=victim: v.schedules.run(n),
            "remove": lambda n=name, v=victim: v.schedules.remove(n),
        }[change]
        done = killed_at(victim, number, after, act)
        clock.advance(module.BEGIN_AFTER)
        fire(heir)
        stands = heir.schedules.get(name)
        for _ in range(4):
            clock.advance(30 if stands is None or stands.every is None else stands.every)
            fire(heir)
        every = None if stands is None or stands.paused else stands.every
        found = [each for each in runs_of(heir, name, start) if each % 10 == 0 and each > 0]
        if every is None:
            assert found == [], (number, done)
        else:
            first = 30 if every == 30 else 20
            assert found[:3] == [first, 2 * first, 3 * first], (number, done)
        heir.schedules.remove(name)
        if done is None:
            return
    pytest.fail("it never got to its end")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_a_worker_killed_at_its_start_has_not_stored_the_next_one_stores(
    open_app: OpenApp, clock: FakeClock, after: bool
) -> None:
    def declare(app: App, every: float) -> None:
        task = made(app)
        for name in ("a", "b", "c"):
            app.schedule(name, task, every=every)

    for number in range(1, 40):
        every = 10 * number  # each time the code has changed; the first time it is new
        victim, heir = open_app(), open_app()
        declare(victim, every)
        declare(heir, every)
        done = killed_at(victim, number, after, victim.schedules.reconcile)
        heir.schedules.reconcile()
        for name in ("a", "b", "c"):
            found = heir.schedules.get(name)
            assert found is not None
            assert found.every == every, (number, done)
        clock.advance(every)
        fire(heir)
        names = [each.headers["eventq.schedule"]["name"] for each in records(heir)]
        assert sorted(names) == ["a", "b", "c"], (number, done)
        heir.queue("default").purge()
        if done is None:
            return
    pytest.fail("it never got to its end")


def test_who_is_killed_while_adding_the_first_leaves_it_to_the_next_start(open_app: OpenApp, clock: FakeClock) -> None:
    for number in range(1, 10):
        name, victim, heir = f"s{number}", open_app(), open_app()
        for app in (victim, heir):
            app.schedule(name, made(app), every=10)
        done = killed_at(victim, number, False, victim.schedules.reconcile)
        heir.schedules.reconcile()
        clock.advance(10)
        fire(heir)
        names = [each.headers["eventq.schedule"]["name"] for each in records(heir)]
        assert names.count(name) == 1, (number, done)
        if done is None:
            return
    pytest.fail("it never got to its end")


def runs_of(app: App, queue: str, since: float) -> list[float]:
    times = [datetime.fromisoformat(each.headers["eventq.schedule"]["at"]) for each in records(app, queue)]
    return [round(each.timestamp() - since, 3) for each in times]


def test_a_storage_that_fails_is_asked_again(app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    app.schedules.add("x", made(app), every=10)
    storage, firing = app.store.storage, app.schedules.firing()
    clock.advance(10)

    def down(*_: Any) -> Any:
        raise StorageError("down")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "put_key", down)
        firing.fire_due(BUDGET)  # the tick goes back
        assert runs(app) == []
        patched.setattr(storage, "settle", down)
        clock.advance(module.AGAIN_AFTER)
        storage.recover()
        with pytest.raises(StorageError):
            firing.fire_due(BUDGET)  # and even that cannot be said
        with pytest.raises(StorageError):
            firing.fire_due(BUDGET)
    firing.fire_due(BUDGET)
    clock.advance(module.AGAIN_AFTER)
    storage.recover()
    firing.fire_due(BUDGET)
    assert runs(app, clock.now()) == [-2 * module.AGAIN_AFTER]
    assert len(ticks(app)) == 1


# ---------------------------------------------------------------- a run that cannot be put, a tick that is none


def test_a_run_that_cannot_be_put_does_not_end_the_chain(
    app: App, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    app.queue("full", maxsize=1).put({"task": "other"})
    app.queue("small", max_bytes=10)
    for queue in ("full", "small", "unknown"):
        app.schedules.add(queue, app.task_named("nobody.knows", queue=queue), every=10)
    for _ in range(2):
        clock.advance(10)
        fire(app)
    assert "schedule full: no run for 2023-11-14 22:13:30+00:00 could be put: queue 'full' is full" in caplog.text
    assert "schedule small: no run for" in caplog.text
    assert [len(records(app, queue)) for queue in ("full", "small", "unknown")] == [1, 0, 2]
    assert len(ticks(app)) == 3
    app.queue("full").purge()
    clock.advance(10)
    fire(app)
    assert len(records(app, "full")) == 1


def test_a_machine_that_cannot_compute_it_leaves_it_to_others(
    open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare, whole = open_app(), open_app()
    whole.schedules.add("x", "* * * * *", made(whole), tz="Europe/Berlin")
    clock.advance(60)

    def missing(*_: Any) -> Any:
        raise MissingExtra("a cron expression", "cron")

    with monkeypatch.context() as patched:
        patched.setattr("eventq.schedule.times.load_driver", missing)
        fire(bare)
    assert "schedule x is left for another worker: a cron expression needs an extra" in caplog.text
    fire(bare)
    assert runs(whole) == []
    fire(whole)
    assert len(runs(whole)) == 1


def test_what_nobody_expects_is_tried_again(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.schedules.add("x", made(app), every=1000)
    clock.advance(1000)
    with monkeypatch.context() as patched:
        patched.setattr(module, "due_times", lambda *_: 1 / 0)
        for _ in range(25):  # more than other events are tried
            fire(app)
            clock.advance(module.FAILED_AFTER / 50)
            app.queue(app.schedules.queue).retry([each.id for each in records(app, app.schedules.queue)])
    assert "ZeroDivisionError" in caplog.text
    fire(app)
    assert len(runs(app)) == 1


def test_what_others_put_into_the_queue_becomes_a_dead_letter(app: App, clock: FakeClock) -> None:
    queue = app.queue(app.schedules.queue)
    queue.put({"id": 1})
    queue.put({"task": "eventq.tick", "kwargs": {"name": 1}})
    made(app).using(queue=app.schedules.queue).enqueue()
    app.schedules.add("x", app.task_named("report"), every=10)
    clock.advance(10)
    fire(app)
    assert [record.failure.message for record in queue.scan("dead").records if record.failure] == [
        "the queue 'schedules' is for eventq's own ticks; put it into another"
    ] * 3
    assert len(runs(app)) == 1


# ---------------------------------------------------------------- missed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [3600 * 5]),
        ({"missed": "once"}, [3600 * 5]),
        ({"missed": "skip"}, []),
        ({"missed": "all"}, [3600, 7200, 10800, 14400, 18000]),
        ({"missed": "all", "missed_limit": 2}, [14400, 18000]),
        ({"missed": "skip", "grace": 2000}, [18000]),
        ({"missed": "skip", "grace": 6000}, [14400, 18000]),
    ],
)
def test_runs_that_were_missed(
    app: App, clock: FakeClock, options: dict[str, Any], expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=3600, **options)
    clock.advance(5 * 3600 + 1800)  # nobody was there
    with caplog.at_level(logging.WARNING):
        fire(app)
    assert runs(app, start) == expected
    assert ("missed its run" in caplog.text) is (3600 not in expected)
    clock.advance(1800)
    fire(app)
    assert runs(app, start) == [*expected, 6 * 3600]


def test_a_short_interval_catches_up_in_one_step(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=0.25)
    clock.advance(86_400)
    fire(app)
    assert runs(app, start) == [86_399.0, 86_399.25, 86_399.5, 86_399.75, 86_400.0]
    assert len(ticks(app)) == 1


def test_keys_of_runs_do_not_pile_up(app: App, clock: FakeClock) -> None:
    """Of an interval of a tenth of a second, not those of a whole hour."""
    app.schedules.add("x", made(app), every=0.1)
    clock.advance(0.1)
    fire(app)
    (run,) = records(app)
    assert run.unique == pytest.approx(100.0, rel=1e-4)


# ---------------------------------------------------------------- overlap


def test_no_run_while_the_last_one_is_open(app: App, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=10, overlap=False)
    app.schedules.add("y", app.task_named("report", queue="other"), every=10)
    for _ in range(3):
        clock.advance(10)
        fire(app)
    assert runs(app, start) == [10]
    assert len(records(app, "other")) == 3
    assert "schedule x: no run for 2023-11-14 22:13:40+00:00, event" in caplog.text
    settle_one(app)
    clock.advance(10)
    fire(app)
    assert runs(app, start) == [40]
    handle = app.schedules.run("x")
    app.cancel(records(app)[0].id)
    clock.advance(10)
    fire(app)  # the one that was asked for is open
    assert [each.id for each in records(app)] == [handle.id]
    app.cancel(handle.id)
    clock.advance(10)
    fire(app)
    assert runs(app, start) == [60]


def test_of_all_that_were_missed_one_runs_without_overlap(app: App, clock: FakeClock) -> None:
    start = clock.now()
    app.schedules.add("x", made(app), every=10, overlap=False, missed="all")
    clock.advance(55)
    fire(app)
    assert runs(app, start) == [10]


# ---------------------------------------------------------------- ten thousand


class Counting:
    """A storage that counts its calls."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            self.calls.append(name)
            return found(*args)

        return call


@pytest.mark.parametrize("number", [1, 200, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_schedules_cost_nothing_until_one_is_due(app: App, clock: FakeClock, number: int) -> None:
    task = made(app)
    for index in range(number):
        app.schedule(f"s{index}", task, index, every=3600 + index)
    app.schedules.reconcile()
    storage = app.store.storage
    app.store.storage = counting = Counting(storage)  # type: ignore[assignment]
    fire(app)
    assert counting.calls == ["recover", "claim"]
    clock.advance(3600)
    counting.calls.clear()
    fire(app)
    assert counting.calls == ["recover", "claim", "get_names", "get_names", "put_key", "put_key", "settle", "claim"]
    app.store.storage = storage
    assert len(runs(app)) == 1
    assert storage.stats(app.schedules.queue).delayed == number
    counting.calls.clear()
    app.schedules.store.storage = counting  # type: ignore[assignment]
    app.schedules.reconcile()  # another worker starts
    app.store.storage = storage
    assert counting.calls.count("names") == 1
    assert set(counting.calls) == {"names", "scan", "queues"}
    assert len(counting.calls) <= 5 + number // module.PAGE
