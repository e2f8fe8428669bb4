"""Tasks that are switched off for all processes: their events wait, and cost little meanwhile (Q19)."""

from __future__ import annotations

import asyncio
import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, ConfigError, Context, DisabledTask, StorageError
from eventq.disabled import PREFIX
from eventq.model import PutOptions, State
from eventq.testing import FakeClock, inline, run_until_empty
from eventq.worker.switches import BEAT, HOLD, RATE, Switches
from tasks.conftest import OpenApp
from tasks.running import burst, until, working

if TYPE_CHECKING:
    from eventq import Task


SOON = HOLD + BEAT + 0.1
"""Seconds after which the first of what was given back has come again."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given back comes again at once, nearly."""
    monkeypatch.setattr("eventq.worker.switches.HOLD", 0.02)
    monkeypatch.setattr("eventq.worker.switches.BEAT", 0.02)


class Noting:
    """A task that notes what it ran with; broken, it fails."""

    def __init__(self, app: App, name: str = "w", **options: Any) -> None:
        self.ran: list[tuple[int, int]] = []
        self.broken = False

        @app.task(name=name, bind=True, **options)
        def task(context: Context, number: int = 0) -> int:
            self.ran.append((number, context.attempt))
            if self.broken:
                raise ValueError("broken")
            return number

        self.task: Task[..., int] = task


def record_of(app: App, id: str) -> Any:
    found = app.get(id)
    assert found is not None
    return found


def released(app: App, id: str) -> bool:
    """Whether an event has been given back."""
    return any(each.outcome == "released" for each in record_of(app, id).attempts)


# ---------------------------------------------------------------- switching


def test_who_when_and_why(frozen: App, clock: FakeClock) -> None:
    task = Noting(frozen).task
    assert frozen.disabled() == []
    assert frozen.disable(task, "too many mails", by="ada") is True
    assert frozen.disable("another.one") is True
    [other, about] = frozen.disabled()
    assert (about.task, about.by, about.reason) == ("w", "ada", "too many mails")
    assert abs(about.since.timestamp() - clock.now()) < 1
    assert other.by.startswith("process ")
    assert frozen.disable("w", "another reason") is False
    assert frozen.disabled()[1].reason == "too many mails"
    assert [frozen.enable(task), frozen.enable("w")] == [True, False]
    assert [each.task for each in frozen.disabled()] == ["another.one"]
    assert frozen.names() == [], "these names are not the program's"


def test_awaited(app: App) -> None:
    async def main() -> None:
        assert await app.aio.disable("w", "why", by="ada")
        [about] = await app.aio.disabled()
        assert (about.task, about.by, about.reason) == ("w", "ada", "why")
        assert await app.aio.enable("w")

    asyncio.run(main())


def test_wrong_use_is_an_error(app: App) -> None:
    with pytest.raises(ConfigError, match="name of a task is empty"):
        app.disable("")
    with pytest.raises(TypeError, match="name of a task is a text"):
        app.enable(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="by= is empty"):
        app.disable("w", by="")
    assert app.disabled() == []


def test_one_that_was_taken_by_hand_counts(frozen: App) -> None:
    noting = Noting(frozen)
    frozen.store.storage.take_name(PREFIX + "w", b'["of another version"]')
    noting.task.enqueue()
    burst(frozen)
    assert noting.ran == []
    [about] = frozen.disabled()
    assert about == DisabledTask("w", about.since, f"worker {frozen.store.storage.worker}", "")


# ---------------------------------------------------------------- what waits


def test_calls_wait_and_run_once_it_is_on_again(frozen: App, clock: FakeClock) -> None:
    noting, other = Noting(frozen), Noting(frozen, "other")
    handles = [noting.task.enqueue(number) for number in range(5)]
    frozen.disable(noting.task)
    handles += [noting.task.enqueue(number) for number in range(5, 10)]
    other.task.enqueue(1)
    burst(frozen)
    assert (noting.ran, other.ran) == ([], [(1, 1)]), "a burst ends, and others are not held up"
    assert {record_of(frozen, handle.id).state for handle in handles} == {State.DELAYED}
    for _ in range(3):
        clock.advance(60)
        burst(frozen)
    assert noting.ran == []
    assert {record_of(frozen, handle.id).failures for handle in handles} == {0}
    frozen.enable("w")
    clock.advance(SOON)
    burst(frozen)
    assert noting.ran == [(number, 1) for number in range(10)], "no attempt was counted"


