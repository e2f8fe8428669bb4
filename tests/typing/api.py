"""What type checkers see. Checked by mypy and pyright, never run."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from typing import Any, assert_type

import eventq
from eventq import App, Claim, Event, Handle, Lock, Page, Queue, Record, Semaphore, Settings, State, Stats


@dataclasses.dataclass
class Order:
    number: int


app = App()
App("memory://", codec="msgpack", codecs=[eventq.JSONCodec()])
App(sync=False)
App("memory://", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# ---- queues

assert_type(app.queue("orders"), Queue[Any])
assert_type(app.queue("orders", type=Order), Queue[Order])
assert_type(app.queue("orders", Order), Queue[Order])
assert_type(app.queue(Order), Queue[Order])
assert_type(app.queue("orders", type=Order, max_attempts=3, lease=None), Queue[Order])
assert_type(app.queue("maybe", type=int | None), Queue[Any])
app.queue("orders", retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
app.queue("orders", max_attempts="3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

orders = app.queue(Order)
assert_type(orders.put(Order(1)), str)
orders.put(
    Order(1),
    priority=1,
    at=datetime.now(UTC),
    expires=1.5,
    key="k",
    unique="waiting",
    if_exists="raise",
    headers={"a": 1},
)
orders.put(Order(1), delay=1, key="k", unique=60)
orders.put(Order(1), key="k", throttle=60, timeout=0)
orders.put(Order(1), key="k", debounce=1, debounce_max=2.5, timeout=None)
orders.put({"number": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
orders.put(Order(1), unique="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
orders.put(Order(1), retries=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(orders.put_many([Order(1)]), list[str])
orders.put_many([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]

assert_type(orders.claim(), Claim[Order] | None)
assert_type(orders.claim_many(5, timeout=None), list[Claim[Order]])
assert_type(orders.claims(timeout=1), Iterator[Claim[Order]])
assert_type(orders.scan("dead"), Page)
assert_type(orders.stats(), Stats)
assert_type(orders.configure(max_attempts=5), Settings)
orders.configure(paused=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(orders.get("id"), Record | None)
assert_type(orders.purge(State.DEAD), int)
assert_type(orders.cancel("id"), list[str])

# ---- claims

for claim in orders.claims():
    with claim as event:
        assert_type(event, Event[Order])
        assert_type(event.payload, Order)
        assert_type(event.payload.number, int)
        event.payload = Order(2)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    claim.retry(delay=5, error="text")
    claim.reject(ValueError())
    claim.retry(error=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# ---- handles

assert_type(app.handle("id"), Handle[Any])
assert_type(app.handle("id", Order), Handle[Order])
assert_type(app.handle("id", Order).result(timeout=1), Order)
assert_type(app.handle("id").status(), State | None)
assert_type(app.handle("id").exception(), eventq.EventqError | None)

# ---- names and locks

assert_type(app.claim_name("name", {"any": 1}), bool)
assert_type(app.get_name("name"), eventq.NamedClaim | None)
assert_type(app.lock("name"), Lock)
assert_type(app.semaphore("name", 2), Semaphore)
app.semaphore("name")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# ---- async


async def main() -> None:
    assert_type(await orders.aio.put(Order(1), key="k"), str)
    await orders.aio.put(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await orders.aio.claim(timeout=1), Claim[Order] | None)
    assert_type(orders.aio.claims(), AsyncGenerator[Claim[Order], None])
    async for claim in orders.aio.claims():
        async with claim as event:
            assert_type(event.payload, Order)
        await claim.aio.complete(5)
    assert_type(await app.handle("id", Order).aio.result(), Order)
    assert_type(await app.aio.queue(Order, keep=5), Queue[Order])
    assert_type(await app.aio.queues(), list[str])
    async with app.lock("leader"):
        assert_type(await app.lock("x").aio.acquire(timeout=1), bool)
