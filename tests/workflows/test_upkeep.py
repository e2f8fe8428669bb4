"""What is left of runs goes, what somebody else did to them is noticed, and tests can run them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tasks.running import until

from eventq import TaskFailed
from eventq.model import Completed, Delete, Released
from eventq.testing import run_until_empty
from eventq.worker import crew
from eventq.workflow import engine as engine_module
from workflows.conftest import OpenApp, Tasks, left, looked_after, work

if TYPE_CHECKING:
    from eventq import App
    from eventq.model import Claimed
    from eventq.testing import FakeClock


def inboxes(app: App) -> list[str]:
    return [queue for queue in app.store.storage.queues() if queue.startswith("run-")]


def test_the_inbox_of_a_failed_run_goes_with_its_record(
    app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SWEEP_INTERVAL", 0.0)
    tasks.broken = {1}
    run = app.chain((tasks.fragile, 1), tasks.add).start()
    work(app)
    work(app)
    assert inboxes(app) == [f"run-{run.id}"]
    assert app.queues() == ["default", "workflows"]
    assert app.store.storage.edit("workflows", [run.id], Delete()) == ["deleted"]
    work(app)
    assert inboxes(app) == []
    assert app.store.storage.names("eventq.run/") == []


def test_another_worker_goes_on_from_the_record(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to a run after somebody else has its state from the record; who stays does not read it again."""
    apps = [open_app(), open_app()]
    both = [Tasks(app) for app in apps]
    run = apps[0].chain((both[0].one, 1), *[both[0].add] * 9).start()
    rebuilt = []
    for number, app in enumerate(apps):
        engine = app.workflows.engine
        monkeypatch.setattr(
            engine, "rebuilt", lambda run, payload, n=number, f=engine.rebuilt: (rebuilt.append(n), f(run, payload))[1]
        )
    for number in (0, 0, 0, 1, 1, 1, 0, 0, 1, 1):
        app = apps[number]
        claimed = app.store.storage.claim("default")[0]
        value = str(len(both[0].ran)).encode()
        outcome = app.workflows.engine.arriving(claimed, Completed(value))
        app.store.storage.settle(claimed, outcome)
        app.workflows.engine.arrived(claimed)
    assert rebuilt == [1, 0, 1]
    assert run.wait(0) or run.wait(5)
    assert run.result(0) == 0


def test_a_late_arrival_of_a_run_that_is_over_changes_nothing(app: App, tasks: Tasks) -> None:
    run = app.chain((tasks.one, 1)).start()
    claimed = app.store.storage.claim("default")[0]
    engine = app.workflows.engine
    outcome = engine.arriving(claimed, Completed(b"7"))
    app.store.storage.settle(claimed, Released())  # as if its worker had died in between
    engine.advance(run.id)
    engine.look()
    assert run.result(0) == 7
    again = app.store.storage.claim("default")[0]
    app.store.storage.settle(again, engine.arriving(again, outcome))
    engine.arrived(again)
    engine.look()
    assert run.result(0) == 7
    assert len(app.workflows.runs()) == 1
    assert inboxes(app) == []


def test_arrivals_that_came_together_are_worked_off_together(app: App, tasks: Tasks) -> None:
    """Whoever looks after one of them takes up both: what is fetched and not worked off would be seen by nobody."""
    app.chord([(tasks.one, 1), (tasks.one, 2)], tasks.total).start()
    storage, engine = app.store.storage, app.workflows.engine
    claims = storage.claim("default", 2)
    outcomes = [engine.arriving(each, Completed(b"1")) for each in claims]
    for claimed, outcome in zip(claims, outcomes, strict=True):
        storage.settle(claimed, outcome)
    engine.arrived(claims[0], later=True)
    engine.catch_up()
    assert storage.stats("default").ready == 1, "the body of the chord"


