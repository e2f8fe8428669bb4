"""The options of a task: what may be said of it, by whom, and what that comes to.

Said by `using(...)` for one call, by the app's configuration, or by the decorator; the first of these that says
something wins, and what nobody says has a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from eventq.child import class_name
from eventq.config import seconds, text
from eventq.errors import ConfigError, RunFailed
from eventq.inbox import inbox_of
from eventq.model import MAX_PLACES
from eventq.notifications.record import checked_user
from eventq.retry import Growth, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from eventq.context import Context
    from eventq.put import IfExists, Unique

DEFAULT_QUEUE = "default"
"""Where tasks go that name no queue."""

Executor = Literal["thread", "process", "inline"]
Ack = Literal["late", "early"]


class EitherOptions(TypedDict, total=False):
    """What may be said of a task, by `@app.task(...)` and the configuration, and of single calls, by `using(...)`."""

    queue: str
    """The queue that its events go to; `"default"` unless said."""
    priority: int
    """-100..100; higher is claimed first."""
    delay: float | None
    at: datetime | None
    expires: float | None
    key: str | None
    unique: Unique
    """Said of a task, this and the next four hold for those of its calls that have a key."""
    if_exists: IfExists
    throttle: float | None
    debounce: float | None
    debounce_max: float | None
    limits: Mapping[str, int] | None
    rates: Mapping[str, tuple[int, float]] | None
    """Names, each with a number and seconds: at most so many starts of events of that name within so many seconds, over
    all processes, as `{"smtp": (10, 60.0)}`."""
    headers: Mapping[str, Any] | None
    put_timeout: float | None
    """Seconds to wait for room in a full queue (`timeout` of `Queue.put`, which has the others, too)."""
    max_attempts: int
    """Failed runs before it is a dead letter: 3."""
    max_crashes: int
    """Workers that may die while they run it: 5."""
    retry_delay: float | Sequence[float]
    """Seconds before the second run (1.0), or those before each further one."""
    backoff: Growth
    """How the delay grows: `"exponential"`, `"linear"` or `"constant"`."""
    retry_delay_max: float
    """The longest delay: 3600 s."""
    jitter: bool
    """Whether up to half of a delay is left out at random."""
    retry_within: float | None
    """No run begins more than so many seconds after the event was put."""
    timeout: float | None
    """Seconds that a run may take: a coroutine is cancelled then, a process killed; a thread is told
    (`Context.check`)."""
    keep: float | None
    """Seconds that the result stays readable: what the queue says (3600) unless said."""
    result: bool
    """Whether the result is kept at all."""
    capture: bool
    """Whether what a run prints and logs is kept with its event."""
    notify: str | None
    """A user to be told how it ends, completed or not, in `app.notifications`; nobody unless said. Not told: of a call
    that ends without a worker, cancelled or expired while it waits, or because all its workers died."""
    ack: Ack
    """`"early"`: an event that was started never runs again, whatever becomes of the run. `"late"`, the default: it
    runs again if it failed, or its worker died."""


class CallOptions(EitherOptions, total=False):
    """What `task.using(...)` may say of the calls it makes."""

    worker: str | None
    """The id of the living worker that alone may run it, as in `app.workers()`; instead of `queue`. If that worker goes
    before it is done, the call ends as cancelled."""
    connection: object | None
    """An open connection of your own to the store's database: the call becomes part of its transaction, as with
    `connection` of `Queue.put`."""


class TaskOptions(EitherOptions, total=False):
    """What `@app.task(...)` may say of a task, and the configuration (but for `name`)."""

    name: str
    """Its name in events: `module.function` unless said."""
    executor: Executor | None
    """Where a sync function runs: `"thread"`, `"process"` or `"inline"`; what the worker says unless said here."""
    concurrency: int | None
    """How many of its events run at once, over all processes."""
    retry_for: type[BaseException] | tuple[type[BaseException], ...]
    """Only what raises one of these runs again; the default is any Exception."""
    dont_retry_for: type[BaseException] | tuple[type[BaseException], ...]
    """What raises one of these is a dead letter at once."""
    state: Callable[[], Any] | None
    """Makes the object that is `Context.state` in all runs of one process, when the first of them needs it."""
    on_success: Callable[[Context, Any], object] | None
    """Called with the context and the result of each run that succeeds."""
    on_failure: Callable[[Context, BaseException], object] | None
    """Called with the context and the error when the task has failed for good."""
    on_retry: Callable[[Context, BaseException], object] | None
    """Called with the context and the error of each run that will be repeated."""
    on_complete: Callable[[Context], object] | None
    """Called once the task has ended, either way."""


PUT_OPTIONS = (
    "priority", "delay", "at", "expires", "key", "unique", "if_exists", "throttle", "debounce", "debounce_max",
    "limits", "rates", "headers",
)  # fmt: skip
RUN_OPTIONS = (
    "max_attempts", "retry_delay", "backoff", "retry_delay_max", "jitter", "retry_within", "timeout", "result",
    "capture", "notify",
)  # fmt: skip
"""Those that concern the run and can travel with an event: of a call that was given them by `using`."""
POLICY_OPTIONS = RetryPolicy.__struct_fields__


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's options come to, checked."""

    name: str
    queue: str = DEFAULT_QUEUE
    worker: str | None = None
    """Then the queue is its inbox."""
    put: dict[str, Any] = {}
    """Those of `Queue.put`, as it takes them."""
    put_timeout: float | None = None
    connection: Any = None
    retry: RetryPolicy = RetryPolicy()
    max_crashes: int | None = None
    timeout: float | None = None
    keep: float | None = None
    result: bool = True
    capture: bool = True
    notify: str | None = None
    ack: Ack = "late"
    bind: bool = False
    executor: Executor | None = None
    concurrency: int | None = None
    retry_for: Any = Exception
    dont_retry_for: Any = ()
    state: Any = None
    on_success: Any = None
    on_failure: Any = None
    on_retry: Any = None
    on_complete: Any = None

    def retries(self, error: BaseException) -> bool:
        """Whether such an error may go away by itself."""
        return is_one_of(error, self.retry_for) and not is_one_of(error, self.dont_retry_for)


