"""How steps come into the store, and how those that wait are taken back: by whoever holds the slot of their run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call
from eventq.claim import failure_of
from eventq.clock import SYSTEM
from eventq.handle import ended
from eventq.model import Cancel, PutOptions, State
from eventq.retry import FOR_EVER
from eventq.storage.base import LOOK_INTERVAL
from eventq.workflow.graph import place
from eventq.workflow.inbox import (
    HEADER,
    HOLD,
    QUEUE,
    NodeHeader,
    put_arrival,
    recorded,
    run_payload,
)
from eventq.workflow.inputs import bound
from eventq.workflow.state import Arrival

if TYPE_CHECKING:
    from eventq.store import Store
    from eventq.workflow.graph import Definition, Node
    from eventq.workflow.state import RunState

GROUP = 250
"""Steps that are put together, at most."""
SMALL = 8192
"""Bytes of the calls of two of them, at most."""
LEAST_KEPT = 3600.0
"""Seconds that the event of a step is kept at least: while it is there, nobody can put the step again."""


class Steps:
    """Puts the steps of runs, and cancels them. Each call is for who holds the slot of the run."""

    def __init__(self, store: Store, first_look: float) -> None:
        self._store = store
        self._first_look = first_look
        """Seconds after which a run that was put is looked after, in case nobody has gone on with it."""
        self._below: dict[str, list[str]] = {}
        self._keeps: dict[str, tuple[float, float]] = {}
        self.count: int = 0
        """How often steps were put."""

    def below(self, run: str) -> list[str]:
        """The runs that are steps of this one and have just begun, or were cancelled: they are to go on when the slot
        is let go. Each is given once."""
        return self._below.pop(run, [])

    def put(self, run: str, state: RunState, nodes: list[Node]) -> list[str]:
        """Put a step, or several that are put `together`, unless they were put before; the ids of their events."""
        store, now, node = self._store, self._store.clock.now(), nodes[0]
        self.count += 1
        if node.sub is not None:
            return [self._put_run(run, state, node, node.sub)]
        due = None if node.delay is None else now + node.delay
        about = NodeHeader(run, node.name, state.generation)
        if len(nodes) > 1:
            about = NodeHeader(run, "", state.generation, state.graph.places[node.name])
        options = PutOptions(
            codec=node.codec,
            priority=node.priority,
            due=due,
            expires=None if node.expires is None else max(due or 0.0, now) + node.expires,
            headers={"correlation_id": run, **node.headers, HEADER: msgspec.to_builtins(about)},
            key=f"{run}/{state.generation}/{node.name}",
            unique=HOLD,
            limits=node.limits,
            rates=node.rates,
            max_attempts=node.max_attempts,
            max_crashes=node.max_crashes,
            keep=max(LEAST_KEPT, self._keep(node.queue) if node.keep is None else node.keep),
        )
        return store.storage.put(node.queue, [self._payload(state, each) for each in nodes], options)

    def _keep(self, queue: str) -> float:
        """For how long a queue keeps its events, as it was said a moment ago."""
        now = SYSTEM.monotonic()
        until, keep = self._keeps.get(queue, (now, 0.0))
        if now >= until:
            keep = self._store.storage.settings(queue).keep
            self._keeps[queue] = now + LOOK_INTERVAL, keep
        return keep

    def _put_run(self, run: str, state: RunState, node: Node, sub: Definition) -> str:
        """As `put`, of a step that is a run of another workflow; the id of that run. Its event tells of its end here
        before it is settled, as that of every step does; whatever dies, it is found by the look after it."""
        storage, call = self._store.storage, self._store.load(self._payload(state, node), node.codec, Call)
        about = NodeHeader(run, node.name, state.generation)
        options = PutOptions(
            due=self._store.clock.now() + self._first_look,
            headers={"correlation_id": run, "workflow": sub.name, HEADER: msgspec.to_builtins(about)},
            key=f"{run}/{state.generation}/{node.name}",
            unique=HOLD,
            max_attempts=FOR_EVER,
            max_crashes=FOR_EVER,
            keep=max(LEAST_KEPT, self._keep(node.queue)),
        )
        below = storage.put_key(QUEUE, run_payload(bound(self._store, sub, call.kwargs)), options)[0]
        put_arrival(storage, below, Arrival(kind="begin"))
        self._below.setdefault(run, []).append(below)
        return below

    def _payload(self, state: RunState, node: Node) -> bytes:
        """The call of a step, with results in their places."""
        if not node.refs:
            return node.payload
        call: Call = self._store.load(node.payload, node.codec, Call)
        values = {name: state.value(name) for name in {ref.step for ref in node.refs}}
        place(call.args, call.kwargs, node.refs, values)
        return self._store.codec_named(node.codec).encode(call)

    def cancel_open(self, run: str, state: RunState) -> None:
        """Cancel what was put. What has ended by that arrives like everything else, what runs is asked to end."""
        storage, reason = self._store.storage, f"run {run} was cancelled"
        for name in state.open:
            id, node = state.ids.get(name), state.graph.nodes[name]
            if id is None:
                continue
            if node.sub is not None:
                self._cancel_run(run, id, reason)
            elif storage.edit(node.queue, [id], Cancel(reason))[0] == "cancelled":
                failure = failure_of(reason)
                arrival = Arrival(generation=state.generation, node=name, id=id, state=State.CANCELLED, failure=failure)
                put_arrival(storage, run, arrival)

    def _cancel_run(self, run: str, below: str, reason: str) -> None:
        """Cancel a run that is a step of another, unless it has ended; its end arrives as every one does."""
        storage = self._store.storage
        if ended(storage.get(below), self._store):
            return
        generation = max((arrival.generation for arrival, _ in recorded(storage, below)), default=1)
        cancel = Arrival(kind="cancel", generation=generation, failure=failure_of(reason, "Cancel"))
        put_arrival(storage, below, cancel)
        self._below.setdefault(run, []).append(below)


# ---------------------------------------------------------------- together


def together(state: RunState, arrival: Arrival, ready: list[str]) -> list[list[str]]:
    """The steps to be put on account of an arrival, in groups that are put with one key each.

    Who repeats this, after a death in between, must find the same groups. So they are of steps that this arrival alone
    decides: those that wait for nothing else. They stand next to each other in the graph, and differ in their calls
    alone.
    """
    groups: list[list[str]] = []
    for name in sorted(ready, key=state.graph.places.__getitem__):
        before = groups[-1] if groups else []
        if before and len(before) < GROUP and _goes_with(state, arrival, before[-1], name):
            before.append(name)
        else:
            groups.append([name])
    return groups


def _goes_with(state: RunState, arrival: Arrival, one: str, name: str) -> bool:
    graph = state.graph
    parents = [] if arrival.kind == "begin" else [state.step_of(arrival)]
    return (
        graph.definition.together
        and arrival.generation == 1
        and graph.places[name] == graph.places[one] + 1
        and graph.parents.get(name) == graph.parents.get(one) == parents
        and _alike(graph.nodes[one], graph.nodes[name])
    )


def _alike(one: Node, other: Node) -> bool:
    """Whether two steps differ in their names and calls alone, and nothing about them is large."""
    return (
        len(one.payload) + len(other.payload) <= SMALL
        and not any(node.refs or node.fills or node.sub for node in (one, other))
        and _said(one) == _said(other)
    )


def _said(node: Node) -> tuple[Any, ...]:
    """What a put says about a step's event."""
    return (
        node.queue, node.codec, node.priority, node.delay, node.expires, node.headers, node.limits, node.rates,
        node.max_attempts, node.max_crashes, node.keep,
    )  # fmt: skip
