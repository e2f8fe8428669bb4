"""What a run is in the store: an event of its own, an inbox, a slot, and a name.

The run's event, in the queue `workflows`, has the definition as its payload and ends as the run does; its id is the
run's. What happens to the run is put into its inbox, the queue `run-<id>`: an arrival. Who holds the slot works
arrivals off; the first one of each step is then a completed event there, with the ids of the events that were put on
account of it as its value. These are the record of the run. The name says who has held the slot last.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call
from eventq.errors import ConfigError
from eventq.ids import index_of, is_event_id
from eventq.model import FINAL_STATES, MAX_SECONDS, Completed, Dropped, Filter, PutOptions, Rejected, State
from eventq.notifications.record import checked_user
from eventq.retry import FOR_EVER
from eventq.workflow.graph import Definition
from eventq.workflow.state import EMPTY, Arrival

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.model import Claimed, Outcome, Record
    from eventq.storage.base import Storage

QUEUE = "workflows"
"""The queue of the runs' own events."""
TASK = "eventq.workflow"
HEADER = "eventq.workflow"
"""The header by which the event of a step says which step of which run it is."""
NOTIFY = "eventq.notify"
"""The header by which the event of a run says who is told how it ends."""
HOLD = 90 * 86400.0
"""Seconds that the key of a step and of an arrival is held; never longer than its event is there."""
ARRIVAL = PutOptions(max_attempts=FOR_EVER, max_crashes=FOR_EVER, keep=MAX_SECONDS)
PAGE = 1000
INBOX = re.compile(r"run-([0-9a-f]{38}\.[0-9a-f]{5})\Z")


class Ended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of a completed run's event."""

    value: msgspec.Raw = EMPTY
    """The result, if it is written as JSON; else it is in `data`."""
    data: bytes | None = None
    codec: str = "json"
    states: dict[str, tuple[str, str]]
    """Of each step, its state, and the id of its event; empty if there is none."""


class NodeHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which step of which run an event is."""

    run: str
    node: str
    generation: int
    first: int = -1
    """If steps were put together: the place of the first in the sequence of the graph. The others follow it in the
    order of their ids, and `node` is empty."""


def inbox_of(run: str) -> str:
    """The queue of a run's arrivals."""
    return f"run-{run}"


def run_of(queue: str) -> str | None:
    """The run whose inbox a queue is; None for every other queue."""
    found = INBOX.match(queue)
    return None if found is None else found[1]


def slot_of(run: str) -> str:
    """The name of the slot, and of the name, of a run."""
    return f"eventq.run/{run}"


def node_of(headers: dict[str, Any]) -> NodeHeader | None:
    """Which step the event with these headers is; None if it is none."""
    said = headers.get(HEADER)
    if said is None:
        return None
    try:
        node = msgspec.convert(said, NodeHeader)
    except msgspec.ValidationError:
        return None
    return node if is_event_id(node.run) else None


# ---------------------------------------------------------------- the run's event


def put_run(storage: Storage, definition: Definition, due: float, notify: str | None = None) -> str:
    """Put the event of a new run, with the user who is told how it ends; the run's id."""
    return storage.put(QUEUE, (run_payload(definition),), _run_options(definition, due, notify))[0]


def put_run_once(
    storage: Storage, definition: Definition, due: float, notify: str | None, key: str
) -> tuple[str, bool]:
    """As `put_run`, unless that was done with this key before; the run's id, and whether it is new."""
    options = msgspec.structs.replace(_run_options(definition, due, notify), key=key, unique=HOLD)
    return storage.put_key(QUEUE, run_payload(definition), options)


def _run_options(definition: Definition, due: float, notify: str | None) -> PutOptions:
    return PutOptions(due=due, headers=_headers(definition, notify), max_attempts=FOR_EVER, max_crashes=FOR_EVER)


def _headers(definition: Definition, notify: str | None) -> dict[str, Any]:
    return {"workflow": definition.name} | ({} if notify is None else {NOTIFY: checked_user(notify)})


def run_payload(definition: Definition) -> bytes:
    """The payload of a run's event."""
    return msgspec.json.encode(Call(TASK, kwargs={"definition": definition}))


