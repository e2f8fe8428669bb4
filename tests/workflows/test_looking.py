"""Looking at a run while it changes: each interleaving is forced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tasks.running import PATIENCE

from eventq import ResultTimeout, TaskFailed, UnknownEvent
from eventq.claim import failure_of
from eventq.handle import Handle
from eventq.model import Completed, Delete, Progress, Rejected
from eventq.workflow import Change, RunProgress
from eventq.workflow import handle as handle_module
from workflows.conftest import Tasks, work

if TYPE_CHECKING:
    from eventq import App
    from eventq.model import Claimed, Outcome
    from eventq.workflow import Run


def claimed_step(app: App) -> Claimed:
    return app.store.storage.claim("default")[0]


def arrived(app: App, run: Run, claimed: Claimed, outcome: Outcome) -> Outcome:
    """As far as a worker comes before it settles the event of a step; somebody else works its arrival off."""
    settling = app.workflows.engine.arriving(claimed, outcome)
    app.workflows.engine.advance(run.id)
    app.workflows.engine.look()
    return settling


def test_a_run_may_end_before_the_event_of_its_last_step_is_settled(
    app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then who waits for the step's result got ResultTimeout at once, however long he would have waited."""
    run = app.chain(tasks.one).start()
    claimed = claimed_step(app)
    outcome = arrived(app, run, claimed, Completed(b"7"))
    assert run.result(0) == 7
    with pytest.raises(ResultTimeout):
        run.node("one").result(0)
    waited = []

    def settle_meanwhile(handle: Handle[Any], timeout: float | None) -> bool:
        waited.append(handle.id)
        app.store.storage.settle(claimed, outcome)
        return True

    monkeypatch.setattr(handle_module.Handle, "wait", settle_meanwhile)
    assert run.node("one").result(PATIENCE) == 7
    assert waited == [claimed.id]


def test_who_awaits_a_step_waits_for_its_event_as_well(app: App, tasks: Tasks) -> None:
    run = app.chain(tasks.one).start()
    claimed = claimed_step(app)
    outcome = arrived(app, run, claimed, Completed(b"7"))

    async def main() -> Any:
        waiting = asyncio.ensure_future(run.node("one").aio.result(PATIENCE))
        with pytest.raises(ResultTimeout):
            await run.node("one").aio.result(0)
        assert not waiting.done()
        app.store.storage.settle(claimed, outcome)
        return await waiting

    assert asyncio.run(main()) == 7


