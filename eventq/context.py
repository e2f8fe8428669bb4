"""What a running task may know of its run, and do about it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from eventq import clock
from eventq.errors import TaskCancelled, TaskTimeout

if TYPE_CHECKING:
    from datetime import datetime

    from eventq.app import App


class Context:
    """One run of a task, as the function sees it: `@app.task(bind=True)` passes it as the first argument.

    Called directly, as a plain function, a task gets one, too: of attempt 1, without an id.
    """

    __slots__ = ("app", "attempt", "deadline_at", "headers", "id", "task")

    def __init__(
        self,
        app: App,
        task: str,
        *,
        id: str = "",
        attempt: int = 1,
        headers: dict[str, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.app: App = app
        """The app that the task belongs to."""
        self.task: str = task
        """The name of the task."""
        self.id: str = id
        """The id of the event; empty when the function was called directly."""
        self.attempt: int = attempt
        """1 for the first run; failures and crashes count, releases do not."""
        self.headers: dict[str, Any] = headers or {}
        """The headers of the event."""
        self.deadline_at: float | None = deadline
        """When the run has to be over, on the monotonic clock; None if it has no timeout."""

    @property
    def state(self) -> Any:
        """The task's own object, the same for all of its runs in this process: see the option `state`."""
        return self.app.state_of(self.task)

    @property
    def deadline(self) -> datetime | None:
        """When the run has to be over; None if the task has no timeout."""
        left = self.remaining()
        return None if left is None else clock.aware(self.app.store.clock.now() + left)

    def remaining(self) -> float | None:
        """The seconds until the deadline, 0 if it has passed; None if the task has no timeout."""
        if self.deadline_at is None:
            return None
        return max(0.0, self.deadline_at - self.app.store.clock.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel this run. `check()` acts on it."""
        return False

    def check(self) -> None:
        """Stop here if the run was cancelled or its deadline has passed: raises TaskCancelled or TaskTimeout.

        A thread cannot be stopped from outside, so a long function calls this now and then; a coroutine or a process
        need not.
        """
        if self.cancelled:
            raise TaskCancelled(f"the run of event {self.id} was cancelled")
        if self.remaining() == 0.0:
            raise TaskTimeout(f"the run of event {self.id} is past its deadline")

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell who waits how far it is. Costs a write: not more often than somebody may want to look."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the task; each line names the event."""
        return _Named(logging.getLogger(self.task), {"event": self.id, "attempt": self.attempt})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.task}, event {self.id or 'none'}, attempt {self.attempt}>"


class _Named(logging.LoggerAdapter[logging.Logger]):
    """Puts the event's id before each line."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        id = (self.extra or {}).get("event")
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return f"[{id}] {msg}" if id else msg, kwargs
