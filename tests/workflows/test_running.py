"""Runs of workflows: on every storage, by workers, by several of them, and while storages fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tasks.running import working

from eventq import App, ConfigError, ResultMissing, ResultTimeout, StorageError, TaskCancelled, TaskFailed, UnknownEvent
from eventq.model import Delete
from workflows.conftest import OpenApp, Tasks, left, looked_after, work

if TYPE_CHECKING:
    from eventq.testing import FakeClock
    from eventq.workflow import Run, Workflow


def diamond(app: App, tasks: Tasks) -> Workflow:
    flow = app.workflow("diamond")
    first = flow.step(tasks.one, 5)
    flow.step(tasks.total, [flow.step(tasks.add, first), flow.step(tasks.add, first, more=10)], plus=100)
    return flow


def test_a_diamond(app: App, tasks: Tasks) -> None:
    run = diamond(app, tasks).start()
    assert run.status() == "running"
    assert run.states() == {"one": "ready", "add": "waiting", "add-2": "waiting", "total": "waiting"}
    with pytest.raises(ResultTimeout):
        run.result(0)
    work(app)
    assert run.result(0) == 121
    assert run.status() == "completed"
    assert sorted(tasks.ran, key=str) == [("add", 5, 1), ("add", 5, 10), ("one", 5), ("total", [6, 15], 100)]
    assert run.node("add-2").result(0) == 15
    assert set(run.states().values()) == {"completed"}
    assert "total<br/>completed" in run.mermaid()
    assert run.name == "diamond"
    assert not left(app)
    assert not app.store.storage.names("eventq.run/")
    assert [name for name in app.store.storage.queues() if name.startswith("run-")] == []


def test_several_roots_and_last_steps(app: App, tasks: Tasks) -> None:
    flow = app.workflow("forest")
    a, b = flow.step(tasks.one, 1).named("a"), flow.step(tasks.one, 2).named("b")
    flow.step(tasks.note, a, x={"deep": [b, {"b": b}]}).named("noted")
    flow.step(tasks.one, 7).named("late").after(a, b)
    run = flow.start()
    work(app)
    assert run.result(0) == {"noted": None, "late": 7}
    assert ("note", 1, ("x", {"deep": [2, {"b": 2}]})) in tasks.ran
    assert tasks.ran.index(("one", 7)) > max(tasks.ran.index(("one", 1)), tasks.ran.index(("one", 2)))
    assert run.node("noted").result(0) is None


def test_small_graphs(app: App, tasks: Tasks) -> None:
    chain = app.chain((tasks.one, 1), tasks.add, (tasks.add, 10)).start()
    group = app.group([(tasks.one, 1), tasks.one, (tasks.one, 3)]).start()
    chord = app.chord([(tasks.one, 1), (tasks.one, 2)], (tasks.total, 30)).start()
    mapped = app.map(tasks.add, [1, 2, 3]).start()
    work(app)
    assert [run.result(0) for run in (chain, group, chord, mapped)] == [12, [1, 1, 3], 33, [2, 3, 4]]


def test_definitions_travel_as_data(app: App, tasks: Tasks) -> None:
    flow = diamond(app, tasks)
    again = app.workflow_from(flow.to_dict())
    assert again.to_dict() == flow.to_dict()
    assert again.mermaid() == flow.mermaid()
    run = again.start()
    work(app)
    assert run.result(0) == 121
    with pytest.raises(ConfigError, match="was read from data"):
        again.step(tasks.one)


def test_a_run_keeps_the_definition_that_it_began_with(app: App, tasks: Tasks) -> None:
    flow = app.workflow("grows")
    first = flow.step(tasks.one, 1)
    run = flow.start()
    flow.step(tasks.add, first)
    later = flow.start()
    work(app)
    assert run.result(0) == 1
    assert later.result(0) == 2


def test_arguments_are_checked_when_the_step_is_added(app: App, tasks: Tasks) -> None:
    flow = app.workflow("w")
    step = flow.step(tasks.one)
    with pytest.raises(TypeError, match="more"):
        flow.step(tasks.add, step, more="x")
    with pytest.raises(TypeError):
        flow.step(tasks.add, step, other=1)
    with pytest.raises(TypeError):
        flow.step(tasks.add)
    with pytest.raises(TypeError, match="runs a task"):
        flow.step(print)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="key="):
        flow.step(tasks.one.using(key="k"))
    with pytest.raises(ConfigError, match="another workflow"):
        app.workflow("v").step(tasks.add, step)
    with pytest.raises(ConfigError, match="another workflow"):
        app.workflow("v").step(tasks.one).after(step)
    with pytest.raises(ConfigError, match="no steps"):
        app.workflow("v").start()
    with pytest.raises(ConfigError, match="two steps 'x'"):
        both = app.workflow("v")
        both.step(tasks.one).named("x")
        both.step(tasks.one).named("x")
        both.start()
    with pytest.raises(ConfigError, match="wait for each other"):
        step.after(flow.step(tasks.add, step))
        flow.start()
    with pytest.raises(TypeError, match="several calls"):
        app.group("ab")
    with pytest.raises(ConfigError, match="at least one"):
        app.chain()
    assert not left(app)


def test_options_belong_to_the_call(app: App, tasks: Tasks, clock: FakeClock) -> None:
    flow = app.workflow("w")
    first = flow.step(tasks.one.using(queue="default", priority=7, headers={"trace": "t"}))
    flow.step(tasks.add.using(delay=60), first)
    run = flow.start()
    record = app.get(run.node("one").id or "")
    assert record is not None
    assert (record.priority, record.headers["trace"]) == (7, "t")
    assert record.headers["correlation_id"] == run.id
    work(app)
    assert run.states() == {"one": "completed", "add": "delayed"}
    assert run.node("one").result(0) == 1
    with pytest.raises(ResultTimeout):
        run.node("add").result(0)
    clock.advance(61)
    work(app)
    assert run.result(0) == 2


def test_a_task_is_retried_by_its_own_options(app: App, tasks: Tasks, clock: FakeClock) -> None:
    tasks.broken = {3}
    run = app.chain((tasks.one, 3), tasks.fragile.using(max_attempts=3, retry_delay=1, jitter=False), tasks.add).start()
    work(app)
    assert run.states()["fragile"] == "delayed"
    tasks.broken = set()
    looked_after(app, clock, run)
    assert run.result(0) == 4


def test_who_asks_for_what_is_not_there(app: App, tasks: Tasks) -> None:
    run = app.chain(tasks.one).start()
    with pytest.raises(UnknownEvent, match="has no step 'two'; there are: one"):
        run.node("two")
    id = tasks.one.enqueue().id
    with pytest.raises(UnknownEvent, match="no record of a run"):
        app.workflows.run(id).states()
    with pytest.raises(UnknownEvent):
        app.workflows.run("x")


def test_two_workers_share_a_run(url: str) -> None:
    config: dict[str, Any] = {} if "://" in url else {"sync": False}
    with App(url, **config) as one, App(url, **config) as other, App(url, **config) as starter:
        both = [Tasks(app) for app in (one, other, starter)]
        run = starter.chord([(both[2].one, number) for number in range(60)], both[2].total).start()
        with working(one, ["default"]), working(other, ["default"]):
            assert run.wait(60)
        assert run.result(0) == sum(range(60))
        assert len([each for tasks in both for each in tasks.ran]) == 61
        assert not left(starter)


def test_following_a_run(app: App, tasks: Tasks) -> None:
    run = app.chain((tasks.one, 1), tasks.add).start()
    seen = []
    for change in run.follow(timeout=60):
        if not seen:
            work(app)
        seen.append((change.name, change.state))
    assert seen[-2:] == [("one", "completed"), ("add", "completed")]
    assert ("add", "waiting") in seen


# ---------------------------------------------------------------- what fails


def test_a_failure_stops_its_branch(app: App, tasks: Tasks) -> None:
    tasks.broken = {1}
    flow = app.workflow("w")
    bad = flow.step(tasks.fragile, 1)
    flow.step(tasks.add, flow.step(tasks.add, bad)).named("after")
    flow.step(tasks.add, flow.step(tasks.one, 2)).named("other")
    run = flow.start()
    work(app)
    assert run.status() == "dead"
    with pytest.raises(TaskFailed, match=r"step 'fragile' of workflow 'w' is dead \(ValueError: 1 is broken"):
        run.result(0)
    with pytest.raises(TaskFailed, match="1 is broken"):
        run.node("fragile").result(0)
    with pytest.raises(ResultMissing, match="was skipped: step 'fragile' failed"):
        run.node("after").result(0)
    assert run.node("other").result(0) == 3
    assert run.states()["add"] == "skipped"
    assert not left(app)


def test_a_failure_may_be_continued_from(app: App, tasks: Tasks) -> None:
    tasks.broken = {1}
    flow = app.workflow("w")
    flow.step(tasks.total, [flow.step(tasks.fragile, 1).on_failure("continue"), flow.step(tasks.one, 2)])
    run = flow.start()
    work(app)
    assert run.result(0) == 2
    assert ("total", [None, 2], 0) in tasks.ran
    assert run.states()["fragile"] == "dead"
    with pytest.raises(TaskFailed, match="1 is broken"):
        run.node("fragile").result(0)


def test_completed_steps_are_undone(app: App, tasks: Tasks) -> None:
    tasks.broken = {9}
    flow = app.workflow("saga")
    book = flow.step(tasks.one, 1).named("book")
    book.undo_by(tasks.note, "unbook", book)
    pay = flow.step(tasks.add, book).named("pay").undo_by(tasks.note, "refund", to="ada")
    flow.step(tasks.fragile, 9).after(pay)
    run = flow.start()
    work(app)
    assert run.status() == "dead"
    assert tasks.ran[-2:] == [("note", "refund", ("to", "ada")), ("note", "unbook", 1)]
    assert run.states()["book.undo"] == "completed"
    assert "n0 -.-> n" in run.mermaid()
    tasks.ran.clear()
    tasks.broken = set()
    assert run.resume()
    work(app)
    assert run.result(0) == 9
    assert tasks.ran == [("one", 1), ("add", 1, 1), ("fragile", 9)]
    assert run.states().get("book.undo") is None


@pytest.mark.parametrize(("size", "way"), [("big", "split"), ("small", "copy"), ("other", "fail")])
def test_a_result_chooses_the_way(app: App, tasks: Tasks, size: str, way: str) -> None:
    flow = app.workflow("w")
    check = flow.step(tasks.one, size).named("check")
    ways = {name: flow.step(tasks.one, name).named(name) for name in ("split", "copy", "fail")}
    check.route({"big": ways["split"], "small": [ways["copy"]]}, otherwise=ways["fail"])
    flow.step(tasks.one, list(ways.values())).named("join")
    again = app.workflow_from(flow.to_dict())
    run = again.start()
    work(app)
    assert run.result(0) == [way if name == way else None for name in ways]
    skipped = next(name for name in ways if name != way)
    with pytest.raises(ResultMissing, match=r"not needed|no result chose it"):
        run.node(skipped).result(0)
    with pytest.raises(TypeError, match="route"):
        check.route([ways["copy"]])  # type: ignore[arg-type]


def test_resuming_a_failed_run(app: App, tasks: Tasks) -> None:
    tasks.broken = {1}
    flow = app.workflow("w")
    flow.step(tasks.total, [flow.step(tasks.fragile, 1), flow.step(tasks.one, 2)])
    run = flow.start()
    work(app)
    assert run.status() == "dead"
    tasks.broken, tasks.ran = set(), []
    assert run.resume()
    assert run.status() == "running"
    work(app)
    assert run.result(0) == 3
    assert tasks.ran == [("fragile", 1), ("total", [1, 2], 0)]
    assert not run.resume()
    assert not run.cancel()


def test_cancelling_and_resuming(app: App, tasks: Tasks) -> None:
    run = app.chain((tasks.one, 1), tasks.add, tasks.add).start()
    assert run.cancel("no more tea")
    work(app)
    assert run.status() == "cancelled"
    with pytest.raises(TaskCancelled, match="no more tea"):
        run.result(0)
    assert set(run.states().values()) == {"cancelled"}
    with pytest.raises(TaskCancelled):
        run.node("one").result(0)
    assert tasks.ran == []
    assert not run.cancel()
    assert run.resume()
    work(app)
    assert run.result(0) == 3
    assert len(tasks.ran) == 3


@pytest.mark.parametrize("how", ["app", "handle", "queue"])
def test_with_the_event_of_a_run_the_run_is_cancelled(how: str, app: App, tasks: Tasks) -> None:
    """Its event ends when the run does: steps that wait do not run on below a cancelled event."""
    run = app.chain((tasks.one, 1), tasks.add).start()
    cancel = {
        "app": lambda: app.cancel(run.id, "no more tea"),
        "handle": lambda: app.handle(run.id).cancel("no more tea"),
        "queue": lambda: app.queue("workflows").cancel(run.id, "no more tea")[0],
    }[how]
    assert cancel() == "requested"
    assert app.store.storage.stats("default").ready == 0
    work(app)
    assert tasks.ran == []
    with pytest.raises(TaskCancelled, match="no more tea"):
        run.result(0)
    assert cancel() == "too late"
    assert run.resume()
    work(app)
    assert run.result(0) == 2


def test_other_events_in_the_queue_of_runs_are_cancelled_like_any(app: App) -> None:
    queue = app.queue("workflows")
    assert queue.cancel([queue.put(1), queue.put(2)]) == ["cancelled", "cancelled"]
    assert app.cancel(queue.put({"task": "eventq.workflow", "kwargs": {}})) == "cancelled"
    assert app.cancel(app.queue("other").put(3)) == "cancelled"
    assert app.cancel("1" * 38 + ".00000") == "unknown"


# ---------------------------------------------------------------- what nobody tells of


def test_steps_that_expire_or_are_deleted_are_found(app: App, tasks: Tasks, clock: FakeClock) -> None:
    expiring = app.chain((tasks.one.using(expires=5), 1), tasks.add).start()
    deleted = app.chain((tasks.one, 2), tasks.add).start()
    by_hand = app.chain((tasks.one, 3), tasks.add).start()
    app.store.storage.edit("default", [deleted.node("one").id or ""], Delete())
    app.cancel(by_hand.node("one").id or "")
    for run in (expiring, deleted, by_hand):
        looked_after(app, clock, run)
    assert [run.states()["one"] for run in (expiring, deleted, by_hand)] == ["expired", "cancelled", "cancelled"]
    assert {run.status() for run in (expiring, deleted, by_hand)} == {"dead"}
    with pytest.raises(TaskFailed, match="its event was deleted"):
        deleted.result(0)


class Failing:
    """Makes a storage fail for good after so many calls, as if its process were dead to the others."""

    CALLS = (
        "put",
        "put_key",
        "claim",
        "settle",
        "take_slot",
        "take_name",
        "replace_name",
        "release_name",
        "scan",
        "edit",
        "get",
        "drop",
    )

    def __init__(self, app: App, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        for name in self.CALLS:
            monkeypatch.setattr(app.store.storage, name, self._failing(getattr(app.store.storage, name)))

    def _failing(self, call: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise StorageError("this storage is gone")
            self.left -= 1
            return call(*args, **kwargs)

        return counted


def pump(app: App) -> None:
    """A worker in this thread, which ends with the first failure of its storage."""
    from eventq.run import Run as TaskRun
    from eventq.run import begin

    storage, engine = app.store.storage, app.workflows.engine
    while True:
        engine.look()
        claims = storage.claim("default", 1)
        if not claims:
            return
        run = begin(app, claims[0], lambda task: None)
        assert isinstance(run, TaskRun)
        outcome = engine.arriving(claims[0], run.call())
        storage.settle(claims[0], outcome)
        engine.arrived(claims[0])


def pump_until_cut_off(app: App, after: int, tasks: Tasks) -> None:
    """A worker whose storage fails for good after so many calls; then what it held goes back."""
    with pytest.MonkeyPatch.context() as patch:
        Failing(app, patch, after)
        try:
            pump(app)
        except StorageError:
            tasks.ran.append(("dead",))
    app.close()


def taken_over(app: App, run: Run, clock: FakeClock, times: int = 20) -> None:
    """Let time pass, and another worker look after the dead and work, until a run has ended."""
    for _ in range(times):
        if run.ready():
            return
        clock.advance(11)
        app.store.storage.recover()
        pump(app)


@pytest.mark.parametrize("after", range(0, 75, 3))
def test_whatever_call_is_the_last_of_a_worker_the_run_completes(
    open_app: OpenApp, clock: FakeClock, after: int
) -> None:
    first, second = open_app(), open_app()
    doomed, other = Tasks(first), Tasks(second)
    run: Run = diamond(second, other).start()
    pump_until_cut_off(first, after, doomed)
    taken_over(second, run, clock)
    assert run.result(0) == 121
    ran = [each for each in doomed.ran + other.ran if each[0] == "total"]
    assert len(ran) <= 2
    assert ran[0] == ("total", [6, 15], 100)
    assert not left(second)


@pytest.mark.parametrize("after", range(0, 30, 2))
def test_whatever_call_is_the_last_of_a_starter_the_run_completes_or_never_was(
    open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    first, second = open_app(), open_app()
    doomed, other = Tasks(first), Tasks(second)
    with monkeypatch.context() as patch:
        Failing(first, patch, after)
        try:
            diamond(first, doomed).start()
        except StorageError:
            assert after == 0
    first.close()
    runs = second.workflows.runs()
    assert len(runs) == (0 if after == 0 else 1)
    for run in runs:
        taken_over(second, run, clock)
        assert run.result(0) == 121
        assert len(other.ran) == 4
