"""The settings of queues, as this process knows them: read again after a look interval, its own changes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventq.model import Settings
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.sql.schema import named, stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventq.clock import Clock
    from eventq.storage.sql.database import Cursor, Database

DEFAULTS = Settings()
READ = "SELECT settings FROM {p}queues WHERE name = :name"
MAKE = "INSERT INTO {p}queues (name, settings) VALUES (:name, '{{}}') ON CONFLICT (name) DO NOTHING"
CHANGE = "UPDATE {p}queues SET settings = :settings WHERE name = :name"
_decode = msgspec.json.Decoder(Settings).decode


class Known:
    """What is known of one queue, and until when."""

    __slots__ = ("exists", "settings", "until")

    def __init__(self, settings: Settings, exists: bool, until: float) -> None:
        self.settings: Settings = settings
        self.exists: bool = exists
        self.until: float = until


class QueueSettings:
    """By a queue's name; a queue that does not exist has the defaults."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._known: dict[str, Known] = {}

    def known(self, queue: str, source: Cursor | Database) -> Known:
        """What a queue says, read from the source if it was not lately."""
        found = self._known.get(queue)
        if found is None or self._monotonic() >= found.until:
            rows = source.execute(READ, {"name": stored(queue)})
            found = self._remember(queue, _decode(rows[0][0]) if rows else DEFAULTS, bool(rows))
        return found

    def _remember(self, queue: str, settings: Settings, exists: bool) -> Known:
        found = self._known[queue] = Known(settings, exists, self._monotonic() + LOOK_INTERVAL)
        return found

    def read_all(self, database: Database) -> dict[str, Settings]:
        """The settings of all queues, by their stored names."""
        rows = database.execute("SELECT name, settings FROM {p}queues")
        found = {name: _decode(text) for name, text in rows}
        self._known = {named(name): Known(one, True, self._monotonic() + LOOK_INTERVAL) for name, one in found.items()}
        return found

    def forget(self, queue: str) -> None:
        """Read it anew next time."""
        self._known.pop(queue, None)

    def make(self, queue: str, database: Database) -> None:
        """Make a queue exist."""
        database.run(lambda cursor, _: cursor.change(MAKE, {"name": stored(queue)}))
        self.forget(queue)

    def change(self, queue: str, cursor: Cursor, change: Callable[[Settings], Settings]) -> Settings:
        """Change what is stored, and make the queue if need be."""
        values: dict[str, Any] = {"name": stored(queue)}
        cursor.change(MAKE, values)
        ((text,),) = cursor.execute(READ + " {lock}", values)
        settings = change(_decode(text))
        cursor.change(CHANGE, {**values, "settings": msgspec.json.encode(settings).decode()})
        return settings