def test_a_retry_that_is_due_waits_as_well(frozen: App, clock: FakeClock) -> None:
    noting = Noting(frozen, max_attempts=2, retry_delay=10, jitter=False)
    noting.broken = True
    handle = noting.task.enqueue(7)
    burst(frozen)
    assert noting.ran == [(7, 1)]
    frozen.disable("w")
    clock.advance(11)
    burst(frozen)
    assert noting.ran == [(7, 1)]
    assert (record_of(frozen, handle.id).state, record_of(frozen, handle.id).failures) == (State.DELAYED, 1)
    frozen.enable("w")
    clock.advance(SOON)
    noting.broken = False
    burst(frozen)
    assert noting.ran == [(7, 1), (7, 2)]
    assert handle.result(0) == 7


def test_an_expiry_holds_meanwhile(frozen: App, clock: FakeClock) -> None:
    noting = Noting(frozen)
    handle = noting.task.using(expires=30).enqueue()
    frozen.disable("w")
    burst(frozen)
    clock.advance(31)
    burst(frozen)
    assert handle.status() == "expired"
    assert noting.ran == []


def test_nothing_of_it_is_rejected(frozen: App) -> None:
    """Who mends the code must find the calls."""
    Noting(frozen)
    frozen.disable("w")
    frozen.store.storage.put("default", (json.dumps({"task": "w", "args": ["no number"]}).encode(),), PutOptions())
    burst(frozen)
    stats = frozen.queue("default").stats()
    assert (stats.delayed, stats.dead) == (1, 0)


@pytest.mark.usefixtures("soon")
def test_a_call_for_one_worker_waits_in_its_inbox(app: App) -> None:
    noting = Noting(app)
    with working(app) as serving:
        app.disable("w")
        until(lambda: is_off(serving.worker, "w"))
        handle = noting.task.using(worker=serving.worker.id).enqueue(3)
        until(lambda: released(app, handle.id), "it is given back")
        app.enable("w")
        assert handle.result(timeout=20) == 3


# ---------------------------------------------------------------- workers that run


def is_off(worker: Any, task: str) -> bool:
    """Whether a running worker knows that a task is off."""
    return worker._control.switches.hold(task) is not None


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_a_running_worker_learns_it_with_its_next_look(app: App, open_app: OpenApp, executor: Any) -> None:
    noting, elsewhere = Noting(app), open_app()
    with working(app, executor=executor) as serving:
        assert noting.task.enqueue(1).result(timeout=20) == 1
        elsewhere.disable("w", "from another process")
        until(lambda: is_off(serving.worker, "w"))
        handle = noting.task.enqueue(2)
        until(lambda: released(app, handle.id), "it is given back")
        assert noting.ran == [(1, 1)]
        elsewhere.enable("w")
        assert handle.result(timeout=20) == 2
    assert noting.ran == [(1, 1), (2, 1)]


def test_a_worker_looks_before_it_claims(frozen: App, open_app: OpenApp, clock: FakeClock) -> None:
    """However short it lives."""
    noting = Noting(frozen)
    noting.task.enqueue()
    open_app(clock=clock).disable("w")
    for _ in range(5):
        assert frozen.worker(max_tasks=1).run(burst=True) == 0
        clock.advance(5)
    assert noting.ran == []


def test_a_storage_that_fails_is_asked_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    Noting(app)
    app.disable("w")
    real, failed = app.store.storage.get_names, []

    def get_names(names: Any) -> Any:
        if len(failed) < 2:
            failed.append(names)
            raise StorageError("out of order")
        return real(names)

    monkeypatch.setattr(app.store.storage, "get_names", get_names)
    with working(app) as serving:
        until(lambda: is_off(serving.worker, "w"))
    assert len(failed) == 2


# ---------------------------------------------------------------- what it costs


def test_however_many_wait_few_come_back_in_a_second(frozen: App, clock: FakeClock) -> None:
    noting = Noting(frozen)
    noting.task.enqueue_many([(number,) for number in range(500)])
    frozen.disable("w")
    worker = frozen.worker(concurrency=1)
    worker.run(burst=True)
    dues = sorted(each.due or 0.0 for each in frozen.queue("default").scan("delayed", limit=1000).records)
    assert len(dues) == 500
    assert dues[0] - clock.now() >= HOLD - 0.01
    assert all(later - first >= 1 - 0.01 for first, later in zip(dues, dues[int(RATE) :], strict=False))
    assert math.isfinite(dues[-1])


