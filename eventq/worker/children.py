"""Runs in child processes: what the worker orders, what the child makes of it, and what the answer leads to."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call
from eventq.capture import Output, noted
from eventq.child import Order, Raised, Returned
from eventq.claim import Claim, current, pack_note
from eventq.clock import SYSTEM
from eventq.context import Context
from eventq.errors import RunFailed, TaskTimeout
from eventq.model import Claimed, Failure, Released
from eventq.process import Cancelled, Died, Oversight, TimedOut
from eventq.run import STOPPED, TIMED_OUT, options_of
from eventq.stream import YIELDED, end_note, yielded_note
from eventq.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.app import App
    from eventq.child import Report
    from eventq.model import Outcome
    from eventq.process import Children
    from eventq.run import Run

TERMINATED = "killed by SIGTERM"
"""How a child dies when whoever stops a whole service stops the worker's children, too."""

# ---------------------------------------------------------------- in the worker


def run_apart(run: Run, children: Children, is_stopping: Callable[[], bool]) -> Outcome:
    """Have a child run the function, and say what that leads to. Blocks until it has ended, or was ended."""
    output = Output(noted(run.claim), SYSTEM)
    try:
        run.ask_before_run()
        answer = children.run(order_of(run), oversight_of(run, output))
    except Exception as error:  # noqa: BLE001 - of a hook that refused, or of a storage that took no note
        return run.raised(error)
    finally:
        output.end()
        run.tell_after_run()
    if isinstance(answer, Returned):
        return run.returned_data(answer.value)
    if isinstance(answer, TimedOut) or (isinstance(answer, Cancelled) and run.stopped == TIMED_OUT):
        return run.raised(TaskTimeout(f"the run took longer than {run.options.timeout} s, and its process was killed"))
    if isinstance(answer, Cancelled):
        return Released() if run.stopped == STOPPED else run.cancelled()
    if isinstance(answer, Raised):
        return run.failed(RunFailed(answer.failure, answer.bases, answer.delay), answer.failure)
    if isinstance(answer, Died) and not (is_stopping() and answer.how == TERMINATED):
        failure = Failure("WorkerDied", f"its process {'died' if answer.began else 'could not start'}: {answer.how}")
        return run.failed(RunFailed(failure), failure)
    return Released()


def order_of(run: Run) -> Order:
    """What a child is told of a run."""
    function, claimed = run.task.function, run.claimed
    assert function is not None
    left = run.context.remaining()
    return Order(
        target=f"{function.__module__}:{function.__qualname__}",
        task=run.task.name,
        payload=claimed.payload,
        codec=claimed.codec,
        id=claimed.id,
        queue=claimed.queue,
        attempt=run.context.attempt,
        headers=claimed.headers,
        deadline=None if left is None else SYSTEM.monotonic() + left,
        capture=run.options.capture,
    )


def oversight_of(run: Run, output: Output) -> Oversight:
    """How the worker watches over the child."""
    storage, claimed = run.task.app.store.storage, run.claimed

    def note(kind: str, data: bytes) -> None:
        storage.note(claimed, kind, data)

    left = run.context.remaining()
    return Oversight(
        deadline=None if left is None else SYSTEM.monotonic() + left,
        cancelled=lambda: claimed.cancelled or bool(run.stopped),
        on_note=note,
        on_output=lambda stream, text: output.add("stderr" if stream == "stderr" else "stdout", text),
    )


# ---------------------------------------------------------------- in the child


class ChildContext(Context):
    """The context of a run in a process of its own: that is killed when it is cancelled, so nobody has to ask."""

    __slots__ = ("report",)

    def __init__(self, app: App, task: str, report: Report, **rest: Any) -> None:
        super().__init__(app, task, **rest)
        self.report: Report = report

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        self.report.note("progress", pack_note({"done": done, "total": total, "note": note}))


def run_in_child(order: Order, target: Any, report: Report) -> bytes | None:
    """Carry out an order: the encoded result, or None if none is to be kept. What it raises is the run's failure."""
    task = target if isinstance(target, Task) else None
    if task is None or task.arguments is None:
        raise TypeError(
            f"{order.target} is no task where it stands, so a child process does not find {order.task}; let "
            "@app.task be its outermost decorator"
        )
    store = task.app.store
    call: Call = store.load(order.payload, order.codec, Call)
    args, kwargs = task.arguments.unpack(call)
    claimed = Claimed(
        order.id, order.queue, order.payload, order.codec, order.headers, 0, order.attempt - 1, 0, None, None, None
    )
    options = options_of(task, claimed)
    context = ChildContext(
        task.app,
        task.name,
        report,
        id=order.id,
        attempt=order.attempt,
        headers=order.headers,
        deadline=order.deadline,
    )
    token = current.set(Claim(store, claimed, call))  # what the function puts carries the headers on
    try:
        function = task.function
        assert function is not None
        value = function(*((context,) if options.bind else ()), *args, **kwargs)
        if inspect.isgenerator(value):
            value = _drained(task, value, context)
    finally:
        current.reset(token)
    return task.pack_result(value) if options.result else None


def _drained(task: Task[Any, Any], values: Any, context: ChildContext) -> Any:
    """Report what a generator yields; what it returns."""
    assert task.arguments is not None
    codec, number = task.app.store.codec, 0
    encode = msgspec.json.encode
    while True:
        try:
            value = next(values)
        except StopIteration as end:
            context.report.note(YIELDED, encode(end_note(context.attempt, number)))
            return end.value
        note = yielded_note(codec, context.attempt, number, value, task.arguments.yields)
        context.report.note(YIELDED, encode(note))
        number += 1
