"""eventq itself, used as its README shows: the defaults, and the `claims()` loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.systems.base import Sink, System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Eventq(System):
    name = "eventq"
    family = "eventq"
    note = "sync=False"
    requires = "eventq"
    imports = "import eventq"
    preloads = "import filelock, msgspec"
    recovers = True
    sync: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        import eventq

        self.app = eventq.App(str(folder / "store"), sync=self.sync)
        self.queue = self.app.queue("events")

    def put(self, payload: Any) -> None:
        self.queue.put(payload)

    def put_many(self, payloads: Sequence[Any]) -> None:
        self.queue.put_many(payloads)

    def take(self) -> tuple[Any, Any] | None:
        claim = self.queue.claim(timeout=0)
        return None if claim is None else (claim, claim.event.payload)

    def settle(self, token: Any) -> None:
        token.complete()

    def wait(self, timeout: float) -> tuple[Any, Any] | None:
        claim = self.queue.claim(timeout=timeout)
        return None if claim is None else (claim, claim.event.payload)

    def deliver(self, sink: Sink, idle: float = 0.0) -> None:
        for claim in self.queue.claims(timeout=idle):
            with claim as event:
                enough = sink(event.payload)
            if enough:
                return

    def close(self) -> None:
        self.app.close()


class EventqSync(Eventq):
    name = "eventq-sync"
    note = "sync=True (the default)"
    modes = frozenset({"durable"})
    sync = True
