"""How many runs of one kind are started within a time, over all workers."""

from __future__ import annotations

from eventq import App
from eventq.testing import FakeClock
from tasks.conftest import OpenApp
from tasks.running import burst


def mail(number: int) -> int:
    return number


def test_of_a_task(frozen: App, clock: FakeClock) -> None:
    task = frozen.task(name="mail", rates={"smtp": (2, 60.0)})(mail)
    handles = [task.enqueue(number) for number in range(5)]

    def done() -> list[int]:
        burst(frozen)
        return [handle.result(0) for handle in handles if handle.ready()]

    assert done() == [0, 1]
    clock.advance(59.9)
    assert done() == [0, 1]
    clock.advance(0.2)
    assert done() == [0, 1, 2, 3]
    clock.advance(60.1)
    assert done() == [0, 1, 2, 3, 4]


def test_of_a_task_in_several_workers(open_app: OpenApp, clock: FakeClock) -> None:
    apps = [open_app(clock=clock), open_app(clock=clock)]
    ran: list[int] = []
    tasks = [app.task(name="mail", rates={"smtp": (2, 60.0)})(ran.append) for app in apps]
    for number in range(5):
        tasks[number % 2].enqueue(number)
    for most in (2, 4, 5):
        for app in apps:
            burst(app, concurrency=4)
        assert len(ran) == most
        clock.advance(60.1)
    assert sorted(ran) == list(range(5))


def test_of_calls(frozen: App, clock: FakeClock) -> None:
    """Each name has its own; what gives none is not held up."""
    task = frozen.task(name="mail")(mail)
    slow = [task.using(rates={f"customer:{number % 2}": (1, 60.0)}).enqueue(number) for number in range(4)]
    free = [task.enqueue(number) for number in range(4)]
    burst(frozen)
    assert [handle.ready() for handle in slow] == [True, True, False, False]
    assert all(handle.ready() for handle in free)
    clock.advance(60.1)
    burst(frozen)
    assert all(handle.ready() for handle in slow)
