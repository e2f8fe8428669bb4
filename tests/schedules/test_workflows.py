"""Schedules that start workflows: each time is a run of its own, put once, and begun by whoever looks after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tasks.running import burst, until, working
from workflows.conftest import looked_after

from eventq import App, ConfigError, PayloadError
from eventq.model import State
from schedules.conftest import OpenApp, fire, ticks

if TYPE_CHECKING:
    from eventq import Run, Workflow
    from eventq.testing import FakeClock


def doubled(app: App, start: int = 2) -> Workflow:
    """A workflow of two steps; what it comes to is twice its start and one more."""

    @app.task(name="twice")
    def twice(number: int) -> int:
        return 2 * number

    @app.task(name="more")
    def more(number: int) -> int:
        return number + 1

    return app.chain((twice, start), more)


def found(app: App) -> list[Run]:
    return app.workflows.runs()


def test_each_time_is_a_run_of_its_own(app: App, clock: FakeClock) -> None:
    app.schedule("nightly", doubled(app), every=1000)
    burst(app)
    for number in range(1, 4):
        clock.advance(1000)
        assert burst(app) == 0
        looked_after(app, clock, found(app)[-1])
        assert [run.result(0) for run in found(app)] == [5] * number
    schedule = app.schedules.get("nightly")
    assert schedule is not None
    assert (schedule.workflow, schedule.task, schedule.queue) == ("chain", "eventq.workflow", "workflows")
    assert (schedule.args, schedule.kwargs) == ([], {})
    assert (schedule.last_id, schedule.last_state) == (found(app)[-1].id, State.COMPLETED)
    assert len(ticks(app)) == 1


def test_a_cron_expression_starts_a_workflow(app: App, clock: FakeClock) -> None:
    added = app.schedules.add("nightly", "0 3 * * *", doubled(app), tz="Europe/Berlin")
    assert added.cron == "0 3 * * *"
    assert added.next is not None
    clock.advance(added.next.timestamp() - clock.now())
    burst(app)
    looked_after(app, clock, found(app)[0])
    assert [run.result(0) for run in found(app)] == [5]


def test_run_now(app: App, clock: FakeClock) -> None:
    app.schedules.add("nightly", "0 3 * * *", doubled(app))
    run = app.workflows.run(app.schedules.run("nightly").id)
    burst(app)
    looked_after(app, clock, run)
    assert run.result(0) == 5
    assert run.name == "chain"


def test_a_worker_begins_it_without_being_told(open_app: OpenApp, clock: FakeClock) -> None:
    app, admin = open_app(), open_app()
    doubled(app)
    with working(app):
        admin.schedules.add("nightly", doubled(admin), every=10)
        clock.advance(10)
        until(lambda: [run for run in found(admin) if run.ready() or clock.advance(0.1)])
    assert [run.result(0) for run in found(admin)] == [5]


def test_of_many_workers_one_starts_it(open_app: OpenApp, clock: FakeClock) -> None:
    apps = [open_app() for _ in range(3)]
    apps[0].schedules.add("nightly", doubled(apps[0]), every=10)
    clock.advance(10)
    for app in apps:
        fire(app)
    for app in apps:
        app.workflows.engine.look()
    assert len(found(apps[0])) == 1
    assert apps[0].queue("default").stats().ready == 1


def test_no_overlap_leaves_a_time_out_while_the_run_goes_on(app: App, clock: FakeClock) -> None:
    app.schedules.add("nightly", doubled(app), every=10, overlap=False)
    for _ in range(3):
        clock.advance(10)
        fire(app)
        app.workflows.engine.look()
    (run,) = found(app)
    assert run.cancel()
    app.workflows.engine.look()
    assert run.ready()
    clock.advance(10)
    fire(app)
    assert len(found(app)) == 2


def test_what_is_changed_in_the_workflow_afterwards_is_of_no_concern(app: App, clock: FakeClock) -> None:
    flow = doubled(app)
    app.schedules.add("nightly", flow, every=10)
    flow.step(app.tasks["more"], 1)
    clock.advance(10)
    fire(app)
    assert [list(run.states()) for run in found(app)] == [["twice", "more"]]


def test_it_may_be_changed_to_a_task_and_back(app: App, clock: FakeClock) -> None:
    flow: Any = doubled(app)
    app.schedules.add("nightly", flow, every=10)
    changed = app.schedules.add("nightly", app.tasks["twice"], 1, every=10)
    assert (changed.workflow, changed.task, changed.args) == (None, "twice", [1])
    assert app.schedules.add("nightly", flow, every=10).workflow == "chain"


def test_inputs_of_the_workflow(app: App, clock: FakeClock) -> None:
    doubled(app)
    flow = app.workflow("twice")
    flow.step(app.tasks["twice"], flow.input("number"))
    with pytest.raises(TypeError, match="needs the input 'number'"):
        app.schedules.add("x", flow, every=10)
    app.schedules.add("x", flow, every=1000, kwargs={"number": 21})
    clock.advance(1000)
    burst(app)
    looked_after(app, clock, found(app)[0])
    assert found(app)[0].result(0) == 42


def test_what_cannot_be_is_refused(app: App) -> None:
    flow: Any = doubled(app)
    with pytest.raises(TypeError, match="takes its inputs by name"):
        app.schedule("x", flow, 1, every=5)
    with pytest.raises(TypeError, match="has no input 'a'"):
        app.schedule("x", flow, every=5, kwargs={"a": 1})
    with pytest.raises(ConfigError, match="belongs to another app"):
        App("memory://").schedule("x", flow, every=5)
    with pytest.raises(ConfigError, match="has no steps"):
        app.schedule("x", app.workflow("empty"), every=5)
    with pytest.raises(TypeError, match="or a workflow, not"):
        app.schedule("x", flow.step, every=5)
    flow.step(app.tasks["twice"], 1)
    big = app.workflow("big")
    for _ in range(3000):
        big.step(app.task_named("any.task"), "x" * 200)
    with pytest.raises(PayloadError, match="pass less to big"):
        app.schedule("x", big, every=5)
