"""Every error that eventq raises, in one tree.

    EventqError
    ├── StorageError            the storage failed; the system's own error is chained
    │   ├── OutcomeUnknown      it failed after the point of no return: the change may or may not have happened
    │   ├── CorruptRecord       a record cannot be read; it was set aside
    │   └── StorageClosed       the store was closed, or was inherited through a fork
    ├── ClaimLost               the claim passed to another worker, or is settled already
    ├── PayloadError            (also ValueError) cannot encode, decode, or too large
    ├── ConfigError             (also ValueError) an option, URL or setting that cannot be
    ├── DuplicateKey            an open event holds this key; `.id` names it
    ├── DuplicateName           (also ValueError) this name is taken
    ├── QueueFull               the queue has reached its `maxsize`
    ├── JobRunning              a job is to be started that runs; `.run` names the run
    ├── JobDisabled             a job is to be started that is disabled
    ├── TemplateError           (also ValueError) a template cannot be read, or not be filled
    ├── UnknownEvent            (also LookupError) no event has this id (any more)
    ├── UnknownJob              (also LookupError) there is no job of this name
    ├── UnknownSchedule         (also LookupError) there is no schedule of this name
    ├── UnknownTask             (also LookupError) no task of this name is registered here
    ├── UnknownWorker           (also LookupError) no living worker has this id
    ├── MissingExtra            (also ImportError) an optional dependency is not installed
    ├── ResultTimeout           (also TimeoutError) the event was not settled in time
    ├── ResultMissing           (also LookupError) no result is kept
    ├── TaskFailed              the event ended in the dead letters; `.failure` says why
    ├── RunFailed               a run in a process of its own failed; `.failure` says why
    ├── TaskTimeout             (also TimeoutError) a run took longer than its `timeout`
    ├── TaskCancelled           the event was cancelled
    └── TaskExpired             the event was not started in time

An empty queue is `None`, not an error. Wrong use of the API is TypeError or ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventq.model import Failure


class EventqError(Exception):
    """The root: `except EventqError` catches whatever eventq raises on its own account."""


class StorageError(EventqError):
    """The storage could not do it, and nothing was changed. The system's own error is the `__cause__`."""


class OutcomeUnknown(StorageError):
    """The storage failed after the change may have become visible: look before you repeat it, or use a key."""


class CorruptRecord(StorageError):
    """A record cannot be read. It was set aside; `path` says where."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path: str = path


class StorageClosed(StorageError):
    """The store was closed. Open a new one with `eventq.App(...)`."""


class ClaimLost(EventqError):
    """The claim is not this worker's any more: it was settled already, or taken over after its lease."""


class PayloadError(EventqError, ValueError):
    """A payload or value cannot be encoded, decoded, or is too large."""


class ConfigError(EventqError, ValueError):
    """An option, URL, name or setting that cannot be; the message names it and what to write instead."""


class DuplicateKey(EventqError):
    """Another event holds this key; `id` is that event's."""

    def __init__(self, key: str, id: str) -> None:
        super().__init__(f"the key {key!r} is held by event {id}; put with if_exists='return' to get that id instead")
        self.key: str = key
        self.id: str = id

    def __reduce__(self) -> tuple[type[DuplicateKey], tuple[str, str]]:
        return type(self), (self.key, self.id)


class DuplicateName(EventqError, ValueError):
    """Something of this name exists already; choose another name."""


class QueueFull(EventqError):
    """A put does not fit into the queue's `maxsize`, and nothing was stored. `never`: it would not fit an empty one."""

    def __init__(self, queue: str, maxsize: int, count: int = 1) -> None:
        if count > maxsize:
            why = f"{count} events never fit into queue {queue!r} (maxsize={maxsize}): put smaller batches, or raise it"
        else:
            why = (
                f"queue {queue!r} is full (maxsize={maxsize}): put with timeout= to wait for room, "
                "claim faster, or raise its maxsize"
            )
        super().__init__(why)
        self.queue: str = queue
        self.maxsize: int = maxsize
        self.count: int = count

    @property
    def never(self) -> bool:
        """Whether waiting is of no use: these are more events than the queue takes at all."""
        return self.count > self.maxsize

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int, int]]:
        return type(self), (self.queue, self.maxsize, self.count)


class JobRunning(EventqError):
    """A job that runs cannot be started, reset or restarted: a job has one run at a time. `run` is that run's id."""

    def __init__(self, job: str, run: str) -> None:
        super().__init__(f"job {job!r} runs already: run {run}; wait for that, or abort it")
        self.job: str = job
        self.run: str = run

    def __reduce__(self) -> tuple[type[JobRunning], tuple[str, str]]:
        return type(self), (self.job, self.run)


class JobDisabled(EventqError):
    """A disabled job is not started. `app.jobs.enable(name)` enables it."""


class TemplateError(EventqError, ValueError):
    """A template cannot be read, names something that is not there, or cannot be filled; the message says where."""


class UnknownEvent(EventqError, LookupError):
    """No event has this id, or its record was pruned."""


class UnknownJob(EventqError, LookupError):
    """There is no job of this name in the store."""


class UnknownSchedule(EventqError, LookupError):
    """There is no schedule of this name in the store."""


class UnknownTask(EventqError, LookupError):
    """No task of this name is registered here."""


class UnknownWorker(EventqError, LookupError):
    """No living worker that runs tasks has this id (any more), and nothing was stored. `eventq workers` lists them."""


class MissingExtra(EventqError, ImportError):
    """An optional dependency is not installed; the message names the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'eventq[{extra}]'")
        self.feature: str = feature
        self.extra: str = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.feature, self.extra)


class ResultTimeout(EventqError, TimeoutError):
    """The event was not settled in time. It goes on; ask again."""


class ResultMissing(EventqError, LookupError):
    """There is no result to read: none was kept, or it was pruned."""


class TaskFailed(EventqError):
    """The work failed for good; `failure` has the remote type, message and traceback as text."""

    def __init__(self, id: str, failure: Failure | None) -> None:
        summary = f"{failure.type}: {failure.message}" if failure else "no reason was recorded"
        remote = f"\n\nremote traceback:\n{failure.traceback}" if failure and failure.traceback else ""
        super().__init__(f"event {id} is a dead letter ({summary}){remote}")
        self.id: str = id
        self.failure: Failure | None = failure

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, Failure | None]]:
        return type(self), (self.id, self.failure)


class RunFailed(EventqError):
    """A run in a process of its own failed. What it raised stays there: `failure` has its type, message and traceback
    as text, `bases` the names of its class and of those it derives from, `delay` what a `Retry` asked for."""

    def __init__(self, failure: Failure, bases: tuple[str, ...] = (), delay: float | None = None) -> None:
        super().__init__(f"{failure.type}: {failure.message}")
        self.failure: Failure = failure
        self.bases: tuple[str, ...] = bases
        self.delay: float | None = delay

    def __reduce__(self) -> tuple[type[RunFailed], tuple[Failure, tuple[str, ...], float | None]]:
        return type(self), (self.failure, self.bases, self.delay)


class TaskCancelled(EventqError):
    """The event was cancelled."""


class TaskTimeout(EventqError, TimeoutError):
    """A run took longer than the task's `timeout`. It counts as a failed attempt."""


class TaskExpired(EventqError):
    """The event expired before any worker started it."""