def test_what_came_with_an_arrival_is_seen_by_who_takes_the_slot_next(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two arrivals in one file, of which the first worker knows one; before it looks again another has the slot."""
    app, other = open_app(), open_app()
    tasks = Tasks(app)
    run = app.chord([(tasks.one, 1), (tasks.one, 2)], tasks.total).start()
    storage, engine = app.store.storage, app.workflows.engine
    claims = storage.claim("default", 2)
    for claimed, outcome in [(each, engine.arriving(each, Completed(b"1"))) for each in claims]:
        storage.settle(claimed, outcome)
    looks, has_ready = [], storage.has_ready

    def look(queue: str) -> bool:
        if not looks:
            other.workflows.engine.advance(run.id)
            looks.append(storage.stats("default").ready)
        return has_ready(queue)

    monkeypatch.setattr(storage, "has_ready", look)
    engine.arrived(claims[0])
    assert looks == [1], "the body of the chord"


@pytest.mark.parametrize("wide", [False, True])
def test_who_goes_on_with_a_chain_looks_for_nothing_else_in_vain(
    wide: bool, app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain has one look at the queue for each step; many at once have their arrivals worked off together."""
    storage, answers = app.store.storage, Counter[tuple[str, int]]()
    claim, advance, advanced = storage.claim, app.workflows.engine.advance, []

    def counted(queue: str, limit: int = 1) -> list[Claimed]:
        found = claim(queue, limit)
        answers[queue, len(found)] += 1
        return found

    for name in ("CATCH_UP_AFTER", "PATIENCE", "SHORT"):  # one thread does it all, however slow this machine is
        monkeypatch.setattr(crew, name, 60.0)
    monkeypatch.setattr(storage, "claim", counted)
    monkeypatch.setattr(app.workflows.engine, "advance", lambda *said: (advanced.append(said), advance(*said))[1])
    flow = app.workflow("flow")
    step = flow.step(tasks.one, 1)
    for _ in range(5 if wide else 39):
        step = flow.step(tasks.add, step)
    if wide:
        flow.step(tasks.total, [flow.step(tasks.one, 1).after(step) for _ in range(33)])
    run = flow.start()
    work(app)
    assert run.result(0) == (33 if wide else 40)
    assert answers["default", 1] == 40
    assert answers["default", 0] < 10
    assert len(advanced) < 20 if wide else len(advanced) >= 40


@pytest.mark.parametrize("own_event", [False, True])
def test_a_run_goes_on_however_many_died_with_what_it_waits_for(
    own_event: bool, open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it begins, or its own event, had crashed twice: a suspect, which waited in the hands of a worker until that
    would run nothing else. And the worker was just holding the event of the run."""
    app = open_app()
    tasks, storage = Tasks(app), app.store.storage
    with monkeypatch.context() as patched:
        patched.setattr(app.workflows.engine, "advance", lambda run: False)
        run = app.chain((tasks.one, 1), tasks.add).start()
    queue = "workflows" if own_event else f"run-{run.id}"
    for _ in range(3):
        clock.advance(11)
        victim = open_app().store.storage
        assert len(victim.claim(queue)) == 1
        victim.abandon()
        until(lambda: (clock.advance(1), storage.recover(), storage.stats(queue).claimed)[-1] == 0, "it is found dead")
    app.queue("other").put(1)
    (running,) = storage.claim("other")
    looked_after(app, clock, run)
    assert run.result(0) == 2
    storage.settle(running, Completed())


def test_who_cannot_have_an_arrival_does_not_ask_for_it_again_and_again(
    app: App, tasks: Tasks, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, and cannot be claimed: the worker looked for it without a pause until it could."""
    run = app.chain((tasks.one, 1), tasks.add).start()
    storage, engine = app.store.storage, app.workflows.engine
    (claimed,) = storage.claim("default")
    storage.settle(claimed, engine.arriving(claimed, Completed(b"1")))
    inbox, looks, has_ready = app.queue(f"run-{run.id}"), [], storage.has_ready
    inbox.pause()

    def look(queue: str) -> bool:
        looks.append(queue)
        assert len(looks) < 10
        return has_ready(queue)

    monkeypatch.setattr(storage, "has_ready", look)
    assert not engine.advance(run.id)
    assert len(looks) == 2
    inbox.resume()
    looked_after(app, clock, run)
    assert run.result(0) == 2


def test_foreign_events_do_no_harm(app: App, tasks: Tasks, clock: FakeClock) -> None:
    app.queue("workflows").put({"what": "ever"})
    run = app.chain((tasks.one, 1), tasks.add).start()
    app.queue(f"run-{run.id}").put([1])
    app.queue("default").put({"task": "t.one", "args": [3]}, headers={"eventq.workflow": {"run": 7}})
    about = {"run": "../x", "node": "n", "generation": 1}
    app.queue("default").put({"task": "t.one", "args": [4]}, headers={"eventq.workflow": about})
    looked_after(app, clock, run)
    assert run.result(0) == 2
    assert app.queue("workflows").stats().dead == 1
    assert {("one", 3), ("one", 4)} <= set(tasks.ran)


def test_a_full_queue_is_waited_for(app: App, tasks: Tasks, clock: FakeClock) -> None:
    app.queue("default", maxsize=2)
    run = app.group([(tasks.one, number) for number in range(5)]).start()
    looked_after(app, clock, run)
    assert run.result(0) == [0, 1, 2, 3, 4]
    assert sorted(tasks.ran) == [("one", number) for number in range(5)]
    assert not left(app)


def test_tests_run_workflows_without_workers(app: App, tasks: Tasks) -> None:
    run = app.chord([(tasks.one, 1), (tasks.fragile, 2)], tasks.total).start()
    assert [each.outcome for each in run_until_empty(app)] == ["completed"] * 3
    assert run.result(0) == 3
    tasks.broken = {2}
    with pytest.raises(TaskFailed):
        broken = app.chain((tasks.fragile, 2)).start()
        run_until_empty(app)
        broken.result(0)
