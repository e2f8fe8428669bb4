"""Steps that become ready together are put together, with one key: cheaply, and as safely as one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventq.errors import StorageError
from eventq.model import Claimed, Completed, Outcome, Requeue
from eventq.workflow import steps as steps_module
from workflows.conftest import OpenApp, Tasks, left, looked_after, work

if TYPE_CHECKING:
    from eventq import App
    from eventq.testing import FakeClock


@pytest.fixture
def puts(app: App, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each put had, of those into the queue of the tasks."""
    counted: list[int] = []
    storage = app.store.storage
    real = storage.put

    def put(queue: str, payloads: Any, options: Any) -> list[str]:
        if queue == "default":
            counted.append(len(payloads))
        return real(queue, payloads, options)

    monkeypatch.setattr(storage, "put", put)
    return counted


def test_steps_that_start_together_are_put_together(
    app: App, tasks: Tasks, puts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "GROUP", 4)
    run = app.chord([(tasks.one, number) for number in range(10)], tasks.total).start()
    assert puts == [4, 4, 2]
    assert len(set(run.ids().values())) == 10
    work(app)
    assert run.result(0) == 45
    assert puts == [4, 4, 2, 1]
    assert sorted(tasks.ran)[:10] == [("one", number) for number in range(10)]
    assert [run.node(f"one-{number}").result(0) for number in range(2, 11)] == list(range(1, 10))
    assert not left(app)


def test_steps_that_wait_for_one_alone_are_put_together(app: App, tasks: Tasks, puts: list[int]) -> None:
    flow = app.workflow("fan")
    first, other = flow.step(tasks.one, 1), flow.step(tasks.one, 2)
    for number in range(3):
        flow.step(tasks.add, number).after(first)
    flow.step(tasks.add, 3).after(first, other)
    flow.step(tasks.add.using(priority=1), 4).after(first)
    run = flow.start()
    work(app)
    assert run.status() == "completed"
    assert sorted(puts) == [1, 1, 2, 3]
    assert sorted(tasks.ran) == [("add", number, 1) for number in range(5)] + [("one", 1), ("one", 2)]


def test_who_dies_before_it_is_recorded_has_put_nothing_twice(
    app: App, tasks: Tasks, open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = app.store.storage
    real = storage.settle

    def settle(claimed: Claimed, outcome: Outcome) -> None:
        if claimed.queue.startswith("run-") and isinstance(outcome, Completed):
            raise StorageError("the disk is away")
        real(claimed, outcome)

    monkeypatch.setattr(storage, "settle", settle)
    run = app.chord([(tasks.one, number) for number in range(10)], tasks.total).start()
    assert storage.stats("default").ready == 10
    monkeypatch.undo()
    other = open_app()
    Tasks(other)
    clock.advance(2)
    other.workflows.engine.advance(run.id)
    assert storage.stats("default").ready == 10
    looked_after(app, clock, run)
    assert run.result(0) == 45
    assert sorted(tasks.ran)[:10] == [("one", number) for number in range(10)]


def test_a_step_that_is_put_again_by_hand_is_no_other_step(app: App, tasks: Tasks) -> None:
    run = app.chord([(tasks.one, number) for number in range(3)], tasks.total).start()
    storage, engine = app.store.storage, app.workflows.engine

    def ends(claimed: Claimed, value: bytes) -> None:
        storage.settle(claimed, engine.arriving(claimed, Completed(value)))
        engine.arrived(claimed)

    first, second, third = storage.claim("default", 3)
    ends(third, b"2")
    storage.edit("default", [third.id], Requeue())
    (copy,) = storage.claim("default")  # which has the index of the first one, in a put of its own
    assert copy.payload == third.payload
    ends(copy, b"2")
    ends(first, b"0")
    ends(second, b"1")
    work(app)
    assert run.result(0) == 3
    assert tasks.ran == [("total", [0, 1, 2], 0)]
