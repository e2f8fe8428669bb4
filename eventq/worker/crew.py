"""The threads of a worker: one leads, the others follow (Schmidt et al., "Leader/Followers", 2000).

Whoever leads claims the next event. A short run it does itself and goes on leading: no hand-over, no queue between
threads, no two threads after the same lock. Before a long one it passes the lead on. Which runs are long is learned
from each task's last ones; if one turns out longer than `PATIENCE`, the lead is taken from its thread meanwhile.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from eventq import clock
from eventq.clock import perf_counter
from eventq.errors import ClaimLost, StorageClosed, StorageError
from eventq.inbox import inbox_of
from eventq.model import Dropped, Rejected, Released, Retried, Skipped, State
from eventq.run import Run, begin
from eventq.storage.base import LOOK_INTERVAL
from eventq.task import UNKNOWN
from eventq.worker.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.app import App
    from eventq.model import Claimed, Outcome
    from eventq.worker.intake import Intake

log: logging.Logger = logging.getLogger("eventq.worker")

PATIENCE = 0.002
"""Seconds that a run may take before somebody else leads."""
SHORT = 0.0005
"""Seconds: a task that took less lately is run by the leader itself."""
FAILURES = (Retried, Rejected)
"""What a run that failed leads to."""


class Crew:
    """Claims and runs events, at most `concurrency` at once.

    `carry_out` runs a sync function and says what that leads to; `stir` wakes whoever calls `watch_over`.
    """

    def __init__(
        self, app: App, intake: Intake, concurrency: int, carry_out: Callable[[Run], Outcome], stir: Callable[[], None]
    ) -> None:
        self.runs: set[Run] = set()
        """What runs now, in threads or on the loop."""
        self.count: int = 0
        """How many runs have ended."""
        self.begun: int = 0
        """How many have begun."""
        self.failed: int = 0
        """How many of those that have ended failed, for good or to be repeated."""
        self.most: int | None = None
        """After how many it claims nothing more."""
        self.error: BaseException | None = None
        """What ended one of its threads, which nothing should."""
        self.burst: bool = False
        """Whether to end when there is nothing to claim and nothing runs."""
        self.stopping: bool = False
        """Whether nothing more is claimed."""
        self.waiting: bool = False
        """Whether its leader waits for an event."""
        self.asleep: bool = False
        """Set by whoever watches over the crew, before a sleep that only `stir` ends."""
        self.loop: Loop = Loop(intake.wake)
        self._app = app
        self._intake = intake
        self._concurrency = concurrency
        self._carry_out = carry_out
        self._stir = stir
        self._lead = threading.Lock()
        self._mutex = threading.Lock()
        self._looking = threading.Lock()
        self._term = 0
        self._short_since = 0.0
        self._followers = 0
        self._hired = 0
        self._working = 0

    # ------------------------------------------------------------------ from outside

    def start(self) -> None:
        """Let the first thread lead."""
        with self._mutex:
            self._hire()

    def stop(self) -> None:
        """Claim nothing more; what runs goes on."""
        self.stopping = True
        self._intake.wake()

    @property
    def over(self) -> bool:
        """Whether every thread has ended: nothing runs, and all is settled."""
        return self._working == 0

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return self._working

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing is at hand."""
        return self.waiting and not self.runs

    def recover(self) -> None:
        """Look after what others left. Who comes while another looks waits, and so finds what that one brings back."""
        with self._looking:
            self._app.store.storage.recover()

    def watch_over(self) -> float:
        """Take the lead from a thread whose run is not short after all. Seconds until the next such look."""
        since, term = self._short_since, self._term
        if self.waiting:
            return LOOK_INTERVAL
        if since and perf_counter() - since >= PATIENCE:
            self._pass_on(term, since)
        return PATIENCE

    # ------------------------------------------------------------------ leading

    def _hire(self) -> None:
        """Start another thread, with the mutex held: it cannot end before it is counted, and one that did not start is
        not counted."""
        threading.Thread(target=self._work, name=f"eventq-{self._hired + 1}", daemon=True).start()
        self._hired += 1
        self._working += 1

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - whoever runs the crew raises it
            self.error = error
            self.stop()
        finally:
            with self._mutex:
                self._working -= 1
            self._stir()

    def _serve(self) -> None:
        while True:
            with self._mutex:
                self._followers += 1
            self._lead.acquire()
            with self._mutex:
                self._followers -= 1
                self._term += 1
                term = self._term
            while self._term == term:
                run = self._next()
                if run is None:
                    self._pass_on(term)
                    return
                self._start(run, term)

    def _start(self, run: Run, term: int) -> None:
        """Run it as the leader, or pass the lead on before."""
        self.runs.add(run)
        if self.asleep or run.options.timeout is not None:
            self._stir()
        if run.task.on_loop:
            self.loop.submit(run)
            return
        self.loop.hand_over()
        if run.task.usual < SHORT:
            self._short_since = perf_counter()
            self._run(run)
            with self._mutex:
                if self._term == term:
                    self._short_since = 0.0
        else:
            self._pass_on(term)
            self._run(run)

    def _pass_on(self, term: int, since: float | None = None) -> None:
        """Let another thread lead, if this is still the term meant; with `since`, and the run meant."""
        with self._mutex:
            if self._term != term or (since is not None and self._short_since != since):
                return
            self._term += 1
            self._short_since = 0.0
            self._lead.release()
            if not self._followers and self._hired < self._concurrency and not self.stopping:
                try:
                    self._hire()
                except RuntimeError as error:
                    log.warning("%s: what follows waits for one of %d threads", error, self._working)

    def _next(self) -> Run | None:
        """The next run; None when it is time to go."""
        while True:
            self._settle_finished()
            if self.stopping and not self.loop.count:
                return None
            if self.stopping or len(self.runs) >= self._concurrency:
                self.loop.hand_over()
                self._intake.wait_for_wake()
                continue
            try:
                claimed = self._claimed()
            except StorageError as error:
                self._after_failure(error)
                continue
            if claimed is None:
                continue
            if self.stopping:  # the stop came during the claim
                self._settle(claimed, Released())
                continue
            run = begin(self._app, claimed)
            if isinstance(run, Run):
                self.begun += 1
                if self.begun == self.most:
                    self.stop()
                return run
            self._settle(claimed, self._refused(claimed, run))

    def _refused(self, claimed: Claimed, outcome: Outcome) -> Outcome:
        """How an event ends that cannot be run here: nobody else takes what is in this worker's inbox."""
        if isinstance(outcome, Skipped) and claimed.queue == inbox_of(self._app.store.storage.worker):
            return Dropped(State.CANCELLED, f"worker {self._app.store.storage.worker} does not know the task")
        return outcome

    def _claimed(self) -> Claimed | None:
        """An event to run; None if something else needs attention."""
        claimed = self._intake.next(fresh=False)
        if claimed is not None:
            return claimed
        self.loop.hand_over()
        self.waiting = True
        try:
            if not self.burst:
                return self._intake.wait()
            self.recover()  # what the dead have left is to be run, too
            self._intake.look()
            claimed = self._intake.next()
            if claimed is None and not self.runs:
                self.stop()
            elif claimed is None:
                self._intake.wait_for_wake()
            return claimed
        finally:
            self.waiting = False

    def _after_failure(self, error: StorageError) -> None:
        """Wait for a storage that failed, longer each time, and no longer than until the stop."""
        if isinstance(error, StorageClosed):
            self.stopping = True
            return
        log.error("cannot claim: %s; tried again until it works", error)
        for pause in storage_pauses():
            self._intake.wait_for_wake(pause)
            if self.stopping:
                return
            try:
                self._app.store.storage.recover()
            except StorageError as again:
                log.error("the storage still fails: %s", again)
            else:
                log.info("the storage works again")
                return

    # ------------------------------------------------------------------ running and settling

    def _run(self, run: Run) -> None:
        task = run.task
        began = perf_counter()
        outcome = self._carry_out(run)
        took = perf_counter() - began
        task.usual = took if task.usual == UNKNOWN else task.usual + 0.2 * (took - task.usual)
        self._end(run, outcome)

    def _settle_finished(self) -> None:
        """Settle what the loop has finished."""
        while (done := self.loop.take_finished()) is not None:
            run, outcome = done
            run.keep_output()
            self._end(run, outcome)

    def _end(self, run: Run, outcome: Outcome) -> None:
        self._settle(run.claimed, outcome)
        self.runs.discard(run)
        self.count += 1
        if isinstance(outcome, FAILURES):
            self.failed += 1
        if self.burst or len(self.runs) + 1 >= self._concurrency:
            self._intake.wake()

    def _settle(self, claimed: Claimed, outcome: Outcome) -> None:
        """Settle an event, however long the storage takes to work again."""
        settle = self._app.store.storage.settle
        for pause in storage_pauses():
            try:
                settle(claimed, outcome)
            except ClaimLost as error:
                log.warning("event %s was lost before it was settled: %s", claimed.id, error)
            except StorageClosed:
                log.warning("event %s was not settled before the store was closed; it runs again", claimed.id)
            except StorageError as error:
                log.error("event %s cannot be settled: %s; tried again in %.1f s", claimed.id, error, pause)
                clock.sleep(pause)
                continue
            return


def storage_pauses() -> Iterator[float]:
    """Seconds between two attempts at a storage that fails: 0.1, 0.2 ... 5, and then every 5."""
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 2, 5.0)
