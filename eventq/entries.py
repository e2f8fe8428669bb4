"""Entries: records of eventq's own that any process may change, one under each name; what jobs and schedules are.

An entry is what a taken name says (`eventq.<what>/<name>`). Who changes one makes the new one of the old, and replaces
that if it still stands; else others were faster, and it is made again, of theirs. So of changes at the same time each
is made once, of what the one before has left, and whoever is killed has made one or none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventq.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.model import Name
    from eventq.storage.base import Storage

E = TypeVar("E")

log: logging.Logger = logging.getLogger("eventq.entries")

RESERVED_NAMES = "eventq."
"""So begin the names that are not for programs to take."""
TRIES = 100
"""How often a change is made again that others overtake."""


class Entries(Generic[E]):
    """The entries of one kind, in any store."""

    __slots__ = ("_decode", "prefix", "what")

    def __init__(self, what: str, type: Any) -> None:
        self.what: str = what
        """What they are of, as messages and names say it: `schedule`."""
        self.prefix: str = f"{RESERVED_NAMES}{what}/"
        """So begin their names."""
        self._decode = msgspec.json.Decoder(type).decode

    def get(self, storage: Storage, name: str) -> E | None:
        """The entry of this name, at the same cost however many there are; None if there is none. Raises ConfigError
        for what this version cannot read."""
        held = self._held(storage, name)
        return None if held is None else self._entry_of(held)

    def all(self, storage: Storage) -> dict[str, E]:
        """All of them, by name. One that is changed at this very moment may be missing; one that this version cannot
        read is."""
        entries: dict[str, E] = {}
        for held in storage.names(self.prefix):
            try:
                entries[held.name.removeprefix(self.prefix)] = self._entry_of(held)
            except ConfigError as error:
                log.error("%s", error)  # it must not hide the others
        return entries

    def change(self, storage: Storage, name: str, change: Callable[[E | None], E | None]) -> E | None:
        """Put what `change` makes of the entry in its place; it is asked again each time that others were faster. The
        same entry for no change, None for no entry any more. What stands then.

        Raises what `change` raises; ConfigError for what this version cannot read, which stays; StorageError.
        """
        for _ in range(TRIES):
            held = self._held(storage, name)
            old = None if held is None else self._entry_of(held)
            new = change(old)
            if new is old:
                return new
            data = None if new is None else msgspec.json.encode(new)
            if held is not None:
                done = storage.replace_name(held, data)
            else:
                done = data is None or storage.take_name(self.prefix + name, data)[1]
            if done:
                return new
        raise StorageError(f"the {self.what} {name!r} is changed faster than it can be read; try again")

    def remove(self, storage: Storage, name: str) -> bool:
        """Remove an entry, whatever it says; False if there was none."""
        return storage.release_name(self.prefix + name)

    def _held(self, storage: Storage, name: str) -> Name | None:
        return storage.get_names([self.prefix + name]).get(self.prefix + name)

    def _entry_of(self, held: Name) -> E:
        try:
            entry: E = self._decode(held.data)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"the {self.what} under the name {held.name!r} cannot be read here: {error}") from error
        return entry
