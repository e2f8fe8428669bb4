"""What a worker does beside its tasks: it answers what is asked of it, pings and stops; sees which tasks are switched
off; keeps the schedules; and clears up after the dead, and what users were told long ago."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventq.arguments import Call
from eventq.claim import failure_of
from eventq.clock import SYSTEM
from eventq.config import seconds, text
from eventq.errors import EventqError, StorageClosed
from eventq.handle import Handle
from eventq.inbox import addressee_of, clear, control_of, inbox_of, is_serving, serving, unknown
from eventq.model import Cancel, Completed, Delete, PutOptions, Rejected
from eventq.notifications.record import is_box
from eventq.storage.base import LOOK_INTERVAL
from eventq.worker.switches import Switches

if TYPE_CHECKING:
    from eventq.model import Claimed, Outcome
    from eventq.storage.base import Storage
    from eventq.store import Store
    from eventq.worker import Worker

log: logging.Logger = logging.getLogger("eventq.worker")

PING, STOP = "eventq.ping", "eventq.stop"
KEEP = 60.0
"""Seconds that an answer stays for who asked; who reads it removes it."""
CLEAR_INTERVAL = 2.0
"""Seconds between two looks for inboxes whose worker has gone."""
KEPT_INTERVAL = 60.0
"""Likewise for one in which there are only records, which stay until they are pruned."""
PRUNE_INTERVAL = 600.0
"""Seconds between two rounds of all users' notifications."""
BATCH = 16
SCHEDULES_BUDGET = 0.05
"""Seconds for schedules that are due, in one look: whoever looks has other things to do."""


class Running(NamedTuple):
    """One run that goes on in a worker."""

    id: str
    """Of its event."""
    task: str
    seconds: float
    """How long it has been running."""


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself: the answer to a ping. Counts are those of this `run()`."""

    id: str
    pid: int
    host: str
    since: float
    """When its `run()` began, in seconds since the epoch; 0 if it does not run."""
    queues: tuple[str, ...]
    """Those that it claims from, in their order."""
    concurrency: int
    """How many events it runs at once, at most."""
    runs: tuple[Running, ...] = ()
    """What runs now, the longest first."""
    begun: int = 0
    """How many runs have begun."""
    ran: int = 0
    """How many have ended, however."""
    failed: int = 0
    """How many of these have failed: those to be repeated, and those that became dead letters."""
    threads: int = 0
    """How many threads it has for runs; it starts more when they are needed."""
    children: tuple[int, ...] = ()
    """The process ids of the child processes that it has."""
    memory_bytes: int = 0
    """The most memory that its process has taken so far, without what was swapped out, nor its children's."""
    stopping: bool = False
    """Whether it has been asked to stop, and only finishes what runs."""


