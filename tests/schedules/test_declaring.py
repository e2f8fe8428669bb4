"""Declaring schedules: what is checked where it is said, and what a worker stores when it starts."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, ConfigError, DuplicateName, MissingExtra, PayloadError, Schedule
from eventq.arguments import Call
from eventq.errors import StorageError
from schedules.conftest import OpenApp, fire, made, records, runs, ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.testing import FakeClock


@pytest.fixture
def local() -> App:
    return App("memory://")


@pytest.mark.parametrize(
    ("declare", "error", "says"),
    [
        (lambda schedule, task: schedule("x", "61 * * * *", task, 1), ConfigError, "no cron expression"),
        (lambda schedule, task: schedule("x", "0 3 * * *", task, 1, tz="Mars"), ConfigError, "no time zone 'Mars'"),
        (lambda schedule, task: schedule("x", "0 3 * * *", task, 1, every=5), ConfigError, "cron and every= both"),
        (lambda schedule, task: schedule("x", "0 3 * * *", task, 1, cron="0 4 * * *"), ConfigError, "said twice"),
        (lambda schedule, task: schedule("x", task, 1), ConfigError, "nothing says when"),
        (lambda schedule, task: schedule("x", task, 1, every=5, tz="UTC"), ConfigError, "tz= is the zone of a cron"),
        (lambda schedule, task: schedule("", task, 1, every=5), ConfigError, "name of a schedule is empty"),
        (lambda schedule, task: schedule("\udcff", task, 1, every=5), ConfigError, "not valid Unicode"),
        (lambda schedule, task: schedule("x" * 201, task, 1, every=5), ConfigError, "201 characters, at most 200"),
        (lambda schedule, task: schedule("x", every=5), TypeError, "runs a task"),
        (lambda schedule, task: schedule("x", "0 3 * * *", print), TypeError, "runs a task, as @app.task makes it"),
        (lambda schedule, task: schedule("x", task, "one", every=5), TypeError, "Expected `int`, got `str`"),
        (lambda schedule, task: schedule("x", task, every=5), TypeError, "missing a required argument"),
        (lambda schedule, task: schedule("x", task, 1, evry=5), TypeError, "no option 'evry'; there are at, cron"),
        (
            lambda schedule, task: schedule("x", task, 1, every=5, missed="twice"),
            ConfigError,
            "'skip', 'once' or 'all'",
        ),
        (lambda schedule, task: schedule("x", task, 1, every=5, missed_limit=3), ConfigError, "goes with missed='all'"),
        (lambda schedule, task: schedule("x", task, 1, every=5, grace=-1), ConfigError, "grace=-1 is no duration"),
        (lambda schedule, task: schedule("x", task, 1, every=5, overlap=0), TypeError, "overlap= is True or False"),
        (lambda schedule, task: schedule("x", task.using(key="k"), 1, every=5), ConfigError, "leave it out"),
        (
            lambda schedule, task: schedule("x", task.using(delay=5), 1, every=5),
            ConfigError,
            "has delay=, which is for",
        ),
        (lambda schedule, task: schedule("x", task.using(worker="0" * 16), 1, every=5), ConfigError, "has worker="),
        (lambda schedule, task: schedule("x", made(App("memory://")), every=5), ConfigError, "another app"),
        (lambda schedule, task: schedule("x", task, 1, "x" * 600_000, every=5), PayloadError, "at most 524288"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_said(
    local: App, declare: Callable[[Any, Any], None], error: type[Exception], says: str
) -> None:
    @local.task(name="count")
    def count(number: int, *texts: str) -> None: ...

    for schedule in (local.schedule, local.schedules.add):
        with pytest.raises(error, match=says):
            declare(schedule, count)
    assert local.schedules.declared == {}
    assert local.schedules.all() == []


def test_a_name_means_one_schedule(local: App) -> None:
    task = made(local)
    for _ in range(2):  # a module that is imported under two names
        local.schedule("x", task, 1, every=5)
    with pytest.raises(DuplicateName, match="there is a schedule 'x' already"):
        local.schedule("x", task, 1, every=6)
    with pytest.raises(DuplicateName):
        local.schedule("x", task, 2, every=5)


def test_cron_without_its_extra_is_one_line_that_installs_it(local: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    task = made(local)
    local.schedule("interval", task, every=5)
    with pytest.raises(MissingExtra) as caught:
        local.schedule("cron", "0 3 * * *", task)
    assert str(caught.value) == "a cron expression needs an extra: pip install 'eventq[cron]'"


def test_a_program_may_still_declare_what_has_passed(app: App, clock: FakeClock) -> None:
    """Else it could not start any more, the day after."""
    past = datetime.fromtimestamp(clock.now() - 3600, UTC)
    app.schedule("past", made(app), at=past, missed="all")
    app.schedules.reconcile()
    fire(app)
    assert runs(app) == []
    (found,) = app.schedules.all()
    assert (found.at, found.next, found.last) == (past, None, None)
    with pytest.raises(ConfigError, match=r"has passed; enqueue\(\) the task"):
        app.schedules.add("now", app.task_named("report"), at=past)


# ---------------------------------------------------------------- what a worker stores


def test_what_is_declared_is_stored_once(open_app: OpenApp, clock: FakeClock) -> None:
    apps = [open_app(), open_app(), open_app()]
    for app in apps:
        app.schedule("fast", made(app), 1, every=10, kwargs={"b": 2})
        app.schedule("nightly", "0 3 * * *", app.task_named("report"), tz="Europe/Berlin")
    assert apps[0].schedules.all() == []
    for app in apps:
        app.schedules.reconcile()
        clock.advance(1)  # the next worker comes later, and finds them
    fast, nightly = apps[1].schedules.all()
    assert (fast.name, fast.every, fast.args, fast.kwargs, fast.declared) == ("fast", 10.0, [1], {"b": 2}, True)
    assert fast.next == datetime.fromtimestamp(clock.now() + 7, UTC)
    assert (nightly.cron, nightly.tz) == ("0 3 * * *", "Europe/Berlin")
    assert nightly.next == datetime(2023, 11, 15, 2, 0, tzinfo=UTC)
    assert len(ticks(apps[0])) == 2
    clock.advance(7)
    for app in apps:
        fire(app)
    assert runs(apps[0], clock.now()) == [0]
    (run,) = records(apps[0])
    assert apps[0].store.load(run.payload, run.codec, Call) == Call("report", [1], {"b": 2})


def test_options_of_the_task_are_those_of_its_runs(app: App, clock: FakeClock) -> None:
    task = made(
        app, queue="slow", max_attempts=7, max_crashes=2, keep=11.0, concurrency=3, rates={"r": (1, 2.0)}, expires=60.0
    )
    app.schedules.add("x", task.using(priority=5, headers={"a": 1}, timeout=4.0, limits={"l": 2}), every=10)
    clock.advance(10)
    fire(app)
    (run,) = records(app, "slow")
    assert (run.priority, run.max_attempts, run.max_crashes, run.keep) == (5, 7, 2, 11.0)
    assert (run.limits, run.rates) == ({"l": 2, "task:report": 3}, {"r": (1, 2.0)})
    assert run.expires == pytest.approx(clock.now() + 60)
    assert run.headers == {
        "a": 1, "eventq.run": {"timeout": 4.0},
        "eventq.schedule": {"name": "x", "at": datetime.fromtimestamp(clock.now(), UTC).isoformat()},
    }  # fmt: skip


def test_other_codecs(clock: FakeClock, url: str) -> None:
    with App(url, clock=clock, codec="msgpack") as app:
        app.schedules.add("x", made(app), 1, 2, every=10)
        assert app.schedules.all()[0].args == [1, 2]
        clock.advance(10)
        fire(app)
        (run,) = records(app)
        assert app.store.load(run.payload, run.codec, Call).args == [1, 2]
        assert run.codec == "msgpack"


def test_headers_of_who_adds_it_are_not_those_of_the_runs(app: App, clock: FakeClock) -> None:
    app.queue("q").put(1, headers={"user": "ann"})
    claim = app.queue("q").claim()
    assert claim is not None
    with claim:
        app.schedules.add("x", made(app), every=10)
    clock.advance(10)
    fire(app)
    assert set(records(app)[0].headers) == {"eventq.schedule"}


def test_code_that_says_something_else_changes_it(open_app: OpenApp, clock: FakeClock) -> None:
    before, after = open_app(), open_app()
    before.schedule("x", made(before), 1, every=10)
    before.schedules.reconcile()
    clock.advance(4)
    after.schedule("x", made(after), 2, every=10)  # other arguments: the times stay
    after.schedules.reconcile()
    clock.advance(6)
    fire(before)
    assert runs(after, clock.now()) == [0]
    assert after.schedules.all()[0].args == [2]
    other = open_app()
    other.schedule("x", made(other), 2, every=7)  # another interval: counts from now
    other.schedules.reconcile()
    clock.advance(7)
    fire(other)
    assert runs(after, clock.now()) == [-7, 0]
    assert len(ticks(other)) == 1


def test_what_was_changed_at_run_time_stays_until_the_code_changes(open_app: OpenApp) -> None:
    def started(every: int) -> Schedule:
        """What a worker of a program finds that declares this interval."""
        program = open_app()
        program.schedule("x", made(program), every=every)
        program.schedules.reconcile()
        found = program.schedules.get("x")
        assert found is not None
        assert found.declared
        return found

    assert started(10).every == 10
    admin = open_app()
    admin.schedules.add("x", admin.task_named("report"), every=33)
    admin.schedules.pause("x")
    for _ in range(2):
        assert (started(10).every, started(10).paused) == (33, True)
    assert (started(20).every, started(20).paused) == (20, True)  # who has paused it knows why


def test_a_declared_one_that_was_removed_comes_back(open_app: OpenApp) -> None:
    for _ in range(2):
        program = open_app()
        program.schedule("x", made(program), every=10)
        program.schedules.reconcile()
        assert [each.name for each in program.schedules.all()] == ["x"]
        assert program.schedules.remove("x")


def test_a_purged_queue_is_filled_again(open_app: OpenApp, clock: FakeClock) -> None:
    app, other = open_app(), open_app()
    for name in ("a", "b", "c"):
        app.schedules.add(name, made(app, name), every=10)
    app.schedules.pause("c")
    app.queue(app.schedules.queue).purge()
    assert ticks(app) == []
    clock.advance(25)
    other.schedules.reconcile()
    assert [call.kwargs["name"] for call in ticks(other)] == ["a", "b"]
    clock.advance(5)
    fire(other)
    assert runs(other, clock.now()) == [0, 0]


def test_a_store_without_schedules_costs_a_worker_nothing(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(prefix: str = "") -> list[Any]:
        raise AssertionError(f"looked for names {prefix}")

    monkeypatch.setattr(app.store.storage, "names", names)
    app.schedules.reconcile()


def test_a_record_that_cannot_be_read_hides_no_other(app: App, caplog: pytest.LogCaptureFixture) -> None:
    storage = app.store.storage
    app.schedules.add("fine", made(app), every=10)
    storage.take_name("eventq.schedule/newer", b'{"definition": {"when": {"lunar": 1}}}')
    assert [each.name for each in app.schedules.all()] == ["fine"]
    assert "the schedule under the name 'eventq.schedule/newer' cannot be read here" in caplog.text
    task = app.task_named("report")
    for act in (app.schedules.get, app.schedules.pause, lambda name: app.schedules.add(name, task, every=5)):
        with pytest.raises(ConfigError, match=r"'eventq\.schedule/newer' cannot be read here"):
            act("newer")
    assert [each.name for each in storage.names()] == ["eventq.schedule/fine", "eventq.schedule/newer"]
    assert app.schedules.remove("newer")
    assert [each.name for each in storage.names()] == ["eventq.schedule/fine"]


def test_a_schedule_that_cannot_be_stored_stops_no_other(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.schedule("a", made(app), every=10)
    app.schedule("b", app.task_named("report"), every=10)
    take = app.store.storage.take_name

    def failing(name: str, data: bytes) -> Any:
        if name.endswith("/a"):
            raise ConfigError("no such name")
        return take(name, data)

    monkeypatch.setattr(app.store.storage, "take_name", failing)
    with caplog.at_level(logging.ERROR):
        app.schedules.reconcile()
    assert [each.name for each in app.schedules.all()] == ["b"]
    assert "schedule a cannot be stored: no such name" in caplog.text

    def down(name: str, data: bytes) -> Any:
        raise StorageError("down")

    monkeypatch.setattr(app.store.storage, "take_name", down)
    with pytest.raises(StorageError, match="down"):  # to be tried again with the next look
        app.schedules.reconcile()


def test_names_of_the_schedules_of_jobs_are_not_for_programs(app: App) -> None:
    task = made(app)
    for act in (app.schedules.add, app.schedule):
        with pytest.raises(ConfigError, match=r"names that begin with 'job\.' are for the schedules of jobs"):
            act("job.nightly", task, every=10)
    assert app.schedules.all() == []
    assert not app.schedules.declared


def test_names_of_eventq_are_not_for_programs(app: App) -> None:
    app.schedules.add("a/b", made(app), every=10)
    app.schedules.add("a", app.task_named("report"), at=datetime.now(UTC) + timedelta(days=1))
    app.claim_name("eventq")
    assert [each.name for each in app.names()] == ["eventq"]
    for act in (app.claim_name, app.release_name):
        with pytest.raises(ConfigError, match=r"begin with 'eventq\.' are eventq's own"):
            act("eventq.schedule/a")
    assert [each.name for each in app.schedules.all()] == ["a", "a/b"]
    assert app.schedules.remove("a")
    assert [each.name for each in app.schedules.all()] == ["a/b"]
