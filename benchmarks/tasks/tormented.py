"""The processes of the torture beside its workers: those that put, and those that wait for results.

Both go on until the file `stop` is there. Each is forked, plays its role and ends; at any moment it may be killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import traceback
from itertools import count
from typing import Any

from benchmarks.tasks.tortured import FOLDER, app, note, put, put_chain
from eventq import EventqError, Handle, State

STOP = FOLDER / "stop"
WEIGHTS = {
    "quick": 30, "bare": 15, "flaky": 8, "doomed": 3, "slow": 10, "on_loop": 12, "apart": 2, "keyed": 8, "limited": 5,
    "chain": 8,
}  # fmt: skip
"""How often each kind of task is put."""
BACKLOG = 200
"""So many events may wait; then a producer pauses."""
PATIENCE = 120.0
"""Seconds that a waiter waits: who has heard nothing then never will."""
LINKS = 3
"""Follow-ups of a chain, at most."""


def put_one(chance: random.Random, number: str) -> Any:
    """Enqueue one of some kind; its handle."""
    kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if kind == "chain":
        return put_chain(number, chance.randint(1, LINKS))
    if kind == "keyed":
        number = f"k{chance.randrange(5)}:{number}"
    delay = chance.uniform(0.05, 0.5) if chance.random() < 0.1 else None
    return put(kind, number, delay, chance.choice((0, 0, 0, 5, -5)))


def produce(seed: str) -> None:
    """Put one after the other."""
    chance = random.Random(seed)
    for serial in count():
        if STOP.exists():
            return
        put_one(chance, f"{seed}-{serial}")
        while serial % 20 == 0 and not STOP.exists() and waiting() > BACKLOG:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.02))


def waiting() -> int:
    """How many events wait to be run."""
    return sum(app.queue(name).stats().ready for name in ("default", "slow"))


def wait(seed: str) -> None:
    """Wait for results in threads and on a loop: of own calls, and of events that others have put."""
    threads = [
        threading.Thread(target=role, args=(f"{seed}-{index}",))
        for index, role in enumerate((call, listen, listen, listen_on_loop))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def call(seed: str) -> None:
    chance = random.Random(seed)
    for serial in count():
        if STOP.exists():
            return
        name = f"{seed}-{serial}"
        handle = put_one(chance, name)
        note("wait", name, handle.id)
        note("got", name, handle.id, outcome_of(handle))


def listen(seed: str) -> None:
    chance = random.Random(seed)
    for serial in count():
        if STOP.exists():
            return
        for id in found(chance, 1):
            name = f"{seed}-{serial}"
            note("wait", name, id)
            note("got", name, id, outcome_of(app.handle(id)))


def listen_on_loop(seed: str) -> None:
    async def one(name: str, id: str) -> None:
        note("wait", name, id)
        try:
            outcome = f"value {await app.handle(id).aio.result(PATIENCE)}"
        except EventqError as error:
            outcome = type(error).__name__
        note("got", name, id, outcome)

    async def all_of_them() -> None:
        chance = random.Random(seed)
        for serial in count():
            if STOP.exists():
                return
            ids = await asyncio.to_thread(found, chance, 8)
            await asyncio.gather(*(one(f"{seed}-{serial}-{index}", id) for index, id in enumerate(ids)))

    asyncio.run(all_of_them())


def found(chance: random.Random, most: int) -> list[str]:
    """Some events that are open, whoever put them; or a short pause, if there are none."""
    state = chance.choice((State.READY, State.DELAYED, State.CLAIMED))
    records = app.queue(chance.choice(("default", "slow"))).scan(state, limit=50).records
    if not records:
        time.sleep(0.02)
    return [record.id for record in chance.sample(records, min(most, len(records)))]


def outcome_of(handle: Handle[Any]) -> str:
    """What a waiter is told."""
    try:
        return f"value {handle.result(PATIENCE)}"
    except EventqError as error:
        return type(error).__name__


def end_at_once(raised: threading.ExceptHookArgs) -> None:
    """What no thread expects must not pass unnoticed."""
    traceback.print_exception(raised.exc_value)
    os._exit(1)


def play(role: str, seed: str) -> None:
    """In a process of its own, which ends with this."""
    code = 1
    threading.excepthook = end_at_once
    try:
        {"producer": produce, "waiter": wait}[role](seed)
        app.close()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)