@pytest.mark.parametrize("outcome", [Completed(b"7"), Rejected(failure_of("it broke"))])
def test_a_step_has_ended_with_its_event_though_nobody_has_worked_its_arrival_off(
    app: App, tasks: Tasks, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = app.chain(tasks.one, tasks.add).start()
    claimed = claimed_step(app)
    before = run._view()
    app.store.storage.settle(claimed, app.workflows.engine.arriving(claimed, outcome))
    assert run.node("one").status() == ("completed" if isinstance(outcome, Completed) else "dead")
    monkeypatch.setattr(handle_module, "seen", lambda *about: before)  # its arrival went back during the look
    assert before.status("one") == "open"
    if isinstance(outcome, Completed):
        assert run.node("one").result(0) == 7
    else:
        with pytest.raises(TaskFailed, match="it broke"):
            run.node("one").result(0)


def test_an_inbox_that_goes_during_a_look_is_not_taken_for_an_empty_one(
    app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends after the look has begun, and its inbox is gone when that comes to it."""
    run = app.chain(tasks.one, tasks.add).start()
    assert run.states() == {"one": "ready", "add": "waiting"}
    storage, scan = app.store.storage, app.store.storage.scan

    def ends_first(*about: Any, **named: Any) -> Any:
        monkeypatch.setattr(storage, "scan", scan)
        work(app)
        return scan(*about, **named)

    monkeypatch.setattr(storage, "scan", ends_first)
    assert run.states() == {"one": "completed", "add": "completed"}


def test_a_run_that_is_deleted_during_a_look_is_unknown(
    app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = app.chain(tasks.one).start()
    run.states()
    app.store.storage.edit("workflows", [run.id], Delete())
    with pytest.raises(UnknownEvent, match="no record of a run"):
        run.states()


def test_who_waits_for_a_late_step_waits_for_one_before_it_and_does_not_look_all_the_time(
    app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking twenty times a second, forty who waited left the worker no time on a busy machine."""
    run = app.chain((tasks.one, 1), tasks.add, tasks.add).start()
    storage, waits, looks = app.store.storage, list[str | None](), []
    seen = handle_module.seen
    monkeypatch.setattr(handle_module, "seen", lambda *about: (looks.append(1), seen(*about))[1])

    def wait(handle: Handle[Any], timeout: float | None) -> bool:
        """As long as it takes: each wait sees one step end."""
        record = storage.get(handle.id)
        waits.append(None if record is None else record.headers["eventq.workflow"]["node"])
        claimed = claimed_step(app)
        assert claimed.id == handle.id
        storage.settle(claimed, app.workflows.engine.arriving(claimed, Completed(b"1")))
        app.workflows.engine.arrived(claimed)
        return True

    monkeypatch.setattr(handle_module.Handle, "wait", wait)
    assert run.node("add-2").wait(PATIENCE)
    assert waits == ["one", "add", "add-2"]
    assert len(looks) == 4


def test_a_run_ends_though_its_slot_is_held_for_a_while_when_it_is_looked_after(
    app: App, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a burst ended before the run did: who looked after it gave up after 50 ms."""
    run = app.chain(tasks.one).start()
    claimed = claimed_step(app)
    storage, engine, tries = app.store.storage, app.workflows.engine, []
    storage.settle(claimed, engine.arriving(claimed, Completed(b"7")))
    assert engine.advance(run.id), "its event is due"
    take_slot = storage.take_slot

    def held_for_a_while(name: str, limit: int = 1) -> Any:
        tries.append(name)
        return None if len(tries) < 9 else take_slot(name, limit)

    monkeypatch.setattr(storage, "take_slot", held_for_a_while)
    engine.look()
    assert run.result(0) == 7


# ---------------------------------------------------------------- progress


def test_progress_is_told_of_steps_and_of_the_whole(app: App, tasks: Tasks) -> None:
    flow = app.workflow("w")
    first = flow.step(tasks.one, 1)
    flow.step(tasks.total, [flow.step(tasks.add, first), flow.step(tasks.add, first)])
    run = flow.start()
    assert run.progress() == RunProgress(0, 4, {"ready": 1, "waiting": 3}, 0.0)
    told = run.follow(PATIENCE)
    assert [next(told) for _ in range(4)] == [
        Change("one", "ready"),
        *(Change(name, "waiting") for name in ("add", "add-2", "total")),
    ]
    claimed = claimed_step(app)
    app.store.storage.note(claimed, "output", b'"noise"')
    app.store.storage.note(claimed, "progress", b'{"done":1,"total":4,"note":"a quarter"}')
    assert next(told) == Change("one", "claimed", Progress(1, 4, "a quarter"))
    assert run.progress() == RunProgress(0, 4, {"claimed": 1, "waiting": 3}, 0.0625)
    app.store.storage.note(claimed, "progress", b'{"done":4,"total":4}')
    assert next(told) == Change("one", "claimed", Progress(4, 4))
    app.store.storage.settle(claimed, app.workflows.engine.arriving(claimed, Completed(b"1")))
    app.workflows.engine.arrived(claimed)
    assert next(told) == Change("one", "completed", Progress(4, 4))
    work(app)
    assert {change.name: change.state for change in told} == dict.fromkeys(("add", "add-2", "total"), "completed")
    assert run.progress() == RunProgress(4, 4, {"completed": 4}, 1.0)


def test_what_is_skipped_is_done(app: App, tasks: Tasks) -> None:
    tasks.broken = {1}
    run = app.chain((tasks.fragile, 1), tasks.add).start()
    work(app)
    assert run.progress() == RunProgress(2, 2, {"dead": 1, "skipped": 1}, 1.0)
    assert asyncio.run(run.aio.progress()) == run.progress()
