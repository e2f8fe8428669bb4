"""Keys: one marker per unique key, `keys/<SHA-256 of the key>`, with the key and its holder's id inside.

The marker decides, as a `moved` record does: it is linked into place (one of any number of linkers wins) after the
event's draft is safe, and before the draft gets its name. Whoever finds a dead worker's keyed draft publishes it if
the marker names it, and drops it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from eventq.errors import StorageError
from eventq.model import PutOptions
from eventq.storage.file import disk
from eventq.storage.file.corrupt import set_aside
from eventq.storage.file.drafts import make_folder
from eventq.storage.file.layout import QueuePaths, digest

MAX_MARKER = 64 << 10
REPLACE_TRIES = 100
SEARCHES = 3
"""An event is taken for gone only if so many searches in a row miss it: one alone may look behind its back while it
moves between two folders."""


class Marker(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds a key. `until`: an instant, for keys held for a period; None for those that go with their event."""

    key: str
    id: str
    until: float | None = None
    waiting: bool = False
    """Held until its event is first started, not until it is settled."""


def marker_for(key: str, id: str, options: PutOptions, now: float) -> Marker:
    until = now + options.unique if not isinstance(options.unique, str) else None
    return Marker(key, id, until, options.unique == "waiting")


def read_marker(paths: QueuePaths, key: str) -> Marker | None:
    """The marker of a key, if it is held."""
    path = paths.keys + digest(key)
    try:
        data = disk.read_file(path, MAX_MARKER)
    except FileNotFoundError:
        return None
    except OSError as error:
        if not disk.is_wrong_kind(error):
            raise
        set_aside(paths.root.rpartition("/queues/")[0], path, "is not a key's marker")
        return None
    return _decode(data, key)


def release_key(paths: QueuePaths, key: str, id: str) -> None:
    """Free a key if this event holds it."""
    marker = read_marker(paths, key)
    if marker is not None and marker.id == id:
        _remove(paths.keys + digest(key), marker)


def take_key(
    paths: QueuePaths, marker: Marker, source: str, durable: bool, now: float, holds: Callable[[Marker], bool]
) -> str:
    """Link the marker file `source` into place; the id that holds the key afterwards.

    A marker whose period is over, or whose event is nowhere open any more (its worker died between settling and
    freeing the key, or a power cut took the event), is replaced.
    """
    target = paths.keys + digest(marker.key)
    for _ in range(REPLACE_TRIES):
        try:
            disk.link(source, target)
        except FileExistsError:
            holder = read_marker(paths, marker.key)
            if holder is None:
                continue  # freed this instant
            if holder.until is None and any(holds(holder) for _ in range(SEARCHES)):
                return holder.id
            if holder.until is not None and now < holder.until:
                return holder.id
            _remove(target, holder)
        except FileNotFoundError:
            make_folder(paths.keys, durable)
        else:
            if durable:
                disk.sync_folder(paths.keys)
            return marker.id
    raise StorageError(f"the key {marker.key!r} changes hands faster than it can be read; put again")


def prune_key(paths: QueuePaths, filename: str, now: float) -> None:
    """Remove a marker whose period is over."""
    try:
        marker = _decode(disk.read_file(paths.keys + filename, MAX_MARKER), "")
    except OSError:
        return  # freed this instant, or nothing that a marker could be
    if marker.until is not None and now >= marker.until:
        _remove(paths.keys + filename, marker)


def _remove(path: str, marker: Marker) -> None:
    """Remove a marker, and only this one.

    Under the lock of its inode, and only while the name still leads there: two that judged the same marker stale
    would else remove the one that the faster of them has put in its place.
    """
    try:
        fd = disk.open_file(path)
    except FileNotFoundError:
        return
    try:
        if not disk.lock_soon(fd):
            return  # another one is removing it
        try:
            same = disk.stat(path).st_ino == disk.fstat(fd).st_ino
        except FileNotFoundError:
            return
        if same and _decode(disk.read_all(fd, MAX_MARKER), marker.key) == marker:
            disk.unlink(path)
    finally:
        disk.close(fd)


def _decode(data: bytes, key: str) -> Marker:
    try:
        return msgspec.json.decode(data, type=Marker)
    except msgspec.MsgspecError:
        return Marker(key, "")  # torn by a power cut: names no event, so it will be replaced
