"""The handle of a run: ask where its steps stand, wait for any of them or for the whole, cancel, resume."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import clock
from eventq.claim import failure_of
from eventq.clock import SYSTEM
from eventq.config import patience
from eventq.errors import (
    ConfigError,
    EventqError,
    ResultMissing,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnknownEvent,
)
from eventq.handle import Handle, ended, why_no_value
from eventq.model import FINAL_STATES, OPEN_STATES, Requeue, State
from eventq.retry import pauses
from eventq.workflow.graph import mermaid
from eventq.workflow.inbox import QUEUE, Ended, put_arrival
from eventq.workflow.progress import Following, RunProgress, progress_of
from eventq.workflow.state import OPEN, RUNNING, SKIPPED, Arrival
from eventq.workflow.view import ENDS, graph_of, seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.store import Store
    from eventq.workflow import Workflows
    from eventq.workflow.aio import AsyncNodeHandle, AsyncRun
    from eventq.workflow.graph import Definition, Graph
    from eventq.workflow.progress import Change
    from eventq.workflow.view import View

SLICE = 2.0
"""Seconds for which one event is waited for, before the run is looked at again."""


class Run:
    """A run of a workflow, by its id: ask, wait, change. Any process may, any number of times.

    The id is that of the run's own event, in the queue `workflows`, which is there as long as the run goes on, and
    afterwards as long as that queue's settings say: an hour if it is completed, 14 days if not.
    """

    __slots__ = ("_graph", "_workflows", "id")

    def __init__(self, workflows: Workflows, id: str) -> None:
        self._workflows = workflows
        self._graph: Graph | None = None
        self.id: str = Handle(workflows.store, id).id
        """The id of the run."""

    @property
    def store(self) -> Store:
        """The opened store that it is in."""
        return self._workflows.store

    @property
    def aio(self) -> AsyncRun:
        """The same, awaitable."""
        from eventq.workflow.aio import AsyncRun

        return AsyncRun(self, self.store.bridge)

    @property
    def name(self) -> str:
        """The name of the workflow. Raises UnknownEvent."""
        return self.definition().name

    def definition(self) -> Definition:
        """The definition that the run has taken along. Raises UnknownEvent."""
        return self._shape().definition

    def _beside(self, id: str) -> Run:
        """The handle of another run of the same store."""
        return Run(self._workflows, id)

    def _shape(self) -> Graph:
        """The definition with what is looked up in it. Raises UnknownEvent."""
        if self._graph is None:
            self._graph = graph_of(self.store, self.id)
        return self._graph

    # ------------------------------------------------------------------ waiting

    def result(self, timeout: float | None = None) -> Any:
        """What the run came to; waits for it. See `Workflow.returns`.

        Raises TaskFailed if a step has failed that stops the run, TaskCancelled; ResultMissing if there is no record
        of the run any more; ResultTimeout if it goes on after `timeout` seconds.
        """
        return self._result(self.wait(timeout), timeout)

    def _result(self, over: bool, timeout: float | None) -> Any:
        if not over:
            raise ResultTimeout(f"run {self.id} goes on after {timeout} s; ask again")
        store = self.store
        record = store.storage.get(self.id)
        error = why_no_value(self.id, record, store)
        if error is not None:
            raise error
        assert record is not None
        assert record.value is not None
        end = msgspec.json.decode(record.value, type=Ended)
        data = bytes(end.value) or end.data
        type = self._workflows.type_of_result(self._shape())
        return None if data is None else store.load(data, end.codec, type)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, however; False if it goes on after `timeout` seconds."""
        wait, began = patience(timeout), SYSTEM.monotonic()
        while True:
            left = SLICE if wait is None else min(SLICE, began + wait - SYSTEM.monotonic())
            if Handle(self.store, self.id).wait(max(0.0, left)):
                return True
            if left < SLICE:
                return False

    def ready(self) -> bool:
        """Whether the run has ended, however. Never waits."""
        return Handle(self.store, self.id).ready()

    def status(self) -> str | None:
        """Where the run stands: `running`, `completed`, `dead` (it failed) or `cancelled`; None if there is no record
        of it (any more)."""
        state = Handle(self.store, self.id).status()
        if state is None:
            return None
        return RUNNING if state in OPEN_STATES else str(state)

    def exception(self) -> EventqError | None:
        """The error that `result` would raise now; None if there is a result, or the run goes on."""
        return Handle(self.store, self.id).exception()

    def node(self, name: str) -> NodeHandle:
        """The handle of a step. Raises UnknownEvent if the workflow has no such step."""
        graph = self._shape()
        if name not in graph.nodes:
            known = ", ".join(graph.nodes)
            raise UnknownEvent(f"workflow {graph.definition.name!r} has no step {name!r}; there are: {known:.500}")
        return NodeHandle(self, name)

    def follow(self, timeout: float | None = None) -> Iterator[Change]:
        """Each change of a step, as it comes: of its state, or of how far it says it is; those of now first. Ends with
        the run, or after `timeout` seconds.

        Looks a few times a second; of changes in between only the last is told.
        """
        following = Following(self)
        for pause in self._looks(timeout):
            yield from following.changes()
            if following.over:
                return
            clock.sleep(pause)

    def progress(self) -> RunProgress:
        """How far the run is: how many of its steps are in which state, and how much of the whole is done. Raises
        UnknownEvent."""
        return progress_of(self)

    def _looks(self, timeout: float | None) -> Iterator[float]:
        yield from pauses(patience(timeout))
        yield 0.0

    # ------------------------------------------------------------------ looking

    def states(self) -> dict[str, str]:
        """Where each step stands: `waiting` for others, `skipped`, or the state of its event; one that is a run of
        another workflow is `running`, until that has ended. Raises UnknownEvent.

        Costs a look at the record of the run, and one at each event that is open.
        """
        return {name: state for name, (state, _) in self._stands().items()}

    def ids(self) -> dict[str, str]:
        """The ids of the events of those steps that were put, by name. Raises UnknownEvent."""
        view = self._view()
        return {name: id for name in view.names() if (id := view.id(name))}

    def _stands(self) -> dict[str, tuple[str, str | None]]:
        """Of each step, where it stands, and the id of its event; None if it was not put. As `states`."""
        view = self._view()
        found = {name: (view.status(name), view.id(name)) for name in view.names()}
        return {name: (self._state_now(id) if state == OPEN else state, id) for name, (state, id) in found.items()}

    def _state_now(self, id: str | None) -> str:
        """Where a step stands that was put, or is being put just now."""
        record = None if id is None else self.store.storage.get(id)
        if record is not None and record.queue == QUEUE and record.state in OPEN_STATES:
            return RUNNING
        return (State.READY if record is None else record.state).value

    def mermaid(self) -> str:
        """The graph as Mermaid text, with the state of each step. Raises UnknownEvent."""
        return mermaid(self._shape(), self.states())

    def svg(self) -> str:
        """The graph as an SVG picture, with the state of each step: write it to a file that ends in `.svg`. Raises
        UnknownEvent."""
        from eventq.workflow.svg import svg

        return svg(self._shape(), self.states())

    def _view(self) -> View:
        """The run as it stands now. Raises UnknownEvent if there is no record of it."""
        return seen(self.store, self.id, self._shape())

    # ------------------------------------------------------------------ changing

    def cancel(self, reason: str = "") -> bool:
        """Cancel the run: no more steps are put, those that wait are cancelled, those that run are asked to end. When
        these have ended, the run ends as cancelled. Whether it was not too late.

        Durable when it returns; what undoes steps is not run. Raises UnknownEvent.
        """
        view = self._view()
        if view.record.state in FINAL_STATES or view.state is None or view.state.over:
            return False
        generation = max(1, view.state.generation)
        arrival = Arrival(kind="cancel", generation=generation, failure=failure_of(reason, "Cancel"))
        put_arrival(self.store.storage, self.id, arrival)
        self._workflows.go_on(self.id)
        return True

    def resume(self) -> bool:
        """Go on with a run that has failed or was cancelled: steps that were completed keep their results (unless they
        were undone), all others run again. Whether there was anything to resume. Raises UnknownEvent; ConfigError for a
        run of a job, which `app.jobs.restart` goes on with."""
        view, storage = self._view(), self.store.storage
        if (staged := view.graph.definition.staged) is not None:
            raise ConfigError(f"this is a run of the job {staged.job!r}; app.jobs.restart() goes on with it")
        if view.record.state not in (State.DEAD, State.CANCELLED, State.EXPIRED) or view.state is None:
            return False
        if view.state.over or view.state.generation == 0:
            put_arrival(storage, self.id, Arrival(kind="begin", generation=view.state.generation + 1))
        storage.edit(QUEUE, [self.id], Requeue())
        self._workflows.go_on(self.id)
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (self.id, self._workflows.store) == (other.id, other._workflows.store)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Run {self.id}>"