class Control:
    """A running worker's side. `look` is called by whichever of its threads has time, several times a second; schedules
    that are due are kept with each, also while there is no room for runs."""

    def __init__(self, worker: Worker, storage: Storage) -> None:
        self._worker = worker
        self._storage = storage
        self._id = storage.worker
        self.inbox: str = inbox_of(self._id)
        """The queue of calls that this worker alone runs. It is not there before somebody makes such a call."""
        self.called: bool = False
        """Whether it is there, as the last look has found."""
        self.beside: tuple[str, ...] = ()
        """The queues to watch beside the worker's own, likewise."""
        self._schedules = worker.app.schedules
        self._firing = worker.app.schedules.firing()
        self._scheduled = False
        self.switches: Switches = Switches(worker.app)
        """Which of its tasks are switched off."""
        self._notifications = worker.app.notifications
        self._next_prune = 0.0
        self._to_prune: list[str] = []
        self._workflows = worker.app.workflows
        self._runs_go_on = False
        self._reconciled = False
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._next_clearing = 0.0
        self._kept_until: dict[str, float] = {}

    def look(self, at_once: bool = False) -> bool:
        """Answer what was asked, put the runs of schedules that are due, and now and then clear up after workers that
        have gone. What fails is tried again. Whether more is due than there was time for.

        Who comes while another looks goes away, but for a look `at_once`: that waits, and so finds what the other one
        has put."""
        is_time = at_once or SYSTEM.monotonic() >= self._next_look
        if not (is_time or self._scheduled or self._runs_go_on) or not self._lock.acquire(blocking=at_once):
            return False
        try:
            if is_time:
                self._look_around()
            more = self._runs_go_on and self._workflows.engine.look()
            return (self._scheduled and self._firing.fire_due(SCHEDULES_BUDGET)) or more
        except StorageClosed:
            log.debug("worker %s: its store was closed", self._id)
        except EventqError as error:
            log.warning("a look at what is asked of worker %s failed and is repeated: %s", self._id, error)
        finally:
            self._lock.release()
        return False

    def _look_around(self) -> None:
        now = SYSTEM.monotonic()
        self._next_look = now + LOOK_INTERVAL / 2  # less, or a caller that is a moment early comes in vain
        self.switches.look()
        queues = self._storage.queues()
        self.called, self._scheduled = self.inbox in queues, self._schedules.queue in queues
        self._runs_go_on = self._workflows.queue in queues
        self.beside = tuple(
            each for each in (self.inbox, self._schedules.queue, self._workflows.queue) if each in queues
        )
        self._workflows.engine.sweep(queues)
        if control_of(self._id) in queues:
            self._answer()
        if now >= self._next_clearing:
            self._next_clearing = now + CLEAR_INTERVAL
            self._clear_up(queues, now)
        self._prune_notifications(queues, now)
        if not self._reconciled:
            self._worker.app.jobs.reconcile()
            self._schedules.reconcile()
            self._reconciled = True

    def look_at_switches(self) -> None:
        """See which tasks are switched off, before anything is claimed; if the storage fails, with the first look for
        which it works again."""
        try:
            self.switches.look()
        except EventqError as error:
            log.warning("worker %s cannot see yet which tasks are switched off: %s", self._id, error)

    def _prune_notifications(self, queues: list[str], now: float) -> None:
        """Now and then remove notifications that are past their time; those of one user in one look."""
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_INTERVAL
            self._to_prune = [queue for queue in queues if is_box(queue)]
        if self._to_prune:
            self._notifications.prune_box(self._to_prune.pop())

    def leave(self) -> None:
        """The worker ends: cancel what still waits for it. What cannot be done now is done by the others."""
        try:
            self._firing.leave()
            clear(self._storage, self._id)
        except StorageClosed:
            log.debug("worker %s: its store was closed before its inbox was empty", self._id)
        except EventqError as error:
            log.warning("what waits for worker %s is left for others to cancel: %s", self._id, error)

    # ------------------------------------------------------------------ what is asked

    def _answer(self) -> None:
        while claims := self._storage.claim(control_of(self._id), BATCH):
            for claimed in claims:
                try:
                    self._storage.settle(claimed, self._outcome(claimed))
                except EventqError as error:  # the others of the batch are answered all the same
                    log.warning("an answer of worker %s is lost: %s", self._id, error)

    def _outcome(self, claimed: Claimed) -> Outcome:
        try:
            call = msgspec.json.decode(claimed.payload, type=Call)
        except msgspec.MsgspecError as error:
            return Rejected(failure_of(error))
        if call.task == PING:
            return Completed(msgspec.json.encode(self._worker.stats()))
        if call.task == STOP:
            force = bool(call.kwargs.get("force"))
            log.info("worker %s was asked to stop%s", self._id, " at once" if force else "")
            for worker in list(self._worker.app.serving):
                worker.stop(force=force)
            return Completed()
        return Rejected(failure_of(LookupError(f"a worker knows nothing of {call.task!r}")))

    # ------------------------------------------------------------------ the dead

    def _clear_up(self, queues: list[str], now: float) -> None:
        left_behind = {id for queue in queues if (id := addressee_of(queue)) is not None} - {self._id}
        if not left_behind:
            return
        living = {worker.id for worker in serving(self._storage)}
        if self._id not in living:
            return  # a list that lacks this worker proves nothing about others
        gone = left_behind - living
        self._kept_until = {id: until for id, until in self._kept_until.items() if id in gone}
        for id in gone:
            if now < self._kept_until.get(id, 0.0):
                continue
            try:
                left = clear(self._storage, id)
            except EventqError as error:  # it may still hold something, which is to be brought back first
                log.debug("the inbox of worker %s stays for now: %s", id, error)
                continue
            if left is not None and not (left.ready or left.delayed or left.claimed):
                self._kept_until[id] = now + KEPT_INTERVAL


# ---------------------------------------------------------------- who asks


class Ping:
    """A question to all living workers that run tasks, or to one of them; asked when this is made."""

    def __init__(self, store: Store, worker: str | None, timeout: float) -> None:
        timeout = seconds("timeout", timeout)
        options = PutOptions(expires=store.clock.now() + timeout, keep=KEEP)
        data = msgspec.json.encode(Call(PING))
        self._storage = store.storage
        self._deadline = SYSTEM.monotonic() + timeout
        self._asked = [
            (control_of(each.id), store.storage.put(control_of(each.id), (data,), options)[0])
            for each in serving(store.storage)
            if worker is None or each.id == worker
        ]
        self.handles: list[Handle[WorkerStats]] = [Handle(store, id, WorkerStats) for _, id in self._asked]
        """To wait for, each for no longer than `left`."""

    def left(self) -> float:
        """Seconds until it is too late for an answer."""
        return max(0.0, self._deadline - SYSTEM.monotonic())

    def answers(self) -> list[WorkerStats]:
        """What has been answered. Nothing of the question is left in the store afterwards."""
        answers = []
        for handle in self.handles:
            try:
                answers.append(handle.result(0))
            except EventqError as error:
                log.debug("no answer: %s", error)
        for queue, id in self._asked:
            self._storage.edit(queue, [id], Cancel())
            self._storage.edit(queue, [id], Delete())
        return answers


def ping(store: Store, worker: str | None, timeout: float) -> list[WorkerStats]:
    """What the living workers say of themselves, those that do within `timeout` seconds."""
    asked = Ping(store, worker, timeout)
    for handle in asked.handles:
        handle.wait(asked.left())
    return asked.answers()


def ask_to_stop(storage: Storage, worker: str, force: bool) -> None:
    """Ask a worker to stop. Raises UnknownWorker if there is none of this id."""
    if not is_serving(storage, text("the id of a worker", worker)):
        raise unknown(worker)
    data = msgspec.json.encode(Call(STOP, kwargs={"force": force}))
    storage.put(control_of(worker), (data,), PutOptions())
