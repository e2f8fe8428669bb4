"""Looking after the store: who is dead, which claim has outlived its lease, and what this worker has to hear."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from eventq.clock import SYSTEM, Clock
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.observed import Observed
from eventq.storage.redis.scripts import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventq.model import Claimed
    from eventq.storage.redis.packing import Token
    from eventq.storage.redis.server import Server

GONE = 0.75
"""Seconds for which a worker's connection must have been gone until it is dead: it would have been back by then."""
ROUNDING = 1e-6
SILENCE = 15.0
"""Seconds without a sign of life, after which a worker is dead that may have no connection to lose: the server has
started anew since it came, or the network between them is cut. In real time, as those signs are."""
AWAY = 2.0
"""Who has not looked for so many seconds has seen nothing in that time."""


class Claims:
    """What one storage object holds, as it knows itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Claimed] = {}
        self._calls: set[bytes] = set()
        self._last = 0
        self._strays: set[tuple[bytes, bytes]] = set()

    def begin(self) -> bytes:
        """The token of a call that claims; it may hold something from now on."""
        with self._lock:
            self._last += 1
            call = b"%d" % self._last
            self._calls.add(call)
            return call

    def end(self, call: bytes, claims: Iterable[Claimed]) -> None:
        """The call is over, and has claimed these."""
        with self._lock:
            for claimed in claims:
                self._held[claimed.id] = claimed
            self._calls.discard(call)

    def settled(self, claimed: Claimed) -> None:
        with self._lock:
            if self._held.get(claimed.id) is claimed:
                del self._held[claimed.id]

    def cancel(self, id: str) -> None:
        """Somebody wants this to be cancelled."""
        claimed = self._held.get(id)
        if claimed is not None:
            claimed.cancelled = True

    def before_look(self) -> dict[str, Claimed]:
        with self._lock:
            return dict(self._held)

    def compare(self, before: dict[str, Claimed], found: Iterable[tuple[bytes, bytes]]) -> set[tuple[bytes, bytes]]:
        """Forget claims that the server took away, and name those that only the server knows: ids and tokens.

        Those are of calls whose reply never came, or were settled before the server lost its last moments. What has
        been settled, or claimed, while the server was asked looks like that too: so only in two looks running.
        """
        with self._lock:
            there = set(found)
            for id, claimed in before.items():
                token: Token = claimed.token
                if (id.encode(), token.call) not in there and self._held.get(id) is claimed:
                    del self._held[id]
            known = {(id.encode(), claimed.token.call) for id, claimed in self._held.items()}
            strays = {stray for stray in there - known if stray[1] not in self._calls}
            both, self._strays = strays & self._strays, strays
            return both


class Looks:
    """The looks of one storage object."""

    def __init__(self, server: Server, worker: str, clock: Clock, claims: Claims) -> None:
        self._server = server
        self._worker = worker
        self._clock = clock
        self._claims = claims
        self._lock = threading.Lock()
        self._looked: float | None = None
        self._gone = Observed()
        self._silent = Observed()
        self._seen = -math.inf
        self._looked_on = 0.0
        self._leases = Observed()
        self._starts: dict[str, float] = {}
        """When there is something to start, by queue that this storage claims from."""
        self.is_known: bool = True
        """Whether the last look has found this worker among those who have joined."""

    def serve(self, queue: str) -> None:
        """This storage claims from that queue."""
        self._starts.setdefault(queue, math.inf)

    def serves(self, queue: str) -> bool:
        return queue in self._starts

    @property
    def queues(self) -> list[str]:
        return list(self._starts)

    def will_start(self, queue: str, at: float) -> None:
        """This storage knows of an event that can be started then."""
        if at < self._starts.get(queue, -math.inf):
            self._starts[queue] = at

    def recover(self) -> float:
        """Look, if it is time, and say when to look again. One thread looks; the others go on."""
        if not self._lock.acquire(blocking=False):
            return LOOK_INTERVAL
        try:
            monotonic = self._clock.monotonic()
            is_time = self._looked is None or monotonic - self._looked >= LOOK_INTERVAL
            if is_time or min(self._starts.values(), default=math.inf) <= self._clock.now():
                self._looked = monotonic
                self._look(monotonic)
            wait = min(self._starts.values(), default=math.inf) - self._clock.now()
            return min(LOOK_INTERVAL, max(0.0, wait))
        finally:
            self._lock.release()

    def _look(self, monotonic: float) -> None:
        queues, before = self.queues, self._claims.before_look()
        now = number(self._clock.now())
        known, held, cancels, others, leased, starts = self._server.call("look", self._worker, now, *queues)
        self.is_known = bool(known)
        for queue, start in zip(queues, starts, strict=True):
            self._starts[queue] = float(start) if start else math.inf
        for id in cancels:
            self._claims.cancel(id.decode())
        strays = self._claims.compare(before, zip(held[::2], held[1::2], strict=True))
        if strays:
            self._server.call("release", self._worker, now, *(part for stray in strays for part in stray))
        self._bury(others, monotonic, now)
        self._end_leases(leased, monotonic, now)

    # ------------------------------------------------------------------ the dead

    def _bury(self, others: list[list[Any]], monotonic: float, now: str) -> None:
        """Take back what the dead held. That they still look the same is for the script to see, which does it."""
        run = self._server.run.encode()
        looks = {other[0].decode(): (other[1], other[2], other[3]) for other in others}
        away = {id: looks[id][:2] for id, *_, listens in decoded(others) if not listens and looks[id][0] == run}
        gone = self._gone.look(away, monotonic)
        silent = self._silence(looks)
        for id, seen in looks.items():
            if gone.get(id, 0.0) >= GONE - ROUNDING:
                self._server.call("leave", id, "crashed", now, *seen, "0")
            elif silent[id] >= SILENCE:
                self._server.call("leave", id, "crashed", now, *seen, "1")

    def _silence(self, looks: dict[str, tuple[bytes, bytes, bytes]]) -> dict[str, float]:
        """For how many seconds this has looked on without a sign of life of each. A time in which it could not look
        does not count, or it would take those for dead that were away with it, and come back a moment later."""
        seen, self._seen = self._seen, SYSTEM.monotonic()
        if self._seen - seen <= AWAY:
            self._looked_on += self._seen - seen
        return self._silent.look(looks, self._looked_on)

    def _end_leases(self, leased: list[list[Any]], monotonic: float, now: str) -> None:
        claims = {claim[0].decode(): (float(lease), claim[1:]) for lease, held in leased if lease for claim in held}
        held_for = self._leases.look({id: tuple(seen) for id, (_, seen) in claims.items()}, monotonic)
        for id, (lease, seen) in claims.items():
            if held_for[id] >= lease:
                self._server.call("expire", id, *seen, now)


def decoded(others: list[list[Any]]) -> list[tuple[Any, ...]]:
    """The lines about other workers, their ids as text."""
    return [(other[0].decode(), *other[1:]) for other in others]