class NodeHandle:
    """The handle of one step of a run."""

    __slots__ = ("name", "run")

    def __init__(self, run: Run, name: str) -> None:
        self.run: Run = run
        """The run."""
        self.name: str = name
        """The step."""

    @property
    def aio(self) -> AsyncNodeHandle:
        """The same, awaitable."""
        from eventq.workflow.aio import AsyncNodeHandle

        return AsyncNodeHandle(self, self.run.store.bridge)

    @property
    def id(self) -> str | None:
        """The id of its event; None if it was not put (yet)."""
        view = self.run._view()  # noqa: SLF001 - of this module
        return view.id(self.name) if self.name in view.names() else None

    def below(self) -> Run | None:
        """The run that the step is, if it is one of another workflow and has begun; else None."""
        id = None if self.run._shape().nodes[self.name].sub is None else self.id  # noqa: SLF001
        return None if id is None else Run(self.run._workflows, id)  # noqa: SLF001 - of this module

    def status(self) -> str:
        """Where it stands, as in `Run.states`."""
        return self.run.states().get(self.name, "waiting")

    def result(self, timeout: float | None = None) -> Any:
        """What the step returned; waits for it.

        Raises TaskFailed, TaskCancelled, TaskExpired as its event ended; ResultMissing if it never runs, since another
        step failed, or no result chose it; ResultTimeout if it has not ended after `timeout` seconds.
        """
        return self._result(self._ended(timeout), timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, or it is known that it never runs; False if not within `timeout` seconds."""
        return self._ended(timeout) is not None

    def _ended(self, timeout: float | None) -> View | None:
        """The run when the step has ended; None after `timeout` seconds. Coroutines wait in `AsyncNodeHandle`."""
        waiting = Waiting(self, timeout)
        while (event := waiting.look()) is not None:
            Handle(self.run.store, event).wait(waiting.left)
            clock.sleep(waiting.pause())
        return waiting.view

    def _is_over(self, view: View) -> bool:
        """Whether the step has ended: as the run knows, and as its own event says where the value is read from that.

        The run may know before: an arrival is put before its event is settled. The event may be settled before a look
        sees the arrival. A run that is completed has the value of neither, but the event.
        """
        store = self.run.store
        if self.name not in view.names():
            return ended(view.record, store)
        status, id = view.status(self.name), view.id(self.name)
        if status == OPEN or (view.state is None and status == State.COMPLETED):
            record = store.storage.get(id) if id else None
            return view.state is None if record is None else ended(record, store)
        return status in ENDS

    def _result(self, view: View | None, timeout: float | None) -> Any:
        if view is None:
            raise ResultTimeout(f"step {self.name!r} of run {self.run.id} has not ended after {timeout} s; ask again")
        workflows = self.run._workflows  # noqa: SLF001 - of this module
        status = view.status(self.name) if self.name in view.names() else ""
        type, id = workflows.type_of_step(view.graph.nodes[self.name]), view.id(self.name) if status else None
        if id is not None and (status == OPEN or (view.state is None and status == State.COMPLETED)):
            below = view.graph.nodes[self.name].sub is not None
            return Run(workflows, id).result(0) if below else Handle(workflows.store, id, type).result(0)
        if view.state is not None and status == State.COMPLETED:
            arrival = view.state.arrived[self.name]
            data = arrival.result
            return None if data is None else workflows.store.load(data, arrival.codec, type)
        raise self._why_none(view, status)

    def _why_none(self, view: View, status: str) -> EventqError:
        about = f"step {self.name!r} of run {self.run.id}"
        if status == SKIPPED:
            cause = "" if view.state is None else view.state.skipped[self.name].failed
            why = f"step {cause!r} failed, for which it waited" if cause else "no result chose it"
            return ResultMissing(f"{about} was skipped: {why}")
        id, store = view.id(self.name), self.run.store
        if view.state is None and id is not None:  # the run is completed, and only the step's own event knows
            return why_no_value(id, store.storage.get(id), store) or ResultMissing(f"{about} has no result")
        arrival = None if view.state is None else view.state.arrived.get(self.name)
        if status == State.DEAD:
            return TaskFailed(view.id(self.name) or "", None if arrival is None else arrival.failure)
        if status == State.EXPIRED:
            return TaskExpired(f"{about} expired before a worker started it")
        if status == State.CANCELLED:
            return TaskCancelled(f"{about} was cancelled")
        return ResultMissing(f"{about} was not needed, and never ran")

    def __repr__(self) -> str:
        return f"<NodeHandle of {self.name!r} in run {self.run.id}>"


class Waiting:
    """One wait for the end of a step: what to wait for next, and for how long."""

    __slots__ = ("_deadline", "_event", "_node", "_pauses", "view")

    def __init__(self, node: NodeHandle, timeout: float | None) -> None:
        wait = patience(timeout)
        self._node = node
        self._deadline = math.inf if wait is None else SYSTEM.monotonic() + wait
        self._event = ""
        self._pauses = pauses(None)
        self.view: View | None = None
        """The run, once the step has ended."""

    @property
    def left(self) -> float:
        """Seconds to wait for the event."""
        return max(0.0, min(SLICE, self._deadline - SYSTEM.monotonic()))

    def look(self) -> str | None:
        """The event whose end is to be waited for next; None when the step has ended, or the time is over."""
        view = self._node.run._view()  # noqa: SLF001 - of this module
        if self._node._is_over(view):  # noqa: SLF001 - likewise
            self.view = view
            return None
        if self.left <= 0:
            return None
        event = view.before(self._node.name)
        if event != self._event:
            self._event, self._pauses = event, pauses(None)
        return event

    def pause(self) -> float:
        """Seconds until the next look, when the event has ended: what follows from that takes a moment."""
        return min(next(self._pauses), self.left)
