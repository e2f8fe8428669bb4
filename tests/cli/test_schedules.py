"""`eventq schedules`: without the program's code, and with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Run
from shop_source import shop

from eventq import App

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def program(tmp_path: Path) -> Iterator[Path]:
    with shop(tmp_path) as path:
        yield path


def add(run: Run, *args: str) -> dict[str, Any]:
    """The schedule that a command adds, as JSON tells it."""
    sys.modules.pop("shop", None)  # every command is a process of its own
    done = run("schedules", "add", *args, "--json")
    assert (done.code, done.err) == (0, ""), done
    added: dict[str, Any] = done.json
    return added


def listed(run: Run) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in run("schedules", "--json").json}


def test_adding_and_listing(run: Run) -> None:
    first = add(
        run, "covers", "any.task", "1", "two", "[3]", "--kw", "width=64", "--cron", "0 3 * * *",
        "--tz", "Europe/Berlin", "--missed", "all", "--missed-limit", "5", "--grace", "10m", "--no-overlap",
        "--queue", "slow", "--priority", "7",
    )  # fmt: skip
    assert (first["task"], first["args"], first["kwargs"]) == ("any.task", [1, "two", [3]], {"width": 64})
    assert (first["cron"], first["tz"], first["queue"]) == ("0 3 * * *", "Europe/Berlin", "slow")
    assert (first["missed"], first["missed_limit"], first["grace"], first["overlap"]) == ("all", 5, 600.0, False)
    assert first["next"][11:] in ("01:00:00.000000Z", "02:00:00.000000Z")
    assert add(run, "prices", "any.task", "--every", "0.5")["every"] == 0.5
    assert add(run, "later", "any.task", "--at", "10m")["at"] == listed(run)["later"]["next"]
    assert add(run, "then", "any.task", "--at", "2100-01-01T00:00Z")["at"] == "2100-01-01T00:00:00.000000Z"
    assert listed(run)["covers"] == first
    assert list(listed(run)) == ["covers", "later", "prices", "then"]
    lines = run("schedules").lines
    assert lines[0].split() == ["NAME", "TASK", "WHEN", "NEXT", "LAST", "OUTCOME"]
    assert "0 3 * * * (Europe/Berlin)" in lines[1]
    assert "every 0.5s" in lines[3]
    assert [line.split()[:2] for line in run("schedules", "list", "prices").lines[1:]] == [["prices", "any.task"]]
    assert [each["name"] for each in run("schedules", "list", "prices", "--json").json] == ["prices"]


def test_what_is_added_is_told(run: Run) -> None:
    done = run("schedules", "add", "x", "any.task", "--every", "1h")
    assert done.code == 0
    assert done.out.startswith("x runs any.task every 3600s; next: 2")
    run("schedules", "pause", "x")
    assert run("schedules", "add", "x", "any.task", "--every", "1h").out.endswith("; next: paused\n")


def test_pausing_running_and_removing(run: Run, store: str) -> None:
    add(run, "x", "any.task", "1", "--every", "1h")
    assert "is paused until 'eventq schedules resume'" in run("schedules", "pause", "x").out
    assert listed(run)["x"]["next"] is None
    assert "paused" in run("schedules").lines[1]
    id = run("schedules", "run", "x").out.strip()
    shown = run("show", id, "--json").json
    assert (shown["payload"], shown["queue"]) == ({"task": "any.task", "args": [1]}, "default")
    assert (listed(run)["x"]["last_id"], listed(run)["x"]["last_state"]) == (id, "ready")
    assert f"ready {id}" in run("schedules").lines[1]
    assert run("schedules", "resume", "x", "--json").json == {"name": "x", "resume": True}
    assert listed(run)["x"]["next"] is not None
    assert run("schedules", "run", "x", "--json").json["name"] == "x"
    assert run("schedules", "remove", "x").out == "x is removed; what was put already runs\n"
    assert run("schedules").out == "no schedules\n"
    with App(store) as app:
        assert app.store.storage.names() == []
        assert app.queue("default").stats().ready == 2


@pytest.mark.parametrize("action", ["pause", "resume", "run", "remove", "list"])
def test_an_unknown_schedule_is_one_line(run: Run, action: str) -> None:
    run("put", "q", "1")
    done = run("schedules", action, "x")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("eventq: there is no schedule 'x'")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pause"], "which one? write: eventq schedules pause NAME"),
        (["add", "x"], "add takes a task"),
        (["add", "x", "any.task"], "nothing says when"),
        (["add", "x", "any.task", "--cron", "61 * * * *"], "is no cron expression (Bad minute)"),
        (["add", "x", "any.task", "--cron", "0 3 * * *", "--every", "5"], "cron and every= both say when"),
        (["add", "x", "any.task", "--cron", "0 3 * * *", "--tz", "Mars"], "no time zone 'Mars'"),
        (["add", "x", "any.task", "--at", "2001-01-01"], "has passed"),
        (["add", "x", "any.task", "--at", "soon"], "neither a time"),
        (["add", "x", "any.task", "--every", "soon"], "is not a duration"),
        (["add", "x", "any.task", "--every", "0.001"], "at least 0.01 seconds"),
        (["add", "x", "any.task", "--every", "5", "--missed-limit", "3"], "goes with missed='all'"),
        (["add", "x", "any.task", "--every", "5", "--priority", "300"], "outside -100..100"),
        (["add", "x", "shop.nothing", "--every", "5", "--app", "shop:app"], "shop:app has no task 'shop.nothing'"),
        (["add", "x", "shop.total", "three", "--every", "5", "--app", "shop:app"], "the task is shop.total(first: "),
        (["list", "x", "any.task"], "list takes nothing but a name"),
        (["pause", "x", "--every", "5"], "pause takes nothing but a name"),
        (["pause", "x", "--no-overlap"], "pause takes nothing but a name"),
        (["start", "x"], "invalid choice: 'start'"),
    ],
)
def test_wrong_use(run: Run, args: list[str], says: str) -> None:
    run("put", "q", "1")
    sys.modules.pop("shop", None)
    done = run("schedules", *args)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert run("schedules").out == "no schedules\n"


def test_an_app_says_more_of_its_tasks(run: Run) -> None:
    with_app = add(run, "x", "shop.until_there", "x", "--every", "5", "--app", "shop:app")
    assert with_app["queue"] == "slow"
    assert add(run, "y", "shop.greet", "64", "--every", "5", "--app", "shop:app")["args"] == ["64"]
    assert add(run, "z", "shop.greet", "64", "--every", "5")["args"] == [64]


def test_a_schedule_of_the_command_line_runs(run: Run) -> None:
    add(run, "x", "shop.total", "3", "4", "--every", "0.01", "--app", "shop:app")
    for _ in range(50):
        sys.modules.pop("shop", None)
        assert run("worker", "shop:app", "--burst").code == 0
        last = listed(run)["x"]["last_id"]
        if last is not None:
            break
    assert run("result", last, "--json").json == 7


def test_hostile_names_cannot_steer_the_terminal(run: Run) -> None:
    hostile = "a\x1b[2J\nb\u202e"
    outputs = [run("schedules", "add", hostile, hostile, "--every", "1h")]
    outputs += [run("schedules", *args) for args in ([], ["pause", hostile], ["--json"], ["remove", hostile])]
    for done in outputs:
        assert done.code == 0
        assert done.out.replace("\n", "").isprintable(), done


def test_cron_without_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    done = run("schedules", "add", "x", "any.task", "--cron", "0 3 * * *")
    assert (done.code, done.err) == (2, "eventq: a cron expression needs an extra: pip install 'eventq[cron]'\n")
    add(run, "x", "any.task", "--every", "5")


def test_every_worker_keeps_schedules_and_status_knows(run: Run, store: str) -> None:
    add(run, "covers", "any.task", "--every", "1h")
    with App(store) as app:
        app.store.storage.introduce(["default"], [])
        (queue,) = run("status", "schedules", "--json").json["queues"]
        assert (queue["queue"], queue["delayed"], queue["workers"]) == ("schedules", 1, 1)
