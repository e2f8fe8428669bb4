"""A run as it stands at one moment, read from the store without holding anything.

A look goes in the direction in which things move, so that it misses nothing:

1. Arrivals that nobody has worked off yet, then those that are recorded. One that is worked off meanwhile is found in
   one of these places. One that goes back meanwhile (it came early, or its holder died) may be missed: then the look
   is that of a moment before it came. So who asks for one step asks that one's own event as well, which is settled
   after its arrival was put.
2. The run's own event last. Its inbox goes only after that event is completed, or deleted. So if it is neither now,
   the inbox was whole when it was read; if it is completed, it says all there is to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventq.errors import UnknownEvent
from eventq.model import FINAL_STATES, State
from eventq.workflow.graph import Graph
from eventq.workflow.inbox import QUEUE, Ended, arrival_in, definition_in, inbox_of, recorded, scanned
from eventq.workflow.state import OPEN, SKIPPED, RunState

if TYPE_CHECKING:
    from eventq.model import Record
    from eventq.store import Store

IN_THEIR_WAY = (State.DELAYED, State.READY, State.CLAIMED)
"""The states of an arrival before it is recorded, in this order."""
ENDS = frozenset((*FINAL_STATES, SKIPPED))
"""States of a step that stay."""


class View(NamedTuple):
    """A run as it stands at one moment."""

    record: Record
    graph: Graph
    state: RunState | None
    """None once the run is completed."""
    ended: Ended | None

    def status(self, name: str) -> str:
        """Where a step stands: `open` if it was put."""
        if self.ended is not None:
            return self.ended.states[name][0]
        assert self.state is not None
        return str(self.state.status[name])

    def id(self, name: str) -> str | None:
        """The event of a step; None if it was not put."""
        if self.ended is not None:
            return self.ended.states[name][1] or None
        assert self.state is not None
        return self.state.ids.get(name)

    def names(self) -> list[str]:
        """The steps, in the order of their definition, and those that undo others, if they run."""
        if self.ended is not None:
            return list(self.ended.states)
        assert self.state is not None
        return list(self.state.status)

    def before(self, name: str) -> str:
        """An event without whose end nothing becomes of a step: its own, that of a step it waits for, or the run's."""
        names, ways = set(self.names()), [name]
        for each in ways:
            if each in names and (id := self.id(each)) and (each == name or self.status(each) == OPEN):
                return id
            ways += [parent for parent in self.graph.parents.get(each, ()) if parent not in ways]
        return self.record.id


def graph_of(store: Store, run: str) -> Graph:
    """The graph of a run, which never changes. Raises UnknownEvent if there is no record of it."""
    return Graph(definition_in(_known(store, run).payload))


def seen(store: Store, run: str, graph: Graph) -> View:
    """The run as it stands now. Raises UnknownEvent if there is no record of it."""
    storage, inbox = store.storage, inbox_of(run)
    coming = [each for where in IN_THEIR_WAY for each in scanned(storage, inbox, where)]
    known = recorded(storage, run)
    record = _known(store, run)  # last: see above
    if record.state is State.COMPLETED:
        assert record.value is not None
        return View(record, graph, None, msgspec.json.decode(record.value, type=Ended))
    state = RunState(graph, store.load)
    state.replay(known)
    for arrival in sorted(filter(None, map(arrival_in, coming)), key=state.place_of):
        state.apply(arrival)
    return View(record, graph, state, None)


def _known(store: Store, run: str) -> Record:
    record = store.storage.get(run)
    if record is None or record.queue != QUEUE:
        raise UnknownEvent(f"there is no record of a run {run}; 'eventq runs' lists them")
    return record