def test_they_come_back_together(frozen: App, clock: FakeClock) -> None:
    Noting(frozen)
    frozen.disable("w")
    switches = Switches(frozen)
    switches.look()
    start = clock.monotonic()
    back = []
    for _ in range(600):
        back.append(clock.monotonic() + (switches.hold("w") or 0.0))
        clock.advance(0.001)
    assert {round(at / BEAT, 6) % 1 for at in back} == {0.0}
    assert start + HOLD <= back[0] <= start + HOLD + BEAT
    assert max(back.count(at) for at in back) <= RATE * BEAT + 1


def test_places_in_time(frozen: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventq.worker.switches.BEAT", 1e-6)
    for task in "ab":
        Noting(frozen, task)
        frozen.disable(task)
    switches = Switches(frozen)
    assert switches.hold("a") is None, "nobody has looked yet"
    switches.look()
    first, second, other = switches.hold("a"), switches.hold("a"), switches.hold("b")
    assert (first, other) == (about(HOLD), about(HOLD))
    assert second == about(HOLD + 1 / RATE)
    for _ in range(1000):
        switches.hold("a")
    assert switches.hold("a") == about(HOLD + 1002 / RATE)
    frozen.enable("a")
    switches.look()
    assert switches.hold("a") is None
    frozen.disable("a")
    switches.look()
    assert switches.hold("a") == about(HOLD), "those of the time before do not count"


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=1e-5)


def test_a_slow_storage_gets_them_back_more_slowly(frozen: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a burst, which gives back no faster than they come, would never end."""
    monkeypatch.setattr("eventq.worker.switches.BEAT", 1e-6)
    Noting(frozen)
    frozen.disable("w")
    switches = Switches(frozen)
    switches.look()
    switches.hold("w")
    switches.took(0.02)
    assert switches.hold("w") == about(HOLD + 0.08)
    switches.took(0.0001)
    assert switches.hold("w") == about(HOLD + 0.08 + 1 / RATE)


# ---------------------------------------------------------------- schedules, tests, workflows


def test_a_schedule_puts_no_runs_and_goes_on(frozen: App, clock: FakeClock) -> None:
    noting = Noting(frozen)
    frozen.schedules.add("often", noting.task, 7, every=60, missed="all")
    frozen.disable("w")
    for _ in range(3):
        clock.advance(60)
        burst(frozen)
    assert frozen.queue("default").stats() == frozen.queue("nothing").stats()
    frozen.enable("w")
    burst(frozen)
    assert noting.ran == [], "what was missed meanwhile is not made up for"
    clock.advance(60)
    burst(frozen)
    assert noting.ran == [(7, 1)]


def test_a_run_that_is_asked_for_waits(frozen: App, clock: FakeClock) -> None:
    noting = Noting(frozen)
    frozen.schedules.add("often", noting.task, 7, every=3600)
    frozen.disable("w")
    frozen.schedules.run("often")
    burst(frozen)
    assert noting.ran == []
    frozen.enable("w")
    clock.advance(SOON)
    burst(frozen)
    assert noting.ran == [(7, 1)]


def test_a_workflow_waits_at_its_step(frozen: App, clock: FakeClock) -> None:
    first, second = Noting(frozen, "first"), Noting(frozen, "second")
    frozen.disable("second")
    run = frozen.chain((first.task, 7), second.task).start()
    burst(frozen)
    assert (run.states(), second.ran) == ({"first": "completed", "second": "delayed"}, [])
    frozen.enable("second")
    clock.advance(SOON)
    burst(frozen)
    assert run.result(0) == 7


def test_the_kit_leaves_it_waiting(frozen: App, clock: FakeClock) -> None:
    noting, other = Noting(frozen), Noting(frozen, "other")
    frozen.disable("w")
    noting.task.enqueue()
    other.task.using(delay=30).enqueue()
    assert [each.task for each in run_until_empty(frozen)] == ["other"]
    with inline(frozen):
        noting.task.enqueue()
    assert noting.ran == []
    frozen.enable("w")
    assert len(run_until_empty(frozen)) == 2
    assert len(noting.ran) == 2


def test_disabled_since_is_aware(app: App) -> None:
    app.disable("w")
    assert app.disabled()[0].since.utcoffset() == timedelta(0)