def is_one_of(error: BaseException, classes: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """`isinstance`, also for an error of another process, of which only the classes' names are known here."""
    if not isinstance(error, RunFailed) or not error.bases:
        return isinstance(error, classes)
    names = [class_name(cls) for cls in (classes if isinstance(classes, tuple) else (classes,))]
    return any(name in error.bases for name in names)


def checked(given: Mapping[str, Any]) -> Options:
    """Options from what was said, the name included. Raises ConfigError or TypeError for what cannot be."""
    values = {name: value for name, value in given.items() if name not in PUT_OPTIONS and name not in POLICY_OPTIONS}
    text("the name of a task", values["name"])
    text("queue=", values.get("queue", DEFAULT_QUEUE))
    if (worker := values.get("worker")) is not None:
        values["queue"] = inbox_of(text("worker=", worker))
        if values.get("connection") is not None:
            raise ConfigError("worker= must find the worker there once the call is stored; leave connection= out")
    for name, zero in (("timeout", False), ("keep", True), ("put_timeout", True)):
        if (value := values.get(name)) is not None:
            values[name] = seconds(name, value, zero=zero)
    if (user := values.get("notify")) is not None:
        checked_user(user)
    _one_of(values, "executor", (None, "thread", "process", "inline"))
    _one_of(values, "ack", ("late", "early"))
    for name in ("result", "capture", "bind"):
        _one_of(values, name, (True, False))
    _count(values, "max_crashes", least=1)
    _count(values, "concurrency", least=1, most=MAX_PLACES)
    for name in ("retry_for", "dont_retry_for"):
        if name in values:
            values[name] = _classes(name, values[name])
    for name in ("state", "on_success", "on_failure", "on_retry", "on_complete"):
        if values.get(name) is not None and not callable(values[name]):
            raise TypeError(f"{name}= takes a function, not {type(values[name]).__name__}")
    values["put"] = {name: given[name] for name in PUT_OPTIONS if name in given}
    values["retry"] = _policy(given, values.get("ack") == "early")
    if values.get("ack") == "early":
        values["max_crashes"] = 1
    return Options(**values)


def _policy(given: Mapping[str, Any], once: bool) -> RetryPolicy:
    said = {name: given[name] for name in POLICY_OPTIONS if name in given}
    _count(said, "max_attempts", least=1)
    _one_of(said, "backoff", ("exponential", "linear", "constant"))
    _one_of(said, "jitter", (True, False))
    for name in ("retry_delay_max", "retry_within"):
        if said.get(name) is not None:
            said[name] = seconds(name, said[name])
    delay = said.get("retry_delay")
    if isinstance(delay, list | tuple):
        if not delay:
            raise ConfigError("retry_delay=[] says nothing; give seconds, or several of them")
        said["retry_delay"] = tuple(seconds("retry_delay", each) for each in delay)
    elif delay is not None:
        said["retry_delay"] = seconds("retry_delay", delay)
    if once:
        if said.get("max_attempts", 1) != 1:
            raise ConfigError("ack='early' means that nothing runs twice; leave max_attempts= out")
        said["max_attempts"] = 1
    return RetryPolicy(**said)


def _one_of(values: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> None:
    if name in values and not any(values[name] is each or values[name] == each for each in allowed):
        raise ConfigError(f"{name}={values[name]!r}; write one of {', '.join(map(repr, allowed))}")


def _count(values: Mapping[str, Any], name: str, least: int, most: int | None = None) -> None:
    value = values.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= takes a whole number, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        raise ConfigError(f"{name}={value}; at least {least}" + (f", at most {most}" if most is not None else ""))


def _classes(name: str, value: Any) -> tuple[type[BaseException], ...]:
    classes = value if isinstance(value, tuple) else (value,)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise TypeError(f"{name}= takes exception classes, not {each!r}")
    return classes
