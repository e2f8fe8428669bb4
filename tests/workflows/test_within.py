"""Workflows with inputs, and workflows within workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventq import App, ConfigError, PayloadError, TaskCancelled, TaskFailed
from eventq.model import Progress
from eventq.testing import run_until_empty
from eventq.workflow import Change, RunProgress
from workflows.conftest import OpenApp, Tasks, left, work
from workflows.test_running import pump_until_cut_off, taken_over

if TYPE_CHECKING:
    from eventq.testing import FakeClock
    from eventq.workflow import Workflow


def halves(app: App, tasks: Tasks) -> Workflow:
    """(x + more) + (x + 10)."""
    flow = app.workflow("halves")
    x, more = flow.input("x"), flow.input("more", 1)
    flow.step(tasks.total, [flow.step(tasks.add, x, more=more), flow.step(tasks.add, x, more=10)])
    return flow


def outer(app: App, tasks: Tasks) -> Workflow:
    """The halves of x + 1, and 100."""
    flow = app.workflow("outer")
    first = flow.step(tasks.add, flow.input("x"))
    flow.step(tasks.add, flow.step(halves(app, tasks), x=first), more=100)
    return flow


# ---------------------------------------------------------------- inputs


def test_inputs_take_their_places(app: App, tasks: Tasks) -> None:
    flow = halves(app, tasks)
    runs = [flow.start(x=5), flow.start(x=1, more=2), app.workflow_from(flow.to_dict()).start(x=7)]
    work(app)
    assert [run.result(0) for run in runs] == [21, 14, 25]
    assert not runs[0].definition().inputs


def test_wrong_inputs_are_refused_before_anything_is_stored(app: App, tasks: Tasks) -> None:
    flow = halves(app, tasks)
    with pytest.raises(TypeError, match="'halves' needs the input 'x'"):
        flow.start()
    with pytest.raises(TypeError, match="has no input 'z'; there are: more, x"):
        flow.start(x=1, z=2)
    with pytest.raises(TypeError, match="more"):
        flow.start(x=1, more="wide")
    with pytest.raises(PayloadError):
        flow.start(x={1, 2})
    with pytest.raises(TypeError, match="has no input 'x'; there are: none"):
        app.chain(tasks.one).start(x=1)
    with pytest.raises(ConfigError, match="cannot be named 'x'"):
        flow.input("x")
    with pytest.raises(ConfigError, match="cannot be named 'notify'"):
        flow.input("notify")
    with pytest.raises(ConfigError, match="an input of another workflow"):
        flow.step(tasks.add, app.workflow("v").input("y"))
    with pytest.raises(PayloadError):
        flow.input("y", {1, 2})
    with pytest.raises(ConfigError, match="which is no input"):
        app.workflow_from({**flow.to_dict(), "inputs": []})
    assert app.store.storage.queues() == []


def test_an_undo_takes_inputs(app: App, tasks: Tasks) -> None:
    tasks.broken = {9}
    flow = app.workflow("saga")
    seat = flow.input("seat")
    book = flow.step(tasks.one, seat).undo_by(tasks.note, "unbook", seat)
    flow.step(tasks.fragile, 9).after(book)
    run = flow.start(seat="7a")
    work(app)
    assert run.status() == "dead"
    assert tasks.ran[-1] == ("note", "unbook", "7a")


# ---------------------------------------------------------------- workflows within


def test_a_step_may_be_a_run_of_another_workflow(app: App, tasks: Tasks) -> None:
    flow = outer(app, tasks)
    assert 'n1[["halves"]]' in flow.mermaid()
    run = app.workflow_from(flow.to_dict()).start(x=4)
    assert run.states() == {"add": "ready", "halves": "waiting", "add-2": "waiting"}
    assert run.node("halves").below() is None
    work(app)
    assert run.result(0) == 121
    assert run.node("halves").result(0) == 21
    below = run.node("halves").below()
    assert below is not None
    assert below.result(0) == 21
    assert below.states() == dict.fromkeys(("add", "add-2", "total"), "completed")
    assert sorted(tasks.ran, key=str) == [
        ("add", 21, 100), ("add", 4, 1), ("add", 5, 1), ("add", 5, 10), ("total", [6, 15], 0)
    ]  # fmt: skip
    assert not left(app)
    assert not app.store.storage.names("eventq.run/")
    assert [name for name in app.store.storage.queues() if name.startswith("run-")] == []


def test_runs_within_runs_are_shown_as_running(app: App, tasks: Tasks) -> None:
    flow = app.workflow("w")
    flow.step(halves(app, tasks), x=1)
    run = flow.start()
    assert run.states() == {"halves": "running"}
    assert "halves<br/>running" in run.mermaid()
    assert "workflow halves, running" in run.svg()
    app.worker(["default"], concurrency=1, max_tasks=1).run()
    assert run.progress() == RunProgress(0, 1, {"running": 1}, pytest.approx(1 / 3))
    assert next(iter(run.follow(0))) == Change("halves", "running", Progress(1, 3))
    work(app)
    assert run.result(0) == 13
    assert run.states() == {"halves": "completed"}


def test_tests_run_them_without_workers(app: App, tasks: Tasks) -> None:
    flow = app.workflow("w")
    flow.step(outer(app, tasks), x=4)
    run = flow.start()
    run_until_empty(app)
    assert run.result(0) == 121


def test_what_is_no_step_is_refused(app: App, tasks: Tasks) -> None:
    flow, inner = app.workflow("w"), halves(app, tasks)
    with pytest.raises(TypeError, match="by name"):
        flow.step(inner, 1)
    with pytest.raises(TypeError, match="needs the input 'x'"):
        flow.step(inner)
    with pytest.raises(TypeError, match="has no input 'y'"):
        flow.step(inner, x=1, y=2)
    with pytest.raises(TypeError, match="more"):
        flow.step(inner, x=1, more="wide")
    with pytest.raises(ConfigError, match="no steps"):
        flow.step(app.workflow("empty"))
    with App("memory://") as other, pytest.raises(ConfigError, match="another app"):
        flow.step(other.workflow("v"))


def test_depth_is_bounded(app: App, tasks: Tasks) -> None:
    flow = app.chain((tasks.one, 3))
    for _ in range(7):
        deeper = app.workflow("deeper")
        deeper.step(flow)
        flow = deeper
    run = flow.start()
    work(app)
    assert run.result(0) == 3
    deeper = app.workflow("deeper")
    deeper.step(flow)
    with pytest.raises(ConfigError, match="stands within 8 others"):
        deeper.start()
    with pytest.raises(ConfigError, match="stands within 8 others"):
        app.workflow_from({"name": "x", "nodes": [{"name": "y", "task": "t", "queue": "q", "sub": flow.to_dict()}]})


def test_the_failure_within_is_that_of_the_step(app: App, tasks: Tasks) -> None:
    tasks.broken = {1}
    inner = app.workflow("inner")
    inner.step(tasks.fragile, inner.input("x"))
    flow = app.workflow("w")
    flow.step(tasks.add, flow.step(inner, x=1).named("bad"))
    other = app.workflow("v")
    other.step(tasks.total, [other.step(inner, x=1).on_failure("continue"), 2])
    run, going = flow.start(), other.start()
    work(app)
    with pytest.raises(TaskFailed, match=r"step 'bad' of workflow 'w' is dead \(StepFailed: step 'fragile' of work"):
        run.result(0)
    with pytest.raises(TaskFailed, match="1 is broken"):
        run.node("bad").result(0)
    assert run.states()["add"] == "skipped"
    assert going.result(0) == 2
    tasks.broken, tasks.ran = set(), []
    assert run.resume()
    work(app)
    assert run.result(0) == 2, "what has failed within begins anew"
    assert tasks.ran == [("fragile", 1), ("add", 1, 1)]


def test_cancelling_goes_down(app: App, tasks: Tasks, clock: FakeClock) -> None:
    flow = app.workflow("w")
    flow.step(outer(app, tasks), x=4)
    run = flow.start()
    app.worker(["default"], concurrency=1, max_tasks=1).run()
    below = run.node("outer").below()
    assert below is not None
    lowest = below.node("halves").below()
    assert lowest is not None
    assert run.cancel("no more tea")
    work(app)
    assert [each.status() for each in (run, below, lowest)] == ["cancelled"] * 3
    with pytest.raises(TaskCancelled, match="no more tea"):
        run.result(0)
    assert tasks.ran == [("add", 4, 1)]
    assert not left(app)
    assert run.resume()
    work(app)
    assert run.result(0) == 121


@pytest.mark.parametrize("after", range(0, 210, 15))
def test_whatever_call_is_the_last_of_a_worker_the_whole_completes(
    open_app: OpenApp, clock: FakeClock, after: int
) -> None:
    first, second = open_app(), open_app()
    doomed, other = Tasks(first), Tasks(second)
    run = outer(second, other).start(x=4)
    pump_until_cut_off(first, after, doomed)
    taken_over(second, run, clock, times=30)
    assert run.result(0) == 121
    assert len([each for each in doomed.ran + other.ran if each[0] == "total"]) <= 2
    assert not left(second)
