"""Keys: one marker per unique key, `keys/<SHA-256 of the key>`, with the key and its holder's id inside.

The marker decides, as a `moved` record does: it is linked into place (one of any number of linkers wins) after the
event's draft is safe, and before the draft gets its name. Whoever finds a dead worker's keyed draft publishes it if
the marker names it, and drops it otherwise. A debounced put takes the key of an earlier one by a rename over its
marker.
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
SEARCHES = 2
"""An event is taken for gone only if so many searches in a row miss it: one alone may look behind its back while it
moves between two folders."""


class Marker(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds a key. `until`: an instant, for keys held for a period; None for those that go with their event."""

    key: str
    id: str
    until: float | None = None
    waiting: bool = False
    """Held until its event is first started, not until it is settled."""
    since: float | None = None
    """When the chain of debounced puts began whose last one this is; None: it was put otherwise, and nothing takes its
    place while it holds the key."""
    over: tuple[str, ...] = ()
    """Events that were displaced before they had their place: whoever displaces this marker cancels them, too."""


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


def is_held(marker: Marker, now: float, holds: Callable[[Marker], bool]) -> bool:
    """Whether a marker still holds its key: its period is not over, or its event (`holds`) is there."""
    if marker.until is not None:
        return now < marker.until
    return any(holds(marker) for _ in range(SEARCHES))


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
            if is_held(holder, now, holds):
                return holder.id
            _remove(target, holder)
        except FileNotFoundError:
            make_folder(paths.keys, durable)
        else:
            if durable:
                disk.sync_folder(paths.keys)
            return marker.id
    raise too_fast(marker.key)


def displace_key(paths: QueuePaths, holder: Marker, source: str, durable: bool) -> bool:
    """Rename the marker file `source` over a marker, and only over this one; whether it still was there.

    At no instant is the key free: a crash leaves it to the one event or to the other.
    """
    target = paths.keys + digest(holder.key)
    if not _change(target, holder, lambda: disk.rename(source, target)):
        return False
    if durable:
        disk.sync_folder(paths.keys)
    return True


def too_fast(key: str) -> StorageError:
    return StorageError(f"the key {key!r} changes hands faster than it can be read; put again")


def prune_key(paths: QueuePaths, filename: str, now: float) -> None:
    """Remove a marker whose period is over."""
    try:
        marker = _decode(disk.read_file(paths.keys + filename, MAX_MARKER), "")
    except OSError:
        return  # freed this instant, or nothing that a marker could be
    if marker.until is not None and now >= marker.until:
        _remove(paths.keys + filename, marker)


def _remove(path: str, marker: Marker) -> None:
    """Remove a marker, and only this one."""
    _change(path, marker, lambda: disk.unlink(path))


def _change(path: str, marker: Marker, change: Callable[[], None]) -> bool:
    """Change where the name of a marker leads, if it leads to this one; whether it did.

    Under the lock of its inode, and only while the name still leads there: two that judged the same marker stale
    would else remove the one that the faster of them has put in its place, and of two that displace the same one both
    would win.
    """
    try:
        fd = disk.open_file(path)
    except FileNotFoundError:
        return False
    try:
        if not disk.lock_soon(fd):
            return False  # another one is changing it
        try:
            same = disk.stat(path).st_ino == disk.fstat(fd).st_ino
        except FileNotFoundError:
            return False
        if not same or _decode(disk.read_all(fd, MAX_MARKER), marker.key) != marker:
            return False
        change()
        return True
    finally:
        disk.close(fd)


def _decode(data: bytes, key: str) -> Marker:
    try:
        return msgspec.json.decode(data, type=Marker)
    except msgspec.MsgspecError:
        return Marker(key, "")  # torn by a power cut: names no event, so it will be replaced
