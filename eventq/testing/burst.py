"""Running tasks in the test itself: until nothing is left, or each at once when it is enqueued.

Both go the way of a worker: the call is encoded and stored, claimed, decoded, run with its context, hooks and captured
output, and settled by the storage. Only nobody waits: a sync function runs in the test's own thread, a coroutine on an
event loop beside it, and between two runs a `FakeClock` is moved to the next moment at which something is due.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.capture import Capturing
from eventq.clock import SYSTEM
from eventq.middleware import HOOKS, Hooks
from eventq.model import Completed, Dropped, Rejected, Released, Retried, Skipped, State
from eventq.notifications.record import notify_end
from eventq.run import TIMED_OUT, Run, asked_in, asked_of, begin
from eventq.testing.calls import records
from eventq.testing.clock import FakeClock
from eventq.worker.loop import Loop
from eventq.worker.switches import Switches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from eventq.app import App
    from eventq.model import Claimed, Outcome

HANGS = 1.0
"""Real seconds after which a coroutine with a timeout is taken to hang: a `FakeClock` is moved to its deadline."""
PATIENCE = 60.0
"""Real seconds after which a coroutine that does not end is an error."""
LOOK = 0.005
"""Real seconds between two looks at the deadline of a coroutine."""


class Ran(msgspec.Struct, frozen=True):
    """One run of a task."""

    task: str
    id: str
    """Of its event."""
    attempt: int
    outcome: str
    """`completed`, `failed` (it runs again), or the state in which the event ended: `dead`, `cancelled`; `released` and
    `skipped` for what goes back."""
    error: BaseException | None = None
    """What the function raised, itself."""


def run_until_empty(app: App, queues: Iterable[str] | None = None, *, limit: int = 1000) -> list[Ran]:
    """Run all that waits, what that enqueues, and so on, in this thread; what ran, in order.

    With a `FakeClock` this includes what is delayed, will be retried, or waits for its rate: whenever nothing is due,
    the clock is moved to the next moment at which something is. With a real clock, what is not due stays. `queues` are
    those of the tasks that are defined in the app, unless said; earlier ones go first. A coroutine that has a timeout
    and hangs is timed out after one real second; a sync function must end by itself.

    Raises RuntimeError after `limit` runs: then, probably, something enqueues itself for ever.
    """
    ran: list[Ran] = []
    names, off = list(app.worker(queues).queues), Off(app)
    with _watched(app) as hooks:
        waited = 0.0
        while True:
            for each in _due_now(app, names, hooks, off):
                waited = 0.0
                ran.append(each)
                if len(ran) >= limit:
                    raise RuntimeError(
                        f"{limit} runs, and maybe more to do; the last was of {each.task}. Say limit= if that is meant"
                    )
            moved = _advance(app, names, waited, off)
            if not moved:
                return ran
            waited += moved


@contextmanager
def inline(app: App, *, raises: bool = True) -> Iterator[list[Ran]]:
    """Run each call at once when it is enqueued: `with inline(app): signup("ann")`. Gives the list of what ran.

    `enqueue` returns when the run is settled, so `handle.result(0)` has its value. A call that is not due (`delay=`) is
    stored and stays, and so does one to be retried. With `raises`, an error in a task is raised by the `enqueue` that
    ran it, after it was settled; otherwise it is kept, as a worker does: `handle.result(0)` raises TaskFailed.

    Also what others have put into the queue of the call runs then, as far as it is due. For one thread.
    """
    ran: list[Ran] = []
    off = Off(app)

    def run(queue: str) -> None:
        for each in _due_now(app, [queue], hooks, off):
            ran.append(each)
            if raises and each.error is not None:
                raise each.error

    with _watched(app, run) as hooks:
        yield ran


class WatchingHooks(Hooks):
    """The hooks of an app, which besides keep the errors of runs, and run what was enqueued."""

    def __init__(self, hooks: Hooks, run: Callable[[str], None] | None) -> None:
        super().__init__()
        for name in HOOKS:
            setattr(self, name, getattr(hooks, name))
        self.errors: dict[str, BaseException] = {}
        """What the run of an event has raised, by its id, until somebody takes it."""
        self._run = run
        if run is not None:  # so that it is told in any case
            self.after_enqueue: tuple[Callable[..., object], ...] = (*self.after_enqueue, nothing)

    def tell(self, name: str, *about: Any, also: Callable[..., object] | None = None) -> None:
        """As of `Hooks`."""
        super().tell(name, *about, also=also)
        if name in ("on_retry", "on_failure"):
            self.errors[about[0].id] = about[1]
        elif name == "after_enqueue" and self._run is not None:
            self._run(about[0].options.queue)


def nothing(*_about: object) -> None:
    """A hook that does nothing."""


@contextmanager
def _watched(app: App, run: Callable[[str], None] | None = None) -> Iterator[WatchingHooks]:
    """Watch what runs; hooks that are added meanwhile stay."""
    before = app.hooks
    hooks = app.hooks = WatchingHooks(before, run)
    try:
        with Capturing():
            yield hooks
    finally:
        for name in HOOKS:
            setattr(before, name, tuple(each for each in getattr(hooks, name) if each is not nothing))
        app.hooks = before


# ---------------------------------------------------------------- one run after the other


class Off(Switches):
    """The tasks that are switched off, and the events that wait for that: nothing moves the clock for them."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self.held: set[str] = set()
        """The ids of the events."""


