"""Restoring events of another store. See `scenarios`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from eventq.clock import Clock
from eventq.ids import Stamps, created_of, event_id
from eventq.model import FINAL_STATES, Attempt, Copy, Failure, Name, Note, Record, State
from faults.scenarios import ready, scenario
from faults.world import DELIVERED, NOWHERE, World

ELSEWHERE = "0123456789abcdef"
ERROR = Failure("ValueError", "no", "traceback")


def copies(clock: Clock, prefix: str = "") -> list[Copy]:
    """Events of every kind: two of one put, with and without keys and notes, open and ended."""
    now, stamps = clock.now(), Stamps(ELSEWHERE, clock)

    def copy(payload: str, stem: str = "", index: int = 0, notes: int = 0, **fields: Any) -> Copy:
        id = event_id(stem or stamps.next(), index)
        payload = prefix + payload
        fields = {"queue": "q", "state": State.READY, "payload": msgspec.json.encode(payload), **fields}
        written = tuple(Note(now, "output", msgspec.Raw(b'"%d"' % number), number) for number in range(1, notes + 1))
        return Copy(Record(id=id, created=created_of(id), **fields), written)

    stem = stamps.next()
    attempts = (Attempt(ELSEWHERE, now - 2, now - 1, "failed", ERROR),)
    return [
        copy("first", stem, 0),
        copy("second", stem, 1),
        copy("keyed", key=prefix + "key", notes=2, failures=1, attempts=attempts, failure=ERROR),
        copy("throttled", key=prefix + "throttled", unique=1e6, priority=3),
        copy("later", state=State.DELAYED, due=now + 5),
        copy("value", state=State.COMPLETED, settled=now, value=b'"v"', keep=5000.0, attempts=attempts),
        copy("dead", state=State.DEAD, settled=now, failure=ERROR, notes=1, attempts=attempts, failures=1),
    ]


def payload_of(copy: Copy) -> str:
    payload: str = msgspec.json.decode(copy.record.payload)
    return payload


def restore(world: World, copies: list[Copy]) -> None:
    """Each of the events is there wholly afterwards; when the call fails, each of them may be there."""
    ledger = world.ledger
    for copy in copies:
        record, payload = copy.record, payload_of(copy)
        fate = record.state.value if record.state in FINAL_STATES else DELIVERED
        world.allow(payload, fate, NOWHERE)
        ledger.ids[payload] = record.id
        if record.value is not None:
            ledger.values[payload] = record.value
        if record.key is not None:
            ledger.keys.setdefault(record.key, []).append(payload)
            if not isinstance(record.unique, str):
                ledger.held.add(record.key)
    world.a.restore(copies, [Name("theirs", ELSEWHERE, 1.0)])
    for copy in copies:
        record = copy.record
        world.become(payload_of(copy), fate=record.state.value if record.state in FINAL_STATES else DELIVERED)


@scenario
def restore_every_kind(world: World) -> Iterator[None]:
    ready(world)
    yield
    restore(world, copies(world.clock))


@scenario
def restore_into_a_new_queue(world: World) -> Iterator[None]:
    world.put("other", worker=world.b)
    world.a.recover()
    yield
    restore(world, copies(world.clock)[:3])


@scenario
def restore_what_is_there_in_part(world: World) -> Iterator[None]:
    """What was restored before, and has gone on since."""
    made = copies(world.clock)
    restore(world, made[:2])
    restore(world, made[4:6])
    world.claim(2)
    yield
    restore(world, made)