def run_fields(definition: Definition, notify: str | None = None) -> dict[str, Any]:
    """What is said of the event of a run by whoever has it put at some time: a schedule. The run begins when somebody
    looks after it."""
    return {
        "task": TASK,
        "queue": QUEUE,
        "call": msgspec.Raw(run_payload(definition)),
        "headers": _headers(definition, notify),
        "max_attempts": FOR_EVER,
        "max_crashes": FOR_EVER,
    }


class _Kwargs(msgspec.Struct):
    definition: Definition


class _RunCall(msgspec.Struct):
    task: str
    kwargs: _Kwargs


def definition_in(payload: bytes) -> Definition:
    """The definition in the event of a run. Raises ConfigError if there is none."""
    try:
        call = msgspec.json.decode(payload, type=_RunCall)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"this event is no run of a workflow: {error}") from error
    return call.kwargs.definition


# ---------------------------------------------------------------- arrivals


def put_arrival(storage: Storage, run: str, arrival: Arrival) -> None:
    """Put an arrival. That of a step may come twice, if the worker that ran it died before it settled the step; the
    state of the run takes the first one alone, and leaves no record of another."""
    if arrival.kind == "node":
        storage.put(inbox_of(run), (msgspec.json.encode(arrival),), ARRIVAL)
        return
    key = f"{run}/{arrival.generation}/{arrival.kind}"
    options = msgspec.structs.replace(ARRIVAL, key=key, unique=HOLD)
    storage.put_key(inbox_of(run), msgspec.json.encode(arrival), options)


def arrival_in(event: Record | Claimed) -> Arrival | None:
    """The arrival that an event is; None if it is something else."""
    try:
        return msgspec.json.decode(event.payload, type=Arrival)
    except msgspec.MsgspecError:
        return None


def ended_by(node: NodeHeader, claimed: Claimed, outcome: Outcome) -> Arrival | None:
    """The arrival of a step that is settled so; None if it may run again."""
    about: dict[str, Any] = {"generation": node.generation, "node": node.node, "id": claimed.id}
    if node.first >= 0:
        about["place"] = node.first + index_of(claimed.id)
    if isinstance(outcome, Completed):
        return Arrival(**about, **_value(claimed.queue, outcome.value, outcome.codec))
    if isinstance(outcome, Rejected):
        return Arrival(**about, state=State.DEAD, failure=outcome.failure)
    if isinstance(outcome, Dropped):
        from eventq.claim import failure_of

        return Arrival(**about, state=outcome.state, failure=failure_of(outcome.reason))
    return None


def ended_as(node: str, generation: int, id: str, record: Record | None) -> Arrival:
    """The arrival of a step whose event has ended without one, by its record."""
    about: dict[str, Any] = {"generation": generation, "node": node, "id": id}
    if record is None:
        from eventq.claim import failure_of

        return Arrival(**about, state=State.CANCELLED, failure=failure_of("its event was deleted"))
    if record.state is State.COMPLETED:
        return Arrival(**about, **_value(record.queue, record.value, record.value_codec))
    state = record.state if record.state in FINAL_STATES else State.EXPIRED  # no worker came by to say so
    return Arrival(**about, state=state, failure=record.failure)


def _value(queue: str, value: bytes | None, codec: str) -> dict[str, Any]:
    """What an arrival says of the value of an event; of a run's own event, the result of the run."""
    if value is None:
        return {}
    if queue == QUEUE:
        end = msgspec.json.decode(value, type=Ended)
        return {"value": end.value, "data": end.data, "codec": end.codec}
    return {"value": msgspec.Raw(value)} if codec == "json" else {"data": value, "codec": codec}


def scanned(storage: Storage, queue: str, state: State) -> Iterator[Record]:
    """The records of one state in a queue."""
    cursor: str | None = None
    while True:
        page = storage.scan(queue, state, Filter(), cursor, PAGE)
        yield from page.records
        cursor = page.cursor
        if cursor is None:
            return


def recorded(storage: Storage, run: str) -> list[tuple[Arrival, dict[str, str]]]:
    """The record of a run: its arrivals that were worked off, each with the events that were put then."""
    found = []
    for record in scanned(storage, inbox_of(run), State.COMPLETED):
        arrival = arrival_in(record)
        if arrival is not None:
            put: dict[str, str] = msgspec.json.decode(record.value or b"{}")
            found.append((arrival, put))
    return found
