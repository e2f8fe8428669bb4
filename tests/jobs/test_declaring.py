"""Declaring jobs: what is checked where it is said, the limits, and what a worker stores when it starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, ConfigError, DuplicateName, MissingExtra, PayloadError, Stage, TemplateError
from eventq.job.record import JOBS
from jobs.conftest import OpenApp, Tasks, entries, work, worked

if TYPE_CHECKING:
    from eventq.testing import FakeClock

MANY = ["x"] * 101


@pytest.fixture
def local() -> App:
    return App("memory://")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_retries": -1}, ConfigError, "max_retries=-1; at least 0, at most 10"),
        ({"max_retries": 11}, ConfigError, "max_retries=11; at least 0, at most 10"),
        ({"max_retries": True}, TypeError, "max_retries= takes a whole number, not bool"),
        ({"max_retries": 1.0}, TypeError, "max_retries= takes a whole number, not float"),
        ({"retry_delay": -1}, ConfigError, "retry_delay=-1 is no duration"),
        ({"retry_delay": 14_401}, ConfigError, "retry_delay=14401; at least 0 seconds, at most 14400"),
        ({"retry_delay": "1"}, TypeError, "retry_delay= takes seconds as a number, not str"),
        ({"deadline": 0.5}, ConfigError, "deadline=0.5; at least 1 seconds, at most 14400"),
        ({"deadline": 14_401}, ConfigError, "deadline=14401; at least 1 seconds, at most 14400"),
        ({"restart": "last"}, ConfigError, "restart='last'; write 'current' or 'first'"),
        ({"next": "x"}, ConfigError, "next='x' is the job itself"),
        ({"next": "y" * 101}, ConfigError, "next= has 101 characters, at most 100"),
        ({"next": 3}, TypeError, "next= is a text, not int"),
        ({"enabled": 1}, TypeError, "enabled= is True or False, not 1"),
        ({"notify": "ada", "user": "ada"}, TypeError, "notify= is True or False, not 'ada'"),
        ({"notify": True}, ConfigError, "say which one by user="),
        ({"user": ""}, ConfigError, "is empty"),
        ({"user": 7}, TypeError, "is a text, not int"),
        ({"description": 7}, TypeError, "description= is a text, not int"),
        ({"description": "d" * 2001}, ConfigError, "description= has 2001 characters, at most 2000"),
        ({"meta": {"m": "m" * (16 << 10)}}, ConfigError, "meta= takes 163.. bytes, at most 16384"),
        ({"meta": {1: 2}}, TypeError, "meta= takes a dict with texts as keys"),
        ({"meta": [1]}, TypeError, "meta= takes a dict"),
        ({"meta": {"s": {1, 2}}}, PayloadError, "meta= takes plain data"),
        ({"meta": {"s": b"x"}}, PayloadError, "comes back from JSON as it was"),
        ({"keywords": {"a b": 1}}, ConfigError, "no template could name it"),
        ({"keywords": {"7": 1}}, ConfigError, "no template could name it"),
        ({"keywords": {"echo": 1}}, ConfigError, "or a stage has that name"),
        ({"keywords": {"a": object()}}, PayloadError, "keywords= takes plain data"),
        ({"cron": "61 * * * *"}, ConfigError, "no cron expression"),
        ({"cron": "0 3 * * *", "tz": "Mars"}, ConfigError, "no time zone 'Mars'"),
        ({"tz": "UTC"}, ConfigError, "tz= is the zone of a cron expression"),
        ({"retries": 3}, TypeError, "a job has no option 'retries'; there are cron, deadline"),
    ],
)
def test_fields_that_cannot_be(local: App, options: dict[str, Any], error: type[Exception], says: str) -> None:
    echo = Tasks(local).echo
    for declare in (local.job, local.jobs.add):
        with pytest.raises(error, match=says):
            declare("x", [echo], **options)
    assert local.jobs.declared == {}
    assert local.jobs.all() == []


@pytest.mark.parametrize(
    ("stages", "error", "says"),
    [
        (lambda _: [], ConfigError, r"stages= has 0; a job has 1 to 100"),
        (lambda t: [t.echo] * 101, ConfigError, r"stages= has 101; a job has 1 to 100"),
        (lambda t: t.echo, TypeError, r"stages= takes a list of stages"),
        (lambda _: "echo", TypeError, r"stages= takes a list of stages"),
        (lambda _: [print], TypeError, r"stage 0 runs a task"),
        (lambda t: [t.echo, []], ConfigError, r"stage 1 is a batch of 0; it has 1 to 100 calls"),
        (lambda t: {"a": [t.echo] * 101}, ConfigError, r"stage 'a' is a batch of 101; it has 1 to 100 calls"),
        (lambda t: {"a b": t.echo}, ConfigError, r"stage 'a b': no template could name it"),
        (lambda t: {"1": t.echo}, ConfigError, r"stage '1': no template could name it"),
        (lambda t: {"a" * 101: t.echo}, ConfigError, r"its name has 101 characters, at most 100"),
        (lambda t: [(t.typed, "seven")], TypeError, r"stage 'typed': .*Expected `int`, got `str`"),
        (lambda t: [t.typed], TypeError, r"stage 'typed': .*missing a required argument"),
        (lambda t: [Stage(t.typed, 1, nope=1)], TypeError, r"stage 'typed': got an unexpected keyword"),
        (lambda t: [[t.echo, (t.typed, "x")]], TypeError, r"stage 'echo', call 1: .*Expected `int`"),
        (lambda t: [t.echo.using(key="k")], ConfigError, r"stage 'echo': j.echo has key=, which is for single calls"),
        (lambda _: [App("memory://").task_named("t")], ConfigError, r"belongs to another app"),
        (lambda t: [(t.echo, "{day")], TemplateError, r"stage 'echo', argument 0: '{day': a brace is never closed"),
        (lambda t: [(t.echo, "{dya}")], TemplateError, r"{dya} names no keyword and no earlier stage; there are: day"),
        (lambda t: [(t.echo, "{echo}")], TemplateError, r"names a stage that has not run by then"),
        (lambda t: [(t.echo, "{1}"), t.echo], TemplateError, r"\{1\} names a stage that has not run by then"),
        (lambda t: [(t.echo, "{2}"), t.echo], TemplateError, r"\{2\} names no keyword"),
        (
            lambda t: {"a": t.echo, "b": Stage(t.echo, 1, {"k": ["{c}"]}), "c": t.echo},
            TemplateError,
            r"stage 'b', argument 1\['k'\]\[0\]: {c} names a stage that has not run by then",
        ),
        (lambda t: {"a": Stage(t.typed, 1, text="{x}")}, TemplateError, r"stage 'a', argument 'text': {x} names no"),
        (lambda t: [(t.echo, "x" * 400_000)], PayloadError, r"job 'x' takes 400\d\d\d bytes, at most 393216"),
    ],
)
def test_stages_that_cannot_be(local: App, stages: Any, error: type[Exception], says: str) -> None:
    given = stages(Tasks(local))
    with pytest.raises(error, match=says):
        local.job("x", given, keywords={"day": 1})
    assert local.jobs.declared == {}


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("", ConfigError, "the name of a job is empty"),
        ("x" * 101, ConfigError, "has 101 characters, at most 100"),
        ("\udcff", ConfigError, "not valid Unicode"),
        (7, TypeError, "is a text, not int"),
    ],
)
def test_names_that_cannot_be(local: App, name: Any, error: type[Exception], says: str) -> None:
    echo = Tasks(local).echo
    for act in (lambda: local.job(name, [echo]), lambda: local.jobs.get(name), lambda: local.jobs.start(name)):
        with pytest.raises(error, match=says):
            act()


def test_the_limits_themselves_are_within(local: App) -> None:
    tasks = Tasks(local)
    local.jobs.add("x" * 100, [tasks.echo] * 100, max_retries=10, deadline=14_400, retry_delay=14_400)
    local.jobs.add("y", [[tasks.echo] * 100], deadline=1, retry_delay=0, description="d" * 2000)
    local.jobs.add("z", [tasks.echo], deadline=None, meta={"m": "m" * 16_000})
    assert [each.name for each in local.jobs.all()] == ["x" * 100, "y", "z"]


def test_stages_without_a_name_have_that_of_their_task_or_a_number(local: App) -> None:
    tasks = Tasks(local)
    added = local.jobs.add(
        "x", [tasks.echo, (tasks.typed, 1), tasks.echo, [tasks.echo, tasks.echo], (tasks.typed, "{3[0]}")]
    )
    assert added.stages == ("echo", "typed", "2", "3", "4")


def test_a_name_means_one_job(local: App) -> None:
    tasks = Tasks(local)
    for _ in range(2):  # a module that is imported under two names
        assert local.job("x", [(tasks.echo, 1)]).name == "x"
    with pytest.raises(DuplicateName, match="there is a job 'x' already"):
        local.job("x", [(tasks.echo, 2)])


def test_cron_without_its_extra(local: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingExtra):
        local.job("x", [Tasks(local).echo], cron="0 3 * * *")


# ---------------------------------------------------------------- what is stored


def test_all_that_is_said_is_told(app: App, tasks: Tasks) -> None:
    said: dict[str, Any] = {
        "keywords": {"day": "mon", "deep": {"a": [1, None]}}, "restart": "first", "max_retries": 3, "retry_delay": 2.5,
        "deadline": 60.0, "next": "y", "user": "ada", "description": "what it is for", "meta": {"team": ["a", 1]},
        "notify": True, "cron": "0 3 * * *", "tz": "Europe/Berlin",
    }  # fmt: skip
    added = app.jobs.add("x", {"one": (tasks.echo, "{day}"), "two": [tasks.echo]}, **said)
    assert {name: getattr(added, name) for name in said} == said
    assert (added.stages, added.state, added.report, added.enabled) == (("one", "two"), "idle", None, True)
    assert added.next_run is not None
    assert app.jobs.get("x") == added
    assert app.jobs.all() == app.jobs.all("ada") == [added]
    assert app.jobs.all("bob") == []
    assert app.jobs.get("y") is None


def test_a_worker_stores_what_is_declared_and_what_was_changed_stays(open_app: OpenApp) -> None:
    first, second = open_app(), open_app()
    for app in (first, second):
        app.job("x", [Tasks(app).echo], description="declared")
    assert first.jobs.all() == []
    work(first)
    first.jobs.disable("x")
    changed = first.jobs.add("x", [first.tasks["j.echo"]], description="changed")
    assert (changed.declared, changed.enabled) == (True, False)
    work(second)
    found = second.jobs.get("x")
    assert found == changed
    third = open_app()
    third.job("x", [Tasks(third).echo], description="declared anew")
    work(third)
    found = second.jobs.get("x")
    assert found is not None
    assert (found.description, found.enabled) == ("declared anew", False)
    assert len(entries(first)) == 1


def test_a_job_that_is_declared_may_be_started_before_any_worker_was_there(
    app: App, tasks: Tasks, clock: FakeClock
) -> None:
    job = app.job("x", [(tasks.echo, 5)])
    assert worked(app, clock, job.start()).result(0) == [5]
    assert job.status() == "finished"


def test_records_that_cannot_be_read_hide_no_others(app: App, tasks: Tasks) -> None:
    app.jobs.add("fine", [tasks.echo])
    app.store.storage.take_name(f"{JOBS.prefix}newer", b'{"spec": 7}')
    assert [each.name for each in app.jobs.all()] == ["fine"]
    for act in (app.jobs.get, app.jobs.disable, lambda name: app.jobs.add(name, [tasks.echo])):
        with pytest.raises(ConfigError, match=r"the job under the name 'eventq\.job/newer' cannot be read here"):
            act("newer")
    assert app.store.storage.get_names([f"{JOBS.prefix}newer"])
    assert app.jobs.remove("newer")
    assert entries(app) == [f"{JOBS.prefix}fine"]
