"""`eventq jobs`: without the program's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conftest import Run

from eventq import App

if TYPE_CHECKING:
    from collections.abc import Iterator

ACTIONS = ["show", "start", "restart", "abort", "enable", "disable", "reset", "remove"]


@pytest.fixture
def app(store: str) -> Iterator[App]:
    """An app with a job of two stages; its second stage fails when the keyword says so."""
    with App(store) as app:

        @app.task(name="shop.fetch")
        def fetch(day: Any) -> Any:
            return {"day": day}

        @app.task(name="shop.report", max_attempts=1)
        def report(text: str) -> str:
            if "bad" in text:
                raise ValueError(text)
            return text

        app.jobs.add(
            "nightly",
            {"fetch": (fetch, "{day}"), "report": (report, "for {fetch.day}")},
            keywords={"day": "mon"}, user="ada", description="what was sold", deadline=None,
        )  # fmt: skip
        yield app


def work(app: App) -> None:
    assert app.worker().run(burst=True) == 0


def shown(run: Run) -> Any:
    return run("jobs", "show", "nightly", "--json").json


def test_the_life_of_a_job(run: Run, app: App) -> None:
    assert run("jobs").lines[1].split() == ["nightly", "idle", "0/2", "-", "-"]
    assert run("jobs", "show", "nightly").lines == ["nightly: idle", "what was sold", "stages: fetch, report"]
    id = run("jobs", "start", "nightly", "--kw", "day=tue").out.strip()
    assert shown(run)["state"] == "queued"
    assert run("jobs").lines[1].split() == ["nightly", "queued", "0/2", "-", id]
    again = run("jobs", "start", "nightly")
    assert (again.code, again.err) == (1, f"eventq: job 'nightly' runs already: run {id}; wait for that, or abort it\n")
    work(app)
    assert app.workflows.run(id).result(20) == [{"day": "tue"}, "for tue"]
    lines = run("jobs", "show", "nightly").lines
    assert lines[:3] == ["nightly: finished", "what was sold", f"run {id}, retries 0 of 0, exit code 0"]
    assert [line.split()[:3] for line in lines[3:]] == [
        ["STAGE", "STATE", "STARTED"], ["fetch", "completed", "1"], ["report", "completed", "1"],
    ]  # fmt: skip
    assert "exit code 0" in run("jobs").lines[1]
    assert run("jobs", "reset", "nightly").out == "nightly is idle\n"
    assert shown(run)["report"] is None


def test_one_that_fails_is_restarted(run: Run, app: App) -> None:
    id = run("jobs", "start", "nightly", "--kw", "day=bad", "--json").json["id"]
    work(app)
    app.workflows.run(id).wait(20)
    report = shown(run)["report"]
    assert (report["state"], report["exit_code"], report["error"]["message"]) == ("failed", 1, "for bad")
    assert report["ended"].endswith("Z")
    assert "ValueError: for bad" in run("jobs", "show", "nightly").out
    assert run("jobs", "restart", "nightly", "--json").json == {"name": "nightly", "id": id}
    work(app)
    app.workflows.run(id).wait(20)
    assert [each["attempts"] for each in shown(run)["report"]["stages"]] == [1, 2]


def test_aborting(run: Run, app: App) -> None:
    id = run("jobs", "start", "nightly").out.strip()
    assert "is being aborted" in run("jobs", "abort", "nightly", "--reason", "no disk").out
    work(app)
    app.workflows.run(id).wait(20)
    report = shown(run)["report"]
    assert (report["exit_code"], report["error"]["message"]) == (130, "no disk")
    done = run("jobs", "abort", "nightly")
    assert (done.code, done.err) == (1, "eventq: job 'nightly' is failed: there is nothing to abort\n")


def test_enabling_disabling_and_removing(run: Run, app: App) -> None:
    assert "is disabled until" in run("jobs", "disable", "nightly").out
    assert run("jobs").lines[1].split()[:3] == ["nightly", "idle,", "disabled"]
    done = run("jobs", "start", "nightly")
    assert (done.code, done.out) == (1, "")
    assert "is disabled" in done.err
    assert run("jobs", "enable", "nightly", "--json").json == {"name": "nightly", "enable": True}
    assert shown(run)["enabled"] is True
    assert run("jobs", "remove", "nightly").out.startswith("nightly is removed")
    assert run("jobs").out == "no jobs\n"
    assert run("jobs", "--json").json == []


def test_only_the_jobs_of_a_user(run: Run, app: App) -> None:
    assert [each["name"] for each in run("jobs", "--user", "ada", "--json").json] == ["nightly"]
    assert run("jobs", "--user", "bob").out == "no jobs\n"


@pytest.mark.parametrize("action", ACTIONS)
def test_an_unknown_job_is_one_line(run: Run, action: str) -> None:
    run("put", "q", "1")
    done = run("jobs", action, "x")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("eventq: there is no job 'x'")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show"], "which one? write: eventq jobs show NAME"),
        (["list", "nightly"], "list takes no name"),
        (["show", "nightly", "--user", "ada"], "--user goes with list"),
        (["show", "nightly", "--kw", "a=1"], "--kw goes with start"),
        (["show", "nightly", "--reason", "x"], "--reason goes with abort"),
        (["start", "nightly", "--kw", "dya=1"], "job 'nightly' has no keyword 'dya'; there are: day"),
        (["start", "nightly", "--kw", "day"], "is no argument by name"),
        (["restart", "nightly"], "has no run that failed"),
        (["run", "nightly"], "invalid choice: 'run'"),
    ],
)
def test_wrong_use(run: Run, app: App, args: list[str], says: str) -> None:
    done = run("jobs", *args)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert app.workflows.runs() == []


def test_hostile_names_cannot_steer_the_terminal(run: Run, app: App) -> None:
    hostile = "a\x1b[2J\nb\u202e"
    app.jobs.add(hostile, [(app.tasks["shop.report"], "bad\x1b[2J")], description=hostile)
    outputs = [run("jobs", *args) for args in ([], ["start", hostile], ["show", hostile])]
    work(app)
    outputs += [run("jobs", *args) for args in ([], ["show", hostile], ["disable", hostile], ["remove", hostile])]
    for done in outputs:
        assert done.code == 0
        assert done.out.replace("\n", "").isprintable(), done