def _due_now(app: App, queues: list[str], hooks: WatchingHooks, off: Off) -> Iterator[Ran]:
    """Run what is due, as long as there is something."""
    storage = app.store.storage
    while True:
        storage.recover()
        off.look()
        for queue in queues:
            if claimed := storage.claim(queue, 1):
                break
        else:
            return
        ran = _run(app, claimed[0], hooks, off)
        if ran is not None:
            yield ran


def _run(app: App, claimed: Claimed, hooks: WatchingHooks, off: Off) -> Ran | None:
    """Run one event and settle it; None if it cannot be run here, or its task is switched off."""
    run = begin(app, claimed, off.hold)
    if not isinstance(run, Run):
        if isinstance(run, Released):
            off.held.add(claimed.id)
        elif not isinstance(run, Skipped) and (asked := asked_in(app, claimed)) is not None:
            notify_end(app.store, asked.user, "task", asked.task, claimed, run)
        app.store.storage.settle(claimed, run)
        return None
    off.held.discard(claimed.id)
    outcome = _on_a_loop(run) if run.task.on_loop else run.call()
    if (asked := asked_of(run)) is not None:
        notify_end(app.store, asked.user, "task", asked.task, claimed, outcome)
    app.store.storage.settle(claimed, app.workflows.engine.arriving(claimed, outcome))
    app.workflows.engine.arrived(claimed)
    return Ran(run.task.name, claimed.id, run.context.attempt, _word(outcome), hooks.errors.pop(claimed.id, None))


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Completed):
        return State.COMPLETED.value
    if isinstance(outcome, Retried):
        return "failed"
    if isinstance(outcome, Rejected):
        return State.DEAD.value
    if isinstance(outcome, Dropped):
        return outcome.state.value
    return type(outcome).__name__.lower()


def _on_a_loop(run: Run) -> Outcome:
    """Run a coroutine on a loop of its own: one that enqueues inline may wait for another."""
    finished = threading.Event()
    loop = Loop(finished.set)
    loop.submit(run)
    loop.hand_over()
    try:
        _wait(run, loop, finished)
    finally:
        loop.stop()
    done = loop.take_finished()
    assert done is not None
    run.keep_output()
    return done[1]


def _wait(run: Run, loop: Loop, finished: threading.Event) -> None:
    """Until the coroutine has ended, or is out of time by the app's clock."""
    clock, deadline = run.task.app.store.clock, run.context.deadline_at
    began = SYSTEM.monotonic()
    while not finished.wait(LOOK):
        passed = SYSTEM.monotonic() - began
        if passed >= PATIENCE:
            raise RuntimeError(f"a run of {run.task.name} has not ended after {PATIENCE:g} s; give it a timeout")
        if deadline is None or run.stopped:
            continue
        if passed >= HANGS and isinstance(clock, FakeClock):
            clock.advance(max(0.0, deadline - clock.monotonic()))
        if clock.monotonic() >= deadline:
            run.stopped = TIMED_OUT
            loop.cancel(run)


def _advance(app: App, queues: list[str], waited: float, off: Off) -> float:
    """Move a FakeClock to the next moment at which something is due, or a rate may let something start; by how many
    seconds, 0 if there is no such moment. `waited`: seconds moved since something ran."""
    clock = app.store.clock
    if not isinstance(clock, FakeClock):
        return 0.0
    delayed = records(app, (State.DELAYED,), queues)
    steps = [
        max(0.0, record.due - clock.now()) for record in delayed if record.due is not None and record.id not in off.held
    ]
    periods = [seconds for record in records(app, (State.READY,), queues) for _, seconds in record.rates.values()]
    if periods and waited <= max(periods):  # longer, and something else holds it
        steps.append(app.store.storage.recover())
    if not steps:
        return 0.0
    step = min(steps) + MOMENT
    clock.advance(step)
    return step


MOMENT = 0.001
"""Seconds beyond the due time: storages may round it."""
