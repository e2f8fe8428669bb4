"""Locks and semaphores across processes, which heal the instant their holder dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq import clock
from eventq.config import at_least_one, patience, text
from eventq.retry import pauses

if TYPE_CHECKING:
    from types import TracebackType

    from eventq.aio import AsyncSemaphore
    from eventq.storage.base import Slot
    from eventq.store import Store


class Semaphore:
    """At most `limit` holders at a time, over all processes of the store; made by `app.semaphore(name, limit)`.

    A holder is `with semaphore:`, or whoever called `acquire()`. A holder's place is free at once when its process
    dies, however it dies. Nothing is promised about order: whoever looks first gets it. There is no lease, so a holder
    that hangs holds on. Every process must give the same limit. An object may be shared by threads.
    """

    __slots__ = ("_held", "_slot_name", "limit", "name", "store")

    def __init__(self, store: Store, name: str, limit: int) -> None:
        self.name: str = text("the name of a lock or semaphore", name)
        """Its name; locks and semaphores have names of their own."""
        self.limit: int = at_least_one(limit)
        """How many may hold it."""
        self.store: Store = store
        """The opened store that it belongs to."""
        self._slot_name = f"semaphore:{name}"
        self._held: list[Slot] = []

    @property
    def aio(self) -> AsyncSemaphore:
        """The same, awaitable."""
        from eventq.aio import AsyncSemaphore

        return AsyncSemaphore(self, self._take)

    @property
    def held(self) -> bool:
        """Whether it was acquired through this object and not released."""
        return bool(self._held)

    def acquire(self, timeout: float | None = None) -> bool:
        """Take a place; waits up to `timeout` seconds (None: for ever, 0: not at all). False if there was none.

        Each acquire needs its own release; taking it twice takes two places, which a lock does not have.
        """
        for pause in pauses(patience(timeout)):
            if self._take():
                return True
            clock.sleep(pause)
        return self._take()

    def release(self) -> None:
        """Give the place back. Raises RuntimeError if this object holds none."""
        try:
            slot = self._held.pop()
        except IndexError:
            raise RuntimeError(f"{self!r} is not held by this object; acquire() it first") from None
        slot.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> None:
        await self.aio.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aio.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _take(self) -> bool:
        slot = self.store.storage.take_slot(self._slot_name, self.limit)
        if slot is None:
            self.store.storage.recover()  # its holder may be dead
            return False
        self._held.append(slot)
        return True


class Lock(Semaphore):
    """One holder at a time, over all processes of the store; made by `app.lock(name)`.

    Leader election is a lock that is never given back: every candidate runs

        with app.lock("leader"):
            lead()

    and exactly one leads; when it dies, another takes over within about 50 ms. Not re-entrant.
    """

    __slots__ = ()

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store, name, 1)
        self._slot_name = f"lock:{name}"
