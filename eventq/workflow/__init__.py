"""Workflows: graphs of tasks, whose steps wait for each other and take each other's results.

graph    the definition as plain data, checked; Mermaid
layout   places for its steps on a page; computing alone
svg      the picture of it
inputs   what a run is given when it starts
flow     how one is written: steps passed to steps; chain, group, chord
state    where each step of a run stands, by what has arrived; computing alone
inbox    what a run is in the store
steps    how steps are put, and cancelled
engine   who puts what may run: whoever holds the slot of the run
view     a run as it stands, read without holding anything
progress how far a run is, and what changes in it
handle   the waiter's side
listing  the runs of a store
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.errors import EventqError
from eventq.workflow import inbox
from eventq.workflow.engine import FIRST_LOOK, Engine
from eventq.workflow.flow import Placeholder, Step, Workflow
from eventq.workflow.graph import Graph
from eventq.workflow.handle import NodeHandle, Run
from eventq.workflow.listing import RunSummary, listed
from eventq.workflow.progress import Change, RunProgress
from eventq.workflow.state import Arrival

if TYPE_CHECKING:
    from eventq.app import App
    from eventq.model import State
    from eventq.store import Store
    from eventq.workflow.aio import AsyncWorkflows
    from eventq.workflow.graph import Node

__all__ = ["Change", "NodeHandle", "Placeholder", "Run", "RunProgress", "RunSummary", "Step", "Workflow", "Workflows"]

log: logging.Logger = logging.getLogger("eventq.workflow")


class Workflows:
    """The runs of a store: `app.workflows`."""

    __slots__ = ("_app", "engine")

    queue: str = inbox.QUEUE
    """The queue that holds an event for each run, delayed while it goes on. A paused one lets runs go on, but not end,
    nor recover from a death."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.engine: Engine = Engine(app.store)
        """This process's part in all runs."""
        app.store.cancelling[self.queue] = lambda run, reason: Run(self, run).cancel(reason)

    @property
    def store(self) -> Store:
        """The opened store that they are in."""
        return self._app.store

    @property
    def aio(self) -> AsyncWorkflows:
        """The same, awaitable."""
        from eventq.workflow.aio import AsyncWorkflows

        return AsyncWorkflows(self)

    def run(self, id: str) -> Run:
        """The handle of a run. Raises UnknownEvent for what is not an id; whether there is such a run shows when it is
        asked."""
        return Run(self, id)

    def runs(self, state: State | None = None) -> list[Run]:
        """The runs of which there is a record, the oldest first: all, or those whose own event is in a state (a run
        that goes on is delayed). Also those that are steps of others."""
        return [Run(self, summary.id) for summary in self.summaries(state)]

    def summaries(self, state: State | None = None) -> list[RunSummary]:
        """What the own events of these runs tell: the name, the status, whose step it is. Costs a look at each event,
        however large the runs are."""
        return listed(self.store.storage, state)

    def start(self, graph: Graph, notify: str | None = None) -> Run:
        """What `Workflow.start` does."""
        storage, now = self.store.storage, self.store.clock.now()
        queues = {node.queue for node in graph.definition.nodes}
        if all(storage.settings(queue).maxsize is None for queue in queues):
            graph.definition = msgspec.structs.replace(graph.definition, together=True)
        run = inbox.put_run(storage, graph.definition, now + FIRST_LOOK, notify)
        self.engine.graphs[run] = graph
        try:
            self.begin(run)
        finally:
            del self.engine.graphs[run]
        return Run(self, run)

    def begin(self, run: str) -> None:
        """Let a run begin whose event is stored. What fails is done by the next look after it."""
        try:
            inbox.put_arrival(self.store.storage, run, Arrival(kind="begin"))
        except EventqError as error:
            log.warning("run %s is stored, and begins in a moment: %s", run, error)
        else:
            self.go_on(run)

    def go_on(self, run: str) -> None:
        """Work off what has arrived for a run. What fails is found by the next look after it."""
        try:
            self.engine.advance(run)
        except EventqError as error:
            log.warning("run %s goes on in a moment: %s", run, error)

    def type_of(self, task: str) -> Any:
        """The type of a task's results, as far as it is known here."""
        known = self._app.tasks.get(task)
        return Any if known is None else known.result_type

    def type_of_result(self, graph: Graph) -> Any:
        """The type of a run's result, if it is that of one step, and its task is known here."""
        result = graph.result
        return self.type_of_step(graph.nodes[result]) if isinstance(result, str) else Any

    def type_of_step(self, node: Node) -> Any:
        """The type of a step's results, likewise."""
        return self.type_of(node.task) if node.sub is None else self.type_of_result(Graph(node.sub))
