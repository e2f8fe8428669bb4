"""Records that anybody may change: one under each name, which nobody can overwrite, only succeed.

A record is kept under `<prefix><name>/<revision>`, as a name that was taken. A change takes the next revision, so of
several at once one wins, and the others look again; then it releases what it has replaced, the oldest first. The
highest revision counts. So whoever is killed at whatever point leaves a record that counts, and at most some that do
not count any more, which the next change releases.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from eventq.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventq.model import Name
    from eventq.storage.base import Storage

E = TypeVar("E")
T = TypeVar("T", bound="Traced")

log: logging.Logger = logging.getLogger("eventq.revisions")

RESERVED_NAMES = "eventq."
"""So begin the names that are not for programs to take."""
DIGITS = 10
TRIES = 100
"""How often a change is tried again that others overtake."""
TRACED = 32
"""How many changes a record knows of: of so many, one may overtake another that is being made."""
LOOKS = 3
"""How often one looks before it is believed that there is no record."""


class Held(NamedTuple, Generic[E]):
    """A name that is taken for some revision of a record."""

    name: str
    revision: int
    entry: E | None
    """None if it cannot be read here, or is empty."""
    is_empty: bool = False
    """Whether it is none: an earlier version took names to see whether they are free."""


class Revisions(Generic[E]):
    """The records of one kind, in any store."""

    __slots__ = ("_decode", "prefix", "what")

    def __init__(self, what: str, type: Any) -> None:
        self.what: str = what
        """What the records are of, as messages and names say it: `schedule`."""
        self.prefix: str = f"{RESERVED_NAMES}{what}/"
        """So begin their names."""
        self._decode = msgspec.json.Decoder(type | None).decode

    def name_of(self, name: str, revision: int) -> str:
        """The name under which a revision is kept."""
        return f"{self.prefix}{name}/{revision:0{DIGITS}d}"

    # ------------------------------------------------------------------ reading

    def held(self, storage: Storage, name: str | None = None) -> dict[str, list[Held[E]]]:
        """What is taken, by the names of the records, each with its revisions in order; for one of them, or for all."""
        found: dict[str, list[Held[E]]] = {}
        for taken in storage.names(self.prefix if name is None else f"{self.prefix}{name}/"):
            each = self._read(taken)
            if each is not None and name in (None, each.name):
                found.setdefault(each.name, []).append(each)
        return found

    def held_of(self, storage: Storage, name: str, looks: int = LOOKS) -> list[Held[E]]:
        """The revisions of one record. A look at the names in a folder may miss the moment at which one takes the place
        of the other: that there is none is believed after several."""
        revisions: list[Held[E]] = []
        for _ in range(looks):
            revisions = self.held(storage, name).get(name, [])
            if newest(revisions) is not None:
                break
        return revisions

    def current(self, storage: Storage, name: str, revision: int) -> E | None:
        """The entry of this revision, if it still stands; at the same cost however many records there are."""
        taken = storage.get_names([self.name_of(name, revision)])
        return self._entry_of(next(iter(taken.values()))) if taken else None

    def _read(self, taken: Name) -> Held[E] | None:
        name, slash, digits = taken.name.removeprefix(self.prefix).rpartition("/")
        if not slash or len(digits) != DIGITS or not digits.isdigit():
            return None
        try:
            entry = self._entry_of(taken)
        except ConfigError as error:
            log.error("%s", error)  # it must not hide the others
            return Held(name, int(digits), None)
        return Held(name, int(digits), entry, entry is None)

    def _entry_of(self, taken: Name) -> E | None:
        """The entry that a name has; None if it is empty. Raises ConfigError for what is none, to this version."""
        try:
            entry: E | None = self._decode(taken.data)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"the {self.what} under the name {taken.name!r} cannot be read here: {error}") from error
        return entry

    # ------------------------------------------------------------------ changing

    def take(self, storage: Storage, name: str, revision: int, entry: E) -> bool:
        """Take a revision, unless somebody else has it."""
        return storage.take_name(self.name_of(name, revision), msgspec.json.encode(entry))[1]

    def release(self, storage: Storage, name: str, revisions: Iterable[int]) -> bool:
        """Release what was replaced, the oldest first; whether the last of these had stood until then."""
        stood = False
        for revision in revisions:
            stood = storage.release_name(self.name_of(name, revision))
        return stood

    def is_newest(self, storage: Storage, name: str, revision: int) -> bool:
        """Whether a revision counts that was taken just now. It may have been free since it was replaced already: what
        it was to follow stands no more. Then it is released."""
        found = newest(self.held_of(storage, name, 1))
        if found is None or found[0] <= revision:
            return True
        storage.release_name(self.name_of(name, revision))
        return False

    def tidied(self, storage: Storage, held: dict[str, list[Held[E]]]) -> dict[str, tuple[int, E]]:
        """Those that count, by name, with their revisions; the others are released."""
        entries: dict[str, tuple[int, E]] = {}
        for name, revisions in held.items():
            found = newest(revisions)
            for each in revisions:
                if each.is_empty or (found is not None and each.revision < found[0]):
                    storage.release_name(self.name_of(name, each.revision))
            if found is not None:
                entries[name] = found
        return entries


class Traced(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record that says by which changes it came to be: see `TracedRevisions`."""

    lineage: tuple[str, ...] = ()
    """Random ids of the last changes, the latest first."""


class TracedRevisions(Revisions[T]):
    """Records in which of any changes at the same time each is made, once, of what the one before has left."""

    __slots__ = ()

    def change(self, storage: Storage, name: str, change: Callable[[T | None], T | None]) -> T | None:
        """Put what `change` makes of the entry in its place, however often others are faster: it is asked again then.
        The same entry for no change, None for no entry any more. What stands then. Raises what `change` raises;
        StorageError."""
        for _ in range(TRIES):
            revisions = self.held_of(storage, name)
            found = newest(revisions)
            old = None if found is None else found[1]
            new = change(old)
            if new is old:
                return new
            replaced = [each.revision for each in revisions]
            if new is None:
                self.release(storage, name, replaced)  # that which counts last: the others must not come to count
                continue
            revision, token = replaced[-1] + 1 if replaced else 1, secrets.token_hex(4)
            new = msgspec.structs.replace(new, lineage=(token, *(() if old is None else old.lineage[: TRACED - 1])))
            if self.take(storage, name, revision, new):
                self.release(storage, name, replaced)
                if self._counts(storage, name, revision, token):
                    return new
        raise StorageError(f"the {self.what} {name!r} is changed faster than it can be read; try again")

    def _counts(self, storage: Storage, name: str, revision: int, token: str) -> bool:
        """Whether a revision counts that was taken just now, or has counted until others were made of it. It may have
        been free only because it was replaced long ago, by others than were read: then it is released."""
        found = newest(self.held_of(storage, name))
        if found is None or found[0] <= revision or token in found[1].lineage:
            return True
        storage.release_name(self.name_of(name, revision))
        return False


def newest(revisions: Iterable[Held[E]]) -> tuple[int, E] | None:
    """The revision that counts, with its entry."""
    entries = [(each.revision, each.entry) for each in revisions if each.entry is not None]
    return entries[-1] if entries else None
