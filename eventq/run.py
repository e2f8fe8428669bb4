"""One run of a task: from the claimed event to the outcome by which it is settled."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from eventq.arguments import Call
from eventq.capture import captured, noted
from eventq.claim import Claim, Reject, Retry, current, failure_of
from eventq.config import known
from eventq.context import Context
from eventq.errors import EventqError, PayloadError, RunFailed, TaskCancelled, TaskTimeout
from eventq.ids import created_of
from eventq.model import Completed, Dropped, Failure, Rejected, Released, Retried, Skipped, State
from eventq.options import CallOptions, checked, is_one_of
from eventq.stream import YIELDED, end_note, yielded_note
from eventq.task import RUN_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from eventq.app import App
    from eventq.capture import Kind, Recording
    from eventq.model import Claimed, Outcome
    from eventq.options import Options
    from eventq.task import Task

log: logging.Logger = logging.getLogger("eventq.task")

DONE = Completed()
_keeping = threading.Lock()
CANCELLED, TIMED_OUT, STOPPED = "cancelled", "timed out", "stopped"
"""Why a run was asked to end before its time."""


class RunContext(Context):
    """The context of a run by a worker."""

    __slots__ = ("claim",)

    def __init__(self, app: App, task: str, claim: Claim[Any], **rest: Any) -> None:
        super().__init__(app, task, **rest)
        self.claim: Claim[Any] = claim

    @property
    def cancelled(self) -> bool:
        return self.claim.cancelled

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        self.claim.progress(done, total, note)


class Run:
    """One run of a task. Made by `begin`; whoever runs it settles it with the outcome."""

    __slots__ = ("_output", "args", "began", "claim", "claimed", "context", "kwargs", "options", "stopped", "task")

    def __init__(
        self, task: Task[Any, Any], options: Options, claim: Claim[Call], claimed: Claimed, args: list[Any],
        kwargs: dict[str, Any],
    ) -> None:  # fmt: skip
        app = task.app
        self.task: Task[Any, Any] = task
        self.options: Options = options
        self.claim: Claim[Call] = claim
        self.claimed: Claimed = claimed
        self.args: list[Any] = args
        self.kwargs: dict[str, Any] = kwargs
        self.began: float = app.store.clock.monotonic()
        self.stopped: str = ""
        """Why it was asked to end; empty if it was not."""
        self._output: deque[tuple[Kind, str]] | None = None
        self.context: RunContext = RunContext(
            app,
            task.name,
            claim,
            id=claimed.id,
            attempt=claimed.failures + claimed.crashes + 1,
            headers=claimed.headers,
            deadline=None if options.timeout is None else self.began + options.timeout,
        )

    def call(self) -> Outcome:
        """Run the function in this thread, and say what that leads to."""
        recording = captured(noted(self.claim)) if self.options.capture else None
        token = self._enter(recording)
        try:
            self.ask_before_run()
            value = self._function_called()
            if self.task.yields:
                value = self._drained(value)
            return self.returned(value)
        except BaseException as error:  # noqa: BLE001 - SystemExit and the like end the run, not the worker
            return self.raised(error)
        finally:
            self._leave(token, recording)

    async def call_async(self) -> Outcome:
        """As `call`, for a coroutine function or an async generator function. Its output waits for `keep_output`, by a
        thread that may block."""
        recording = captured(self._keep_later) if self.options.capture else None
        token = self._enter(recording)
        try:
            self.ask_before_run()
            called = self._function_called()
            value = await self._drained_async(called) if self.task.yields else await called
            return self.returned(value)
        except BaseException as error:  # noqa: BLE001 - as above; a cancelled run has an outcome, too
            return self.raised(error)
        finally:
            self._leave(token, recording)

    def _enter(self, recording: Recording | None) -> Token[Claim[Any] | None]:
        if recording is not None:
            recording.begin()
        return current.set(self.claim)

    def _leave(self, token: Token[Claim[Any] | None], recording: Recording | None) -> None:
        self.tell_after_run()
        current.reset(token)
        if recording is not None:
            recording.end()

    def tell_after_run(self) -> None:
        """Tell hooks that it is over."""
        hooks = self.task.app.hooks
        if hooks.after_run:
            hooks.tell("after_run", self.context)

    def _keep_later(self, kind: Kind, text: str) -> None:
        if self._output is None:
            self._output = deque()
        self._output.append((kind, text))

    def keep_output(self) -> None:
        """Note what a coroutine has written. Called by threads that may block."""
        if not self._output:
            return
        note = noted(self.claim)
        with _keeping:  # whoever settles must not overtake whoever notes
            while self._output:
                try:
                    note(*self._output.popleft())
                except EventqError as error:
                    log.warning("some output of event %s could not be kept: %s", self.claimed.id, error)

    def _function_called(self) -> Any:
        function = self.task.function
        assert function is not None
        if self.options.bind:
            return function(self.context, *self.args, **self.kwargs)
        return function(*self.args, **self.kwargs)

    def _drained(self, values: Any) -> Any:
        """Note what a generator yields; what it returns."""
        number = 0
        while True:
            try:
                value = next(values)
            except StopIteration as end:
                self.claim.note(YIELDED, end_note(self.context.attempt, number))
                return end.value
            self.claim.note(YIELDED, self._yielded(number, value))
            number += 1
            if self.stopped:
                values.close()
                self.context.check()

    async def _drained_async(self, values: Any) -> Any:
        """As `_drained`, of an async generator, which returns nothing."""
        number = 0
        note = self.claim.aio.note
        async for value in values:
            await note(YIELDED, self._yielded(number, value))
            number += 1
        await note(YIELDED, end_note(self.context.attempt, number))
        return None

    def _yielded(self, number: int, value: Any) -> dict[str, Any]:
        assert self.task.arguments is not None
        type = self.task.arguments.yields
        return yielded_note(self.task.app.store.codec, self.context.attempt, number, value, type)

    def ask_before_run(self) -> None:
        """Let hooks refuse the run."""
        hooks = self.task.app.hooks
        if hooks.before_run:
            hooks.ask("before_run", self.context)

    # ------------------------------------------------------------------ what it leads to

    def returned(self, value: Any) -> Outcome:
        """The outcome of a run that returned a value."""
        outcome = DONE
        if self.options.result:
            try:
                outcome = Completed(self.task.pack_result(value), self.task.app.store.codec.name)
            except PayloadError as error:
                return self.raised(error)
        hooks, options = self.task.app.hooks, self.options
        if hooks.on_success or options.on_success is not None:
            hooks.tell("on_success", self.context, value, also=options.on_success)
        if hooks.on_complete or options.on_complete is not None:
            self._tell_end()
        return outcome

    def returned_data(self, data: bytes | None) -> Outcome:
        """As `returned`, for a value that another process has encoded; hooks are told None if none is kept."""
        app = self.task.app
        hooks, options = app.hooks, self.options
        if hooks.on_success or options.on_success is not None:
            value = None if data is None else app.store.load(data, app.store.codec.name, self.task.result_type)
            hooks.tell("on_success", self.context, value, also=options.on_success)
        self._tell_end()
        return DONE if data is None else Completed(data, app.store.codec.name)

    def raised(self, error: BaseException) -> Outcome:
        """The outcome of a run that ended with an error, or was made to end."""
        if self.stopped == STOPPED and not isinstance(error, Exception):
            return Released()
        if self.stopped == CANCELLED or (isinstance(error, TaskCancelled) and self.claim.cancelled):
            return self.cancelled()
        if self.stopped == TIMED_OUT and not isinstance(error, Exception):
            error = TaskTimeout(f"the run took longer than {self.options.timeout} s and was ended")
        return self.failed(error, failure_of(error))

    def cancelled(self) -> Outcome:
        """The outcome of a run that was cancelled."""
        self._tell_end()
        return Dropped(State.CANCELLED, "cancelled while it ran")

    def failed(self, error: BaseException, failure: Failure | None) -> Outcome:
        """What a failure leads to: another run after a delay, or the dead letters."""
        delay = self._delay_after(error)
        if delay is None:
            self._tell_failure("on_failure", error)
            self._tell_end()
            log.error("task %s is a dead letter (event %s, attempt %d): %s", *self._about(failure))
            return Rejected(failure)
        self._tell_failure("on_retry", error)
        log.warning("task %s failed (event %s, attempt %d): %s; again in %.1f s", *self._about(failure), delay)
        return Retried(delay, failure)

    def _delay_after(self, error: BaseException) -> float | None:
        """Seconds until it runs again; None if it never does."""
        retry, claimed = self.options.retry, self.claimed
        failures = claimed.failures + 1
        limit = retry.max_attempts if claimed.max_attempts is None else claimed.max_attempts
        if is_one_of(error, Reject) or failures >= limit:
            return None
        asked = is_one_of(error, Retry)
        if not asked and isinstance(error, Exception) and not self.options.retries(error):
            return None
        delay = error.delay if isinstance(error, Retry | RunFailed) else None
        if delay is None:
            delay = retry.delay(failures)
        if retry.retry_within is not None:
            age = self.task.app.store.clock.now() + delay - created_of(claimed.id)
            if age > retry.retry_within:
                return None
        return delay

    def _about(self, failure: Failure | None) -> tuple[str, str, int, str]:
        summary = "no reason given" if failure is None else f"{failure.type}: {failure.message}"
        return self.task.name, self.claimed.id, self.context.attempt, summary

    def _tell_failure(self, hook: str, error: BaseException) -> None:
        self.task.app.hooks.tell(hook, self.context, error, also=getattr(self.options, hook))

    def _tell_end(self) -> None:
        self.task.app.hooks.tell("on_complete", self.context, also=self.options.on_complete)


# ---------------------------------------------------------------- from an event to its run


def begin(app: App, claimed: Claimed, hold: Callable[[str], float | None]) -> Run | Outcome:
    """The run that a claimed event asks for; or the outcome of one that cannot be run here. `hold` says for how many
    seconds an event of a task is to wait, if it must not be started now."""
    store = app.store
    try:
        call: Call = store.load(claimed.payload, claimed.codec, Call)
    except PayloadError as error:
        log.error("event %s in %s is no call of a task, and a dead letter: %s", claimed.id, claimed.queue, error)
        return Rejected(failure_of(error))
    task = app.tasks.get(call.task)
    if task is None or task.arguments is None:
        log.warning("task %r of event %s is unknown here; left for another worker", call.task, claimed.id)
        return Skipped()
    if (delay := hold(task.name)) is not None:
        log.debug("task %s is switched off; event %s waits", task.name, claimed.id)
        return Released(delay)
    try:
        options = options_of(task, claimed)
        args, kwargs = task.arguments.unpack(call)
    except (TypeError, ValueError) as error:  # also ConfigError
        log.error("task %s cannot run with the arguments of event %s: %s", task.name, claimed.id, error)
        return Rejected(failure_of(error))
    return Run(task, options, Claim(store, claimed, call), claimed, args, kwargs)


class Asked(NamedTuple):
    """Who is to be told how a call ends, and of which task it is."""

    user: str
    task: str


def asked_of(run: Run) -> Asked | None:
    """Who is to be told how a run ends; None for nobody."""
    user = run.options.notify
    return None if user is None else Asked(user, run.task.name)


def asked_in(app: App, claimed: Claimed) -> Asked | None:
    """As `asked_of`, of an event that cannot be run here, as far as it says so; it may be no call at all."""
    try:
        name: str = app.store.load(claimed.payload, claimed.codec, Call).task
    except PayloadError:
        name = ""
    task, said = app.tasks.get(name), claimed.headers.get(RUN_HEADER)
    user = None if task is None else task.options.notify
    if isinstance(said, dict):
        user = said.get("notify", user)
    return Asked(user, name) if isinstance(user, str) and user else None


def options_of(task: Task[Any, Any], claimed: Claimed) -> Options:
    """The options of a task, with those that were said for this call. Raises TypeError, ConfigError."""
    said = claimed.headers.get(RUN_HEADER)
    if said is None:
        return task.options
    if not isinstance(said, dict):
        raise TypeError(f"the header {RUN_HEADER} holds no options")
    return checked({**task.said_before, **known(said, CallOptions, "the call")})
