"""The state of a run: what has arrived of its steps, and which may run now. Computing alone.

It follows from the graph and the set of arrivals; their order changes nothing. So whoever has the arrivals that are
recorded knows as much as whoever recorded them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from eventq.model import Failure, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventq.workflow.graph import Graph

WAITING, OPEN, SKIPPED = "waiting", "open", "skipped"
"""What a step may be beside the final states of events: not to run yet; put; never to run."""
RUNNING = "running"
"""What is shown of a run that goes on, also of one that is a step."""


EMPTY = msgspec.Raw()


class Arrival(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes into the inbox of a run: that it begins (once more), that it is to be cancelled, or how the event of a
    step has ended."""

    kind: Literal["begin", "node", "cancel"] = "node"
    generation: int = 1
    """1, and one more with each `resume`."""
    node: str = ""
    """The step; empty if `place` says which it is, in the sequence of the graph."""
    place: int = -1
    id: str = ""
    """Of the step's event."""
    state: State = State.COMPLETED
    value: msgspec.Raw = EMPTY
    """The result, if it is written as JSON; else it is in `data`."""
    data: bytes | None = None
    codec: str = "json"
    failure: Failure | None = None

    @property
    def result(self) -> bytes | None:
        """The result as it was written; None if there is none."""
        return bytes(self.value) or self.data


class Skipped(msgspec.Struct, frozen=True):
    """Why a step never runs."""

    failed: str = ""
    """The step whose failure stops it; empty if no way led to it."""


