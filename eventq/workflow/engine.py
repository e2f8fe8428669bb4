"""The way of a run: steps that have ended arrive in its inbox, and whoever holds its slot puts what may run then.

Whoever has put an arrival tries the slot at once. Who does not get it may go: the holder looks once more after it has
let go. What a death leaves is found by the run's own event, which becomes due again and again while the run goes on.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import clock
from eventq.claim import failure_of
from eventq.clock import SYSTEM, perf_counter
from eventq.errors import ClaimLost, ConfigError, EventqError, PayloadError, StorageError, TemplateError
from eventq.handle import ended
from eventq.ids import created_of
from eventq.model import (
    Completed,
    Dropped,
    Failure,
    Rejected,
    Released,
    Requeue,
    State,
)
from eventq.notifications.record import notify_end
from eventq.retry import pauses
from eventq.workflow.graph import DEEPEST, Graph
from eventq.workflow.inbox import (
    NOTIFY,
    QUEUE,
    Ended,
    arrival_in,
    definition_in,
    ended_as,
    ended_by,
    inbox_of,
    node_of,
    put_arrival,
    recorded,
    run_of,
    slot_of,
)
from eventq.workflow.state import EMPTY, Arrival, RunState
from eventq.workflow.steps import Steps, together

if TYPE_CHECKING:
    from eventq.model import Claimed, Outcome
    from eventq.storage.base import Slot
    from eventq.store import Store
    from eventq.workflow.staged import Owner, Staged

log: logging.Logger = logging.getLogger("eventq.workflow")

BATCH = 100
"""Arrivals that are worked off together."""
KNOWN_RUNS = 256
"""Runs whose state is kept in memory."""
FIRST_LOOK, LAST_LOOK = 1.0, 10.0
"""Seconds between two looks after a run that goes on: first, and when it is old."""
EARLY = 0.1
"""Seconds after which an arrival is told again that came too early."""
AGAIN_AFTER = 1.0
"""Seconds after which an arrival is worked off again that could not be."""
SEARCH_BUDGET = 0.05
"""Seconds for one look after steps that will never arrive."""
SLOT_PATIENCE = 1.0
"""Seconds for which the slot of a run is waited for by who has claimed its event. Whoever holds the slot meanwhile
cannot make that event due, should the run be over; who gave up sooner would leave it to the next look, and a burst
might end before that."""
SWEEP_INTERVAL = 60.0


class Engine:
    """A process's part in all runs of a store. May be used by many threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._states: OrderedDict[str, RunState] = OrderedDict()
        self._lock = threading.Lock()
        self._owed: list[tuple[Claimed, Outcome]] = []
        """What could not be settled yet: as long as this process lives, nobody else works it off."""
        self._next_sweep = 0.0
        self.waiting: float = 0.0
        """Since when runs wait for `catch_up`; 0 if none does."""
        self._waiting: dict[str, int] = {}
        """Those runs, each with how many of its steps were settled here since."""
        self._steps = Steps(store, FIRST_LOOK)
        self.graphs: dict[str, Graph] = {}
        """Those of the runs that begin here at this moment: they need not be made once more."""
        self.owner: Owner | None = None
        """Who is asked about runs of staged jobs."""

    # ------------------------------------------------------------------ a worker's side

    def arriving(self, claimed: Claimed, outcome: Outcome) -> Outcome:
        """Put the arrival of an event that is a step, before it is settled; the outcome to settle it by, which leaves a
        record of it. Raises StorageError."""
        node = node_of(claimed.headers)
        arrival = None if node is None else ended_by(node, claimed, outcome)
        if node is None or arrival is None:
            return outcome
        try:
            put_arrival(self._store.storage, node.run, arrival)
        except PayloadError as error:  # too large for the inbox
            lost = msgspec.structs.replace(arrival, state=State.DEAD, value=EMPTY, data=None, failure=failure_of(error))
            put_arrival(self._store.storage, node.run, lost)
        if isinstance(outcome, Completed) and outcome.value is None:
            return Completed(b"null")
        return outcome

    def arrived(self, claimed: Claimed, *, later: bool = False) -> None:
        """Go on with the run whose step was settled; `later`, if the caller calls `catch_up` before it rests: then for
        many steps at once. What fails is found by the next look after the run."""
        node = node_of(claimed.headers)
        if node is None:
            return
        if not later:
            self._go_on(node.run, 1)
            return
        with self._lock:
            self.waiting = self.waiting or perf_counter()
            self._waiting[node.run] = self._waiting.get(node.run, 0) + 1

    def catch_up(self, patience: float = 0.0) -> bool:
        """Go on with the runs that were left for later, if the first of them has waited for so many seconds; whether
        steps were put."""
        if not self.waiting or perf_counter() - self.waiting < patience:
            return False
        with self._lock:
            runs, self._waiting, self.waiting = self._waiting, {}, 0.0
        before = self._steps.count
        for run, steps in runs.items():
            self._go_on(run, steps)
        return self._steps.count != before

    def _go_on(self, run: str, steps: int) -> None:
        try:
            if self.advance(run, steps):
                for _ in range(DEEPEST):  # with its end, those may end of which it is a step
                    if not self.look():
                        break
        except EventqError as error:
            log.warning("run %s goes on a little later: %s", run, error)
        except Exception:
            log.exception("run %s cannot go on here; it is looked after later", run)

    def look(self, budget: float = SEARCH_BUDGET) -> bool:
        """Look after the runs whose event is due, for so many seconds; whether that was too short. Raises
        StorageError."""
        until = SYSTEM.monotonic() + budget
        self._settle_owed()
        while claims := self._store.storage.claim(QUEUE, 1):
            run = claims[0].id
            self._look_after(claims[0])
            if self._store.storage.has_ready(inbox_of(run)):
                self.advance(run)
            if SYSTEM.monotonic() >= until:
                return True
        return False

    def sweep(self, queues: list[str]) -> None:
        """Now and then, drop the inboxes of runs of which there is no record any more. Raises StorageError."""
        now = SYSTEM.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_INTERVAL
        for queue in queues:
            run = run_of(queue)
            if run is not None and self._is_over(run):
                slot = self._store.storage.take_slot(slot_of(run))
                if slot is not None:
                    try:
                        self._drop(run)
                    finally:
                        slot.release()

    # ------------------------------------------------------------------ going on

    def advance(self, run: str, expected: int = BATCH) -> bool:
        """Work off what has arrived, unless somebody else does; whether the run is over, so that its event is due.
        `expected` says how much it is, as far as is known. Raises EventqError."""
        storage, over, vain = self._store.storage, False, 0
        while vain < 2:  # what is there and cannot be claimed, as in a pause, is looked after later
            slot = storage.take_slot(slot_of(run))
            if slot is None:
                return False
            try:
                state, found = self._worked_off(run, None, single=expected == 1)
                over = state is not None and state.over and self._call_for_end(run)
            finally:
                slot.release()
            over = self._go_down(run) or over
            if not storage.has_ready(inbox_of(run)):  # only now: who came before went away
                return over
            expected, vain = BATCH, 0 if found else vain + 1
        return over

    def _go_down(self, run: str) -> bool:
        """Go on with those steps of a run that are runs, and have just begun or were cancelled; whether the event of
        one is due. What fails is found by the next look after it."""
        due = False
        for below in self._steps.below(run):
            try:
                due = self.advance(below) or due
            except EventqError as error:
                log.warning("run %s, a step of %s, goes on a little later: %s", below, run, error)
        return due

    def _worked_off(self, run: str, payload: bytes | None, *, single: bool = False) -> tuple[RunState | None, bool]:
        """Work off all that has arrived, or a `single` arrival, with the slot held. The state then, None if the run is
        no more; and whether there was anything."""
        state = self._state(run, payload)
        if state is None:
            return None, False
        storage, inbox, found = self._store.storage, inbox_of(run), False
        try:
            claims = storage.claim(inbox, 1 if single else BATCH)
            while claims:
                found = True
                self._work_off(run, state, claims)
                claims = storage.claim(inbox, BATCH) if len(claims) == BATCH else []  # who holds the slot looks again
            if single:
                storage.give_back(inbox)  # nobody else sees what has come with it
        except BaseException:
            self._forget(run)  # it knows more than is recorded
            storage.give_back(inbox)
            raise
        return state, found

    def _work_off(self, run: str, state: RunState, claims: list[Claimed]) -> None:
        """Follow arrivals that were claimed together, and settle them."""
        todo = self._read(state, claims)
        try:
            while todo:
                claimed, arrival = todo[-1]
                if state.is_early(arrival):
                    outcome: Outcome = Released(EARLY)
                else:
                    put = self._follow(run, state, arrival)
                    outcome = Completed(None if put is None else msgspec.json.encode(put))
                self._store.storage.settle(claimed, outcome)
                todo.pop()
        except BaseException:
            self._forget(run)
            for claimed, _ in todo:
                self._settle(claimed, Released(AGAIN_AFTER))
            raise

    def _read(self, state: RunState, claims: list[Claimed]) -> list[tuple[Claimed, Arrival]]:
        """The arrivals in claimed events, those to be told first at the end. What is none is a dead letter."""
        found = []
        for claimed in claims:
            arrival = arrival_in(claimed)
            if arrival is not None:
                found.append((claimed, arrival))
                continue
            log.error("event %s in %s is no arrival, and now a dead letter", claimed.id, claimed.queue)
            self._settle(claimed, Rejected(failure_of("this queue is for eventq's own arrivals; put it into another")))
        return sorted(found, key=lambda each: state.place_of(each[1]), reverse=True)

    def _follow(self, run: str, state: RunState, arrival: Arrival) -> dict[str, str] | None:
        """Put what may run on account of an arrival; the ids by step. None if it changed nothing."""
        ready = state.apply(arrival)
        if ready is None:
            return None
        if arrival.kind == "cancel":
            self._steps.cancel_open(run, state)
        put: dict[str, str] = {}
        for names in together(state, arrival, ready) if ready and not state.cancelled else ():
            try:
                put.update(zip(names, self._put(run, state, names), strict=True))
            except TemplateError as error:  # it fails before it has an event; such steps are put one by one
                failure = failure_of(error)
                lost = Arrival(generation=state.generation, node=names[0], state=State.DEAD, failure=failure)
                put_arrival(self._store.storage, run, lost)
        state.ids.update(put)
        return put

    def _put(self, run: str, state: RunState, names: list[str]) -> list[str]:
        """Put steps, unless they were put before; the ids of their events."""
        nodes = [state.graph.nodes[name] for name in names]
        if state.graph.definition.staged is not None:
            nodes = [self._asked().filled(run, state, node) for node in nodes]
        return self._steps.put(run, state, nodes)

    # ------------------------------------------------------------------ what is known of a run

    def _state(self, run: str, payload: bytes | None) -> RunState | None:
        """The state of a run, with the slot held: as it was left here, unless somebody else has held the slot since.
        None if the run is no more."""
        storage, name = self._store.storage, slot_of(run)
        last, fresh = storage.take_name(name, b"null")
        with self._lock:
            state = self._states.get(run)
        if state is not None and last.worker == storage.worker and not fresh:
            return state
        self._forget(run)
        if payload is None:
            record = storage.get(run)
            if record is None or record.queue != QUEUE or record.state is State.COMPLETED:
                self._drop(run)
                return None
            payload = record.payload
        if last.worker != storage.worker:
            storage.replace_name(last, b"null")
        state = self.rebuilt(run, payload)
        with self._lock:
            self._states[run] = state
            while len(self._states) > KNOWN_RUNS:
                self._states.popitem(last=False)
        return state

    def rebuilt(self, run: str, payload: bytes) -> RunState:
        """The state of a run by its record. Raises ConfigError, StorageError."""
        state = RunState(self.graphs.get(run) or Graph(definition_in(payload)), self._store.load)
        state.replay(recorded(self._store.storage, run))
        return state

    def _forget(self, run: str) -> None:
        with self._lock:
            self._states.pop(run, None)

    # ------------------------------------------------------------------ the run's own event

    def _call_for_end(self, run: str) -> bool:
        """Make the event of a run that is over due, with the slot held."""
        storage = self._store.storage
        record = storage.get(run)
        if record is None or record.state is State.COMPLETED:
            self._drop(run)
            return False
        return storage.edit(QUEUE, [run], Requeue())[0] not in ("too late", "unknown")

    def _look_after(self, claimed: Claimed) -> None:
        """Look after a run whose event is claimed, and settle that before the slot is let go: who makes it due again
        must know whether it has ended."""
        run, slot = claimed.id, None
        outcome: Outcome = Released(AGAIN_AFTER)
        try:
            slot = self._slot_soon(run)
            if slot is not None:
                ending = self._outcome(claimed)
                self._notify(claimed, ending)
                outcome = self.arriving(claimed, ending)  # only now: who could not be told is told with the next look
        except ConfigError as error:
            log.error("event %s in %s is no run of a workflow, and now a dead letter: %s", run, QUEUE, error)
            outcome = Rejected(failure_of(error))
        except EventqError as error:
            log.error("run %s: %s; tried again in %.1f s", run, error, AGAIN_AFTER)
        except Exception:
            log.exception("run %s cannot go on; tried again in %.0f s", run, LAST_LOOK)
            outcome = Released(LAST_LOOK)
        try:
            if self._settle(claimed, outcome) and isinstance(outcome, Completed):
                self._drop(run)
        finally:
            if slot is not None:
                slot.release()
        above = node_of(claimed.headers)
        self._go_down(run)
        if above is not None and not isinstance(outcome, Released):
            self.advance(above.run)

    def _notify(self, claimed: Claimed, outcome: Outcome) -> None:
        """Tell who has asked for it how the run ends, before its event is settled so. Raises StorageError."""
        user = claimed.headers.get(NOTIFY)
        if not isinstance(user, str) or isinstance(outcome, Released):
            return
        result = None
        if isinstance(outcome, Completed) and outcome.value is not None:
            end = msgspec.json.decode(outcome.value, type=Ended)
            result = Completed(bytes(end.value) or end.data, end.codec)
        name = str(claimed.headers.get("workflow", ""))
        notify_end(self._store, user, "workflow", name, claimed, outcome, result)

    def _slot_soon(self, run: str) -> Slot | None:
        """The slot of a run. Who has just made the event due holds it for a moment longer."""
        for pause in pauses(SLOT_PATIENCE):
            slot = self._store.storage.take_slot(slot_of(run))
            if slot is not None:
                return slot
            clock.sleep(pause)
        return self._store.storage.take_slot(slot_of(run))

    def _outcome(self, claimed: Claimed) -> Outcome:
        """What the event of a run leads to, with the slot held."""
        run, storage = claimed.id, self._store.storage
        state = self._known(run, claimed.payload)
        staged, look_by = state.graph.definition.staged, math.inf
        if state.generation == 0:
            if staged is not None and (why := self._asked().refused(run, staged)):
                self._drop(run)
                return Dropped(State.CANCELLED, why)
            put_arrival(storage, run, Arrival(kind="begin"))
            state = self._known(run, claimed.payload)
        if staged is not None and not state.over:
            look_by = self._cut_short(run, state, staged)
            state = self._known(run, claimed.payload)
        if not state.over:
            self._find_lost(run, state)
            state = self._known(run, claimed.payload)
        if not state.over:
            now = self._store.clock.now()
            pause = min(LAST_LOOK, max(FIRST_LOOK, (now - created_of(run)) / 10))
            return Released(max(0.0, min(pause, look_by - now)))
        outcome: Outcome
        if state.cancelled:
            outcome = Dropped(State.CANCELLED, state.reason)
        elif state.failed is not None:
            outcome = Rejected(failure_in(state, state.failed))
        else:
            outcome = Completed(msgspec.json.encode(self._ended(state)))
        return outcome if staged is None else self._asked().ended(claimed, state, outcome)

    def _asked(self) -> Owner:
        assert self.owner is not None
        return self.owner

    def _cut_short(self, run: str, state: RunState, staged: Staged) -> float:
        """Cancel the run of a job whose time is over; when that is to be asked again, at the latest."""
        why, again = self._asked().cut_short(run, staged)
        if why and not state.cancelled:
            cancel = Arrival(kind="cancel", generation=state.generation, failure=failure_of(why, "Cancel"))
            put_arrival(self._store.storage, run, cancel)
        return math.inf if why or again is None else again

    def _known(self, run: str, payload: bytes) -> RunState:
        state, _ = self._worked_off(run, payload)
        assert state is not None
        return state

    def _find_lost(self, run: str, state: RunState) -> None:
        """Put the arrivals of steps that have ended without one: expired, deleted, cancelled by hand, or because of
        the workers that died running them."""
        until, storage = SYSTEM.monotonic() + SEARCH_BUDGET, self._store.storage
        for name in state.open:
            id = state.ids.get(name)
            if id is None:
                continue
            record = storage.get(id)
            if ended(record, self._store):  # its own arrival, if there is one, was put before it ended
                put_arrival(storage, run, ended_as(name, state.generation, id, record))
            if SYSTEM.monotonic() >= until:
                return

    def _ended(self, state: RunState) -> Ended:
        definition, result = state.graph.definition, state.graph.result
        states = {name: (str(status), state.ids.get(name, "")) for name, status in state.status.items()}
        if isinstance(result, str):
            arrival = state.arrived.get(result)
            if arrival is None:
                return Ended(states=states, value=msgspec.Raw(b"null"))
            return Ended(states=states, value=arrival.value, data=arrival.data, codec=arrival.codec)
        value: Any
        if state.graph.stages:
            value = [state.stage_value(stage) for stage in range(len(state.graph.stages))]
        elif result is None:
            value = {name: state.value(name) for name in state.graph.last if name in state.arrived}
        else:
            value = [state.value(name) for name in result]
        codec = self._store.codec_named(definition.codec)
        data = codec.encode(value)
        if codec.name == "json":
            return Ended(states=states, value=msgspec.Raw(data))
        return Ended(states=states, data=data, codec=codec.name)

    def _is_over(self, run: str) -> bool:
        record = self._store.storage.get(run)
        return record is None or record.state is State.COMPLETED

    def _drop(self, run: str) -> None:
        """Remove the inbox and the name of a run that is no more, with the slot held."""
        self._forget(run)
        storage = self._store.storage
        storage.release_name(slot_of(run))
        if inbox_of(run) in storage.queues():
            storage.drop(inbox_of(run))

    # ------------------------------------------------------------------ settling

    def _settle(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Settle it now, or with the next look; whether it is settled."""
        try:
            self._store.storage.settle(claimed, outcome)
        except ClaimLost as error:
            log.debug("event %s was settled before: %s", claimed.id, error)
            return False
        except StorageError as error:
            log.warning("event %s cannot be settled yet: %s", claimed.id, error)
            with self._lock:
                self._owed.append((claimed, outcome))
            return False
        return True

    def _settle_owed(self) -> None:
        with self._lock:
            owed, self._owed = self._owed, []
        for claimed, outcome in owed:
            self._settle(claimed, outcome)


def failure_in(state: RunState, name: str) -> Failure:
    """Why a run has failed."""
    arrival = state.arrived[name]
    failure = arrival.failure
    why = "no reason was recorded" if failure is None else f"{failure.type}: {failure.message}"
    message = f"step {name!r} of workflow {state.graph.definition.name!r} is {arrival.state} ({why})"
    return Failure("StepFailed", message, "" if failure is None else failure.traceback)
