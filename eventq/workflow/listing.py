"""The runs of a store, as their own events tell of them: no run is rebuilt for a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventq.model import OPEN_STATES, State
from eventq.workflow.inbox import QUEUE, node_of, scanned
from eventq.workflow.state import RUNNING

if TYPE_CHECKING:
    from eventq.model import Record
    from eventq.storage.base import Storage


class RunSummary(msgspec.Struct, frozen=True):
    """A run in a list."""

    id: str
    name: str
    """Of the workflow."""
    status: str
    """As `Run.status` says."""
    steps: int
    """How many steps the workflow has."""
    created: float
    """When it was started, in seconds since the epoch."""
    parent: str | None = None
    """The run of which it is a step; None for one that was started by itself."""
    step: str | None = None
    """And which step."""


class _Definition(msgspec.Struct):
    """What is read of a definition."""

    nodes: list[msgspec.Raw]
    name: str


class _Kwargs(msgspec.Struct):
    definition: _Definition


class _Call(msgspec.Struct):
    kwargs: _Kwargs


def listed(storage: Storage, state: State | None) -> list[RunSummary]:
    """The runs whose event is in a state, or all; the oldest first, each once."""
    if QUEUE not in storage.queues():
        return []
    states = tuple(State) if state is None else (state,)
    found = {record.id: record for each in states for record in scanned(storage, QUEUE, each)}
    return [summary for _, record in sorted(found.items()) if (summary := _summary(record)) is not None]


def _summary(record: Record) -> RunSummary | None:
    """None for an event that is no run of a workflow."""
    try:
        definition = msgspec.json.decode(record.payload, type=_Call).kwargs.definition
    except msgspec.MsgspecError:
        return None
    status = RUNNING if record.state in OPEN_STATES else record.state.value
    above = node_of(record.headers)
    run, step = (None, None) if above is None else (above.run, above.node)
    return RunSummary(record.id, definition.name, status, len(definition.nodes), record.created, run, step)