class RunState:
    """Where each step of a run stands. `apply` tells it of an arrival, and says what is to be put then."""

    __slots__ = (
        "_left", "_unresolved", "arrived", "cancelled", "failed", "generation", "graph", "ids", "load", "reason",
        "skipped", "status", "undone",
    )  # fmt: skip

    def __init__(self, graph: Graph, load: Callable[[bytes, str], Any]) -> None:
        self.graph: Graph = graph
        self.load: Callable[[bytes, str], Any] = load
        """Gives the result of an arrival, decoded."""
        self.generation: int = 0
        """How often it began; 0 before the first time."""
        self.status: dict[str, str] = dict.fromkeys(graph.parents, WAITING)
        """By step: waiting, open, skipped, or the final state of its event."""
        self.arrived: dict[str, Arrival] = {}
        """What arrived, by step."""
        self.ids: dict[str, str] = {}
        """The events of the steps that were put."""
        self.skipped: dict[str, Skipped] = {}
        self.failed: str | None = None
        """The first step, in the order of the graph, whose failure is that of the run."""
        self.cancelled: bool = False
        self.reason: str = ""
        self.undone: list[str] = []
        """What undoes the completed steps, in the order in which it runs."""
        self._left: dict[str, int] = {}
        self._unresolved = len(self.status)

    @property
    def over(self) -> bool:
        """Whether nothing of it can run any more."""
        return self.generation > 0 and self._unresolved == 0 and not self._is_undoing() and not self._next_undo()

    @property
    def open(self) -> list[str]:
        """The steps that were put and have not arrived."""
        return [name for name, status in self.status.items() if status == OPEN]

    def replay(self, recorded: Iterable[tuple[Arrival, dict[str, str]]]) -> None:
        """Tell it of what was recorded: arrivals, each with the events that were put on account of it."""
        for arrival, put in sorted(recorded, key=lambda each: self.place_of(each[0])):
            self.apply(arrival)
            if arrival.generation == self.generation:
                self.ids.update(put)

    def place_of(self, arrival: Arrival) -> tuple[int, int, int]:
        """In this order arrivals may be told together: a generation begins, its steps end, each behind those it waited
        for, and it is cancelled."""
        kind = ("begin", "node", "cancel").index(arrival.kind)
        return arrival.generation, kind, self.graph.places.get(self.step_of(arrival), 0)

    def step_of(self, arrival: Arrival) -> str:
        """The step that an arrival is of; empty if it is of none."""
        if arrival.node or not 0 <= arrival.place < len(self.graph.sequence):
            return arrival.node
        return self.graph.sequence[arrival.place]

    def is_early(self, arrival: Arrival) -> bool:
        """Whether a step has ended of which it is not known yet that it was put: what it waited for was not recorded
        when whoever put it died. It is to be told later."""
        if arrival.kind != "node" or arrival.generation != self.generation:
            return False
        name = self.step_of(arrival)
        if name in self.graph.undoes:
            return name not in self.undone and not self.cancelled
        return self.status.get(name) == WAITING

    def apply(self, arrival: Arrival) -> list[str] | None:
        """Tell it of an arrival: the steps to be put now; None if it changes nothing and need not be recorded."""
        ready: list[str] = []
        known = arrival.generation <= self.generation
        if not known:
            ready = self._begin(arrival.generation)  # what comes of a generation proves that it began
        if arrival.kind == "begin":
            return None if known else ready
        if arrival.generation < self.generation:
            return None
        if arrival.kind == "cancel":
            return None if self.cancelled else self._cancel(arrival)
        name = self.step_of(arrival)
        if self.status.get(name) != OPEN or self.ids.get(name, arrival.id) != arrival.id:
            return None if known else ready
        self._end(name, arrival, ready)
        return [each for each in ready if each != name]

    # ------------------------------------------------------------------ beginning

    def _begin(self, generation: int) -> list[str]:
        """Begin (once more): what is completed and was not undone stays; nothing, of a job that begins anew."""
        staged = self.graph.definition.staged
        anew = staged is not None and staged.restart == "first"
        undone = {of for undo, of in self.graph.undoes.items() if self.status.get(undo) == State.COMPLETED}
        kept = {
            name: arrival
            for name, arrival in self.arrived.items()
            if arrival.state is State.COMPLETED and name in self.graph.parents and name not in undone and not anew
        }
        self.generation, self.arrived = generation, kept
        self.status = dict.fromkeys(self.graph.parents, WAITING)
        self.ids = {name: arrival.id for name, arrival in kept.items()}
        self.skipped, self.failed, self.cancelled, self.reason, self.undone = {}, None, False, "", []
        self._left = {name: len(parents) for name, parents in self.graph.parents.items()}
        self._unresolved = len(self.status)
        ready: list[str] = []
        for name in self.graph.order:
            if name in kept:
                self._resolve(name, State.COMPLETED)
            elif self._left[name] == 0 and self.status[name] == WAITING:
                self._decide(name, ready)
        return ready + self._undoing()

    def _cancel(self, arrival: Arrival) -> list[str]:
        self.cancelled = True
        self.reason = "" if arrival.failure is None else arrival.failure.message
        for name in self.graph.parents:  # a replay has the ends of all steps before, and so opens some never put
            if self.status[name] == WAITING or (self.status[name] == OPEN and name not in self.ids):
                self.status[name] = State.CANCELLED
                self._unresolved -= 1
        for name in [name for name, why in self.skipped.items() if why.failed]:
            self.status[name] = State.CANCELLED
            del self.skipped[name]
        for undo in [each for each in self.undone if self.status[each] == OPEN and each not in self.ids]:
            self.undone.remove(undo)
            del self.status[undo]
        return []

    # ------------------------------------------------------------------ ending

    def _end(self, name: str, arrival: Arrival, ready: list[str]) -> None:
        """A step that was put has ended."""
        self.arrived[name] = arrival
        self.ids[name] = arrival.id or self.ids.get(name, "")
        if name in self.graph.undoes:
            self.status[name] = arrival.state
            ready += self._undoing()
            return
        if arrival.state is not State.COMPLETED and self.graph.nodes[name].on_failure == "stop" and not self.cancelled:
            self.failed = name if self.failed is None else min(self.failed, name, key=self.graph.order.index)
        waiting = self._resolve(name, arrival.state)
        while waiting:
            child = waiting.pop()
            if self.status[child] == WAITING:
                waiting += self._decide(child, ready)
        ready += self._undoing()

    def _resolve(self, name: str, state: str) -> list[str]:
        """It needs nothing more: the steps that wait for nothing else now."""
        self.status[name] = state
        self._unresolved -= 1
        free = []
        for child in self.graph.children[name]:
            self._left[child] -= 1
            if not self._left[child]:
                free.append(child)
        return free

    def _decide(self, name: str, ready: list[str]) -> list[str]:
        """All that a step waits for is known: it runs, or is skipped. The steps that wait for nothing else then."""
        parents = self.graph.parents[name]
        blocked = next((cause for parent in parents if (cause := self._stopping(parent))), "")
        if not blocked and (not parents or any(self._fires(parent, name) for parent in parents)):
            self.status[name] = OPEN
            ready.append(name)
            return []
        self.skipped[name] = Skipped(blocked)
        return self._resolve(name, SKIPPED)

    def _stopping(self, parent: str) -> str:
        """The step whose failure stops whatever waits for this one; empty if nothing does."""
        if self.status[parent] == SKIPPED:
            return self.skipped[parent].failed
        failed = self.status[parent] != State.COMPLETED
        return parent if failed and self.graph.nodes[parent].on_failure == "stop" else ""

    def _fires(self, parent: str, child: str) -> bool:
        if self.status[parent] == SKIPPED:
            return False
        if (parent, child) not in self.graph.edges:
            return True
        return self.graph.fires(parent, child, self.value(parent))

    def value(self, name: str) -> Any:
        """The result of a step, decoded; None if it has none."""
        arrival = self.arrived.get(name)
        return None if arrival is None or arrival.result is None else self.load(arrival.result, arrival.codec)

    def stage_value(self, stage: int) -> Any:
        """The result of a stage of a staged job: that of its step, or the list of those of its batch."""
        names = self.graph.stages[stage]
        values = [self.value(name) for name in names]
        return values if self.graph.nodes[names[0]].batch else values[0]

    # ------------------------------------------------------------------ undoing

    def _next_undo(self) -> str | None:
        """What undoes the next completed step of a run that has failed, the last ones first."""
        if self.failed is None or self.cancelled or self._unresolved:
            return None
        for name in reversed(self.graph.order):
            undo = self.graph.nodes[name].undo
            if undo is not None and self.status[name] == State.COMPLETED and undo.name not in self.undone:
                return undo.name
        return None

    def _is_undoing(self) -> bool:
        return any(self.status[name] == OPEN for name in self.undone)

    def _undoing(self) -> list[str]:
        """The next step back, once the one before has ended."""
        following = None if self._is_undoing() else self._next_undo()
        if following is None:
            return []
        self.undone.append(following)
        self.status[following] = OPEN
        return [following]
