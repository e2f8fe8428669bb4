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
from eventq.notifications.record import notify_end
from eventq.run import Asked, Run, asked_in, asked_of, begin
from eventq.storage.base import LOOK_INTERVAL
from eventq.task import UNKNOWN
from eventq.worker.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.app import App
    from eventq.model import Claimed, Outcome
    from eventq.worker.intake import Intake
    from eventq.worker.switches import Switches

log: logging.Logger = logging.getLogger("eventq.worker")

PATIENCE = 0.002
"""Seconds that a run may take before somebody else leads."""
SHORT = 0.0005
"""Seconds: a task that took less lately is run by the leader itself."""
CATCH_UP_AFTER = 0.005
"""Seconds for which what follows from a step of a workflow may wait for further steps of the same run."""
FAILURES = (Retried, Rejected)
"""What a run that failed leads to."""
OPEN = (Skipped, Released)
"""What an event that is not run leads to, if others may run it, or this worker later."""


class Crew:
    """Claims and runs events, at most `concurrency` at once.

    `carry_out` runs a sync function and says what that leads to; `stir` wakes whoever calls `watch_over`.
    """

    def __init__(
        self, app: App, intake: Intake, switches: Switches, concurrency: int, carry_out: Callable[[Run], Outcome],
        stir: Callable[[], None],
    ) -> None:  # fmt: skip
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
        self.claiming: bool = False
        """Whether its leader may claim one at this moment."""
        self.asleep: bool = False
        """Set by whoever watches over the crew, before a sleep that only `stir` ends."""
        self.loop: Loop = Loop(intake.wake)
        self._app = app
        self._idle_since: float | None = None
        """Since when a burst has found nothing to claim, while nothing runs here."""
        self._intake = intake
        self._switches = switches
        self._concurrency = concurrency
        self._carry_out = carry_out
        self._stir = stir
        self._lead = threading.Lock()
        self._mutex = threading.Lock()
        self._looking = threading.Lock()
        self._claim_took = 0.0
        """Seconds, for the last event that was there when it was asked for."""
        self._one_by_one = False
        """Whether nothing was there to run but what followed in a run of a workflow: so it will be with its next step,
        and a look for something else, which costs about as much as going on with it, is in vain."""
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
            self._app.workflows.engine.catch_up()  # what was left for a lead that was taken meanwhile

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
            self._run(run, term)
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
        engine = self._app.workflows.engine
        while True:
            self._settle_finished()
            engine.catch_up(CATCH_UP_AFTER)
            if self.stopping and not self.loop.count:
                engine.catch_up()
                return None
            if self.stopping or len(self.runs) >= self._concurrency:
                self.loop.hand_over()
                engine.catch_up()
                self._intake.wait_for_wake()
                continue
            try:
                claimed = self._claim()
            except StorageError as error:
                self._after_failure(error)
                continue
            if claimed is None:
                continue
            run = begin(self._app, claimed, self._switches.hold)
            if isinstance(run, Run):
                self.begun += 1
                if self.begun == self.most:
                    self.stop()
                return run
            self._refuse(claimed, run)

    def _refuse(self, claimed: Claimed, outcome: Outcome) -> None:
        """Settle an event that cannot be run here, or not now: nobody else takes what is in this worker's inbox."""
        if isinstance(outcome, Skipped) and claimed.queue == inbox_of(self._app.store.storage.worker):
            outcome = Dropped(State.CANCELLED, f"worker {self._app.store.storage.worker} does not know the task")
        began = perf_counter()
        self._settle(claimed, outcome, asked=None if isinstance(outcome, OPEN) else asked_in(self._app, claimed))
        if isinstance(outcome, Released):
            self._switches.took(self._claim_took + perf_counter() - began)

    def _claim(self) -> Claimed | None:
        """As `_claimed`; what was claimed while the stop came goes back."""
        self.claiming = True
        try:
            claimed = None if self.stopping else self._claimed()
            if claimed is not None and self.stopping:
                self._settle(claimed, Released())
                claimed = None
        finally:
            self.claiming = False
        return claimed

    def _claimed(self) -> Claimed | None:
        """An event to run; None if something else needs attention."""
        engine = self._app.workflows.engine
        if self._one_by_one and engine.waiting:
            self.loop.hand_over()
            self._one_by_one = engine.catch_up()
        began = perf_counter()
        claimed = self._intake.next(fresh=False)
        if claimed is not None:
            self._claim_took = perf_counter() - began
            return claimed
        self.loop.hand_over()
        if engine.waiting:
            self._one_by_one = engine.catch_up()
            return None
        self.waiting = True
        try:
            if not self.burst:
                return self._intake.wait()
            idle = not self.runs  # asked before the look: what ends meanwhile may be ready again
            self.recover()  # what the dead have left is to be run, too
            more = self._intake.look()
            claimed = self._intake.next()
            if claimed is None and more:
                return None
            if claimed is not None or not idle:
                self._idle_since = None
            if claimed is None and idle and self._is_over():
                self.stop()
            elif claimed is None:
                self._intake.wait_for_wake()
            return claimed
        finally:
            self.waiting = False

    def _is_over(self) -> bool:
        """Whether an idle burst is over. Where it takes a while to see that a worker has died, not before nobody can be
        dead who holds something."""
        storage = self._app.store.storage
        if not storage.absence or not self._intake.others_run():
            return True
        now = perf_counter()
        self._idle_since = self._idle_since or now
        return now - self._idle_since > storage.absence + 2 * LOOK_INTERVAL

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

    def _run(self, run: Run, term: int | None = None) -> None:
        task = run.task
        began = perf_counter()
        outcome = self._carry_out(run)
        took = perf_counter() - began
        task.usual = took if task.usual == UNKNOWN else task.usual + 0.2 * (took - task.usual)
        self._end(run, outcome, term)

    def _settle_finished(self) -> None:
        """Settle what the loop has finished."""
        while (done := self.loop.take_finished()) is not None:
            run, outcome = done
            run.keep_output()
            self._end(run, outcome, self._term)

    def _end(self, run: Run, outcome: Outcome, term: int | None) -> None:
        """What follows a run: by the leader of a term, or by a thread that does not lead."""
        self._settle(run.claimed, outcome, term is not None, asked_of(run))
        self.runs.discard(run)
        self.count += 1
        if isinstance(outcome, FAILURES):
            self.failed += 1
        if self._term != term and (self.burst or len(self.runs) + 1 >= self._concurrency):
            self._intake.wake()  # another one leads, and may wait for this

    def _settle(self, claimed: Claimed, outcome: Outcome, leads: bool = False, asked: Asked | None = None) -> None:
        """Settle an event, however long the storage takes to work again, and tell before whoever has asked to be told.
        Who leads comes by again before it rests."""
        settle = self._app.store.storage.settle
        engine = self._app.workflows.engine if claimed.headers else None
        for pause in storage_pauses():
            try:
                if asked is not None:
                    notify_end(self._app.store, asked.user, "task", asked.task, claimed, outcome)
                if engine is not None:
                    outcome = engine.arriving(claimed, outcome)
                settle(claimed, outcome)
            except ClaimLost as error:
                log.warning("event %s was lost before it was settled: %s", claimed.id, error)
            except StorageClosed:
                log.warning("event %s was not settled before the store was closed; it runs again", claimed.id)
            except StorageError as error:
                log.error("event %s cannot be settled: %s; tried again in %.1f s", claimed.id, error, pause)
                clock.sleep(pause)
                continue
            else:
                if engine is not None:
                    engine.arrived(claimed, later=leads)
            return


def storage_pauses() -> Iterator[float]:
    """Seconds between two attempts at a storage that fails: 0.1, 0.2 ... 5, and then every 5."""
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 2, 5.0)
