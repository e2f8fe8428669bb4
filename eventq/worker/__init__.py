"""A worker: claims the events of some queues and runs their tasks, until it is told to stop."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventq.capture import Capturing, flush_due
from eventq.clock import SYSTEM
from eventq.config import seconds
from eventq.errors import ConfigError, EventqError, StorageClosed, StorageError
from eventq.model import Released
from eventq.process import in_script_again
from eventq.run import CANCELLED, STOPPED, TIMED_OUT, Run
from eventq.storage.base import LOOK_INTERVAL
from eventq.wakeup import Wakeup
from eventq.worker.control import Control, Running, WorkerStats
from eventq.worker.crew import PATIENCE, Crew
from eventq.worker.intake import Intake, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from eventq.aio import AsyncWorker
    from eventq.app import App
    from eventq.model import Outcome
    from eventq.options import Executor
    from eventq.process import Children

log: logging.Logger = logging.getLogger("eventq.worker")

STOPPED_GRACEFULLY, STOPPED_BY_FORCE = 0, 130
RECYCLED = 86
"""What `run` returns when it has reached `max_tasks` or `max_bytes`: a fresh process is to take its place."""
CONCURRENCY = 8
STOP_TIMEOUT = 30.0
FORCE_TIMEOUT = 2.0
"""Seconds that cancelled coroutines and killed processes get to end, at a forced stop."""


class Worker:
    """Runs the tasks of an app in this process; made by `app.worker(...)`.

    One `run()` after the other, and one at a time. Sync functions run in threads, in child processes, or (`"inline"`)
    one by one in a single thread; async ones on an event loop of the worker's own, so that no sync code ever blocks it.
    """

    def __init__(
        self,
        app: App,
        queues: Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int = CONCURRENCY,
        executor: Executor = "thread",
        stop_timeout: float = STOP_TIMEOUT,
        max_tasks: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        for name, number in (("concurrency", concurrency), ("max_tasks", max_tasks), ("max_bytes", max_bytes)):
            _check_count(name, number)
        if executor not in ("thread", "process", "inline"):
            raise ConfigError(f"executor={executor!r}; write 'thread', 'process' or 'inline'")
        self.app: App = app
        """The app whose tasks it runs."""
        chosen = queues if queues is not None else {task.options.queue for task in app.tasks.values()}
        self.queues: dict[str, int] = weights_of(chosen if queues is not None else sorted(chosen))
        """Its queues, in order, with their weights; 0 for strict order."""
        if not self.queues:
            raise ConfigError("a worker needs queues to claim from; define a task, or name them")
        self.executor: Executor = executor
        """Where sync functions run that do not say it themselves."""
        self.concurrency: int = 1 if executor == "inline" else concurrency
        """How many events it runs at once."""
        self.stop_timeout: float = seconds("stop_timeout", stop_timeout)
        """How many seconds running tasks get when it stops; what is not done then is handed back."""
        self.max_tasks: int | None = max_tasks
        """After so many runs it stops, and asks for a successor."""
        self.max_bytes: int | None = max_bytes
        """Likewise, once its process has taken more memory than that."""
        self._recycled = False
        self._introduced = False
        self._wakeup: Wakeup | None = None
        self._children: Children | None = None
        self._children_lock = threading.Lock()
        self._stop_asked = 0
        self._crew: Crew | None = None
        self._control: Control | None = None
        self._since = 0.0
        self._thread: threading.Thread | None = None
        self._raised: BaseException | None = None

    @property
    def id(self) -> str:
        """Its id in the store, new for every process."""
        return self.app.store.storage.worker

    @property
    def aio(self) -> AsyncWorker:
        """The same, awaitable."""
        from eventq.aio import AsyncWorker

        return AsyncWorker(self)

    def run(self, burst: bool = False) -> int:
        """Claim and run until `stop()`, SIGTERM or SIGINT; with `burst`, until there is nothing to claim any more: what
        is delayed, to be retried later, or waits for a rate or a place stays, and the log says how much that is.

        The first signal stops gracefully: nothing more is claimed, what waits here goes back at once, and what runs may
        finish within `stop_timeout`; then it is cancelled, or handed back, and runs again elsewhere. A second signal
        does that at once. Signals are only heard in the main thread. Returns 0; 130 if runs were left unfinished; or
        `RECYCLED`, stopped gracefully because of `max_tasks` or `max_bytes`.
        """
        if self._crew is not None:
            raise RuntimeError("this worker runs already; make another with app.worker()")
        if in_script_again():
            raise RuntimeError(
                "a child process has imported the script again, and would become a worker itself; write "
                "if __name__ == '__main__': before app.worker().run()"
            )
        id, self._recycled, self._introduced = self.id, False, False
        storage = self.app.store.storage
        control = self._control = Control(self, storage)
        apart = (self.app.schedules.queue, self.app.workflows.queue)  # the control takes what is in there
        intake = Intake(storage, {name: weight for name, weight in self.queues.items() if name not in apart}, control)
        crew = self._crew = Crew(self.app, intake, control.switches, self.concurrency, self._carry_out, self._stir)
        crew.burst, crew.most = burst, self.max_tasks
        self._since = SYSTEM.now()
        with Wakeup() as self._wakeup, self._hearing_signals(self._wakeup), Capturing():
            try:
                self.app.serving.append(self)
                self._introduce()  # first: who is told of it may address it
                self.app.hooks.tell("worker_started", self)
                log.info("worker %s serves %s; its tasks: %s", id, *self._about())
                control.look_at_switches()
                crew.start()
                self._watch_over(crew)
                code = self._wind_up(crew, intake)
                log.info("worker %s has stopped: ran %d, left %d unfinished", id, crew.count, len(crew.runs))
                if burst:
                    self._tell_what_waits()
                if crew.error is not None:
                    raise crew.error
                return RECYCLED if self._recycled and code == STOPPED_GRACEFULLY else code
            finally:
                self._crew, self._stop_asked, self._since = None, 0, 0.0
                self._leave(control)
                self.app.hooks.tell("worker_stopped", self)

    def __enter__(self) -> Self:
        """Run in a thread of its own meanwhile: `with app.worker(): ...`. It hears no signals there."""
        self._thread = threading.Thread(target=self._run_beside, name="eventq-worker")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it gracefully, and wait for that. Raises what `run` raised."""
        self.stop()
        assert self._thread is not None
        self._thread.join()
        self._stop_asked = 0  # also if it had ended by itself: the next run is not asked to stop
        if self._raised is not None and error is None:
            raise self._raised

    def _run_beside(self) -> None:
        self._raised = None
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            self._raised = error

    def stop(self, *, force: bool = False) -> None:
        """Ask it to stop, from any thread: gracefully, or at once with `force`. Harmless when repeated.

        Before `run()`, it stops as soon as it runs.
        """
        self._stop_asked = max(self._stop_asked, 2 if force else 1)
        self._stir()

    def stats(self) -> WorkerStats:
        """What it does, and has done since `run()` began: what it also answers to `app.ping()`. From any thread."""
        crew, children, now = self._crew, self._children, self.app.store.clock.monotonic()
        runs = [Running(run.claimed.id, run.task.name, now - run.began) for run in list(crew.runs if crew else ())]
        return WorkerStats(
            id=self.id,
            pid=os.getpid(),
            host=os.uname().nodename,
            since=self._since,
            queues=tuple(self.queues),
            concurrency=self.concurrency,
            runs=tuple(sorted(runs, key=lambda run: -run.seconds)),
            begun=crew.begun if crew else 0,
            ran=crew.count if crew else 0,
            failed=crew.failed if crew else 0,
            threads=crew.threads if crew else 0,
            children=tuple(children.pids() if children is not None else ()),
            memory_bytes=memory_taken(),
            stopping=crew is not None and crew.stopping,
        )

    def _tell_what_waits(self) -> None:
        """Say what a burst has left, since nothing of that is an error."""
        for queue in self.queues:
            try:
                stats = self.app.store.storage.stats(queue)
            except StorageError as error:
                log.warning("what waits in %s cannot be counted: %s", queue, error)
                continue
            if stats.ready or stats.delayed:
                log.info("%s has %d delayed, and %d ready that could not start now", queue, stats.delayed, stats.ready)

    def _about(self) -> tuple[str, str]:
        """Its queues, and its tasks, for the log."""
        queues = ", ".join(f"{name}={weight}" if weight else name for name, weight in self.queues.items())
        return queues, ", ".join(sorted(self.app.tasks)) or "none"

    def _introduce(self) -> None:
        """Say what it serves, with the app's other workers, for those who look; tried again with each look until it is
        said."""
        queues = dict.fromkeys(queue for worker in list(self.app.serving) for queue in worker.queues)
        try:
            self.app.store.storage.introduce(list(queues), sorted(self.app.tasks) if queues else [])
        except StorageClosed:
            log.debug("there is nobody to tell what this worker serves: its store was closed")
        except StorageError as error:
            log.warning("cannot say yet what this worker serves: %s", error)
        else:
            self._introduced = True

    def _leave(self, control: Control) -> None:
        """Serve no more, and then cancel what waits in the inbox: who puts something there looks again afterwards."""
        self.app.serving.remove(self)
        self._introduce()
        if not self.app.serving:
            control.leave()

    # ------------------------------------------------------------------ watching over the crew

    def _stir(self) -> None:
        wakeup = self._wakeup
        if wakeup is not None:
            wakeup.ring()

    def _rest(self, pause: float | None) -> None:
        """Wait for a stir, a signal, or for some seconds."""
        assert self._wakeup is not None
        self._wakeup.wait(pause)

    def _watch_over(self, crew: Crew) -> None:
        """Until the crew has ended, or a stop is asked for."""
        look_at, begun = 0.0, -1
        while not (self._is_worn(crew) or crew.over or self._stop_asked):
            now = SYSTEM.monotonic()
            if now >= look_at:
                look_at = now + LOOK_INTERVAL
                self._look(crew)
            self._look_at_runs(crew)
            crew.asleep = True
            if crew.idle and crew.begun == begun:
                self._rest(None if self.max_tasks is None and self.max_bytes is None else LOOK_INTERVAL)
            else:  # also in the pauses between runs: each would else wake this thread
                crew.asleep, begun = False, crew.begun
                self._rest(min(PATIENCE if crew.idle else crew.watch_over(), self._next_deadline(crew)))
            crew.asleep = False

    def _is_worn(self, crew: Crew) -> bool:
        """Whether it has run enough, or takes too much memory; never before it has run anything."""
        if self.max_tasks is not None and crew.begun >= self.max_tasks:
            log.info("worker %s has run %d, and stops for a successor", self.id, crew.begun)
            self._recycled = True
        elif self.max_bytes is not None and crew.count and (taken := memory_taken()) > self.max_bytes:
            log.info("worker %s has taken %d MiB of memory, and stops for a successor", self.id, taken >> 20)
            self._recycled = True
        return self._recycled

    def _wind_up(self, crew: Crew, intake: Intake) -> int:
        """Let what runs finish, as long as it may; then end it, or hand it back."""
        crew.stop()
        self._give_back(intake)
        patient_until = SYSTEM.monotonic() + self.stop_timeout
        while not crew.over and self._stop_asked < 2 and (left := patient_until - SYSTEM.monotonic()) > 0:
            self._look(crew)
            self._look_at_runs(crew)
            self._rest(min(LOOK_INTERVAL, left, self._next_deadline(crew)))
        unfinished = not crew.over
        if unfinished:
            self._end_by_force(crew)
        self._stop_children(kill=unfinished)
        crew.loop.stop()
        if crew.over:
            intake.close()
        return STOPPED_BY_FORCE if unfinished else STOPPED_GRACEFULLY

    def _give_back(self, intake: Intake) -> None:
        try:
            intake.give_back()
        except EventqError as error:
            log.warning("what was fetched ahead is recovered once this process has ended: %s", error)

    def _end_by_force(self, crew: Crew) -> None:
        """Cancel coroutines, kill processes, and hand back what does not end by that."""
        for run in list(crew.runs):
            self._end_early(crew, run, STOPPED)
        until = SYSTEM.monotonic() + FORCE_TIMEOUT
        while SYSTEM.monotonic() < until and (
            crew.claiming  # it would take what is handed back
            or any(run.task.on_loop or self._is_apart(run) for run in list(crew.runs))
        ):
            self._rest(0.01)
        for run in list(crew.runs):
            try:
                self.app.store.storage.settle(run.claimed, Released())
            except EventqError as error:
                log.warning("event %s was not handed back: %s", run.claimed.id, error)
            else:
                log.warning("task %s was left unfinished; event %s runs again", run.task.name, run.claimed.id)

    def _next_deadline(self, crew: Crew) -> float:
        """Seconds until the first run is out of time."""
        deadlines = [
            run.context.deadline_at
            for run in list(crew.runs)
            if run.context.deadline_at is not None and not run.stopped
        ]
        if not deadlines:
            return LOOK_INTERVAL
        return max(0.0, min(deadlines) - self.app.store.clock.monotonic())

    def _look(self, crew: Crew) -> None:
        """Four times a second: what the storage has to say, and what runs have written."""
        if not self._introduced:
            self._introduce()
        try:
            crew.recover()
        except EventqError as error:
            log.warning("a look at the store failed and is repeated: %s", error)
        if self._control is not None:
            self._control.look()
        crew.watch_over()
        flush_due(SYSTEM.monotonic())
        for run in list(crew.runs):
            run.keep_output()

    def _look_at_runs(self, crew: Crew) -> None:
        """Who is to be cancelled, and whose time is over."""
        now = self.app.store.clock.monotonic()
        for run in list(crew.runs):
            deadline = run.context.deadline_at
            if run.claimed.cancelled:
                self._end_early(crew, run, CANCELLED)
            elif deadline is not None and now >= deadline:
                self._end_early(crew, run, TIMED_OUT)

    def _end_early(self, crew: Crew, run: Run, why: str) -> None:
        """Make a run end: a coroutine is cancelled, a process killed, a thread told when it asks."""
        if not run.stopped:
            run.stopped = why
            if run.task.on_loop:
                crew.loop.cancel(run)

    # ------------------------------------------------------------------ running

    def _carry_out(self, run: Run) -> Outcome:
        """Run a sync function, where it is to run."""
        if not self._is_apart(run):
            return run.call()
        from eventq.worker.children import run_apart

        return run_apart(run, self._children_ready(), lambda: self._stop_asked > 0)

    def _children_ready(self) -> Children:
        """The child processes, which are not there before they are needed."""
        with self._children_lock:
            if self._children is None:
                from eventq.process import Children

                self._children = Children(self.concurrency)
            return self._children

    def _stop_children(self, *, kill: bool) -> None:
        with self._children_lock:
            children = self._children
        if children is not None:
            children.stop(kill=kill)  # it stays: a run that comes to it now is answered, and starts no other

    def _is_apart(self, run: Run) -> bool:
        """Whether it runs in a child process."""
        return (run.options.executor or self.executor) == "process"

    @contextmanager
    def _hearing_signals(self, wakeup: Wakeup) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def hear() -> None:
            self._stop_asked += 1

        with wakeup.hearing((signal.SIGTERM, signal.SIGINT), hear):
            yield


def memory_taken() -> int:
    """The most bytes of memory that this process has taken so far, without what was swapped out."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _check_count(name: str, number: int | None) -> None:
    if number is None and name != "concurrency":
        return
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name}= takes a whole number, not {type(number).__name__}")
    if number < 1:
        raise ConfigError(f"{name}={number}; at least 1")
