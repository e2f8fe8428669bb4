"""Which calls of tasks wait in a store, and the assertions about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call
from eventq.errors import PayloadError, UnknownTask
from eventq.model import Filter, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventq.app import App
    from eventq.model import Record
    from eventq.task import Task

EVERYTHING = Filter()


class EnqueuedCall(msgspec.Struct, frozen=True):
    """A call of a task that waits to be run."""

    task: str
    args: list[Any]
    """As the function would get them, if the task is defined in this app; else as plain data."""
    kwargs: dict[str, Any]
    record: Record
    """Its event: queue, priority, headers, due, key ..."""

    @property
    def id(self) -> str:
        """The id of its event."""
        return self.record.id

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.task}({', '.join(given)}) in {self.record.queue}"


def enqueued(app: App, task: Task[Any, Any] | str | None = None) -> list[EnqueuedCall]:
    """The calls that wait, ready or delayed, in the order in which they were enqueued; of one task, or of all.

    Raises UnknownTask for a name that is neither defined in the app nor waits there: a misspelt name must not look like
    a task that nobody enqueues.
    """
    calls = sorted(_calls(app), key=lambda call: call.id)
    if task is None:
        return calls
    name = _name(task)
    found = [call for call in calls if call.task == name]
    if not found and isinstance(task, str) and task not in app.tasks:
        known = ", ".join(sorted(app.tasks)) or "none"
        raise UnknownTask(f"no task {task!r} is defined in this app, and none of this name waits; there are {known}")
    return found


def assert_enqueued(app: App, task: Task[Any, Any] | str, /, *args: Any, **kwargs: Any) -> EnqueuedCall:
    """Assert that such a call waits, and give the oldest such. Without arguments, any call of the task does.

    Arguments are compared as the function would get them, however they are written: `width=64` is the same as the
    second positional argument. Raises AssertionError, which lists the calls that do wait; TypeError if the task could
    not be called so.
    """
    calls = enqueued(app, task)
    found = _matching(app, task, calls, args, kwargs)
    if not found:
        raise AssertionError(f"{_described(task, args, kwargs)} is not enqueued; {_those(calls or enqueued(app))}")
    return found[0]


def assert_not_enqueued(app: App, task: Task[Any, Any] | str, /, *args: Any, **kwargs: Any) -> None:
    """Assert that no such call waits; without arguments, no call of the task at all."""
    calls = enqueued(app, task)
    if _matching(app, task, calls, args, kwargs):
        raise AssertionError(f"{_described(task, args, kwargs)} is enqueued; {_those(calls)}")


# ---------------------------------------------------------------- reading the store


def records(app: App, states: Sequence[State], queues: Sequence[str] | None = None) -> Iterator[Record]:
    """All records of some states, in some or all queues."""
    storage = app.store.storage
    for queue in storage.queues() if queues is None else queues:
        for state in states:
            cursor = None
            while True:
                page = storage.scan(queue, state, EVERYTHING, cursor)
                yield from page.records
                cursor = page.cursor
                if cursor is None:
                    break


def _calls(app: App) -> Iterator[EnqueuedCall]:
    for record in records(app, (State.READY, State.DELAYED)):
        try:
            call: Call = app.store.load(record.payload, record.codec, Call)
        except PayloadError:
            continue  # an event that is no call of a task
        args, kwargs = _unpacked(app, call)
        yield EnqueuedCall(call.task, args, kwargs, record)


def _unpacked(app: App, call: Call) -> tuple[list[Any], dict[str, Any]]:
    task = app.tasks.get(call.task)
    if task is None or task.arguments is None:
        return call.args, call.kwargs
    copy = Call(call.task, list(call.args), dict(call.kwargs))
    try:
        return task.arguments.unpack(copy)
    except TypeError:
        return call.args, call.kwargs  # such a call was stored by other code; seen as it is


# ---------------------------------------------------------------- comparing


def _matching(
    app: App, task: Task[Any, Any] | str, calls: list[EnqueuedCall], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[EnqueuedCall]:
    if not args and not kwargs:
        return calls
    known = app.tasks.get(_name(task))
    if known is None or known.arguments is None:
        return [call for call in calls if call.args == list(args) and call.kwargs == dict(kwargs)]
    wanted = known.arguments.pack(args, kwargs)
    expected = _bound(known, *_unpacked(app, app.store.load(wanted, app.store.codec.name, Call)))
    return [call for call in calls if _bound(known, call.args, call.kwargs) == expected]


def _bound(task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The arguments by parameter, with the defaults of those that were left out; None for what the task cannot take."""
    assert task.arguments is not None
    try:
        bound = task.arguments.signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    return bound.arguments


def _name(task: Task[Any, Any] | str) -> str:
    return task if isinstance(task, str) else task.name


def _described(task: Task[Any, Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if not args and not kwargs:
        return _name(task)
    given = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    return f"{_name(task)}({', '.join(given)})"


def _those(calls: list[EnqueuedCall]) -> str:
    return "nothing waits" if not calls else "these wait:\n  " + "\n  ".join(map(str, calls))
